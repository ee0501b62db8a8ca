"""An embedded stand-in for MATH: problems of our own over its seven subjects and five levels.

Training items are drawn from templates (:mod:`cola_envs.tasks.substitute_problems`), each from a seed and an
index, by no state but these; the test items are a fixed file that the same templates filled once. No
training item asks a test question, whatever the order of its words and numbers (:func:`canonical_question`).
The set is named ``cola-substitute-v2``; results on it say nothing about MATH.

Versions. v1: two or three templates a subject and level, 140 test items. v2: two more templates each and 500
test items, v1's among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import TypeVar

from cola_envs import jsonl
from cola_envs.datasets.problems import Item
from cola_envs.tasks.substitute_problems.drawing import NAMES, SECOND, TEMPLATES, THINGS, Template

T = TypeVar("T")
NAME = "cola-substitute-v2"
#: Test items: 14 or 15 of each subject and level.
TEST_SIZE = 500
SUBJECTS = (
    "Algebra",
    "Counting & Probability",
    "Geometry",
    "Intermediate Algebra",
    "Number Theory",
    "Prealgebra",
    "Precalculus",
)
LEVELS = (1, 2, 3, 4, 5)
TEST_FILE = Path(__file__).resolve().parents[1] / "data" / "substitute_test.jsonl"

_TOKEN = re.compile(r"[a-z]+|\d+|[^\sa-z\d]")
_PLACEHOLDERS = {name.lower(): "NAME" for name in NAMES} | dict.fromkeys(THINGS, "THING")
_SLUGS = {subject: re.sub(r"[^a-z]+", "_", subject.lower()) for subject in SUBJECTS}
_STRIDE = 0x9E3779B97F4A7C15  # odd and large: neighbouring seeds share no item


def canonical_question(problem: str) -> str:
    """Return a question's words, numbers and signs in sorted order, whoever it is about.

    8 + 6 and 6 + 8 are one question, and so are Ada's three shells and Ben's three stamps.
    """
    return " ".join(sorted(_PLACEHOLDERS.get(token, token) for token in _TOKEN.findall(problem.lower())))


@cache
def test_items() -> tuple[Item, ...]:
    """Return the test items, with MATH's fields."""
    rows = (row for _, row in jsonl.read(TEST_FILE))
    return tuple({key: value for key, value in row.items() if key != "check"} for row in rows)


@cache
def _test_questions() -> frozenset[str]:
    return frozenset(canonical_question(item["problem"]) for item in test_items())


def train_item(
    seed: int, index: int, subjects: Sequence[str] | None = None, levels: Sequence[int] | None = None
) -> Item:
    """Return training item ``index`` of a seed: problem, solution, answer, subject, level, unique_id.

    Raises:
        ValueError: for an unknown subject or level.
    """
    return _draw(seed, index, _cells(_key(subjects), _key(levels)), _test_questions())


def _key(values: Sequence[T] | None) -> tuple[T, ...] | None:
    return None if values is None else tuple(values)


@cache
def _cells(
    subjects: tuple[str, ...] | None, levels: tuple[int, ...] | None
) -> tuple[tuple[str, int, tuple[Template, ...]], ...]:
    for name, given, known in (("subject", subjects, SUBJECTS), ("level", levels, LEVELS)):
        for value in given or ():
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; the {name}s are {', '.join(map(str, known))}")
    chosen = tuple(
        (subject, level, tuple(TEMPLATES[subject, level]))
        for subject in SUBJECTS
        for level in LEVELS
        if (subjects is None or subject in subjects) and (levels is None or level in levels)
    )
    if not chosen:
        raise ValueError("no subject or no level was chosen")
    return chosen


def _draw(
    seed: int, index: int, cells: tuple[tuple[str, int, tuple[Template, ...]], ...], excluded: frozenset[str]
) -> Item:
    rng = Random((seed * _STRIDE + index) & 0xFFFFFFFFFFFFFFFF)
    subject, level, templates = cells[int(rng.random() * len(cells))]
    template = templates[int(rng.random() * len(templates))]
    while True:
        problem, steps, answer, _ = template(rng)
        if canonical_question(problem) not in excluded:
            break
    return {
        "problem": problem,
        "solution": f"{steps} The answer is $\\boxed{{{answer}}}$.",
        "answer": answer,
        "subject": subject,
        "level": level,
        "unique_id": f"{NAME}/train/{_SLUGS[subject]}/{level}/{seed}-{index}",
    }


def draw_test_items() -> Iterator[Item]:
    """Yield the test items with their checks: what ``substitute_test.jsonl`` holds, one a line.

    They go round the subjects and levels, so that the first 35 have one of each. The first four of each are
    the 140 of ``cola-substitute-v1``; the others come from the templates of the second edition alone, so
    that no model trained on v1's training items has met them.
    """
    cells = [(subject, level) for subject in SUBJECTS for level in LEVELS]
    drawn = {}
    for number, cell in enumerate(cells):
        # 14 or 15 each, and as even as can be over the subjects and over the levels.
        size = (number + 1) * TEST_SIZE // len(cells) - number * TEST_SIZE // len(cells)
        drawn[cell] = _draw_cell(*cell, size)
    for number in range(max(map(len, drawn.values()))):
        for level in LEVELS:
            for subject in SUBJECTS:
                yield from drawn[subject, level][number : number + 1]


def _draw_cell(subject: str, level: int, size: int) -> list[Item]:
    second = SECOND[subject, level]
    first = [template for template in TEMPLATES[subject, level] if template not in second]
    items: dict[str, Item] = {}
    for seed, templates, count in ((20260, first, 4), (20261, second, size)):
        rng = Random(f"{seed}/{subject}/{level}")
        while len(items) < count:
            problem, steps, answer, check = templates[len(items) % len(templates)](rng)
            question = canonical_question(problem)
            if question in items:
                continue
            items[question] = {
                "problem": problem,
                "solution": f"{steps} The answer is $\\boxed{{{answer}}}$.",
                "answer": answer,
                "subject": subject,
                "level": level,
                "unique_id": f"{NAME}/test/{_SLUGS[subject]}/{level}/{len(items)}",
                "check": check,
            }
    return list(items.values())
