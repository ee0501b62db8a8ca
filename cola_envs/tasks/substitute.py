"""An embedded stand-in for MATH: problems of our own over its seven subjects and five levels.

Training items are drawn from templates (:mod:`cola_envs.tasks.substitute_templates`), each from a seed and an
index, by no state but these; the test items are a fixed file that the same templates filled once. No
training item asks a test question, whatever the order of its words and numbers (:func:`canonical_question`).
The set is named ``cola-substitute-v1``; results on it say nothing about MATH.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from cola_envs.tasks import substitute_templates_more
from cola_envs.tasks.substitute_templates import NAMES, TEMPLATES, THINGS, Template

NAME = "cola-substitute-v1"
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

assert substitute_templates_more  # imported for the templates that it registers
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
def test_items() -> tuple[dict[str, Any], ...]:
    """Return the test items, with MATH's fields."""
    with TEST_FILE.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return tuple({key: value for key, value in row.items() if key != "check"} for row in rows)


@cache
def _test_questions() -> frozenset[str]:
    return frozenset(canonical_question(item["problem"]) for item in test_items())


def train_item(
    seed: int, index: int, subjects: Sequence[str] | None = None, levels: Sequence[int] | None = None
) -> dict[str, Any]:
    """Return training item ``index`` of a seed: problem, solution, answer, subject, level, unique_id.

    Raises:
        ValueError: for an unknown subject or level.
    """
    return _draw(seed, index, _cells(_key(subjects), _key(levels)), _test_questions())


def train_items(
    seed: int, count: int, subjects: Sequence[str] | None = None, levels: Sequence[int] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the first ``count`` training items of a seed; the same as :func:`train_item` one by one.

    Raises:
        ValueError: for an unknown subject or level.
    """
    cells = _cells(_key(subjects), _key(levels))
    excluded = _test_questions()
    return (_draw(seed, index, cells, excluded) for index in range(count))


def _key(values: Sequence[Any] | None) -> tuple[Any, ...] | None:
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
) -> dict[str, Any]:
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


def draw_test_items(seed: int, per_cell: int) -> Iterator[dict[str, Any]]:
    """Yield test items with their checks; ``substitute_test.jsonl`` is seed 20260 with four per cell."""
    for subject in SUBJECTS:
        for level in LEVELS:
            templates = TEMPLATES[subject, level]
            seen: set[str] = set()
            rng = Random(f"{seed}/{subject}/{level}")
            while len(seen) < per_cell:
                problem, steps, answer, check = templates[len(seen) % len(templates)](rng)
                question = canonical_question(problem)
                if question in seen:
                    continue
                yield {
                    "problem": problem,
                    "solution": f"{steps} The answer is $\\boxed{{{answer}}}$.",
                    "answer": answer,
                    "subject": subject,
                    "level": level,
                    "unique_id": f"{NAME}/test/{_SLUGS[subject]}/{level}/{len(seen)}",
                    "check": check,
                }
                seen.add(question)
