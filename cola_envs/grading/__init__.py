r"""Extract the final answer from a response and decide whether it equals the gold answer.

In the order of reading; no text of an answer is ever evaluated as code:

1. ``extract``: the last complete ``\boxed{}`` of a response. Plain numbers are compared here, below.
2. ``lexer`` (with the words of ``vocabulary``): LaTeX to tokens. ``parser`` (with ``splitting``,
   ``expressions``, ``units``): tokens to a tree of ``nodes``; ``trees``: functions over expression trees.
3. ``compare``: the conventions of what counts as equal, and the comparison by kind of node: ``notation`` and
   ``noncommuting`` (order matters), ``families``, ``quantities`` and ``reals``
   (sets of reals, on a line cut at the roots of ``conditions``).
4. ``proof``: whether two expressions are equal. Samples refute (``evaluate``). Proofs accept: bounds of
   algebraic numbers (``separation``) and equal normal forms (``normal`` on ``quotients`` on
   ``algebra``, for each sign of the letters). Any other pair is a claim (``verdicts``).
5. ``pool``: sympy tries to prove the claims of an answer in ``worker`` processes with a limit of processor
   time; an unproven claim is false.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from cola_envs.grading.compare import compare
from cola_envs.grading.evaluate import TooBig
from cola_envs.grading.extract import extract_boxed, unreadable
from cola_envs.grading.lexer import canonical, words_of
from cola_envs.grading.notation import may_be_equal, vector_products
from cola_envs.grading.pool import shared_pool
from cola_envs.grading.verdicts import Truth

__all__ = ["Status", "Verdict", "extract_boxed", "grade_answers", "grade_batch"]

Status = Literal["ok", "no_box", "refused", "timeout", "error"]


@dataclass(frozen=True, slots=True)
class Verdict:
    r"""The grade of one answer.

    Attributes:
        correct: whether the answer equals the gold answer; True only with status ``ok``.
        status: ``ok`` (graded), ``no_box`` (no complete ``\boxed{}``), ``refused`` (not graded: empty, too
            large a number, or too long or too deeply nested and not the gold answer's own text), ``timeout``
            (no proof within the deadline), ``error`` (the worker ran out of memory or failed).
        answer: the graded answer, None without one.
    """

    correct: bool
    status: Status
    answer: str | None


def grade_batch(golds: Sequence[str], responses: Sequence[str], deadline: float = 2.0) -> list[Verdict]:
    r"""Grade whole responses by the last complete ``\boxed{}`` of each.

    Args:
        golds: the gold answers, bare (the content of a box).
        responses: as many responses.
        deadline: seconds of processor time that a worker may take for all proofs of one answer, so that a
            grade does not depend on the load of the machine. Sixty times as long by the clock ends it too.

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
    pairs = list(zip(golds, answers, strict=True))
    decided = {
        (gold, answer): _decide(gold, answer) for gold, answer in dict.fromkeys(pairs) if answer is not None
    }
    undecided = list(dict.fromkeys(truth for truth, _ in decided.values() if not isinstance(truth, bool)))
    results = shared_pool().run(undecided, deadline) if undecided else []
    outcomes = dict(zip(undecided, results, strict=True))
    verdicts = []
    for gold, answer in pairs:
        if answer is None:
            verdicts.append(Verdict(False, "no_box", None))
            continue
        truth, status = decided[gold, answer]
        correct, status = (truth, status) if isinstance(truth, bool) else outcomes[truth]
        verdicts.append(Verdict(correct, status, answer))
    return verdicts


_PLAIN_NUMBER = re.compile(
    r"(-?)(?:(\d{1,18}(?:\.\d{1,18})?)|\\[dt]?frac\{(\d{1,18})\}\{(\d{1,18})\}|(\d{1,18})/(\d{1,18}))"
)


@lru_cache(maxsize=16384)
def _plain_number(text: str) -> Fraction | None:
    """Return the value of a decimal or a fraction of whole numbers, faster than by the grammar."""
    match = _PLAIN_NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, *numbers = match.groups()
    above, *below = (Fraction(number) for number in numbers if number)
    if below and not below[0]:
        return None
    value = above / below[0] if below else above
    return -value if sign else value


def _decide(gold: str, answer: str) -> tuple[Truth, Status]:
    """Decide a pair, perhaps as a formula over claims: plain numbers here, all else by :func:`compare`."""
    stripped = answer.strip()
    value = _plain_number(stripped)
    if value is not None and (target := _plain_number(gold)) is not None:
        return value == target, "ok"
    if unreadable(answer):
        return (True, "ok") if _same_text(gold.strip(), stripped) else (False, "refused")
    return _decide_slowly(gold, stripped)


def _same_text(gold: str, answer: str) -> bool:
    """Whether an answer beyond the limits is the gold answer's text, perhaps in other typesetting."""
    if gold == answer:
        return True
    if not unreadable(gold) or len(answer) > 2 * len(gold):
        return False
    key = canonical(answer)
    return bool(key) and key == canonical(gold) and vector_products(gold) == vector_products(answer)


@lru_cache(maxsize=16384)
def _decide_slowly(gold: str, answer: str) -> tuple[Truth, Status]:
    key = canonical(answer)
    if not key and not words_of(answer):
        return False, "refused"
    if key and key == canonical(gold):
        return vector_products(gold) == vector_products(answer), "ok"
    try:
        truth = compare(gold, answer)
        return truth if truth is False or may_be_equal(gold, answer) else False, "ok"
    except (TooBig, RecursionError):  # the second: five with three hundred factorials
        return False, "refused"
