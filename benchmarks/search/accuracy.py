"""Accuracy at a token budget from the endings of the methods, with intervals and paired differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.search.methods import Found
from benchmarks.statistics import estimate, paired
from cola_agents.search.config import Ending
from cola_agents.search.fitting import concordance
from cola_agents.search.puct import vote


@dataclass(frozen=True)
class Line:
    """A way to answer: a method, and the rule that picks the answer among its endings.

    Attributes:
        method: a key of :data:`benchmarks.search.methods.METHODS`, or a beam.
        choose: endings to the score of the answer, 1 or 0.
        oracle: whether it looks at the solutions: no method, a bound.
    """

    method: str
    choose: Callable[[Sequence[Ending]], float]
    oracle: bool = False

    @property
    def alone(self) -> bool:
        """Whether its cost does not depend on the budget: greedy play and a beam."""
        return self.method == "greedy" or self.method.startswith("beam")


def _first(endings: Sequence[Ending]) -> float:
    return endings[0].reward


def _best(endings: Sequence[Ending]) -> float:
    return max(endings, key=lambda ending: ending.value).reward


def _voted(endings: Sequence[Ending]) -> float:
    return vote(endings).reward


def _weighted(endings: Sequence[Ending]) -> float:
    return vote(endings, weighted=True).reward


def _any(endings: Sequence[Ending]) -> float:
    return max(ending.reward for ending in endings)


#: The search that spends its budget: what the other lines are held against.
GOING_ON = "MCTS-Q, going on"
LINES: dict[str, Line] = {
    "greedy": Line("greedy", _first),
    "best of n": Line("tries", _best),
    "weighted vote": Line("tries", _weighted),
    "majority vote": Line("tries", _voted),
    "PUCT": Line("puct", _best),
    "PUCT, vote": Line("puct", _voted),
    "MCTS-Q": Line("mcts-q", _best),
    "MCTS-Q, vote": Line("mcts-q", _voted),
    GOING_ON: Line("mcts-q-on", _best),
    "MCTS-Q, going on, vote": Line("mcts-q-on", _voted),
    "pass@n (oracle)": Line("tries", _any, oracle=True),
    "PUCT, any (oracle)": Line("puct", _any, oracle=True),
    "MCTS-Q, going on, any (oracle)": Line("mcts-q-on", _any, oracle=True),
    "PUCT on true rewards, any (oracle)": Line("puct-true", _any, oracle=True),
}

for _judge, _of in (
    ("policy", "by the policy's likelihood"),
    ("base", "by the base's likelihood"),
    ("outcome", "by the outcome model"),
):
    LINES[f"best of n {_of}"] = Line(f"tries-{_judge}", _best)
    LINES[f"weighted vote {_of}"] = Line(f"tries-{_judge}", _weighted)
    LINES[f"PUCT {_of}"] = Line(f"puct-{_judge}", _best)
    LINES[f"PUCT {_of}, weighted vote"] = Line(f"puct-{_judge}", _weighted)
    LINES[f"MCTS-Q, going on, {_of}"] = Line(f"mcts-q-on-{_judge}", _best)
    LINES[f"MCTS-Q, going on, {_of}, weighted vote"] = Line(f"mcts-q-on-{_judge}", _weighted)


def lines(beams: Sequence[int]) -> dict[str, Line]:
    """All lines, including beams of these widths."""
    known = dict(LINES)
    for width in beams:
        known[f"beam {width}"] = Line(f"beam-{width}", _first)
    return known


def by_then(endings: Sequence[Ending], budget: float) -> Sequence[Ending]:
    """The endings of a search that begins nothing more once ``budget`` tokens are spent; at least one."""
    for i, ending in enumerate(endings, start=1):
        if ending.spent >= budget:
            return endings[:i]
    return endings


@dataclass(frozen=True)
class Point:
    """A line at a budget.

    Attributes:
        scores: per problem, the mean over search seeds.
        tokens: new model tokens a problem.
        cpu_s: CPU seconds a problem: the run's, shared out by tokens.
    """

    scores: list[float]
    tokens: float
    cpu_s: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "accuracy": _with_interval(self.scores),
            "tokens": round(self.tokens, 2),
            "cpu_s": round(self.cpu_s, 5),
        }


def point(line: Line, runs: Sequence[Found], budget: float) -> Point:
    """A line's accuracy at a budget, from the runs of its method (one a search seed)."""
    scores, tokens, seconds = [], [], []
    for run in runs:
        until = [by_then(endings, budget) for endings in run.endings]
        scores.append([line.choose(endings) for endings in until])
        spent = float(np.mean([endings[-1].spent for endings in until]))
        tokens.append(spent)
        seconds.append(spent * run.cpu_s / run.new_tokens)
    return Point(np.mean(scores, axis=0).tolist(), float(np.mean(tokens)), float(np.mean(seconds)))


def difference(first: Point, second: Point) -> dict[str, Any]:
    """The paired difference of two points over the same problems, with its interval."""
    return _with_interval(paired({0: first.scores}, {0: second.scores})[0])


def _with_interval(values: Sequence[float]) -> dict[str, Any]:
    interval = estimate({0: list(values)})
    return {"mean": round(interval.mean, 4), "low": round(interval.low, 4), "high": round(interval.high, 4)}


def points(
    runs: Mapping[str, Sequence[Found]], known: Mapping[str, Line], budgets: Sequence[float]
) -> dict[str, list[Point]]:
    """For each line its points at all budgets; one point for greedy play and beams, whose cost is fixed."""
    curves = {}
    for name, line in known.items():
        if line.method in runs:
            curves[name] = [point(line, runs[line.method], b) for b in ([0.0] if line.alone else budgets)]
    return curves


def judge(run: Found) -> dict[str, Any]:
    """How well the values of independent answers separate right from wrong.

    ``auc``: the probability that a right answer has a higher value than a wrong one; ``auc_within``: the same
    within a problem, as the mean over problems that have both; ``calibration``: mean value, share right and
    number of answers in ten groups of equal size by value.
    """
    problems = [
        (np.array([ending.value for ending in problem]), np.array([ending.reward > 0 for ending in problem]))
        for problem in run.endings
    ]
    values, right = (np.concatenate(parts) for parts in zip(*problems, strict=True))
    overall = concordance(values, right)
    within = [auc for scores, marks in problems if (auc := concordance(scores, marks)) is not None]
    groups = [group for group in np.array_split(np.argsort(values, kind="stable"), 10) if len(group)]
    return {
        "answers": len(values),
        "right": round(float(right.mean()), 4),
        "auc": None if overall is None else round(overall, 4),
        "auc_within": round(float(np.mean(within)), 4) if within else None,
        "calibration": [
            [round(float(values[group].mean()), 4), round(float(right[group].mean()), 4), len(group)]
            for group in groups
        ],
    }


def reached(runs: Mapping[str, Sequence[Found]]) -> float:
    """The share of problems that some ending of any method got right."""
    solved = [[_any(endings) for endings in run.endings] for of_method in runs.values() for run in of_method]
    return round(float(np.max(solved, axis=0).mean()), 4)
