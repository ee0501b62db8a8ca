"""Countdown puzzles, make a target from given numbers with + - * /: the task of ``CoLA-Countdown-v0``."""

from __future__ import annotations

import ast
import operator
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from cola_envs.checks import check_choice
from cola_envs.fields import Info
from cola_envs.task import Turn
from cola_envs.tasks.arithmetic import SPLITS, Split, boxed_answer, final_text, split_of
from cola_envs.tasks.arithmetic_kinds import Draw, Step
from cola_envs.tasks.thinking import INSTRUCTION, ThinkingPrompt

#: Difficulty: (number of numbers, the largest number, the largest target and intermediate result).
SHAPES = {
    1: (3, 9, 99),
    2: (3, 25, 199),
    3: (4, 25, 499),
    4: (5, 50, 999),
    5: (6, 100, 999),
}
MAX_LENGTH = 200  # of an expression, in characters
MAX_DEPTH = 20  # of an expression's tree, in levels


class Puzzle(NamedTuple):
    """A Countdown puzzle.

    Attributes:
        numbers: the numbers, each to be used exactly once, in the order of the prompt.
        target: the value to make.
        difficulty: 1 to 5.
        answer: a solution, an expression without unnecessary brackets.
        steps: the calculation of the solution: (expression, value) pairs; all values are integers > 0.
    """

    numbers: tuple[int, ...]
    target: int
    difficulty: int
    answer: str
    steps: tuple[Step, ...]

    @property
    def question(self) -> str:
        """The question in the prompt, e.g. ``Make 24 from 8, 2, 3 with + - * /``."""
        return f"Make {self.target} from {', '.join(map(str, self.numbers))} with + - * /"


class Score(NamedTuple):
    """The result of :func:`score`.

    Attributes:
        correct: whether the expression makes the target from the numbers.
        status: ``ok``, ``missing`` (no expression), ``long`` (beyond the limits of length and depth),
            ``syntax`` (not an expression, or one with symbols that are not allowed), ``numbers`` (not each
            number exactly once), ``division`` (by zero) or ``value`` (not the target).
    """

    correct: bool
    status: str


def key_of(numbers: tuple[int, ...], target: int) -> str:
    """The canonical form of a puzzle, equal for puzzles that differ only in the order of their numbers."""
    return f"countdown {sorted(numbers)} {target}"


def generate(seed: int, *, difficulty: int = 1, split: Split = "train") -> Puzzle:
    """Generate puzzle number ``seed`` of a split; equal arguments give the same puzzle on every machine.

    Random pairs of numbers are replaced by their sum, positive difference, product or exact quotient until
    one number is left, the target. Every puzzle therefore has a solution.

    Raises:
        ValueError: for an unknown difficulty or split.
    """
    difficulty = check_choice("difficulty", difficulty, SHAPES)
    check_choice("split", split, SPLITS)
    count, largest, limit = SHAPES[difficulty]
    draw = random.Random(seed * 8 + difficulty).random
    while True:
        numbers = tuple(1 + int(draw() * largest) for _ in range(count))
        drawn = _combine(draw, numbers, limit)
        if drawn is None:
            continue
        target, expression, steps = drawn
        # A target among the numbers would reward leaving the others out.
        if target not in numbers and split_of(key_of(numbers, target)) == split:
            return Puzzle(numbers, target, difficulty, expression, steps)


# A value, its expression, and the operator at the expression's root ("" for a number).
Term = tuple[int, str, str]


def _combine(draw: Draw, numbers: tuple[int, ...], limit: int) -> tuple[int, str, tuple[Step, ...]] | None:
    """Combine all numbers at random: value, expression and steps; None if a value is not allowed."""
    terms: list[Term] = [(number, str(number), "") for number in numbers]
    steps: list[Step] = []
    while len(terms) > 1:
        left = terms.pop(int(draw() * len(terms)))
        right = terms.pop(int(draw() * len(terms)))
        sign = "+-*/"[int(draw() * 4)]
        if sign in "-/" and left[0] < right[0]:
            left, right = right, left
        a, b = left[0], right[0]
        if sign == "+":
            value = a + b
        elif sign == "-":
            value = a - b
        elif sign == "*":
            value = a * b
        else:
            value, rest = divmod(a, b)
            if rest:
                return None
        if not 0 < value <= limit:
            return None
        steps.append((f"{a}{sign}{b}", value))
        terms.append((value, _written(left, sign, right), sign))
    return terms[0][0], terms[0][1], tuple(steps)


def _written(left: Term, sign: str, right: Term) -> str:
    first, second = left[1], right[1]
    if sign in "*/" and left[2] in ("+", "-"):
        first = f"({first})"
    if right[2] and (sign == "/" or (sign in "-*" and right[2] in ("+", "-"))):
        second = f"({second})"
    return f"{first}{sign}{second}"


_SIGNS = {"\\times": "*", "\\cdot": "*", "\\div": "/", "×": "*", "·": "*", "÷": "/", "−": "-"}
_SIGN = re.compile("|".join(map(re.escape, _SIGNS)))
_CHARACTERS = re.compile(r"[0-9+\-*/() ]+")
_NUMBER = re.compile(r"[0-9]+")


def score(expression: str | None, numbers: tuple[int, ...], target: int) -> Score:
    r"""Grade an expression, without evaluating it as code.

    Allowed are integers, ``+ - * /`` (also as ``× · ÷ −`` or ``\times \cdot \div``), signs in front of a
    term, round brackets and spaces, up to 200 characters and 20 levels. It must use each of ``numbers``
    exactly once and no other number, and equal ``target`` in exact rational arithmetic.

    Args:
        expression: the agent's expression, or None if there is none.
    """
    if expression is None:
        return Score(False, "missing")
    if len(expression) > MAX_LENGTH:
        return Score(False, "long")
    expression = _SIGN.sub(lambda sign: _SIGNS[sign.group()], expression).strip()
    if not _CHARACTERS.fullmatch(expression):
        return Score(False, "syntax" if expression else "missing")
    if expression.count("(") > MAX_DEPTH:
        return Score(False, "long")
    if sorted(map(int, _NUMBER.findall(expression))) != sorted(numbers):
        return Score(False, "numbers")
    try:
        value = _value(ast.parse(expression, mode="eval").body, 0)
    except (SyntaxError, _Forbidden):
        return Score(False, "syntax")
    except ZeroDivisionError:
        return Score(False, "division")
    except _TooDeep:
        return Score(False, "long")
    return Score(True, "ok") if value == target else Score(False, "value")


_BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_UNARY: dict[type[ast.unaryop], Callable[[Fraction], Fraction]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


class _Forbidden(Exception):
    """A node other than a number, a sign or one of the four operators."""


class _TooDeep(Exception):
    """A tree of more than MAX_DEPTH levels."""


def _value(node: ast.expr, depth: int) -> Fraction:
    """The exact value of a tree of integers, signs and the four operators."""
    if depth > MAX_DEPTH:
        raise _TooDeep
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_value(node.left, depth + 1), _value(node.right, depth + 1))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_value(node.operand, depth + 1))
    raise _Forbidden


@dataclass
class CountdownTask:
    r"""Make the target from the numbers, each used exactly once, with ``+ - * /``.

    **Prompt.** ``Q: Make 24 from 8, 2, 3 with + - * /`` and, on the next line, ``A:``.

    **Prompt formats.** Plain text: ``"Q: Make 24 from 8, 2, 3 with + - * /\nA:"``. In a chat, the user's
    message: ``"Make 24 from 8, 2, 3 with + - * /"``.

    **Actions.** The whole answer, one segment, up to the model's end-of-text token or the token budget.

    **Observation.** The prompt and the agent's text; the task adds nothing.

    **Reward.** 1.0 if the expression in the last ``\boxed{...}``, or without a box in the last
    ``<answer>...</answer>``, uses each number exactly once and no other, and makes the target in exact
    arithmetic, else 0.0. Allowed are integers, ``+ - * /`` (also as ``× · ÷ −`` or ``\times \cdot \div``),
    signs in front of a term, round brackets and spaces, up to 200 characters and 20 levels.

    **Episode end.** Terminated after the segment. A segment that fills the token budget is graded too,
    unless ``budget_end="truncate"``.

    **Info.** At reset and at the end ``unique_id``, ``numbers`` (tuple), ``target``, ``solution`` (a correct
    one), ``difficulty``, ``split`` and ``dataset``; at the end also ``expression`` (the agent's, ``""`` if
    there is none), ``success`` and ``status``: ``"ok"``, or why the expression was refused, ``"missing"``
    (there is none), ``"long"`` (beyond the limits of length and levels), ``"syntax"``, ``"numbers"`` (not
    each number exactly once), ``"division"`` (by zero) or ``"value"`` (not the target).

    **Data and licence.** Generated; no licence applies.

    **Versions.** v0: first version.

    Args:
        difficulty: 1 (3 numbers up to 9, targets up to 99), 2 (3, 25, 199), 3 (4, 25, 499),
            4 (5, 50, 999) or 5 (6, 100, 999). Every puzzle has a solution whose intermediate results are
            integers above zero and no larger than the largest target.
        split: ``"train"`` or ``"test"``, by a hash of the sorted numbers and the target.

    Raises:
        ValueError: for an unknown difficulty or split.
    """

    difficulty: int = 1
    split: Split = "train"
    stop: tuple[str, ...] = field(default=(), init=False)
    plain_frame: tuple[str, str] = field(default=("Q: ", "\nA:"), init=False, repr=False)
    info: Info = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.difficulty = check_choice("difficulty", self.difficulty, SHAPES)
        self.split = check_choice("split", self.split, SPLITS)

    def reset(self, rng: np.random.Generator) -> str:
        seed = int(rng.integers(1 << 60))
        self.puzzle = generate(seed, difficulty=self.difficulty, split=self.split)
        self.info = {
            "numbers": self.puzzle.numbers,
            "target": self.puzzle.target,
            "solution": self.puzzle.answer,
            "difficulty": self.difficulty,
            "split": self.split,
            "dataset": "cola-countdown-v0",
            "unique_id": key_of(self.puzzle.numbers, self.puzzle.target),
        }
        return f"Q: {self.puzzle.question}\nA:"

    def worked_example(self, rng: np.random.Generator) -> tuple[str, str]:
        """A prompt of the train split, and an answer that earns the reward."""
        puzzle = generate(int(rng.integers(1 << 60)), difficulty=self.difficulty, split="train")
        return f"Q: {puzzle.question}\nA:", boxed_answer(puzzle.steps, puzzle.answer)

    def step(self, text: str) -> Turn:
        expression = final_text(text)
        correct, status = score(expression, self.puzzle.numbers, self.puzzle.target)
        info = {"success": correct, "expression": expression or "", "status": status}
        return Turn(reward=float(correct), info=info)


def thinking_countdown(
    difficulty: int = 1,
    split: Split = "train",
    instruction: str = INSTRUCTION,
    format_weight: float = 0.1,
    answer_weight: float = 0.9,
) -> ThinkingPrompt:
    """Make a target from numbers, in the form ``<think>...</think><answer>...</answer>``.

    It is a :class:`ThinkingPrompt` around :class:`CountdownTask`.

    Args:
        difficulty, split: of the wrapped task, :class:`CountdownTask`.
        instruction: text in front of each prompt.
        format_weight, answer_weight: rewards for the format and for the correct answer. The defaults give 0.1
            for the format alone and 1.0 for both together, as TinyZero's Countdown reward does; unlike
            there, a correct answer without the format gets 0.9.
    """
    return ThinkingPrompt(CountdownTask(difficulty, split), instruction, format_weight, answer_weight)
