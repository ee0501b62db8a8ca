"""The search for each arm's options: the same budget for all, a grid that grows where its edge wins.

A setting is a learning rate and a weight of the KL. An arm begins with the grid of its three rates and of
two weights. Then it adds one setting at a time: beyond the edge where the best setting stands at one, else
between the best and the better of its neighbours. All arms add as many, so that none is searched more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Setting = tuple[float, float]
KL_WEIGHTS = (0.01, 0.1)
#: Settings that the search begins with.
GRID = 3 * len(KL_WEIGHTS)
#: How far beyond an edge the next setting stands, by axis: of the learning rate and of the KL's weight.
STEPS = (3.0, math.sqrt(10))


@dataclass(frozen=True, order=True)
class Score:
    """How good a setting is: settings that do no harm come first, and among them the larger area.

    Attributes:
        harmless: whether what is to be kept fell by no more than what is allowed.
        worth: area under the training curve of a harmless setting; of another minus its harm.
    """

    harmless: bool
    worth: float


def scored(area: float, loss: float | None, allowed: float) -> Score:
    """The score of a setting.

    Args:
        area: under the training curve, a mean over tuning runs.
        loss: by how much what is to be kept fell, likewise; None where nothing is to be kept.
        allowed: of it.
    """
    harmless = loss is None or loss <= allowed
    return Score(harmless, area if harmless else -float(loss or 0.0))


def first_settings(lrs: tuple[float, ...]) -> list[Setting]:
    """The grid that an arm begins with."""
    return [(lr, kl) for lr in lrs for kl in KL_WEIGHTS]


def best(scores: Mapping[Setting, Score]) -> Setting:
    """The setting with the best score; of equals the one with the lower rate and the larger KL."""
    return max(scores, key=lambda setting: (scores[setting], -setting[0], setting[1]))


def edges(scores: Mapping[Setting, Score]) -> list[str]:
    """The axes on which the best setting stands at an edge of what was tried: ``"lr"``, ``"kl_coef"``."""
    names = ("lr", "kl_coef")
    return [names[axis] for axis in (0, 1) if _beyond(scores, axis) is not None]


def next_setting(scores: Mapping[Setting, Score]) -> Setting:
    """The setting to try next: see the module."""
    for axis in (0, 1):
        beyond = _beyond(scores, axis)
        if beyond is not None:
            return beyond
    at = best(scores)
    for axis in (0, 1):
        line = _line(scores, at, axis)
        here = line.index(at)
        neighbours = sorted(line[here - 1 : here] + line[here + 1 : here + 2], key=lambda s: scores[s])
        for neighbour in reversed(neighbours):
            middle = math.sqrt(at[axis] * neighbour[axis])
            for figures in (3, 17):  # settings that are very close differ in later figures
                between = _replaced(at, axis, middle, figures)
                if between not in scores:
                    return between
    raise AssertionError("between two settings there is always another")


def _beyond(scores: Mapping[Setting, Score], axis: int) -> Setting | None:
    """The setting beyond the best one where that stands at an edge of an axis."""
    at = best(scores)
    line = _line(scores, at, axis)
    if at == line[-1]:
        return _replaced(at, axis, at[axis] * STEPS[axis])
    if at == line[0]:
        return _replaced(at, axis, at[axis] / STEPS[axis])
    return None


def _line(scores: Mapping[Setting, Score], at: Setting, axis: int) -> list[Setting]:
    """The settings tried that differ from one on an axis alone, in the axis' order."""
    return sorted((s for s in scores if s[1 - axis] == at[1 - axis]), key=lambda s: s[axis])


def _replaced(setting: Setting, axis: int, value: float, figures: int = 3) -> Setting:
    """A setting with another value on an axis, rounded to some figures."""
    rounded = float(f"{value:.{figures}g}")
    return (rounded, setting[1]) if axis == 0 else (setting[0], rounded)
