"""Generated arithmetic problems with exact grading: the task of ``CoLA-Arithmetic-v0``."""

from __future__ import annotations

import hashlib
import math
import random
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np

from cola_envs.checks import check_choice, check_list
from cola_envs.fields import Info
from cola_envs.grading.extract import extract_boxed
from cola_envs.task import Turn
from cola_envs.tasks import arithmetic_kinds
from cola_envs.tasks.arithmetic_kinds import Draw, Drawn, Generator, Step, Worked
from cola_envs.tasks.arithmetic_kinds import between as _between

Split = Literal["train", "test"]
#: The default kinds of problems.
KINDS = ("sum", "product", "equation")
ALL_KINDS = (*KINDS, *arithmetic_kinds.GENERATORS)
LEVELS = (1, 2, 3, 4, 5)
SPLITS: tuple[Split, ...] = ("train", "test")
#: One canonical question in TEST_SHARE belongs to the test split.
TEST_SHARE = 4


class Problem(NamedTuple):
    """An arithmetic problem.

    Attributes:
        question: as the prompt shows it, e.g. ``8+6-4=?`` or ``3*x+2=17, x=?``.
        answer: the exact integer.
        kind: one of :data:`ALL_KINDS`.
        level: 1 to 5.
        key: the canonical question, equal for questions that differ only in the order of terms.
        steps: the calculation: (expression, value) pairs; the last value is the answer.
    """

    question: str
    answer: int
    kind: str
    level: int
    key: str
    steps: tuple[Step, ...]


def split_of(key: str) -> Split:
    """The split that a canonical question belongs to, by a hash of its text."""
    return "test" if zlib.crc32(b"cola-arithmetic:" + key.encode()) % TEST_SHARE == 0 else "train"


def generate(seed: int, *, level: int = 1, split: Split = "train", kinds: tuple[str, ...] = KINDS) -> Problem:
    """Generate problem number ``seed`` of a split; equal arguments give the same problem on every machine.

    Raises:
        ValueError: for an unknown level, kind or split.
    """
    level, split, kinds = _checked(level, split, kinds)
    # random.Random takes integers of any size; a string seed would be hashed through sha512, at 5 us.
    draw = random.Random(seed * 64 + level * 8 + 1).random
    while True:
        kind = kinds[int(draw() * len(kinds))]
        key, write = _GENERATORS[kind](draw, level)
        if split_of(key) == split:
            question, answer, steps = write()
            return Problem(question, answer, kind, level, key, steps)


def problems(
    seed: int = 0, *, level: int = 1, split: Split = "train", kinds: tuple[str, ...] = KINDS
) -> Iterator[Problem]:
    """Yield problems without end; each has its own seed and does not depend on those before it."""
    origin = random.Random(seed).getrandbits(62)
    while True:
        yield generate(origin, level=level, split=split, kinds=kinds)
        origin += 1


def _checked(level: int, split: str, kinds: tuple[str, ...]) -> tuple[int, Split, tuple[str, ...]]:
    """The settings as Python's own integer and strings; ValueError for an unknown one."""
    level, checked = check_choice("level", level, LEVELS), check_choice("split", split, SPLITS)
    listed = [kinds] if isinstance(kinds, str) else check_list("kinds", kinds, "a sequence such as ('sum',)")
    kinds = tuple(str(kind) for kind in listed)
    unknown = [kind for kind in kinds if kind not in ALL_KINDS]
    if unknown or not kinds:
        wrong = f"unknown kind {unknown[0]!r}" if unknown else "no kind"
        raise ValueError(f"{wrong} in kinds={kinds!r}; the kinds are {', '.join(ALL_KINDS)}")
    return level, checked, kinds


def set_hash(level: int, split: Split, kinds: tuple[str, ...]) -> str:
    """The sha256 of the first 100 questions and answers of a stream, which identifies the generators."""
    return _set_hash(*_checked(level, split, kinds))


@cache
def _set_hash(level: int, split: Split, kinds: tuple[str, ...]) -> str:
    stream = islice(problems(0, level=level, split=split, kinds=kinds), 100)
    text = "\n".join(f"{problem.question} {problem.answer}" for problem in stream)
    return hashlib.sha256(text.encode()).hexdigest()


# A generator draws operands and returns the canonical question and a function that writes question, answer
# and steps. Writing takes most of the time and is done only for questions of the wanted split.

# level: (fewest terms, most terms, largest operand)
_SUM_SHAPES = {1: (3, 4, 9), 2: (4, 5, 9), 3: (2, 3, 99), 4: (3, 4, 99), 5: (3, 4, 999)}


def _sum(draw: Draw, level: int) -> Drawn:
    fewest, most, largest = _SUM_SHAPES[level]
    total = _between(draw, 1, largest)
    terms = [total]
    for _ in range(_between(draw, fewest, most) - 1):
        operand = _between(draw, 1, largest)
        # No partial sum is negative, so that the steps need no signs.
        signed = operand if draw() < 0.5 or operand > total else -operand
        total += signed
        terms.append(signed)

    def write() -> Worked:
        value, question, steps = terms[0], str(terms[0]), []
        for term in terms[1:]:
            steps.append((f"{value}{term:+d}", value + term))
            question += f"{term:+d}"
            value += term
        return f"{question}=?", value, tuple(steps)

    return "sum " + " ".join(map(str, sorted(terms))), write


def _product(draw: Draw, level: int) -> Drawn:
    factors: tuple[int, ...]
    if level == 1:
        factors, rest = (_between(draw, 2, 9), _between(draw, 2, 9)), _between(draw, 1, 9)
    elif level == 2:
        return _two_products(draw)
    elif level == 3:
        factors, rest = (_between(draw, 11, 99), _between(draw, 2, 9)), _between(draw, 1, 9)
    elif level == 4:
        factors = (_between(draw, 2, 9), _between(draw, 2, 9), _between(draw, 2, 9))
        rest = _between(draw, 11, 99)
    else:
        factors, rest = (_between(draw, 11, 99), _between(draw, 11, 99)), _between(draw, 11, 99)
    signed = rest if draw() < 0.5 or rest > math.prod(factors) else -rest

    def write() -> Worked:
        value, steps = factors[0], []
        for factor in factors[1:]:
            steps.append((f"{value}*{factor}", value * factor))
            value *= factor
        steps.append((f"{value}{signed:+d}", value + signed))
        return "*".join(map(str, factors)) + f"{signed:+d}=?", value + signed, tuple(steps)

    return f"product {sorted(factors)} {signed}", write


def _two_products(draw: Draw) -> Drawn:
    a, b, c, d = _between(draw, 2, 9), _between(draw, 2, 9), _between(draw, 2, 9), _between(draw, 2, 9)
    left, right = a * b, c * d
    adds = draw() < 0.5 or right > left

    def write() -> Worked:
        operator, value = ("+", left + right) if adds else ("-", left - right)
        steps = ((f"{a}*{b}", left), (f"{c}*{d}", right), (f"{left}{operator}{right}", value))
        return f"{a}*{b}{operator}{c}*{d}=?", value, steps

    pairs = [(a, b) if a < b else (b, a), (c, d) if c < d else (d, c)]
    return f"products {sorted(pairs) if adds else pairs} {adds}", write


def _equation(draw: Draw, level: int) -> Drawn:
    if level == 1:
        x, shift = _between(draw, 0, 20), _between(draw, 1, 9)
        if draw() < 0.5 or shift > x:
            left = f"x+{shift}" if draw() < 0.5 else f"{shift}+x"
            right = x + shift
            return f"x+{shift}={right}", lambda: (f"{left}={right}, x=?", x, ((f"{right}-{shift}", x),))
        right = x - shift
        key = f"x-{shift}={right}"
        return key, lambda: (f"{key}, x=?", x, ((f"{right}+{shift}", x),))
    if level in (2, 3):
        most_x, most_shift = (9, 9) if level == 2 else (20, 50)
        slope, x, shift = _between(draw, 2, 9), _between(draw, 0, most_x), _between(draw, 1, most_shift)
        if draw() < 0.5 and slope * x >= shift:
            shift = -shift
        right, scaled = slope * x + shift, slope * x
        key = f"{slope}*x{shift:+d}={right}"
        return key, lambda: (
            f"{key}, x=?",
            x,
            ((f"{right}{-shift:+d}", scaled), (f"{scaled}/{slope}", x)),
        )
    return _two_sided_equation(draw, 0 if level == 4 else -12)


def _two_sided_equation(draw: Draw, low: int) -> Drawn:
    other, x = _between(draw, 2, 9), _between(draw, low, 12)
    gap, shift = _between(draw, 1, 9), _between(draw, 1, 30)
    slope, right = other + gap, gap * x + shift
    equation = f"{slope}*x+{shift}={other}*x{right:+d}"
    # The larger slope is always on the left, so that the equation is its own canonical form.
    return equation, lambda: (
        f"{equation}, x=?",
        x,
        ((f"{slope}-{other}", gap), (f"{right}-{shift}", gap * x), (f"{gap * x}/{gap}", x)),
    )


_GENERATORS: dict[str, Generator] = {
    "sum": _sum,
    "product": _product,
    "equation": _equation,
    **arithmetic_kinds.GENERATORS,
}

_ANSWER_TAG = re.compile(r"<answer>([^<]*)</answer>")
_INTEGER = re.compile(r"\s*-?[0-9]{1,18}\s*")


def final_text(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}``; without a box, of the last ``<answer>`` pair."""
    boxed = extract_boxed(text)
    return boxed if boxed is not None else next(iter(_ANSWER_TAG.findall(text)[-1:]), None)


def final_answer(text: str) -> int | None:
    """The integer that :func:`final_text` finds; None if there is no text, or not an integer."""
    answer = final_text(text)
    return int(answer) if answer is not None and _INTEGER.fullmatch(answer) else None


def boxed_answer(steps: Sequence[Step], answer: object) -> str:
    r"""A worked answer: `` 8+6=14, 14-4=10, so \boxed{10}.``"""
    worked = ", ".join(f"{expression}={value}" for expression, value in steps)
    return f" {worked}, so \\boxed{{{answer}}}."


@dataclass
class ArithmeticTask:
    r"""Solve one generated arithmetic problem and put the integer answer in a box.

    **Prompt.** ``Q: 8+6-4=?`` and, on the next line, ``A:``.

    **Prompt formats.** Plain text: ``"Q: 4-1+5-8=?\nA:"``. In a chat, the user's message:
    ``"4-1+5-8=?"``.

    **Kinds.** By default ``sum`` (chained sums and differences), ``product`` (products with a sum) and
    ``equation`` (linear, one unknown). With ``kinds=`` also ``fraction`` (``1/2+1/3=?/6``), ``gcd``, ``lcm``,
    ``remainder`` (``97%13=?``, of powers from level 4 on), ``percent`` (``15% of 80=?``, or ``80+15%=?``),
    ``rounding`` (``round 347 to 10s=?``), ``base`` (``211 base 3=?``, ``22 to base 3=?``), ``sequence``
    (``3,7,11,15,?``), ``power`` (``7^3-5=?``) and ``system`` (``x+y=5, x-y=1, x=?``).

    **Actions.** The whole answer, one segment, up to the model's end-of-text token or the token budget.

    **Observation.** The prompt and the agent's text; the task adds nothing.

    **Reward.** 1.0 if the integer in the last ``\boxed{...}`` is the answer, else 0.0. The box must hold
    digits with at most a hyphen in front: not ``+5``, ``1,234``, ``5.0``, ``$5$`` or ``x=5``. Without a box,
    the last ``<answer>...</answer>`` is read, so that a policy trained on the thinking format is graded as
    well.

    **Episode end.** Terminated after the segment. A segment that fills the token budget is graded too,
    unless ``budget_end="truncate"``.

    **Info.** At reset and at the end ``question``, ``answer`` (the correct int), ``kind``, ``level``,
    ``split``, ``dataset`` and ``set_hash`` (sha256 of the first 100 questions and answers of these
    arguments); at the end also ``given`` (the agent's integer as a string, ``""`` if there is none) and
    ``success``.

    **Data and licence.** Generated; no licence applies.

    **Versions.** v0: first version. Ten kinds were added later; the default kinds are unchanged.

    Args:
        level: difficulty, 1 (single digits) to 5 (three digits; unknowns on both sides).
        split: ``"train"`` or ``"test"``, which share no question, whatever the order of its terms.
        kinds: the kinds of problems, drawn with equal probability; see Kinds for their names.

    Raises:
        ValueError: for an unknown level, split or kind.
    """

    level: int = 1
    split: Split = "train"
    kinds: tuple[str, ...] = KINDS
    stop: tuple[str, ...] = field(default=(), init=False)
    plain_frame: tuple[str, str] = field(default=("Q: ", "\nA:"), init=False, repr=False)
    info: Info = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.level, self.split, self.kinds = _checked(self.level, self.split, self.kinds)

    def reset(self, rng: np.random.Generator) -> str:
        seed = int(rng.integers(1 << 62))
        self.problem = generate(seed, level=self.level, split=self.split, kinds=self.kinds)
        self.info = {
            "question": self.problem.question,
            "answer": self.problem.answer,
            "kind": self.problem.kind,
            "level": self.level,
            "split": self.split,
            "dataset": "cola-arithmetic-v0",
            "set_hash": set_hash(self.level, self.split, self.kinds),
        }
        return f"Q: {self.problem.question}\nA:"

    def worked_example(self, rng: np.random.Generator) -> tuple[str, str]:
        """A prompt of the train split, and an answer that earns the reward."""
        problem = generate(int(rng.integers(1 << 62)), level=self.level, split="train", kinds=self.kinds)
        return f"Q: {problem.question}\nA:", boxed_answer(problem.steps, problem.answer)

    def step(self, text: str) -> Turn:
        given = final_answer(text)
        success = given == self.problem.answer
        return Turn(
            reward=float(success), info={"success": success, "given": "" if given is None else str(given)}
        )
