"""The statistics of the comparison: paired, hierarchical, corrected for many tests, and censored.

Runs are nested: several RL seeds over each of several pre-trained models. Two runs over one model share
its luck, so intervals and tests are Student's, over the models' means. (A bootstrap of models needs dozens
of them: of 12 models its 95 % intervals are too short.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from cola_agents.evaluation.scores import first_reached

try:
    from scipy.stats import sem
    from scipy.stats import t as student
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("the benchmarks need scipy: pip install -e '.[benchmarks]'") from error

#: Runs of one quantity: per pre-training seed the values of its RL seeds, in one order for all arms.
Runs = Mapping[int, Sequence[float]]


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        mean: of the models' means: every pre-trained model counts alike.
        low, high: bounds of the 95 % interval; a single run has none, and both are its value.
        p: two-sided p-value of the mean being 0; 1 of a single run.
        models, runs: how many pre-trained models and runs there are.
    """

    mean: float
    low: float
    high: float
    p: float
    models: int
    runs: int


def estimate(runs: Runs) -> Estimate:
    """Mean, 95 % interval and test of nested runs.

    One model shows nothing about others: the interval is over its runs alone.

    Raises:
        ValueError: without runs, or where one is not finite.
    """
    low, high = interval(runs)
    centres = _centres(runs)
    return Estimate(
        mean=float(centres.mean()),
        low=low,
        high=high,
        p=_p_value(runs),
        models=len(runs),
        runs=sum(map(len, runs.values())),
    )


def interval(runs: Runs, *, level: float = 0.95) -> tuple[float, float]:
    """The interval of :func:`estimate` at any level."""
    _check(runs)
    units = _units(runs)
    half = student.ppf((1 + level) / 2, len(units) - 1) * _error(runs) if len(units) > 1 else 0.0
    return float(units.mean() - half), float(units.mean() + half)


def interval_text(bounds: Mapping[str, float], digits: int = 3) -> str:
    """Return ``mean [low, high]`` for a table."""
    return f"{bounds['mean']:.{digits}f} [{bounds['low']:.{digits}f}, {bounds['high']:.{digits}f}]"


def ratio(over: Runs, under: Runs) -> tuple[float, float, float]:
    """The ratio of positive figures: the geometric mean of the models' own ratios, and its 95 % interval."""
    logs = {model: [math.log(np.mean(over[model]) / np.mean(under[model]))] for model in over}
    low, high = interval(logs)
    return math.exp(_centres(logs).mean()), math.exp(low), math.exp(high)


def _centres(runs: Runs) -> np.ndarray:
    """The mean of each model's runs."""
    return np.array([np.mean(values) for values in runs.values()])


def _units(runs: Runs) -> np.ndarray:
    """What is independent: the models' means, or the runs of a single model."""
    return _centres(runs) if len(runs) > 1 else np.array(next(iter(runs.values())), dtype=float)


def _error(runs: Runs) -> float:
    """The standard error of the mean: by the scatter of the units, or of the runs where the units are equal.

    A few models' means may be equal by chance where figures are coarse: times are multiples of an update.
    """
    units = _units(runs)
    error = float(sem(units))
    groups = [np.asarray(values, dtype=float) for values in runs.values()]
    spare = sum(len(group) - 1 for group in groups)
    if error > 1e-12 * np.abs(units).max() or not spare:  # means of decimal fractions differ in the last bit
        return error
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / spare
    return math.sqrt(within * sum(1 / len(group) for group in groups)) / len(groups)


def _p_value(runs: Runs) -> float:
    """Two-sided p-value of a mean of 0; of runs that are all equal that of a sign test."""
    units = _units(runs)
    if len(units) < 2:
        return 1.0
    mean, error = units.mean(), _error(runs)
    if error <= 1e-12 * abs(mean):
        return 1.0 if mean == 0 else 2.0 ** (1 - len(units))
    return float(2 * student.sf(abs(mean) / error, len(units) - 1))


def paired(first: Runs, second: Runs) -> dict[int, list[float]]:
    """Differences ``first - second`` of runs that share model, prompts and RL seed.

    Raises:
        ValueError: where the two do not have the same models and as many runs of each.
    """
    if first.keys() != second.keys() or any(len(first[key]) != len(second[key]) for key in first):
        raise ValueError("paired runs need the same pre-training seeds and as many RL seeds of each")
    return {key: [a - b for a, b in zip(first[key], second[key], strict=True)] for key in first}


def hierarchical_means(runs: Runs, *, resamples: int = 10_000, seed: int = 0) -> np.ndarray:
    """Means of bootstrap samples: models with replacement, then runs within each; [resamples].

    The draws depend on the numbers of runs and on the seed alone: two quantities of the same runs are
    resampled together.
    """
    _check(runs)
    groups = [np.asarray(values, dtype=float) for values in runs.values()]
    weights = _weights(tuple(map(len, groups)), resamples, seed)
    return weights @ np.concatenate(groups) / len(groups)


def _check(runs: Runs) -> None:
    """Raise ValueError for values without a mean."""
    if not runs or not all(len(values) for values in runs.values()):
        raise ValueError("an estimate needs at least one run of every model")
    if not all(np.isfinite(np.asarray(values, dtype=float)).all() for values in runs.values()):
        raise ValueError("a run's figure is not finite")


@lru_cache(maxsize=8)
def _weights(sizes: tuple[int, ...], resamples: int, seed: int) -> np.ndarray:
    """Each run's weight in each bootstrap sample, times the number of models; [resamples, runs]."""
    rng = np.random.default_rng(seed)
    # A mean of n draws from each group, then a mean over drawn groups.
    slots = len(sizes)
    draws = [rng.integers(size, size=(slots, resamples, size)) for size in sizes]
    chosen = rng.integers(slots, size=(slots, resamples))
    parts = []
    for group, (size, drawn) in enumerate(zip(sizes, draws, strict=True)):
        _, resample = np.nonzero(chosen == group)
        cells = resample[:, None] * size + drawn[chosen == group]
        parts.append(np.bincount(cells.ravel(), minlength=resamples * size).reshape(resamples, size) / size)
    return np.concatenate(parts, axis=1)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values of a family of tests (Holm 1979)."""
    adjusted: dict[str, float] = {}
    running = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        running = max(running, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def verdict(difference: Runs, margin: float) -> str:
    """``"more"``, ``"less"``, ``"equivalent"`` or ``"undecided"``: the conclusion from paired differences.

    More or less: the 95 % interval excludes 0. Equivalent: the 90 % interval, that is two one-sided
    tests at 5 %, lies within ``margin`` of 0. A difference may be both: then it is real and too small to
    matter, and ``"equivalent"`` is said.

    Source: Schuirmann 1987 (two one-sided tests).
    """
    if not margin > 0:
        raise ValueError(f"margin must be positive, got {margin}")
    inner_low, inner_high = interval(difference, level=0.9)
    if -margin < inner_low and inner_high < margin:
        return "equivalent"
    low, high = interval(difference)
    return "more" if low > 0 else "less" if high < 0 else "undecided"


def area_under_curve(x: Sequence[float], y: Sequence[float], horizon: float) -> float:
    """Mean height of a learning curve from 0 to ``horizon``: each value holds until the next one's x.

    ``y[i]`` was measured over what led up to ``x[i]``, so it stands for the stretch before it.
    """
    if len(x) != len(y) or not len(x) or any(b <= a for a, b in pairwise(x)):
        raise ValueError("a curve needs as many x as y, at least one, and rising x")
    edges = [0.0, *x]
    total = sum(
        (min(right, horizon) - min(left, horizon)) * height
        for left, right, height in zip(edges, x, y, strict=False)
    )
    return (total + max(0.0, horizon - x[-1]) * y[-1]) / horizon


@dataclass(frozen=True)
class Reached:
    """When a curve crossed a threshold: ``at`` None where it had not by ``horizon``."""

    at: float | None
    horizon: float


def reached(x: Sequence[float], y: Sequence[float], threshold: float, *, window: int = 1) -> Reached:
    """When :func:`~cola_agents.evaluation.scores.first_reached` is, or that it is not by the last ``x``."""
    return Reached(first_reached(x, y, threshold, window=window), float(x[-1]))


def median_time(times: Sequence[Reached]) -> float | None:
    """The Kaplan-Meier median under one common horizon; None where fewer than half got there.

    Raises:
        ValueError: where the horizons differ: then the runs were not given the same chance.
    """
    horizons = {time.horizon for time in times}
    if len(horizons) != 1:
        raise ValueError(f"censored times need one horizon, got {sorted(horizons)}")
    got = sorted(time.at for time in times if time.at is not None)
    middle = math.ceil(len(times) / 2)
    return got[middle - 1] if len(got) >= middle else None
