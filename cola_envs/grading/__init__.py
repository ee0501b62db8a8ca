r"""Final answers: found in a response, and compared with the gold answer.

``grade_batch`` takes the last complete ``\boxed{}`` of each response. Most pairs are decided in this
process, exactly and at tens of thousands a second, by :mod:`cola_envs.grading.compare`; what is outside its
grammar goes to math-verify in worker processes that are killed at the deadline
(:mod:`cola_envs.grading.pool`). Nothing in an answer is ever evaluated as code. The conventions (what
counts as equal) are those of :mod:`cola_envs.grading.compare`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from cola_envs.grading.compare import compare
from cola_envs.grading.evaluate import TooBig, Undefined
from cola_envs.grading.extract import extract_boxed, unreadable
from cola_envs.grading.lexer import canonical, words_of
from cola_envs.grading.nodes import Based
from cola_envs.grading.parser import parse
from cola_envs.grading.pool import shared_pool
from cola_envs.grading.vocabulary import NOT_A_UNIT, UNIT_OF

__all__ = ["Status", "Verdict", "extract_boxed", "grade_answers", "grade_batch"]

Status = Literal["ok", "no_box", "refused", "timeout", "error"]


@dataclass(frozen=True, slots=True)
class Verdict:
    r"""What grading one answer gave.

    Attributes:
        correct: whether the answer equals the gold answer; True only with status ``ok``.
        status: ``ok`` (graded), ``no_box`` (no complete ``\boxed{}``), ``refused`` (empty, too long, too deep
            or too large a number: not graded), ``timeout`` (killed at the deadline), ``error`` (the worker
            ran out of memory or failed).
        answer: the answer that was graded, None where there is none.
    """

    correct: bool
    status: Status
    answer: str | None


def grade_batch(golds: Sequence[str], responses: Sequence[str], deadline: float = 2.0) -> list[Verdict]:
    r"""Grade whole responses by the last complete ``\boxed{}`` of each.

    Args:
        golds: the gold answers, bare (the content of a box).
        responses: as many responses.
        deadline: seconds that math-verify may take for one item, counted from when it is given the item.

    Returns:
        A :class:`Verdict` for each pair, in order. Equal (gold, answer) pairs are graded once.

    Raises:
        ValueError: if the two sequences differ in length or the deadline is not positive.
        RuntimeError: if a grading worker cannot be started.
    """
    return grade_answers(golds, [extract_boxed(response) for response in responses], deadline)


def grade_answers(
    golds: Sequence[str], answers: Sequence[str | None], deadline: float = 2.0
) -> list[Verdict]:
    """Grade bare answers; None stands for a response without one. Otherwise as :func:`grade_batch`."""
    if len(golds) != len(answers):
        raise ValueError(f"{len(golds)} gold answers for {len(answers)} answers")
    if not deadline > 0:
        raise ValueError(f"deadline must be positive, got {deadline}")
    decided: dict[tuple[str, str], tuple[bool, Status]] = {}
    undecided: dict[tuple[str, str], None] = {}
    for gold, answer in zip(golds, answers, strict=True):
        if answer is None or (gold, answer) in decided:
            continue
        outcome = _decide(gold, answer)
        if outcome is None:
            undecided[gold, answer] = None
        else:
            decided[gold, answer] = outcome
    if undecided:
        pairs = list(undecided)
        decided.update(zip(pairs, shared_pool().run(pairs, deadline), strict=True))
    return [
        Verdict(False, "no_box", None) if answer is None else Verdict(*decided[gold, answer], answer)
        for gold, answer in zip(golds, answers, strict=True)
    ]


_PLAIN_INTEGER = re.compile(r"-?[1-9]\d{0,17}|0")


def _decide(gold: str, answer: str) -> tuple[bool, Status] | None:
    """Grade a pair here, or return None where math-verify must be asked."""
    stripped = answer.strip()
    if _PLAIN_INTEGER.fullmatch(stripped) and _PLAIN_INTEGER.fullmatch(gold):
        return stripped == gold, "ok"
    if unreadable(answer):
        return False, "refused"
    return _decide_slowly(gold, stripped)


@lru_cache(maxsize=16384)
def _decide_slowly(gold: str, answer: str) -> tuple[bool, Status] | None:
    key = canonical(answer)
    if not key and not words_of(answer):
        return False, "refused"
    if key and key == canonical(gold):
        return True, "ok"
    try:
        verdict = compare(gold, answer)
    except Undefined:
        verdict = None
    except (TooBig, RecursionError):  # the second: five with three hundred factorials
        return False, "refused"
    if verdict is not None:
        return verdict, "ok"
    return _guard(gold, answer)


_HAZARD = re.compile(
    r"\*\*"
    r"|\^\s*\{?\s*[-+]?\s*\d{4}"
    r"|\d{4}\s*!|!\s*!"
    r"|\^\s*(?:\{[^{}]*\^|[^{}\s]\s*\^)|\^\s*\{[^{}]*\{[^{}]*\^"
    r"|\\(?:def|let|input|include|read|write|csname|newcommand|loop|expandafter|catcode|i+nt|oint|lim|prod)"
    r"(?![a-zA-Z])"
    r"|__|\bimport\b|\bexec\b|\beval\b|\blambda\s|[;`#@\"]"
)
_MACRO_WORDS = re.compile(r"\\(?:text\w*|mbox|hbox|mathrm|mathbf|mathit|operatorname)\s*\{([^{}]*)\}")
_ALPHABETIC = re.compile(r"[a-z]+")


def _guard(gold: str, answer: str) -> tuple[bool, Status] | None:
    """Decide what must not, or need not, be asked of math-verify; None for what may be."""
    if _HAZARD.search(answer):
        return False, "refused"
    target = parse(gold)
    if isinstance(target, Based) or not _has_value(answer) or answer.count("{") != answer.count("}"):
        return False, "ok"
    # Without a LaTeX command the grammar of this package is the wider one: what it cannot read is no answer.
    if target is not None and "\\" not in answer:
        return False, "ok"
    # math-verify takes the last side of a chain (1 = 2 = 5) and skips unknown words ("any, say 5").
    if answer.count("=") > max(1, gold.count("=")):
        return False, "ok"
    known = set(_words(gold))
    if any(word in NOT_A_UNIT or word not in UNIT_OF for word in _words(answer) if word not in known):
        return False, "ok"
    return None


def _has_value(answer: str) -> bool:
    """Whether an answer holds a digit, a letter or a constant at all."""
    return (
        re.search(r"[0-9A-Za-z]", re.sub(r"\\(?!pi|infty|emptyset|varnothing)[A-Za-z]+", "", answer))
        is not None
    )


def _words(text: str) -> list[str]:
    return [
        word
        for content in _MACRO_WORDS.findall(text)
        for word in _ALPHABETIC.findall(content.lower())
        if word not in ("and", "or") and len(word) > 1
    ]
