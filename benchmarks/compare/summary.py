"""The statistics of a comparison's runs: intervals, paired differences, frontiers.

Every figure is a function of one run, a :class:`Quantity`; all else is resampling them. Arms are compared
over the pairs of runs that share model seed and RL seed; the reference is the latent arm.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.compare.records import PARTS, Comparison, Run
from benchmarks.statistics import (
    Estimate,
    Reached,
    Runs,
    area_under_curve,
    estimate,
    holm,
    median_time,
    reached,
    verdict,
)

REFERENCE = "latent"
THRESHOLD = 0.9
#: Updates over whose mean reward a threshold is reached.
WINDOW = 3
#: Below this many models nothing is tested: conclusions are about models, not about runs.
FEWEST_MODELS = 3
ALPHA = 0.05
#: A loss within this much of none is no harm: shares; nats per token for the cross-entropy.
HARMLESS = {
    "arithmetic": 0.02,
    "arithmetic_greedy": 0.02,
    "grammar": 0.02,
    "cross_entropy": 0.05,
    "distinct_2": 0.01,
}
#: Those that fall when something is lost, which a search for options can keep.
LOST = tuple(name for name in HARMLESS if name != "cross_entropy")
#: Of a share: differences of rewards and of losses within this much are a tie.
TIE = 0.05
#: Figures that say nothing of damage where the task itself is paid for them.
TRAINED = {"Arithmetic": ("arithmetic", "arithmetic_greedy")}
#: Figures of the evaluation in the order of the tables, beside ``pass@k``.
FIGURES = (
    "reward",
    "reward_greedy",
    "success",
    *(f"{part}{how}" for how in ("", "_greedy") for part in PARTS),
    *HARMLESS,
    "token_kl",
)
PERCENT_OF_HORIZON = 0.1


#: A figure of one run; None where it has none.
Value = Callable[[Run], float | None]


@dataclass(frozen=True)
class Quantity:
    """A figure of one run.

    Attributes:
        name: its key in the summary.
        label: what tables call it.
        margin: a difference within it is a tie.
        value: of a run.
    """

    name: str
    label: str
    margin: float
    value: Value


@dataclass(frozen=True)
class Judged:
    """A tested mean.

    Attributes:
        estimate: mean and 95 % interval, not corrected.
        holm_p: its p-value, corrected over the family; None where there are too few models.
        verdict: ``"more"``, ``"less"`` (both need ``holm_p`` below .05), ``"equivalent"``, ``"undecided"``.
        agreeing: of how many models the mean has the sign of ``estimate.mean``.
    """

    estimate: Estimate
    holm_p: float | None
    verdict: str
    agreeing: int


def judge(family: Mapping[str, Runs], margin: float) -> dict[str, Judged]:
    """Test a family's means against 0, Holm's correction over its members; equivalence is not corrected.

    Members with fewer than :data:`FEWEST_MODELS` models are undecided and count for nothing in the
    correction.
    """
    estimates = {name: estimate(runs) for name, runs in family.items()}
    enough = {name: tested for name, tested in estimates.items() if tested.models >= FEWEST_MODELS}
    adjusted = holm({name: tested.p for name, tested in enough.items()})
    judged = {}
    for name, runs in family.items():
        p = adjusted.get(name)
        decision = "undecided" if p is None else verdict(runs, margin)
        if decision in ("more", "less") and p is not None and p >= ALPHA:
            decision = "undecided"
        sign = math.copysign(1.0, estimates[name].mean)
        agreeing = sum(math.fsum(values) * sign > 0 for values in runs.values())
        judged[name] = Judged(estimates[name], p, decision, agreeing)
    return judged


def nested(runs: Iterable[Run], value: Value) -> dict[int, list[float]]:
    """The runs' values by model seed, undefined ones left out."""
    by_model: dict[int, list[float]] = {}
    for run in runs:
        number = value(run)
        if number is not None:
            by_model.setdefault(run.model_seed, []).append(number)
    return by_model


def pairs(first: Sequence[Run], second: Sequence[Run], value: Value) -> tuple[dict[int, list[float]], int]:
    """Differences ``first - second`` of runs that share model and seed, and how many runs had no partner.

    A run whose value is undefined is no partner.
    """
    sides = [
        {(run.model_seed, run.seed): number for run in runs if (number := value(run)) is not None}
        for runs in (first, second)
    ]
    both = sorted(sides[0].keys() & sides[1].keys())
    differences: dict[int, list[float]] = {}
    for key in both:
        differences.setdefault(key[0], []).append(sides[0][key] - sides[1][key])
    return differences, len(first) + len(second) - 2 * len(both)


def horizons(comparison: Comparison) -> dict[str, float]:
    """Rollouts and CPU-seconds that every main run had: the last points of the shortest."""
    runs = [run for run in comparison.runs if run.phase == "main"]
    if not runs:
        return {}
    return {name: float(min(run.curve[name][-1] for run in runs)) for name in ("episodes", "cpu_s")}


def time_to(run: Run, axis: str, horizon: float, threshold: float) -> Reached:
    """When a run's curve crossed the threshold within the horizon."""
    crossing = reached(run.curve[axis], run.curve["reward"], threshold, window=WINDOW)
    return Reached(crossing.at if crossing.at is not None and crossing.at <= horizon else None, horizon)


def figure(when: str, name: str) -> Value:
    """A figure ``"before"`` or ``"after"`` RL."""
    return lambda run: getattr(run, when).get(name)


def change(name: str, sign: float = 1.0) -> Value:
    """The figure after RL less the figure before, times a sign."""
    return lambda run: None if (by := run.change(name)) is None else sign * by


def loss(name: str) -> Value:
    """By how much a figure of damage became worse: the cross-entropy rises, the others fall."""
    return change(name, 1.0 if name == "cross_entropy" else -1.0)


def loss_name(name: str) -> str:
    """The name of the quantity of :func:`loss`."""
    return f"{name}_risen" if name == "cross_entropy" else f"{name}_lost"


def quantities(comparison: Comparison, threshold: float) -> list[Quantity]:
    """All quantities that arms are compared by; some may have no value in any run."""

    def area(axis: str, horizon: float) -> Value:
        return lambda run: area_under_curve(run.curve[axis], run.curve["reward"], horizon)

    def time(axis: str, horizon: float) -> Value:
        def value(run: Run) -> float:
            crossing = time_to(run, axis, horizon, threshold)
            return crossing.horizon if crossing.at is None else crossing.at

        return value

    result = [
        Quantity("reward", "test reward, sampled", TIE, figure("after", "reward")),
        Quantity("reward_greedy", "test reward, greedy", TIE, figure("after", "reward_greedy")),
        Quantity("reward_gain", "gain in test reward, sampled", TIE, change("reward")),
    ]
    for name in pass_keys(comparison):
        result.append(Quantity(name, f"test {name}{_of_problems(comparison)}", TIE, figure("after", name)))
    at = horizons(comparison)
    for axis, word in (("episodes", "rollouts"), ("cpu_s", "CPU-s")):
        if axis not in at:
            continue
        limit = at[axis]
        margin = PERCENT_OF_HORIZON * limit
        result.append(Quantity(f"area_{axis}", f"mean training reward over {word}", TIE, area(axis, limit)))
        up_to = f"{limit:,.0f}" if limit >= 100 else f"{limit:.3g}"
        label = f"{word} to {threshold:g}, up to {up_to}"
        result.append(Quantity(f"time_{axis}", label, margin, time(axis, limit)))
    for name in damage_names(comparison.task):
        margin = TIE if HARMLESS[name] == 0.02 else HARMLESS[name]
        label = f"{LABELS[name]} {'risen' if name == 'cross_entropy' else 'lost'}"
        result.append(Quantity(loss_name(name), label, margin, loss(name)))
    result.append(Quantity("token_kl", LABELS["token_kl"], 0.5, figure("after", "token_kl")))
    return result


LABELS = {
    "arithmetic": "arithmetic",
    "arithmetic_greedy": "arithmetic, greedy",
    "grammar": "grammar",
    "cross_entropy": "held-out cross-entropy",
    "distinct_2": "distinct-2",
    "token_kl": "KL in token space, nats an answer",
}


def damage_names(task: str) -> list[str]:
    """Figures that show what RL on the task lost elsewhere."""
    return [name for name in HARMLESS if name not in TRAINED.get(task, ())]


def pass_keys(comparison: Comparison) -> list[str]:
    """The measured ``pass@k``, by k."""
    names = {name for run in comparison.runs for name in run.after if name.startswith("pass@")}
    return sorted(names, key=lambda name: int(name.removeprefix("pass@")))


def _of_problems(comparison: Comparison) -> str:
    """How many test problems are tried often, where the configuration says it."""
    protocol = (comparison.config.get("plan") or {}).get("protocol") or {}
    return f" of the first {protocol['hard_problems']} problems" if "hard_problems" in protocol else ""


def compared(comparison: Comparison, quantity: Quantity) -> tuple[dict[str, Judged], dict[str, int]]:
    """The reference less each other arm in one quantity, one family; and runs without a partner by arm."""
    ours = comparison.main(REFERENCE)
    family: dict[str, Runs] = {}
    dropped: dict[str, int] = {}
    for arm in comparison.arms():
        if arm != REFERENCE:
            differences, lost = pairs(ours, comparison.main(arm), quantity.value)
            if differences:
                family[arm] = differences
                dropped[arm] = lost
    return judge(family, quantity.margin), dropped


def harm(comparison: Comparison) -> dict[str, dict[str, Judged]]:
    """By figure and arm: what the arm's own runs lost, tested against :data:`HARMLESS`."""
    judged = {}
    for name in damage_names(comparison.task):
        losses = {arm: nested(comparison.main(arm), loss(name)) for arm in comparison.arms()}
        family = {arm: runs for arm, runs in losses.items() if runs}
        if family:
            judged[name] = judge(family, HARMLESS[name])
    return judged


def efficient(points: Sequence[Mapping[str, Any]], better: str, worse: str) -> list[bool]:
    """Which points no other one dominates, with as much of ``better`` for as little of ``worse``.

    Of equal points all are kept; a point without one of the two figures is not.
    """
    known = [
        (i, point[better], point[worse])
        for i, point in enumerate(points)
        if point[better] is not None and point[worse] is not None
    ]
    keep = [False] * len(points)
    for i, high, low in known:
        keep[i] = not any(
            other_high >= high and other_low <= low and (other_high > high or other_low < low)
            for _, other_high, other_low in known
        )
    return keep


def frontier(comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """By arm: each setting's mean test reward, losses and token KL; None where no run has the figure.

    A setting of which runs diverged has their number, ``diverged``; one of which all did is left out.
    """
    wanted = {
        "reward": figure("after", "reward"),
        **{name: loss(name) for name in damage_names(comparison.task)},
        "token_kl": figure("after", "token_kl"),
    }
    settings = {}
    for arm in comparison.arms():
        points = []
        for setting, runs in comparison.settings(arm).items():
            diverged = comparison.failed.get((arm, setting), 0)
            values = {name: nested(runs, value) for name, value in wanted.items()}
            points.append(
                {
                    "options": runs[0].options,
                    "phases": sorted({run.phase for run in runs}),
                    "runs": len(runs),
                    **({"diverged": diverged} if diverged else {}),
                    **{name: mean(side) if side else None for name, side in values.items()},
                }
            )
        if points:
            settings[arm] = points
    return settings


def mean(runs: Runs) -> float:
    """The mean of the models' means."""
    return math.fsum(math.fsum(values) / len(values) for values in runs.values()) / len(runs)


def times(comparison: Comparison, arm: str, axis: str, threshold: float) -> dict[str, Any] | None:
    """Censored times of an arm to the threshold; None without runs."""
    runs = comparison.main(arm)
    if not runs:
        return None
    horizon = horizons(comparison)[axis]
    censored = [time_to(run, axis, horizon, threshold) for run in runs]
    return {
        "median": median_time(censored),
        "reached": sum(time.at is not None for time in censored),
        "runs": len(censored),
        "horizon": horizon,
    }


def missing(comparison: Comparison) -> dict[str, dict[str, int]]:
    """By arm: how many main runs the configuration asks for, and how many of them are not there yet.

    Runs are counted: every model has as many seeds as the configuration names, but they may be others.
    """
    seeds, models = len(comparison.config["seeds"]), comparison.config["model_seeds"]
    result = {}
    for arm in comparison.config["arms"]:
        there = Counter(run.model_seed for run in comparison.main(arm))
        gaps = sum(max(0, seeds - there[int(model)]) for model in models)
        gaps -= len(comparison.diverged.get(arm, ()))
        if gaps > 0:
            result[arm] = {"asked": seeds * len(models), "missing": gaps}
    return result
