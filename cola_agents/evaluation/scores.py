"""What several tries at each problem are worth: pass@k, a vote, and intervals over problems."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cola_envs.grading import grade_answers
from cola_envs.jsonl import JsonObject

_Z = 1.959964  # of a 95 % interval
_RESAMPLES = 2_000


@dataclass(frozen=True)
class Tries:
    """The tries at one problem.

    Attributes:
        successes: whether each succeeded.
        answers: what each answered, None where it gave no answer; None in place of the tuple where the task
            does not tell answers, or success is not a matter of the answer alone.
    """

    successes: tuple[bool, ...]
    answers: tuple[str | None, ...] | None = None

    def __post_init__(self) -> None:
        if not self.successes:
            raise ValueError("a problem needs at least one try")
        if self.answers is not None and len(self.answers) != len(self.successes):
            raise ValueError(f"{len(self.answers)} answers for {len(self.successes)} tries")


def pass_at_k(tries: int, successes: int, k: int) -> float:
    """The chance that k of the tries, drawn without replacement, hold a success.

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374), equation 1.

    Raises:
        ValueError: unless 0 <= successes <= tries and 1 <= k <= tries.
    """
    if not 0 <= successes <= tries or not 1 <= k <= tries:
        raise ValueError(f"pass@{k} of {successes} successes in {tries} tries means nothing")
    return 1.0 - math.comb(tries - successes, k) / math.comb(tries, k)


def majority(problem: Tries) -> float:
    """Whether the answer given most often is right: 1.0 or 0.0, and between answers that tie an even share.

    Answers are one where the grading calls them equal. A try without an answer has no vote.

    Raises:
        ValueError: where the answers are not known.
    """
    if problem.answers is None:
        raise ValueError("a vote needs the answers")
    given = [(s, a) for s, a in zip(problem.successes, problem.answers, strict=True) if a is not None]
    right = sum(success for success, _ in given)
    if right == 0 or 2 * right > len(given):
        return float(right > 0)
    rivals = _votes([answer for success, answer in given if not success])
    if right != max(rivals):
        return float(right > max(rivals))
    return 1.0 / (1 + rivals.count(right))


def _votes(answers: Sequence[str]) -> list[int]:
    """How many answers there are of each kind, graded-equal ones together."""
    kinds: dict[str, int] = {}
    for answer, count in Counter(answer.strip() for answer in answers).items():
        verdicts = grade_answers(list(kinds), [answer] * len(kinds))
        same = next((kind for kind, v in zip(kinds, verdicts, strict=True) if v.correct), answer)
        kinds[same] = kinds.get(same, 0) + count
    return list(kinds.values())


def wilson(successes: float, count: int, z: float = _Z) -> tuple[float, float]:
    """Wilson's score interval of a share."""
    share = successes / count
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # Rounding may leave either end a hair outside.
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def interval(scores: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the mean score of problems, each between 0 and 1.

    Wilson's where every score is 0 or 1, or all are alike; otherwise the percentiles of 2,000 bootstrap
    resamples of the problems. Either is over problems: the tries at one are not independent.
    """
    values = np.asarray(scores, dtype=float)
    if np.isin(values, (0.0, 1.0)).all() or np.ptp(values) == 0:
        return wilson(float(values.sum()), len(values))
    drawn = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def scores(problems: Sequence[Tries]) -> JsonObject:
    """The figures of some problems with their intervals, ready for JSON.

    ``success`` (the share of tries), ``pass@k`` for k = 1, 2, 4, ... and the number of tries, and
    ``maj@k`` of all tries where there are several and the answers are known; each with ``..._95``.
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
