"""An embedded substitute for MATH: generated problems over its seven subjects and five levels.

A training item is drawn from templates (:mod:`cola_envs.tasks.substitute_problems`) by a seed and an index;
the test items are a fixed file, drawn from the same templates (again by ``tests/tasks/test_substitute.py``).
No training item is a test question, in any order of its words and numbers (:func:`canonical_question`). The
set is named ``cola-substitute-v2``; results on it say nothing about MATH.

Versions. v1: two or three templates for each subject and level, and 140 test items. v2: two more templates
each, and 500 test items, including v1's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random

from cola_envs import jsonl
from cola_envs.datasets.problems import Item
from cola_envs.tasks.substitute_problems.drawing import NAMES, TEMPLATES, THINGS, Template

NAME = "cola-substitute-v2"
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
    """A question's words, numbers and signs in sorted order, with placeholders for names and things.

    It is the same for 8 + 6 and 6 + 8, and for Ada's three shells and Ben's three stamps.
    """
    return " ".join(sorted(_PLACEHOLDERS.get(token, token) for token in _TOKEN.findall(problem.lower())))


@cache
def test_items() -> tuple[Item, ...]:
    """The test items, with MATH's fields."""
    rows = (row for _, row in jsonl.read(TEST_FILE))
    return tuple({key: value for key, value in row.items() if key != "check"} for row in rows)


@cache
def _test_questions() -> frozenset[str]:
    return frozenset(canonical_question(item["problem"]) for item in test_items())


def train_item(
    seed: int, index: int, subjects: Sequence[str] | None = None, levels: Sequence[int] | None = None
) -> Item:
    """Training item ``index`` of a seed: problem, solution, answer, subject, level and unique_id.

    Raises:
        ValueError: for an unknown subject or level.
    """
    cells = _cells(None if subjects is None else tuple(subjects), None if levels is None else tuple(levels))
    rng = Random((seed * _STRIDE + index) & 0xFFFFFFFFFFFFFFFF)
    subject, level, templates = cells[int(rng.random() * len(cells))]
    template = templates[int(rng.random() * len(templates))]
    excluded = _test_questions()
    while True:
        problem, steps, answer, _ = template(rng)
        if canonical_question(problem) not in excluded:
            return _item(problem, steps, answer, subject, level, "train", f"{seed}-{index}")


def _item(
    problem: str, steps: str, answer: str, subject: str, level: int, split: str, number: str
) -> dict[str, object]:
    return {
        "problem": problem,
        "solution": f"{steps} The answer is $\\boxed{{{answer}}}$.",
        "answer": answer,
        "subject": subject,
        "level": level,
        "unique_id": f"{NAME}/{split}/{_SLUGS[subject]}/{level}/{number}",
    }


@cache
def _cells(
    subjects: tuple[str, ...] | None, levels: tuple[int, ...] | None
) -> tuple[tuple[str, int, tuple[Template, ...]], ...]:
    """The selected subjects and levels, each with its templates."""
    for name, values, known in (("subject", subjects, SUBJECTS), ("level", levels, LEVELS)):
        for value in values or ():
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; the {name}s are {', '.join(map(str, known))}")
    chosen = tuple(
        (subject, level, tuple(TEMPLATES[subject, level]))
        for subject in SUBJECTS
        for level in LEVELS
        if (subjects is None or subject in subjects) and (levels is None or level in levels)
    )
    if not chosen:
        raise ValueError("subjects and levels must each hold at least one value")
    return chosen
