"""Contenders timed in one process, in turn, so that a machine's slow minutes meet all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

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
