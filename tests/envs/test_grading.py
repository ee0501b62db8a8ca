# ruff: noqa: E501 - a case is read best on one line
"""Grading: extraction, the labelled cases, the batch, and hostile input."""

from __future__ import annotations

import gc
import json
import threading
import time
from pathlib import Path

import pytest

from cola_envs import grading
from cola_envs.grading import Verdict, extract_boxed, grade_answers, grade_batch
from cola_envs.grading.verdicts import Claim, Truth, claims

from .grading_pairs import CLOSED, PROVEN, claim

REPO = Path(__file__).parents[2]
SHARED = REPO.parent / "shared"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the conformance data is not beside the checkout"
)


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _correct(gold: str, answer: str) -> bool:
    return grade_answers([gold], [answer])[0].correct


# Extraction


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}} and {so} on }", "\\frac{1}{2}"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\fbox{0} then \\boxed{7}", "7"),
        ("\\boxed{7} then \\fbox{0}", "0"),
        ("\\boxed {5}", "5"),
        ("\\boxed{3} or \\boxed{4", "3"),
        ("\\boxed{27", None),
        ("the answer is 25", None),
        ("\\boxed{}", ""),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{\n-9\n}", "\n-9\n"),
    ],
)
def test_the_last_complete_box_is_taken(text, box):
    assert extract_boxed(text) == box


def test_extraction_is_linear_in_the_text():
    for text in ("\\boxed{" * 100_000, "\\boxed{5}" + "\\boxed{" * 100_000, "{" * 1_000_000, "}" * 1_000_000):
        begin = time.perf_counter()
        extract_boxed(text)
        assert time.perf_counter() - begin < 2.0


# The labelled cases


@needs_shared
def test_precision_and_recall_on_the_labelled_cases():
    cases = [c for c in _lines(SHARED / "grading" / "cases.jsonl") if not c["kind"].startswith("policy/")]
    verdicts = grade_answers([c["gold"] for c in cases], [c["prediction"] for c in cases])
    pairs = [(v.correct, c["equivalent"]) for v, c in zip(verdicts, cases, strict=True)]
    hits, accepted, right = pairs.count((True, True)), sum(v for v, _ in pairs), sum(e for _, e in pairs)
    assert hits / accepted >= 0.99
    assert hits / right >= 0.97


@needs_shared
def test_whole_responses_are_graded_as_labelled():
    cases = _lines(SHARED / "grading" / "responses.jsonl")
    verdicts = grade_batch([c["gold"] for c in cases], [c["prediction"] for c in cases])
    assert [v.correct for v in verdicts] == [c["equivalent"] for c in cases]


@needs_shared
def test_every_math500_gold_is_accepted_inside_its_own_solution():
    problems = _lines(SHARED / "data" / "math500_test.jsonl")
    verdicts = grade_batch([p["answer"] for p in problems], [p["solution"] for p in problems])
    assert sum(v.correct for v in verdicts) == 500


# Cases of our own, none of them in the shared files: (gold, answers that are equal, answers that are not)
CASES = [
    ("1,\\!729", ["1729", "1{,}729", "1\\,729", "1.729\\times 10^3", "x=1729"], ["1,7,29", "1.729", "17290"]),
    (
        "\\frac{7}{12}",
        ["7/12", "\\frac7{12}", "\\dfrac{14}{24}", "0.58\\overline{3}"],
        ["0.583", "\\frac{12}{7}"],
    ),
    ("2\\frac{3}{8}", ["\\frac{19}{8}", "2.375", "2 3/8"], ["2\\cdot\\frac{3}{8}", "\\frac{6}{8}"]),
    (
        "6\\sqrt{7}",
        ["\\sqrt{252}", "\\frac{42}{\\sqrt7}", "6\\cdot7^{1/2}"],
        ["15.87", "6\\sqrt[3]{7}", "67"],
    ),
    (
        "\\frac{3 + \\sqrt{5}}{2}",
        ["\\frac{2}{3-\\sqrt5}", "1.5+\\frac{\\sqrt5}{2}"],
        ["2.618", "3+\\sqrt5/2"],
    ),
    ("9\\pi", ["9π", "\\pi\\cdot 9", "9\\pi\\text{ cm}^2"], ["28.27", "9", "9\\pi^2"]),
    ("-3 + 4i", ["4i-3", "-3+4\\,i", "\\frac{-6+8i}{2}"], ["-3-4i", "4-3i", "5"]),
    ("31_4", ["31_{4}", "(31)_4", "31_{\\text{four}}"], ["31_5", "13", "13_{4}"]),
    ("7t", ["t\\cdot7", "7{t}"], ["7", "7s", "t"]),
    ("3k-8", ["-8+3k", "-(8-3k)"], ["3k+8", "3-8k", "3k"]),
    ("(x-3)(x+3)", ["(x+3)(x-3)"], ["(x-3)^2", "x^2-3"]),
    ("\\frac{5+2b}{6}", ["\\frac56+\\frac b3", "(2b+5)/6"], ["\\frac{2+5b}{6}", "5+\\frac{2b}{6}"]),
    (
        "4,-7",
        ["-7, 4", "\\{4,-7\\}", "x=4\\text{ or }x=-7", "4\\text{ and }-7"],
        ["4", "-47", "(4,-7)", "4,7"],
    ),
    (
        "2 \\pm \\sqrt{3}",
        ["2+\\sqrt3, 2-\\sqrt3", "x=2\\pm\\sqrt{3}"],
        ["2+\\sqrt3", "2\\pm3", "-2\\pm\\sqrt3"],
    ),
    ("(5,-2)", ["(x,y)=(5,-2)", "\\left(\\tfrac{10}{2},-2.0\\right)"], ["(-2,5)", "(5,-2,0)", "5,-2", "3"]),
    (
        "[1,4)",
        ["1\\le x<4", "x\\in[1,4)", "\\{x\\mid 1\\le x<4\\}", "x\\ge1\\text{ and }x<4"],
        ["(1,4)", "1,4"],
    ),
    (
        "(-\\infty,1)\\cup(6,\\infty)",
        ["x<1\\text{ or }x>6", "(6,\\infty)\\cup(-\\infty,1)"],
        ["(1,6)", "x<1"],
    ),
    ("(0,2)\\cup[2,5)", ["(0,5)", "0<x<5"], ["(0,2)\\cup(2,5)"]),
    ("x > -4", ["(-4,\\infty)", "-4<x", "-x<4", "2x>-8"], ["x\\ge-4", "x<-4", "y>-4"]),
    ("y = 3x - 1", ["3x-y=1", "y=-1+3x", "2y=6x-2"], ["y=3x+1", "x=3y-1", "y=3x"]),
    ("w=9", ["9", "9=w", "w = \\frac{18}{2}"], ["v=9", "w=-9", "w>9"]),
    ("9", ["g(2)=9", "a+b=9", "5+4=9", "\\text{nine}"], ["2w=9", "w+1=9", "1=9", "8=9=9", "8,9", "\\pm9"]),
    ("\\$4.50", ["4.5", "\\$4.50", "4.50\\text{ dollars}"], ["450", "4.5\\text{ cents}"]),
    (
        "16\\text{ ft}",
        ["16", "16\\text{ feet}", "16 ft", "16\\,\\mathrm{ft}"],
        ["16\\text{ m}", "16^2", "61"],
    ),
    ("35\\%", ["35\\%", "35%", "35\\text{ percent}"], ["3.5\\%", "53\\%"]),
    ("72^\\circ", ["72", "72°", "72\\text{ degrees}"], ["27^\\circ", "7.2"]),
    (
        "\\text{(D)}",
        ["D", "(D)", "\\textbf{(D)}", "\\mathrm{D}"],
        ["\\text{(B)}", "\\text{B or D}", "\\text{not D}"],
    ),
    ("\\text{hyperbola}", ["Hyperbola", "a hyperbola", "\\textit{hyperbola}"], ["\\text{parabola}", "h"]),
    ("\\text{A, C}", ["C, A", "\\text{A},\\text{C}", "\\text{A and C}"], ["A", "\\text{A, B}"]),
    (
        "\\begin{pmatrix} 1/2 \\\\ -3 \\end{pmatrix}",
        [
            "\\frac12\\begin{pmatrix}1\\\\-6\\end{pmatrix}",
            "\\left[\\begin{array}{c}0.5\\\\-3\\end{array}\\right]",
        ],
        ["\\begin{pmatrix}-3\\\\1/2\\end{pmatrix}", "-2.5"],
    ),
    (
        "\\tan x",
        ["\\frac{\\sin x}{\\cos x}", "\\tan(x)", "\\frac{1}{\\cot x}"],
        ["\\tan", "\\cot x", "\\tan 2x"],
    ),
    ("\\log_3 5", ["\\frac{\\ln 5}{\\ln 3}"], ["\\log_5 3", "1.465"]),
    ("2^{60}", ["4^{30}", "1152921504606846976"], ["2^{61}", "1152921504606846977", "120"]),
    ("\\frac{1}{3^{40}}", ["3^{-40}"], ["0", "3^{-41}", "\\frac{1}{3^{41}}"]),
    ("\\binom{6}{2}", ["15"], ["\\frac62", "3"]),
    ("4:7", ["4:7", "8:14"], ["7:4", "11"]),
    ("6:40", ["6:40"], ["640", "6:04", "3:20"]),
    ("\\emptyset", ["\\varnothing", "\\{\\}", "\\text{no solution}"], ["0", "\\{0\\}"]),
    ("x^{12}-1", ["x^{12} - 1"], ["x^{11}-1", "x^1 2-1"]),
    ("|y|", ["\\lvert y\\rvert", "|-y|"], ["y", "-y"]),
]


@pytest.mark.parametrize(("gold", "equal", "different"), CASES, ids=[case[0] for case in CASES])
def test_equal_answers_are_accepted_and_others_are_not(gold, equal, different):
    assert [a for a in [gold, *equal] if not _correct(gold, a)] == []
    assert [a for a in different if _correct(gold, a)] == []


@pytest.mark.parametrize("gold", ["5", "\\frac{1}{2}", "(3,4]", "x=5", "\\text{east}", "\\{1,2\\}"])
def test_empty_and_meaningless_answers_are_wrong(gold):
    for answer in (
        "",
        "  ",
        "{}",
        "()",
        "\\frac{}{}",
        "?",
        "nan",
        "None",
        "\\text{}",
        "\\text{I do not know}",
        ",",
        "=",
    ):
        assert not _correct(gold, answer), answer


def test_sympy_proves_what_the_fast_path_does_not():
    pairs = [
        (CLOSED, PROVEN, True),
        ("F_n = \\sum_{k=0}^{n} F_k G_{n-k}", "F_n = \\sum_{k=0}^{n} G_{n-k} F_k", True),
        ("\\ln 3-2\\ln 2", "\\sum_{k=1}^{\\infty} \\frac{(-1)^{k}}{k3^{k}}", True),
        ("\\frac{\\pi^2}{6}", "\\sum_{k=1}^{\\infty} \\frac{1}{k^2}", True),
    ]
    assert not any(isinstance(grading._decide(gold, answer)[0], bool) for gold, answer, _ in pairs)
    verdicts = grade_answers([p[0] for p in pairs], [p[1] for p in pairs], deadline=20)
    assert [(v.correct, v.status) for v in verdicts] == [(p[2], "ok") for p in pairs]


# fmt: off
def _graded(pairs: list[tuple[str, str]], correct: bool) -> list[tuple[str, str]]:
    """Return the pairs whose grade is not the given one."""
    verdicts = grade_answers([gold for gold, _ in pairs], [answer for _, answer in pairs], deadline=20)
    return [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.correct is not correct]


def test_a_positive_power_of_a_zero_that_is_no_fraction_is_zero():
    equal = [
        ("0", r"\sin^2 0"), ("1", r"(\cos 0)^2+(\sin 0)^2"), ("1", r"\sqrt{\sin^2 0+\cos^2 0}"), ("0", r"(\ln 1)^2"),
        ("5", r"\sqrt{(\sqrt{4}-2)^2+5^2}"), ("13", r"\sqrt{(\sqrt{3}-\sqrt{3})^2+(5-18)^2}"),
        ("0", r"(\sqrt{8}-2\sqrt{2})^2"), ("x", r"x+(\ln 1)^2"), (r"\sqrt{(\sqrt{4}-2)^2+9}", "3"), ("0", r"\sqrt{\ln 1}"),
        ("0", r"0^{\sqrt{2}}"), ("7", r"7+\sqrt[3]{\tan 0}"), ("2", r"2+(\log_3 1)^{5/2}"),
    ]
    assert _graded(equal, True) == []
    undefined = [("1", r"(\ln 1)^0"), ("0", r"(\ln 1)^{-1}"), ("0", r"(\sin 0)^{-2}"), ("1", r"0^{\ln 1}")]
    assert _graded(undefined, False) == []


def test_a_multiple_of_a_set_of_numbers_is_no_quantity_with_a_noun():
    numbers = [("2", r"2\mathbb{Z}"), ("2", r"2\cdot\mathbb{Z}"), (r"2\mathbb{Z}", "2"), ("3", r"3\mathbb{N}"), ("12", r"12\mathbb{Q}")]
    numbers += [("2", "2ℤ"), ("7", r"7\Bbb C"), (r"\pi", r"\pi\mathbb{Z}"), ("x", r"x\mathbb{C}"), (r"\frac12", r"\frac12\mathbb{N}")]
    assert _graded(numbers, False) == []
    assert _graded([(r"2\mathbb{Z}", r"2 \mathbb Z"), (r"\mathbb{Z}", "ℤ"), (r"\mathbb{Z}", r"\text{integers}"), ("5", r"5\text{ integers}")], True) == []
    assert grade_answers([r"3\pm\sqrt{5}"], [r"2\mathbb{Z} e"]) == [Verdict(False, "ok", r"2\mathbb{Z} e")]


def test_number_words_behind_a_number_multiply_it_in_the_plural_too():
    scaled = [("5000000", r"5\text{ millions}"), ("5000", "5 thousands"), ("60", r"5\text{ dozens}"), ("500", r"5\text{ hundreds}")]
    scaled += [("5000000000", r"5\text{ billions of dollars}"), ("5\\cdot 10^{15}", r"5\text{ quadrillion}"), ("500000", r"5\text{ lakh}")]
    scaled += [("20000000", r"2\text{ crores}"), ("1200", r"1.2\text{ thousand}")]
    assert _graded(scaled, True) == []
    assert _graded([(answer.split("\\")[0].split()[0], answer) for _, answer in scaled], False) == []
    other = ["tens", "twenties", "septillion", "zillions", "score", "gross", "grand", "k", "ten", "dollars million"]
    assert _graded([("5", rf"5\text{{ {words}}}") for words in other], False) == []


def test_an_adjective_with_hyphens_in_front_of_a_noun_leaves_the_number_as_it_is():
    adjectives = ["five-dollar bills", "two-digit even numbers", "half-mile laps", "left-handed batters", "one-hundred-dollar bills"]
    adjectives += ["non-negative integers", "fifth-grade students", "crisp five-dollar bills", "six-sided dice", "quarter-inch screws", "well-known men", "non-zero digits", "twenty-five-dollar bills"]
    answers = [rf"10\text{{ {words}}}" for words in adjectives]
    assert _graded([("10", answer) for answer in answers], True) == []
    assert _graded([(answer, "10") for answer in answers], True) == []
    assert _graded([(answer, answer) for answer in answers], True) == []
    assert _graded([("11", answer) for answer in answers] + [("50", answers[0]), ("5", answers[0])], False) == []
    # Another adjective, and the unit within one, are other words.
    bills = answers[0]
    assert _graded([(bills, r"10\text{ ten-dollar bills}"), (r"10\text{ dollars}", bills), (r"\$10", bills), (bills, r"\$10")], False) == []


def test_words_with_hyphens_that_change_a_number_or_have_no_noun_are_no_unit():
    changing = ["five-dollar", "five-", "twenty-five bills", "or-so bills", "and-a-half hours", "one-half cups", "two-thirds cups", "three-quarter cups"]
    changing += ["million-dollar homes", "hundred-dollar bills", "half-dozen eggs", "minus-five bills", "five-dollar per hour", "not-quite bills"]
    changing += ["five-dollar or six bills", "point-five bills", "negative-five bills", "five-dollar long", "times-two bills", "less-than bills"]
    changing += ["twenty-fifth parts", "per-hour rates", "about-five bills", "hundred-thousandth parts", "five-dollar left", "five-million bills"]
    changing += ["half-of apples", "millions-of dollars", "gross-of eggs", "score-odd years", "tenth-of inches", "half-as-many apples"]
    changing += ["third-as many apples", "half-an hours", "quarter-of-an hours", "half-again bills", "half-score years", "ten-odd bills"]
    changing += ["one-hundredth inches", "half-tenth inches", "half-hundred eggs", "half-million dollars", "all-but bills", "dozen-odd eggs"]
    changing += ["thirds-full glasses", "halves-full glasses", "twelfths-note bars"]
    assert _graded([("10", rf"10\text{{ {words}}}") for words in changing] + [("20", r"20\text{-five bills}")], False) == []


def test_words_that_change_a_number_are_no_nouns():
    changing = ["point five", "five", "and a half", "negative", "reciprocal", "inverse", "infinity", "imaginary", "root two", "incorrect"]
    changing += ["basis points", "permille", "per mille", "per thousand", "reciprocal of it", "binary", "x", "i", "cannot be"]
    # Denominators of any size, by the rule that makes them from number words.
    changing += ["thirds", "elevenths", "twelfths", "sixteenths", "twentieths", "fiftieths", "ninetieths", "hundredths", "dozenths"]
    changing += ["millionths", "trillionths", "quintillionths", "hundred-thousandths", "third", "twelfth", "fifth of a mile", "octillionths"]
    assert _graded([("3", rf"3\text{{ {words}}}") for words in changing], False) == []
    assert _graded([("3", "3 twelfths"), ("3", "3 sixteenths"), ("20", "20 five"), ("4", "4 point five")], False) == []
    nouns = ["points", "zeros", "sixes", "pairs", "negative roots", "imaginary roots", "months", "paths", "incorrect answers"]
    nouns += ["fourth graders", "binary strings", "inverse functions", "lengths", "births per thousand", "K", "miles per hour"]
    assert _graded([("3", rf"3\text{{ {words}}}") for words in nouns], True) == []


def test_per_cent_is_percent():
    assert _graded([("0.05", r"5\text{ per cent}"), (r"5\%", "5 per cent"), ("5", r"5\text{ per cent}")], True) == []
    assert _graded([("500", r"5\text{ per cent}"), (r"5\%", r"0.5\text{ per cent}")], False) == []


def test_a_percentage_of_at_most_one_is_not_the_same_number_without_its_sign():
    assert _graded([("0.5", "0.5%"), (r"\frac12", r"\frac12\%"), ("1", r"1\%"), ("-0.5", r"-0.5\%"), ("0.3", r"0.3\text{ percent}"),
                    (r"\frac{\sqrt2}{2}", r"\frac{\sqrt2}{2}\%"), ("(0.5, 1)", r"(0.5\%, 1\%)")], False) == []
    assert _graded([("0.5", "50%"), ("1", r"100\%"), ("20", "20%"), ("0.2", "20%"), ("1.5", r"150\%"), ("0", r"0\%"), (r"0.5\%", "0.5")], True) == []


def test_a_gold_answer_beyond_the_limits_is_won_by_its_own_text():
    long, deep = "1" + "+x" * 210, "(" * 14 + "x" + ")" * 14
    assert _graded([(long, long), (long, f" {long} "), (long, long.replace("+", "+ ")), (long, "1+210x"), (deep, deep), (deep, "x")], True) == []
    verdicts = grade_answers([long, "5", "5", long], [long + "+1", long, deep, "x" * 100_000])
    assert [(v.correct, v.status) for v in verdicts] == [(False, "refused")] * 4


def test_definite_integrals_are_refuted_without_a_proof():
    wrong = [("5", rf"\int_0^1 e^{{\sin(\cos(x^{k}))}} dx") for k in range(2, 8)]
    wrong += [("2", r"\int_1^\infty \frac{1}{x^2} dx"), ("5", r"\int_0^\infty e^{-x^2} dx"), ("3", r"\int_0^1 \frac{1}{\sqrt{x}} dx")]
    wrong += [("x^3", r"\int_0^x 2t dt"), ("4", r"\int_2^0 2x dx"), ("1,2,3,4", ",".join(rf"\int_0^1 e^{{\cos(x^{k})}} dx" for k in (2, 3, 4, 5)))]
    assert [pair for pair in wrong if grading._decide(*pair)[0] is not False] == []
    right = [("1", r"\int_1^\infty \frac{1}{x^2} dx"), (r"\frac{\sqrt\pi}{2}", r"\int_0^\infty e^{-x^2} dx"), ("2", r"\int_0^1 \frac{1}{\sqrt{x}} dx")]
    right += [("x^2", r"\int_0^x 2t dt"), ("-4", r"\int_2^0 2x dx"), (r"-\frac14", r"\int_0^1 x\ln x dx"), (r"\frac{\pi}{2}", r"\int_0^\infty \frac{\sin x}{x} dx")]
    assert _graded(right, True) == []
    # Where the integrand jumps, quadrature is too coarse to refute.
    assert grading._decide("45", r"\int_0^{10} \lfloor x\rfloor dx")[0] is not False
# fmt: on


# The batch


def test_order_is_kept_and_statuses_say_what_happened():
    answers = ["2", None, "1", "x" * 500, "9^{9^{9^9}}", "", "\\frac{2}{2}"]
    verdicts = grade_answers(["1"] * len(answers), answers)
    assert verdicts == [
        Verdict(False, "ok", "2"),
        Verdict(False, "no_box", None),
        Verdict(True, "ok", "1"),
        Verdict(False, "refused", "x" * 500),
        Verdict(False, "refused", "9^{9^{9^9}}"),
        Verdict(False, "refused", ""),
        Verdict(True, "ok", "\\frac{2}{2}"),
    ]


def test_repeated_claims_are_sent_to_a_worker_once(monkeypatch):
    sent: list[Claim] = []

    class Counting:
        def run(self, items, deadline):
            sent.extend(items)
            return [(True, "ok")] * len(items)

    monkeypatch.setattr(grading, "shared_pool", Counting)
    verdicts = grade_answers([CLOSED, CLOSED, "10", "10"], [PROVEN, PROVEN, PROVEN, "10"])
    assert sent == [claim(CLOSED, PROVEN)] + [claim("10", PROVEN)] * (len(sent) - 1)
    assert len(verdicts) == 4


def test_the_claims_of_an_answer_are_sent_together(monkeypatch):
    sent: list[Truth] = []

    class Counting:
        def run(self, items, deadline):
            sent.extend(items)
            return [(False, "timeout")] * len(items)

    monkeypatch.setattr(grading, "shared_pool", Counting)
    sums = [f"\\sum_{{k=1}}^{{\\infty}} \\frac{{1}}{{k^{power}}}" for power in (5, 7, 9)]
    verdicts = grade_answers(["1, 2, 3", "1"], [", ".join(sums), sums[0]])
    assert [len(set(claims(item))) for item in sent] == [9, 1]
    assert [(v.correct, v.status) for v in verdicts] == [(False, "timeout")] * 2


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="2 gold answers for 1"):
        grade_answers(["1", "2"], ["1"])
    with pytest.raises(ValueError, match="deadline must be positive"):
        grade_answers(["1"], ["1"], deadline=0)


def test_the_fast_path_decides_ten_thousand_a_second():
    golds, answers = [], []
    for n in range(6000):
        golds.append(
            [str(n), f"\\frac{{{n}}}{{7}}", f"{n / 100:.2f}", f"{n}_9" if "9" not in str(n) else str(n)][
                n % 4
            ]
        )
        answers.append([str(n + n % 3), f"{n}/7", f"{n / 100:.3f}", f"{n}_{{9}}"][n % 4])
    grade_answers(golds[:8], answers[:8])
    gc.collect()
    begin = time.process_time()
    grade_answers(golds, answers)
    assert len(golds) / (time.process_time() - begin) >= 10_000


def test_threads_share_the_workers_and_get_their_own_verdicts():
    results: dict[int, list[bool]] = {}

    def work(thread: int) -> None:
        golds = [f"\\frac{{{k}n(n+1)}}{{2}}" for k in range(3, 6)]
        answers = [f"\\sum_{{j=1}}^{{n}} {k + thread % 2}j" for k in range(3, 6)]
        results[thread] = [v.correct for v in grade_answers(golds, answers, deadline=20)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {k: [k % 2 == 0] * 3 for k in range(6)}


# fmt: off
def test_a_number_with_thousands_separators_is_no_list_of_its_parts_without_zeros():
    wrong = [("12,000", "12, 0"), ("1,000", "1,0"), ("1,000", "1;0"), ("10,000,000", "10,0,0"), ("1,001", "1,1"), ("5,012", "5,12")]
    wrong += [(r"\$1,000", r"\$1, 0"), ("x=1,000", "x=1, 0"), ("1, 0", "1,000"), ("12, 0", "12,000")]
    assert _graded(wrong, False) == []
    assert _graded([("12,000", "12, 000"), ("12,000", "12000"), ("1,234", "1, 234"), ("1, 234", "1,234"), (r"\$1,000", "1000")], True) == []


def test_a_pair_that_is_written_twice_is_no_way_to_write_it():
    assert _graded([("(1,2)", "(1,2),(1,2)"), ("1", "1,1"), ("[1,2]", "[1,2],[1,2]")], False) == []
    assert _graded([("(1,2),(3,4)", "(3,4),(1,2)"), (r"\{5\}", "5,5"), ("1,2", "1,2,2"), (r"\{(1,2)\}", "(1,2)")], True) == []


def test_the_value_alone_is_enough_where_its_name_has_an_index_an_inverse_or_a_composition():
    named = [(r"f^{-1}(x)=\frac{x-1}{2}", r"\frac{x-1}{2}"), ("S_{n+1}=5", "5"), ("a_{n-1}=5", "5"), (r"S_{n+1}=2^{n+1}", "2^{n+1}")]
    named += [(r"(f\circ g)(x)=2x", "2x"), (r"(g ∘ f)(2)=7", "7"), (r"y^{\prime}=2x", "2x"), (r"f^{\prime\prime}(x)=2", "f''(x)=2")]
    identity = r"\begin{pmatrix}1&0\\0&1\end{pmatrix}"
    named += [(f"A^{{-1}}={identity}", identity), (rf"\mathbf{{A}}^{{-1}}={identity}", identity), ("f^{-1}(x)=2x", "f^-1(x)=2x")]
    assert _graded(named + [(value, name) for name, value in named], True) == []
    compound = [("x+y=1", "1"), ("S_n+1=5", "5"), ("a_n-1=5", "5"), ("x^2=4", "4"), ("x^{-1}=4", "4"), ("x^{n-1}=4", "4")]
    compound += [("A^{-1}+B=5", "5"), ("2x=4", "4"), ("x_{n+1}=5", "x_{n-1}=5"), ("x_{n+1}=5", "x_n+1=5")]
    assert _graded(compound, False) == []


def test_typesetting_of_other_kinds_has_no_meaning_either():
    twelve = [r"\large 12", r"\Large{12}", r"\bf 12", r"\rm 12", r"\bf{12}", r"{\bf 12}", r"\underline{12}", r"\underline{\underline{12}}"]
    twelve += [r"\emph{12}", "{}12", "12{}", "12\\ ", "12\\", r"12\,\text{.}", r"12\checkmark", r"12\tag{1}", r"\begin{aligned}12\end{aligned}"]
    assert _graded([("12", answer) for answer in twelve], True) == []
    assert _graded([("21", answer) for answer in twelve], False) == []
    equal = [(r"\frac12", r"1 \over 2"), ("10", r"5 \choose 2"), (r"\frac{x}{2}", r"x \over 2"), (r"\frac12", r"\left(1 \over 2\right)")]
    equal += [(r"\frac12, 3", r"1 \over 2, 3"), (r"\frac12", r"\underline{\frac{1}{2}}"), (r"2\pi", r"2\pi{}"), (r"\text{yes}", r"\bf yes")]
    equal += [(r"\text{yes}", r"\emph{yes}"), (r"\text{yes}", r"\underline{yes}"), (r"5\text{ cm}", r"5\rm{cm}")]
    assert _graded(equal, True) == []
    assert _graded([(r"\frac12", r"2 \over 1"), (r"\frac12", r"1 \over 2 \over 3"), ("x", r"\underline{x}"), ("12", "{}"), ("12", r"\bf"),
                    (r"\frac23", r"\frac{}{2}3"), (r"5\text{ cm}", r"5 \rm mm")], False) == []


def test_lines_of_equations_are_a_list_or_a_chain():
    equal = [("x=1", r"\begin{aligned}x&=1\end{aligned}"), ("5", r"\begin{align*}x&=2+3\\&=5\end{align*}")]
    equal += [("(1,2)", r"\begin{cases}x=1\\y=2\end{cases}"), ("(1,2)", r"\left\{\begin{array}{l}x=1\\y=2\end{array}\right.")]
    equal += [("(1,2)", r"\left\{\begin{aligned}x&=1,\\y&=2.\end{aligned}\right.")]
    assert _graded(equal, True) == []
    by_cases = r"f(x)=\begin{cases}x & x>0\\-x & x<0\end{cases}"
    assert _graded([(by_cases, by_cases)], True) == []
    assert _graded([("(1,2)", r"\begin{cases}x=2\\y=1\end{cases}"), ("4", r"\begin{aligned}x&=2+3\\&=5\end{aligned}"), (by_cases, "x"),
                    ("x=1", r"\begin{cases}x & x=1\\2 & x=2\end{cases}")], False) == []
def test_fractions_and_negative_numbers_may_be_written_in_words():
    equal = [(r"\frac12", "half"), (r"\frac12", r"\text{one half}"), ("0.5", r"\text{one-half}"), (r"\frac12", "a half"), (r"\frac34", "three quarters")]
    equal += [(r"\frac34", r"\text{three-fourths}"), (r"\frac13", "one third"), (r"\frac13", "a third"), (r"\frac72", "three and a half")]
    equal += [(r"-\frac23", r"\text{minus two thirds}"), ("0.07", "seven hundredths"), (r"\frac{3}{20}", "three twentieths"), (r"\frac{11}{4}", "two and three quarters")]
    equal += [("-12", r"\text{negative }12"), (r"-\frac12", r"\text{minus }\frac12"), ("-12", r"\text{negative twelve}"), (r"\text{one third}", r"\frac13")]
    assert _graded(equal, True) == []
    wrong = [("1", "one second"), (r"\frac13", "third"), ("3", "third"), (r"\frac12", "two halves"), (r"\frac{1}{25}", "twenty-fifth"), ("12", r"\text{negative }12")]
    wrong += [("20.2", "twenty-fifth"), ("4", "twenty-fifth"), ("4", "twenty-fifths"), (r"\frac12", "one quarter"), (r"\frac13", "one thirds of it"), ("2", "two thirds"), (r"\text{negative}", r"\text{positive}")]
    assert _graded(wrong, False) == []
    assert _graded([("1", "two halves"), (r"\text{negative}", "Negative")], True) == []


def test_years_and_units_of_volume_are_converted():
    equal = [(r"1\text{ year}", r"12\text{ months}"), (r"2\text{ gallons}", r"8\text{ quarts}")]
    equal += [(r"3\text{ quarts}", r"6\text{ pints}"), (r"2\text{ cups}", r"1\text{ pint}"), (r"18\text{ months}", r"1.5\text{ years}")]
    assert _graded(equal, True) == []
    assert _graded([(r"1\text{ year}", r"10\text{ months}"), (r"1\text{ year}", r"1\text{ month}")], False) == []


# fmt: on


# Hostile input

TOWERS = [
    "9^{9^{9^{9}}}", "9^9^9^9", "10^{10^{10}}", "2^{999999999}", "(((9!)!)!)!", "99999999!", "\\binom{99999}{50000}",
    "e^{e^{e^{e^{e}}}}", "\\exp(\\exp(\\exp(\\exp(5))))", "((x^{999})^{999})^{999}", "i^{i^{i^{i}}}",
    "\\sin(10^{10^{10}})", "500!" * 9, "999!" * 60, "\\sqrt[999]{999!}", "5" + "!" * 300, "-" * 390 + "4",
    "\\lfloor 10^{9999}\\pi\\rfloor", "\\sum_{k=1}^{10^9} k", "\\int_0^{1} e^{x^2} dx", "\\prod_{n=1}^{1000000} n",
]  # fmt: skip
NESTED = [
    "{" * n + "43" + "}" * n for n in (13, 1000, 100_000)
] + ["(" * 100_000, "\\frac{" * 50, "\\left(" * 60 + "43", "\\sqrt{" * 12 + "2" + "}" * 12, "|" * 300, "\\{" * 11]  # fmt: skip
HUGE = [
    "1" * 1_000_000,
    "x" * 1_000_000,
    "1+" * 199 + "2",
    "\\pm" * 60 + "4",
    ",".join("x" * 190),
    "\x00\x01",
    "\u202e5",
]
CODE = [
    "__import__('os').system('touch CANARY')", "\\text{__import__('os').system('touch CANARY')}", "exec(1)",
    "eval('5')", "\\input{/etc/passwd}", "\\def\\a{\\a\\a}\\a", "().__class__.__bases__", "lambda: 5", "2**2**2**9",
]  # fmt: skip
MALFORMED = ["=", "==", "= 6", "5 =", "<", "\\in", "x\\in", "\\cup", "(,)", "(1,)", "_", "^", "5^", "\\", "\\\\", "&",
             "%", "$$", "1/0", "0^0", "0^{-1}", "\\log 0", "x>1/0\\text{ and }x<2", "(-1)!", "\\infty-\\infty", "a<b<c<d"]  # fmt: skip


@pytest.mark.parametrize(
    "answers", [TOWERS, NESTED, HUGE, CODE, MALFORMED], ids=["towers", "nested", "huge", "code", "bad"]
)
def test_hostile_answers_are_wrong_in_time_and_the_next_is_right(answers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grade_answers([CLOSED], [PROVEN], deadline=20)  # so that the start of a worker is not timed
    for gold in ("5", "x^2+1", "(3,4]"):
        begin = time.perf_counter()
        verdicts = grade_batch([gold] * len(answers), [f"so \\boxed{{{answer}}}" for answer in answers])
        assert time.perf_counter() - begin < 2.0 * len(answers)
        assert [v.answer for v in verdicts if v.correct] == []
    assert not (tmp_path / "CANARY").exists()
    assert _correct(CLOSED, PROVEN)


@pytest.mark.parametrize(
    ("gold", "answer"), [("yes", r"\text{yes}"), (r"\text{yes}", "yes"), ("no", r"\textbf{No}")]
)
def test_a_word_is_the_same_word_with_and_without_text(gold, answer):
    assert grade_answers([gold, gold], [answer, r"\text{maybe}"]) == [
        Verdict(True, "ok", answer),
        Verdict(False, "ok", r"\text{maybe}"),
    ]
