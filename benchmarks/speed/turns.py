"""Contenders timed in one process, in turn, so that a machine's slow minutes meet all of them.

The playing of an agent that learns is timed by a callback.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from stable_baselines3.common.callbacks import BaseCallback

Output = TypeVar("Output")


class Times(NamedTuple, Generic[Output]):
    """What :func:`in_turn` measured, by contender.

    Attributes:
        cpu: CPU seconds of this process, a number a repeat.
        wall: wall seconds, a number a repeat.
        outputs: what the last run returned.
    """

    cpu: dict[str, list[float]]
    wall: dict[str, list[float]]
    outputs: dict[str, Output]


def in_turn(contenders: Mapping[str, Callable[[], Callable[[], Output]]], repeats: int) -> Times[Output]:
    """Time each contender ``repeats`` times, A B C A B C ..., after one warm-up of each.

    Args:
        contenders: each prepares a run, and returns the function that is timed.
    """
    times: Times[Output] = Times({name: [] for name in contenders}, {name: [] for name in contenders}, {})
    for turn in range(repeats + 1):
        for name, prepare in contenders.items():
            run = prepare()
            cpu, wall = time.process_time(), time.perf_counter()
            times.outputs[name] = run()
            if turn:
                times.cpu[name].append(time.process_time() - cpu)
                times.wall[name].append(time.perf_counter() - wall)
    return times


def ratios(over: Sequence[float], under: Sequence[float], digits: int = 3) -> dict[str, float]:
    """The ratio of two contenders turn by turn: its median, minimum and maximum."""
    quotients = [a / b for a, b in zip(over, under, strict=True)]
    found = {"median": statistics.median(quotients), "low": min(quotients), "high": max(quotients)}
    return {name: round(value, digits) for name, value in found.items()}


def median_ratio(over: Sequence[float], under: Sequence[float], digits: int = 3) -> float:
    """The median of :func:`ratios`."""
    return ratios(over, under, digits)["median"]


class PlayingTimes(BaseCallback):
    """The seconds of each rollout that an agent of ours or of Stable-Baselines3's collects.

    Of ours they include PPO's values and a KL in the reward.

    Args:
        clock: seconds now, of whatever is counted.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self.seconds: list[float] = []

    def _on_rollout_start(self) -> None:
        self._started = self._clock()

    def _on_rollout_end(self) -> None:
        self.seconds.append(self._clock() - self._started)

    def _on_step(self) -> bool:
        return True
