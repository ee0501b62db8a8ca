"""Scores of several tries at each problem: pass@k, majority vote, and intervals over problems."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cola_envs.grading import grade_answers
from cola_envs.jsonl import JsonObject

#: Resamples of a bootstrap that are in memory at once.
_AT_ONCE = 100


@dataclass(frozen=True)
class Tries:
    """The tries at one problem.

    Attributes:
        successes: whether each succeeded.
        answers: the answer of each, or None for a try without one; None instead of the tuple where the task
            gives no answers, or where success does not depend on the answer alone.
    """

    successes: tuple[bool, ...]
    answers: tuple[str | None, ...] | None = None

    def __post_init__(self) -> None:
        if not self.successes:
            raise ValueError("a problem needs at least one try")
        if self.answers is not None and len(self.answers) != len(self.successes):
            raise ValueError(f"{len(self.answers)} answers for {len(self.successes)} tries")


def pass_at_k(tries: int, successes: int, k: int) -> float:
    """The probability that k tries, drawn without replacement, include a success.

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374), equation 1.

    Raises:
        ValueError: unless 0 <= successes <= tries and 1 <= k <= tries.
    """
    if not 0 <= successes <= tries or not 1 <= k <= tries:
        raise ValueError(
            f"pass@{k} of {successes} successes in {tries} tries is undefined: give "
            "0 <= successes <= tries and 1 <= k <= tries"
        )
    return 1.0 - math.comb(tries - successes, k) / math.comb(tries, k)


def majority(problem: Tries) -> float:
    """maj@k of one problem: 1.0 if the most frequent answer is right, 1/n if n answers with it tie, else 0.0.

    Answers that the grading calls equal are counted together. A try without an answer has no vote.

    Raises:
        ValueError: where the answers are not known.
    """
    if problem.answers is None:
        raise ValueError("a vote needs the answers")
    votes = [(s, a) for s, a in zip(problem.successes, problem.answers, strict=True) if a is not None]
    right = sum(success for success, _ in votes)
    if right == 0 or 2 * right > len(votes):
        return float(right > 0)
    wrong = _count_equal([answer for success, answer in votes if not success])
    if right != max(wrong):
        return float(right > max(wrong))
    return 1.0 / (1 + wrong.count(right))


def _count_equal(answers: Sequence[str]) -> list[int]:
    """The sizes of the groups of answers that the grading calls equal."""
    sizes: dict[str, int] = {}
    for answer, count in Counter(answer.strip() for answer in answers).items():
        verdicts = grade_answers(list(sizes), [answer] * len(sizes))
        same = next((other for other, v in zip(sizes, verdicts, strict=True) if v.correct), answer)
        sizes[same] = sizes.get(same, 0) + count
    return list(sizes.values())


def wilson(successes: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share; ``z`` is the normal quantile, by default that of 95 %."""
    share = successes / count
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # Rounding may put an end slightly outside [0, 1].
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def interval(scores: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the mean score of problems, each between 0 and 1.

    Wilson's where every score is 0 or 1, or all are equal; otherwise the percentiles of 2,000 bootstrap
    resamples of the problems. Both are over problems, since the tries at one problem are not independent.
    """
    values = np.asarray(scores, dtype=float)
    if np.isin(values, (0.0, 1.0)).all() or np.ptp(values) == 0:
        return wilson(float(values.sum()), len(values))
    rng, size = np.random.default_rng(0), (_AT_ONCE, len(values))
    # In blocks: all resamples of many problems would take gigabytes.
    means = [values[rng.integers(len(values), size=size)].mean(axis=1) for _ in range(2_000 // _AT_ONCE)]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def scores(problems: Sequence[Tries]) -> JsonObject:
    """The mean scores of problems with their intervals, as JSON values.

    ``success`` (the share of tries), ``pass@k`` for k = 1, 2, 4, ... and the number of tries, and
    ``maj@k`` of all tries where there are several and the answers are known; each interval is ``..._95``.

    Raises:
        ValueError: where the problems have different numbers of tries.
    """
    tries = len(problems[0].successes)
    if any(len(problem.successes) != tries for problem in problems):
        raise ValueError("every problem needs as many tries as the others")
    solved = [sum(problem.successes) for problem in problems]
    figures: dict[str, list[float]] = {"success": [count / tries for count in solved]}
    for k in sorted({2**power for power in range(tries.bit_length())} | {tries}):
        figures[f"pass@{k}"] = [pass_at_k(tries, count, k) for count in solved]
    if tries > 1 and all(problem.answers is not None for problem in problems):
        figures[f"maj@{tries}"] = [majority(problem) for problem in problems]
    report: JsonObject = {"problems": len(problems)}
    for name, values in figures.items():
        low, high = interval(values)
        report[name] = round(float(np.mean(values)), 4)
        report[f"{name}_95"] = [round(low, 4), round(high, 4)]
    return report


def first_reached(
    x: Sequence[float], y: Sequence[float], threshold: float, *, window: int = 1
) -> float | None:
    """The first ``x`` at which the mean of the last ``window`` values of ``y`` is at least ``threshold``.

    None where it never is; ``x`` and ``y`` are of one length.
    """
    for end in range(window, len(y) + 1):
        if math.fsum(y[end - window : end]) / window >= threshold:
            return x[end - 1]
    return None
