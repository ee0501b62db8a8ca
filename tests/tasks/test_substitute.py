"""The embedded set that stands in for MATH: right answers, no repetition, rising difficulty."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from random import Random

from cola_envs.grading import extract_boxed, grade_answers
from cola_envs.tasks import substitute
from cola_envs.tasks.substitute_problems.drawing import SECOND


def _checked_value(check: str):
    """Evaluate a check of our own test file in sympy's and itertools' names."""
    import sympy
    from sympy.calculus.util import maximum, minimum

    x, y, k = sympy.symbols("x y k")

    def based(number: int, base: int) -> str:
        digits = sympy.ntheory.digits(number, base)[1:]
        assert sum(d * base**k for k, d in enumerate(reversed(digits))) == number
        return "".join(map(str, digits)) + f"_{base}"

    def paths_avoiding(m: int, n: int, i: int, j: int) -> int:
        ways = {(0, 0): 1}
        for a, b in itertools.product(range(m + 1), range(n + 1)):
            if (a, b) != (0, 0):
                ways[a, b] = 0 if (a, b) == (i, j) else ways.get((a - 1, b), 0) + ways.get((a, b - 1), 0)
        return ways[m, n]

    def highest(a: int, b: int, c: int):
        return maximum(a * sympy.sin(x) + b * sympy.cos(x) + c, x, sympy.Interval(0, 2 * sympy.pi))

    names = {name: getattr(sympy, name) for name in sympy.__all__}
    names |= {"multiplicity": sympy.multiplicity, "subfactorial": sympy.subfactorial}
    names |= {name: getattr(itertools, name) for name in ("product", "permutations", "combinations")}
    names |= {"x": x, "y": y, "k": k, "based": based, "paths_avoiding": paths_avoiding, "highest": highest}
    names |= {"minimum": minimum, "maximum": maximum}
    return eval(check, names)  # a file of this repository, never a model's answer


def _as_latex(value) -> str:
    import sympy

    if isinstance(value, str):
        return value
    if isinstance(value, sympy.Interval):
        return f"{'(' if value.left_open else '['}{value.start},{value.end}{')' if value.right_open else ']'}"
    if isinstance(value, sympy.MatrixBase):
        return "\\begin{pmatrix}" + "\\\\".join(str(entry) for entry in value) + "\\end{pmatrix}"
    return sympy.latex(sympy.sympify(value))


def drawn_test_items():
    """The lines of ``substitute_test.jsonl``: the test items with their checks.

    The subjects and levels alternate, so that the first 35 items have one of each. The first four of each are
    the 140 of ``cola-substitute-v1``; the others come only from the templates of the second edition, which no
    model trained on v1's training items has seen.
    """
    cells = list(itertools.product(substitute.SUBJECTS, substitute.LEVELS))
    # 14 or 15 each, spread evenly over subjects and levels.
    ends = [number * 500 // len(cells) for number in range(len(cells) + 1)]
    sizes = [end - start for start, end in itertools.pairwise(ends)]
    drawn = {cell: drawn_cell(*cell, size) for cell, size in zip(cells, sizes, strict=True)}
    return [
        drawn[subject, level][number]
        for number in range(max(sizes))
        for level in substitute.LEVELS
        for subject in substitute.SUBJECTS
        if number < len(drawn[subject, level])
    ]


def drawn_cell(subject, level, size):
    second = SECOND[subject, level]
    first = [template for template in substitute.TEMPLATES[subject, level] if template not in second]
    items = {}
    for seed, templates, count in ((20260, first, 4), (20261, second, size)):
        rng = Random(f"{seed}/{subject}/{level}")
        while len(items) < count:
            problem, steps, answer, check = templates[len(items) % len(templates)](rng)
            question = substitute.canonical_question(problem)
            if question not in items:
                item = substitute._item(problem, steps, answer, subject, level, "test", f"{len(items)}")
                items[question] = {**item, "check": check}
    return list(items.values())


def train_items(seed: int, count: int, **chosen):
    return [substitute.train_item(seed, index, **chosen) for index in range(count)]


def test_published_seeds_draw_the_problems_that_they_drew():
    drawn = [substitute.train_item(seed, index) for seed in (0, 1, 20260) for index in range(500)]
    assert hashlib.sha256(json.dumps(drawn).encode()).hexdigest()[:16] == "39465cd409c8f71b"


def test_every_test_answer_is_recomputed_by_another_road():
    rows = [json.loads(line) for line in substitute.TEST_FILE.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 500
    values = [_as_latex(_checked_value(row["check"])) for row in rows]
    verdicts = grade_answers([row["answer"] for row in rows], values, deadline=20)
    assert [(r["problem"], v.answer) for r, v in zip(rows, verdicts, strict=True) if not v.correct] == []


def test_generated_answers_are_recomputed_by_another_road():
    checks = {}
    for (subject, level), templates in substitute.TEMPLATES.items():
        for k, template in enumerate(templates):
            problem, _, answer, check = template(Random(f"{subject}{level}{k}"))
            checks[problem] = (answer, _as_latex(_checked_value(check)))
    verdicts = grade_answers([a for a, _ in checks.values()], [v for _, v in checks.values()], deadline=20)
    wrong = [(p, v.answer) for p, v in zip(checks, verdicts, strict=True) if not v.correct]
    assert wrong == []


def test_the_test_set_covers_every_subject_and_level_without_repetition():
    items = substitute.test_items()
    cells = [(item["subject"], item["level"]) for item in items]
    every = list(itertools.product(substitute.SUBJECTS, substitute.LEVELS))
    assert {cells.count(cell) for cell in every} == {14, 15}
    assert len({substitute.canonical_question(item["problem"]) for item in items}) == 500
    assert len({item["unique_id"] for item in items}) == 500
    for which, size in ((0, 500 / 7), (1, 100)):
        counts = [sum(cell[which] == value for cell in cells) for value in {cell[which] for cell in every}]
        assert max(abs(count - size) for count in counts) <= 1.5


def test_solutions_end_in_the_boxed_answer():
    for item in [*substitute.test_items(), *train_items(3, 2000)]:
        assert extract_boxed(item["solution"]) == item["answer"]


def test_no_training_item_asks_a_test_question():
    test = {substitute.canonical_question(item["problem"]) for item in substitute.test_items()}
    for levels in ([1], None):
        train = [item["problem"] for item in train_items(0, 12_000, levels=levels)]
        assert test.isdisjoint(map(substitute.canonical_question, train))


def test_canonical_questions_ignore_order_and_names():
    canonical = substitute.canonical_question
    assert canonical("What is $8 + 6$?") == canonical("What is $6 + 8$?") != canonical("What is $8 + 7$?")
    assert canonical("Ada has 3 pears and finds 4 more.") == canonical("Ben has 4 coins and finds 3 more.")


def test_training_items_follow_from_seed_and_index_alone():
    items = train_items(7, 50, levels=[1, 2])
    assert items == train_items(7, 60, levels=[1, 2])[:50]
    assert items[31] == substitute.train_item(7, 31, levels=[1, 2])
    others = {item["problem"] for item in train_items(8, 50, subjects=["Precalculus"], levels=[3])}
    assert others.isdisjoint(item["problem"] for item in items)


def test_level_one_needs_single_digits_alone():
    for item in train_items(0, 3000, levels=[1]):
        numbers = [int(n) for n in re.findall(r"\d+", item["problem"])]
        assert max(numbers) < 50
        assert sum(n > 9 for n in numbers) <= 1, item["problem"]


def test_the_test_file_is_what_the_templates_say():
    rows = [json.loads(line) for line in substitute.TEST_FILE.read_text(encoding="utf-8").splitlines()]
    assert rows == drawn_test_items()
    assert substitute.TEST_FILE.stat().st_size < 300_000


def test_every_subject_and_level_has_templates_of_both_editions():
    for cell in itertools.product(substitute.SUBJECTS, substitute.LEVELS):
        assert len(SECOND[cell]) >= 2
        assert set(SECOND[cell]) < set(substitute.TEMPLATES[cell])


def test_a_model_of_the_first_editions_training_items_has_met_no_later_test_question():
    """At levels 1 and 2, of which the bundled models' corpus is made, first-edition templates ask none."""
    later = {
        substitute.canonical_question(item["problem"])
        for item in substitute.test_items()
        if int(item["unique_id"].rsplit("/", 1)[1]) >= 4
    }
    assert len(later) == 360
    for level, subject in itertools.product((1, 2), substitute.SUBJECTS):
        for template in set(substitute.TEMPLATES[subject, level]) - set(SECOND[subject, level]):
            asked = {substitute.canonical_question(template(Random(seed))[0]) for seed in range(300)}
            assert later.isdisjoint(asked)


def test_each_level_asks_for_more_reading_and_working_than_the_one_before():
    """Words, numbers and signs of problem and solution together, on average."""

    def work(subject: str | None, level: int) -> float:
        counts = [
            len(re.findall(r"[a-zA-Z]+|\d+|[^\sa-zA-Z\d]", item["problem"] + item["solution"]))
            for item in substitute.test_items()
            if item["level"] == level and subject in (None, item["subject"])
        ]
        return sum(counts) / len(counts)

    overall = [work(None, level) for level in substitute.LEVELS]
    assert overall == sorted(overall)
    assert overall[4] > 1.5 * overall[0]
    for subject in substitute.SUBJECTS:
        assert work(subject, 1) < work(subject, 3) < work(subject, 5)


def test_the_first_thirty_five_test_items_have_one_of_each_subject_and_level():
    first = [(item["subject"], item["level"]) for item in substitute.test_items()[:35]]
    assert sorted(first) == sorted(itertools.product(substitute.SUBJECTS, substitute.LEVELS))
