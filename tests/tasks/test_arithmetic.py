"""Arithmetic, checked by integer arithmetic that shares no line with the generator."""

from __future__ import annotations

import ast
import operator
import re
import time
from fractions import Fraction
from itertools import islice, pairwise

import numpy as np
import pytest

from cola_envs.tasks.arithmetic import (
    ALL_KINDS,
    KINDS,
    LEVELS,
    ArithmeticTask,
    Problem,
    Split,
    final_answer,
    generate,
    problems,
    set_hash,
    split_of,
)
from cola_envs.testing import check_task

SPLITS: tuple[Split, ...] = ("train", "test")
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}


def value_of(expression: str, x: int | None = None) -> Fraction:
    """Work an expression out, exactly."""

    def walk(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return _OPERATORS[type(node.op)](walk(node.left), walk(node.right))
        if isinstance(node, ast.UnaryOp):
            assert isinstance(node.op, ast.USub)
            return -walk(node.operand)
        if isinstance(node, ast.Name):
            assert node.id == "x"
            assert x is not None
            return Fraction(x)
        assert isinstance(node, ast.Constant)
        assert isinstance(node.value, int)
        return Fraction(node.value)

    return walk(ast.parse(expression, mode="eval").body)


def terms_of(expression: str) -> tuple:
    """The terms of a sum, each with sign and sorted factors, in sorted order."""
    signed = re.findall(r"([+-]?)([^+-]+)", expression)
    return tuple(sorted((sign or "+", tuple(sorted(term.split("*")))) for sign, term in signed))


def canonical(question: str) -> tuple:
    """A question up to the order of its terms, of its factors and of the sides of its equation."""
    equation = question.removesuffix("=?").removesuffix(", x=?")
    return tuple(sorted(terms_of(side) for side in equation.split("=")))


def many(level: int, split: Split, count: int = 1500, **kinds) -> list[Problem]:
    return list(islice(problems(level * 7, level=level, split=split, **kinds), count))


@pytest.mark.parametrize("level", LEVELS)
def test_every_answer_is_right(level):
    for problem in many(level, "train", 600) + many(level, "test", 300):
        if problem.question.endswith(", x=?"):
            left, right = problem.question.removesuffix(", x=?").split("=")
            assert value_of(left, problem.answer) == value_of(right, problem.answer), problem
            # One solution: with another x the sides differ.
            assert value_of(left, problem.answer + 1) != value_of(right, problem.answer + 1), problem
        else:
            assert value_of(problem.question.removesuffix("=?")) == problem.answer, problem
        assert problem.level == level


@pytest.mark.parametrize("level", LEVELS)
def test_every_step_is_right_and_the_last_is_the_answer(level):
    for problem in many(level, "train", 600):
        for expression, value in problem.steps:
            assert value_of(expression) == value, problem
        assert problem.steps[-1][1] == problem.answer, problem


@pytest.mark.parametrize("level", LEVELS)
def test_steps_use_numbers_that_are_known_by_then(level):
    for problem in many(level, "train", 300):
        known = set(map(int, re.findall(r"\d+", problem.question)))
        for expression, value in problem.steps:
            assert {abs(int(n)) for n in re.findall(r"\d+", expression)} <= known, problem
            known.add(abs(value))


def test_the_splits_share_no_question_up_to_the_order_of_its_terms():
    """Over all levels together, by a canonical form of the test's own."""
    seen: dict[str, set] = {split: set() for split in SPLITS}
    for split in SPLITS:
        for level in LEVELS:
            for problem in many(level, split, 3000):
                assert split_of(problem.key) == split
                seen[split].add(canonical(problem.question))
    assert len(seen["train"]) > 5000
    assert len(seen["test"]) > 2000
    assert not seen["train"] & seen["test"]


def test_reordered_questions_share_their_key():
    keys: dict[tuple, set[str]] = {}
    questions: dict[tuple, set[str]] = {}
    for level in (1, 2):
        for problem in many(level, "train", 8000):
            form = canonical(problem.question)
            keys.setdefault(form, set()).add(problem.key)
            questions.setdefault(form, set()).add(problem.question)
    assert all(len(found) == 1 for found in keys.values())
    assert sum(len(found) > 1 for found in questions.values()) > 500, "nothing was reordered"


def test_a_quarter_of_the_questions_are_test_questions():
    drawn = {problem.key for split in SPLITS for problem in many(3, split, 4000)}
    share = np.mean([split_of(key) == "test" for key in drawn])
    generated = np.mean([split_of(f"some key {i}") == "test" for i in range(20_000)])
    assert generated == pytest.approx(0.25, abs=0.02)
    assert 0.1 < share < 0.6


def test_an_item_depends_on_its_seed_alone():
    first = list(islice(problems(5, level=2), 20))
    assert list(islice(problems(5, level=2), 10)) == first[:10]
    assert generate(123) == generate(123)
    again = [generate(seed) for seed in reversed(range(100))][::-1]
    assert again == [generate(seed) for seed in range(100)]
    assert len({problem.question for problem in again}) > 80
    assert list(islice(problems(6, level=2), 20)) != first
    assert generate(0, level=1) != generate(0, level=2)


def test_known_items_never_change():
    """A seed in a published result names the same problem on every machine and in every version of v0."""
    assert [generate(seed, level=1 + seed).question for seed in range(5)] == [
        "4*3+8=?",
        "5*6+5*8=?",
        "2*x+43=53, x=?",
        "12*x+22=3*x+103, x=?",
        "77*98+14=?",
    ]
    assert generate(0, split="test").question == "7*2+6=?"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", LEVELS)
def test_a_kind_may_be_chosen(kind, level):
    drawn = many(level, "train", 100, kinds=(kind,))
    assert {problem.kind for problem in drawn} == {kind}
    assert all(("x" in problem.question) == (kind == "equation") for problem in drawn)
    if kind == "product":
        assert all("*" in problem.question for problem in drawn)


def test_kinds_are_drawn_evenly():
    counts = [sum(p.kind == kind for p in many(1, "train", 3000)) for kind in KINDS]
    assert min(counts) > 800


def test_level_one_is_small():
    for problem in many(1, "train", 1000):
        assert all(int(n) <= 29 for n in re.findall(r"\d+", problem.question)), problem
        assert -9 <= problem.answer <= 90


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": 6}, "level must be .* got 6"),
        ({"level": 0}, "level must be .* got 0"),
        ({"level": 1.0}, r"level must be .* got 1\.0"),
        ({"level": np.float64(1)}, r"level must be .* got np\.float64"),
        ({"level": True}, "level must be .* got True"),
        ({"level": "1"}, "level must be .* got '1'"),
        ({"split": "dev"}, "split must be .train. or .test., got .dev."),
        ({"kinds": ()}, "kinds"),
        (
            {"kinds": ("sum", "integral")},
            r"unknown kind 'integral' in kinds=\('sum', 'integral'\); the kinds are sum",
        ),
        ({"kinds": 5}, "kinds must be a sequence"),
        ({"kinds": None}, "kinds must be a sequence"),
    ],
)
def test_unknown_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        generate(0, **settings)
    with pytest.raises(ValueError, match=message):
        ArithmeticTask(**settings)


@pytest.mark.parametrize("level", [1.0, True])
def test_a_hash_of_the_set_is_of_a_level_that_exists(level):
    assert set_hash(1, "train", KINDS)
    with pytest.raises(ValueError, match="level must be"):
        set_hash(level, "train", KINDS)  # whatever was asked before


def test_a_level_and_kinds_of_numpy_are_pythons():
    own, theirs = ArithmeticTask(2), ArithmeticTask(np.int64(2), kinds=np.array(KINDS))  # type: ignore[arg-type]
    assert theirs.reset(np.random.default_rng(3)) == own.reset(np.random.default_rng(3))
    assert theirs.info == own.info
    assert {type(theirs.info["level"]), type(theirs.kinds), *map(type, theirs.kinds)} == {int, tuple, str}


# ------------------------------------------------------------------ further kinds

FURTHER = tuple(kind for kind in ALL_KINDS if kind not in KINDS)


def next_term(terms: list[int]) -> int:
    """The next term under the one rule that the terms obey: one ratio, or one difference of some order."""
    ratios = {Fraction(b, a) for a, b in pairwise(terms)}
    if len(ratios) == 1:
        return int(terms[-1] * ratios.pop())
    rows = [terms]
    while len(set(rows[-1])) > 1:
        rows.append([b - a for a, b in pairwise(rows[-1])])
    assert len(rows[-1]) >= 3, "too few terms to tell the rule"
    return sum(row[-1] for row in rows)


def nearest(n: int, unit: int) -> int:
    multiples = [m for m in range(n - unit, n + unit + 1) if m % unit == 0]
    best = sorted(multiples, key=lambda m: abs(m - n))
    assert abs(best[0] - n) < abs(best[1] - n), "a number in the middle was asked"
    return best[0]


def in_base(n: int, base: int) -> int:
    return int("".join(str(n // base**k % base) for k in range(20, -1, -1)))


def changed(shown: str) -> Fraction:
    start, *changes = re.findall(r"[+-]?\d+", shown)
    value = Fraction(int(start))
    for change in changes:
        value *= 1 + Fraction(int(change), 100)
    return value


def unknown_x(first: str, second: str) -> int:
    """By trying every x there may be, and for each every y."""

    def holds(equation: str, x: int, y: int) -> bool:
        left, right = equation.split("=")
        signed = left.replace("x", f"({x})").replace("y", f"({y})")
        return eval(signed) == int(right)  # of a question of our own

    found = {x for x in range(-20, 21) for y in range(-20, 21) if holds(first, x, y) and holds(second, x, y)}
    (x,) = found
    return x


def solved(problem: Problem) -> int | Fraction:
    """The answer to a question of a further kind, read from its text and found without its generator."""
    question = problem.question
    if problem.kind == "fraction":
        left, _, denominator = question.partition("=?/")
        return value_of(left) * int(denominator)
    numbers = [int(n) for n in re.findall(r"\d+", question)]
    if problem.kind == "gcd":
        return max(d for d in range(1, min(numbers) + 1) if all(n % d == 0 for n in numbers))
    if problem.kind == "lcm":
        a, b = numbers
        return next(m for m in range(a, a * b + 1, a) if m % b == 0)
    if problem.kind == "remainder":
        *power, divisor = numbers
        value = power[0] ** (power[1] if len(power) == 2 else 1)
        return value - divisor * (value // divisor)
    if problem.kind == "percent":
        return Fraction(numbers[0] * numbers[1], 100) if " of " in question else changed(question[:-2])
    if problem.kind == "rounding":
        return nearest(*numbers)
    if problem.kind == "base":
        shown, base = numbers
        return in_base(shown, base) if " to base " in question else int(str(shown), base)
    if problem.kind == "sequence":
        return next_term(numbers)
    if problem.kind == "power":
        return value_of(re.sub(r"(\d+)\^(\d+)", lambda m: "*".join([m[1]] * int(m[2])), question[:-2]))
    first, second, _ = question.split(", ")
    return unknown_x(first, second)


@pytest.mark.parametrize("kind", FURTHER)
@pytest.mark.parametrize("level", LEVELS)
def test_further_kinds_are_solved_by_other_means(kind, level):
    count = 12 if kind == "system" else 80  # a system is solved by trying 1,681 pairs
    for problem in many(level, "train", count, kinds=(kind,)) + many(level, "test", count, kinds=(kind,)):
        assert solved(problem) == problem.answer, problem
        assert (problem.kind, problem.level) == (kind, level)


@pytest.mark.parametrize("kind", FURTHER)
def test_further_kinds_show_right_steps_that_end_in_the_answer(kind):
    for level in LEVELS:
        for problem in many(level, "train", 60, kinds=(kind,)):
            for expression, value in problem.steps:
                assert value_of(expression) == value, problem
            assert problem.steps[-1][1] == problem.answer, problem


@pytest.mark.parametrize("kind", FURTHER)
def test_further_kinds_have_disjoint_splits_with_enough_in_each(kind):
    for level in LEVELS:
        train, test = (
            {sorted_question(problem) for problem in many(level, split, 400, kinds=(kind,))}
            for split in SPLITS
        )
        assert len(train) >= 25, (level, len(train))
        assert len(test) >= 8, (level, len(test))
        assert not train & test


def sorted_question(problem: Problem) -> tuple:
    """A question up to the order of its terms, where that does not change what is asked."""
    question = problem.question
    if problem.kind in ("gcd", "lcm"):
        return (problem.kind, *sorted(re.findall(r"\d+", question)))
    if problem.kind == "fraction":
        left = question.partition("=?/")[0]
        if "*" in left:
            return tuple(sorted(left.split("*")))
        return tuple(sorted(re.findall(r"[+-]?\d+/\d+", left if left[0] == "-" else f"+{left}")))
    if problem.kind == "system":
        return tuple(sorted(question.split(", ")))
    return (problem.kind, question)


@pytest.mark.parametrize("kind", FURTHER)
def test_higher_levels_of_a_further_kind_take_larger_numbers_or_more_steps(kind):
    def effort(level: int) -> float:
        drawn = many(level, "train", 150, kinds=(kind,))
        return float(
            np.mean([sum(len(e) + len(str(v)) for e, v in p.steps) + len(p.question) for p in drawn])
        )

    assert effort(1) < effort(3) < effort(5)


def test_the_default_kinds_are_those_of_v0_and_a_selection_may_mix():
    assert ArithmeticTask().kinds == KINDS == ("sum", "product", "equation")
    mixed = many(2, "train", 300, kinds=("sum", "gcd", "system"))
    assert {problem.kind for problem in mixed} == {"sum", "gcd", "system"}


def test_a_task_of_every_kind_conforms():
    check_task(lambda: ArithmeticTask(level=3, kinds=ALL_KINDS), texts=(r"\boxed{7}", "no"))


def test_known_items_of_further_kinds_never_change():
    assert [generate(9, level=2, kinds=(kind,)).question for kind in FURTHER] == [
        "1/4+9/12=?/12",
        "gcd(30,6)=?",
        "lcm(50,30)=?",
        "67%4=?",
        "35% of 340=?",
        "round 691 to 10s=?",
        "202 base 3=?",
        "171,149,127,105,?",
        "4^3+2=?",
        "x+3*y=21, 3*x-3*y=-9, x=?",
    ]


def test_the_set_hash_tells_streams_apart():
    streams = [(1, "train", KINDS), (1, "test", KINDS), (2, "train", KINDS), (1, "train", ("sum",))]
    assert len({set_hash(*stream) for stream in streams}) == 4
    task = ArithmeticTask(level=2)
    task.reset(np.random.default_rng(0))
    assert task.info["set_hash"] == set_hash(2, "train", KINDS)


# ------------------------------------------------------------------ reading an answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r" \boxed{7}", 7),
        (r" The answer is \boxed{ -12 }.", -12),
        (r" \boxed{1} or rather \boxed{2}", 2),
        (r" \boxed{2} and an open \boxed{3", 2),
        (r"<answer>9</answer>", 9),
        (r"<answer>1</answer><answer> 8 </answer>", 8),
        (r"<think>3+4=7</think><answer>1</answer> \boxed{7}", 7),
        (r"\boxed{7}<answer>1</answer>", 7),
        (r"\boxed{+7}", None),
        (r"\boxed{7.0}", None),
        (r"\boxed{}", None),
        (r"\boxed{x}", None),
        (r"\boxed{1 2}", None),
        (r"\boxed{--1}", None),
        (r"\boxed{1e3}", None),
        (r"\boxed{0x10}", None),
        (r"\boxed{1_000}", None),
        ("\\boxed{\u0663}", None),  # a digit, but not of ours
        (r"\boxed{007}", 7),
        (r"\boxed 7", None),
        ("7", None),
        ("", None),
        (r"<answer></answer>", None),
        (r"<answer>5", None),
        (r"\boxed{3} \boxed{\text{4}}", None),  # the last box holds no plain integer
        (r"\boxed{\boxed{4}}", 4),
        (r"\boxed{{4}}", None),
        (r"\boxed{" + "9" * 18 + "}", int("9" * 18)),
        (r"\boxed{" + "9" * 19 + "}", None),
    ],
)
def test_final_answer(text, expected):
    assert final_answer(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" + "9" * 300_000 + "}",
        "\\boxed{" * 50_000,
        "\\boxed{" * 20_000 + "1" + "}" * 20_000,
        "<answer>" * 50_000,
        "\\boxed{" + " " * 200_000 + "x}",
        "<answer>" + " " * 200_000 + "-",
        "{" * 200_000 + "}" * 200_000,
        "\\" * 200_000,
        "\x00\ud800\\boxed{\x00}",
    ],
)
def test_hostile_text_is_read_in_linear_time(text):
    start = time.process_time()
    final_answer(text)
    assert time.process_time() - start < 1.0


# ------------------------------------------------------------------ the task


def test_the_task_pays_for_the_right_answer_alone():
    task = ArithmeticTask(level=2, split="test")
    prompt = task.reset(np.random.default_rng(3))
    assert prompt == f"Q: {task.info['question']}\nA:"
    assert task.info["split"] == "test"
    assert task.info["level"] == 2
    assert task.info["dataset"] == "cola-arithmetic-v0"
    answer = task.info["answer"]
    right = task.step(f" \\boxed{{{answer}}}")
    assert (right.reward, right.done, right.info) == (1.0, True, {"success": True, "given": str(answer)})
    wrong = task.step(f" \\boxed{{{answer + 1}}}")
    assert (wrong.reward, wrong.info) == (0.0, {"success": False, "given": str(answer + 1)})
    none = task.step(" I do not know")
    assert (none.reward, none.info) == (0.0, {"success": False, "given": ""})


def test_the_task_draws_from_its_generator_alone():
    prompts = [ArithmeticTask().reset(np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert prompts[0] == prompts[1] != prompts[2]
    one, two = ArithmeticTask(), ArithmeticTask()
    assert one.info is not two.info


def test_one_kind_may_be_given_as_a_string():
    assert ArithmeticTask(kinds="sum").kinds == ("sum",)  # type: ignore[arg-type]
