"""Countdown: puzzles that can be solved, and a scorer that no text can fool, break or slow down."""

from __future__ import annotations

import ast
import itertools
import operator
import random
import time
from fractions import Fraction

import numpy as np
import pytest

import cola_envs.tasks.countdown as countdown
from cola_envs.tasks.arithmetic import Split
from cola_envs.tasks.countdown import SHAPES, CountdownTask, generate, key_of, score, thinking_countdown
from cola_envs.tasks.thinking import INSTRUCTION
from cola_envs.testing import FakeBackbone, check_env, check_task

SPLITS: tuple[Split, ...] = ("train", "test")
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def reachable(numbers: tuple[Fraction, ...]) -> set[Fraction]:
    """Every value that uses all of the numbers, by brute force: another road than the generator's."""
    if len(numbers) == 1:
        return {numbers[0]}
    values = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
        for apply in _OPERATORS.values():
            if apply is operator.truediv and numbers[j] == 0:
                continue
            values |= reachable((apply(numbers[i], numbers[j]), *rest))
    return values


# ------------------------------------------------------------------ puzzles


@pytest.mark.parametrize("difficulty", SHAPES)
@pytest.mark.parametrize("split", SPLITS)
def test_every_puzzle_keeps_to_its_difficulty_and_its_solution_is_right(difficulty, split):
    count, largest, limit = SHAPES[difficulty]
    for seed in range(300):
        puzzle = generate(seed, difficulty=difficulty, split=split)
        assert len(puzzle.numbers) == count
        assert all(1 <= number <= largest for number in puzzle.numbers)
        assert 0 < puzzle.target <= limit
        assert puzzle.target not in puzzle.numbers
        # Python's own division, on floats: numbers this small are exact enough to tell apart.
        assert eval(puzzle.answer) == pytest.approx(puzzle.target)
        used = [node.value for node in ast.walk(ast.parse(puzzle.answer)) if isinstance(node, ast.Constant)]
        assert sorted(used) == sorted(puzzle.numbers)
        assert puzzle.steps[-1][1] == puzzle.target
        for expression, value in puzzle.steps:
            assert eval(expression) == value
            assert 0 < value <= limit


def test_three_numbers_reach_the_target_by_brute_force():
    for seed in range(20):
        puzzle = generate(seed, difficulty=2)
        assert puzzle.target in reachable(tuple(map(Fraction, puzzle.numbers)))


def test_no_bracket_of_a_solution_can_be_left_out():
    bracketed = 0
    for seed in range(300):
        puzzle = generate(seed, difficulty=4)
        for at in (i for i, char in enumerate(puzzle.answer) if char == "("):
            depth, end = 0, at
            for end in range(at, len(puzzle.answer)):
                depth += {"(": 1, ")": -1}.get(puzzle.answer[end], 0)
                if depth == 0:
                    break
            without = puzzle.answer[:at] + puzzle.answer[at + 1 : end] + puzzle.answer[end + 1 :]
            bracketed += 1
            # Without it another tree is read; by chance it may be worth the same.
            assert ast.dump(ast.parse(without)) != ast.dump(ast.parse(puzzle.answer)), puzzle
    assert bracketed > 100


def test_splits_share_no_puzzle_in_whatever_order_its_numbers_stand():
    train, test = (
        {key_of(p.numbers, p.target) for p in (generate(s, split=split) for s in range(3000))}
        for split in SPLITS
    )
    assert len(train) > 1000
    assert len(test) > 300
    assert not train & test
    assert key_of((3, 1, 2), 6) == key_of((2, 3, 1), 6)
    assert key_of((3, 1, 2), 6) != key_of((3, 1, 2), 7)


def test_a_seed_gives_one_puzzle_for_ever():
    assert generate(7) == generate(7)
    assert len({generate(seed).question for seed in range(100)}) > 90
    puzzle = generate(0)
    assert (puzzle.numbers, puzzle.target, puzzle.answer) == ((2, 8, 7), 13, "8-2+7")
    assert puzzle.question == "Make 13 from 2, 8, 7 with + - * /"


def test_what_is_unknown_is_refused():
    for wrong in (6, 2.0, True, "2", None):
        with pytest.raises(ValueError, match=rf"difficulty must be .* got {wrong!r}"):
            CountdownTask(difficulty=wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=rf"difficulty must be .* got {wrong!r}"):
            generate(0, difficulty=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'dev'"):
        CountdownTask(split="dev")  # type: ignore[arg-type]


# ------------------------------------------------------------------ the scorer


@pytest.mark.parametrize(
    "expression",
    [
        "8*3",
        " ( 8 ) * ( 3 ) ",
        "3*8",
        "((((8))))*3",
        "--8*3",
        "-8*-3",
        "8×3",
        r"8\times 3",
        r"8 \cdot 3",
    ],
)
def test_right_expressions_of_8_and_3_that_make_24(expression):
    assert score(expression, (3, 8), 24) == (True, "ok")


@pytest.mark.parametrize(
    ("expression", "status"),
    [
        (None, "missing"),
        ("", "missing"),
        ("   ", "missing"),
        ("24", "numbers"),
        ("8*3*1", "numbers"),
        ("8*8", "numbers"),
        ("8*3-3", "numbers"),
        ("8", "numbers"),
        ("8+3", "value"),
        ("-8*3", "value"),
        ("8*(3", "syntax"),
        ("8 3", "syntax"),
        ("8(3)", "syntax"),
        ("8,3", "syntax"),
        ("8*3=24", "syntax"),
        ("8**3", "syntax"),
        ("8//3", "syntax"),
        ("8%3", "syntax"),
        ("8<<3", "syntax"),
        ("8*3.0", "syntax"),
        ("8*3 if 1 else 2", "syntax"),
        ("[8,3]", "syntax"),
        ("8*3#", "syntax"),
        ("8*3\n", "ok"),
        ("8*\n3", "syntax"),
        ("08*3", "syntax"),
        ("8_0*3", "syntax"),
        ("0x8*3", "syntax"),
        ("8j*3", "syntax"),
        ("()", "numbers"),
        ("()8*3", "syntax"),
        ("8*3()", "syntax"),
        ("８*３", "syntax"),
        ("٨*٣", "syntax"),
        ("8*3\x00", "syntax"),
        ("__import__('os').system('touch owned')", "syntax"),
        ("(lambda: 8*3)()", "syntax"),
        ("x:=8*3", "syntax"),
        ("8*3" + " " * 300, "long"),
        ("(" * 30 + "8*3" + ")" * 30, "long"),
        ("-" * 50 + "8*3", "long"),
        ("9**9**9**9", "numbers"),
    ],
)
def test_the_status_says_what_is_wrong(expression, status):
    assert score(expression, (3, 8), 24) == (status == "ok", status)


def test_division_is_exact_and_division_by_zero_is_named():
    assert score("8/(3-8/3)", (3, 3, 8, 8), 24) == (True, "ok")
    assert score("3/(4-4)", (3, 4, 4), 3) == (False, "division")
    assert score("1/3*3", (1, 3, 3), 1) == (True, "ok")
    assert score("9/7*7", (9, 7, 7), 9) == (True, "ok")
    assert score("1/49*49", (1, 49, 49), 1) == (True, "ok"), "in floats this is not 1"


def test_nothing_is_compiled_or_evaluated(monkeypatch):
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("an answer was handed to eval, exec or compile")

    parsed = []
    parse = ast.parse

    def watched(text: str, mode: str) -> ast.AST:
        parsed.append(text)
        return parse(text, mode=mode)

    monkeypatch.setattr(countdown.ast, "parse", watched)
    monkeypatch.setattr("builtins.eval", forbidden)
    monkeypatch.setattr("builtins.exec", forbidden)
    assert score("8*3", (3, 8), 24).correct
    assert not score("print(8, 3)", (3, 8), 24).correct
    assert parsed == ["8*3"], "what holds a letter is not even parsed"


def test_random_text_neither_breaks_nor_fools_the_scorer():
    rng = random.Random(0)
    right = 0
    for _ in range(4000):
        text = "".join(rng.choices("8833+-*/() ", k=rng.randrange(1, 9)))
        verdict = score(text, (3, 8), 24)
        if verdict.correct:
            right += 1
            assert eval(text) == 24
            assert sorted(filter(str.isdigit, text)) == ["3", "8"]
    assert right > 0
    for _ in range(500):
        text = "".join(chr(rng.randrange(1, 0x3000)) for _ in range(30))
        assert not score(text, (3, 8), 24).correct


@pytest.mark.parametrize(
    "text",
    [
        "<answer>" + "(" * 200_000,
        "<answer>" + "8*" * 100_000 + "</answer>",
        "<answer>" * 40_000,
        "\\boxed{" * 40_000,
        "<answer>" + "-" * 190 + "8</answer>",
        "<answer>" + "9" * 190 + "</answer>",
        "<answer>" + "\\times" * 40_000 + "</answer>",
    ],
    ids=range(7),
)
def test_hostile_text_is_wrong_at_once(text):
    task = thinking_countdown()
    task.reset(np.random.default_rng(0))
    start = time.process_time()
    turn = task.step(text)
    assert time.process_time() - start < 0.5
    assert turn.reward == 0.0
    assert turn.info["success"] is False


# ------------------------------------------------------------------ the task


def started(**kwargs):
    task = thinking_countdown(**kwargs)
    prompt = task.reset(np.random.default_rng(0))
    return task, prompt, task.info


def test_rewards_are_the_weights_of_format_and_answer():
    task, prompt, info = started()
    numbers = ", ".join(map(str, info["numbers"]))
    assert prompt == f"{INSTRUCTION}Q: Make {info['target']} from {numbers} with + - * /\nA:"
    solution = info["solution"]
    wrong = "+".join(map(str, info["numbers"])) + "+0"
    for text, reward, form, correct, status in (
        (f"<think>a</think><answer>{solution}</answer>", 1.0, True, True, "ok"),
        (f"<think>a</think><answer>{wrong}</answer>", 0.1, True, False, "numbers"),
        (f" so \\boxed{{{solution}}}.", 0.9, False, True, "ok"),
        (f"<answer>{solution}</answer>", 0.9, False, True, "ok"),
        ("I do not know", 0.0, False, False, "missing"),
    ):
        turn = task.step(text)
        assert turn.reward == pytest.approx(reward)
        assert (turn.info["format"], turn.info["correct"], turn.info["status"]) == (form, correct, status)
        assert turn.info["success"] is (form and correct)
        assert turn.done
    assert turn.info["expression"] == ""
    task, _, _ = started(format_weight=0.5, answer_weight=2.0)
    assert task.step(f"<think>a</think><answer>{solution}</answer>").reward == 2.5


def test_the_last_answer_counts():
    task, _, info = started()
    assert task.step(f"<answer>1</answer> no, <answer>{info['solution']}</answer>").info["correct"]
    assert not task.step(f"<answer>{info['solution']}</answer> no, <answer>1</answer>").info["correct"]


def test_the_task_conforms():
    check_task(thinking_countdown)
    check_task(lambda: CountdownTask(5, "test"), texts=(" \\boxed{1+2}",))
    check_env("CoLA-Text-v0", task=thinking_countdown, model=FakeBackbone(), max_tokens=8)
