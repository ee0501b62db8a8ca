"""From timed turns to figures: medians, and ratios with their spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.peers.setting import Clock


def ratios(over: Sequence[float], under: Sequence[float]) -> dict[str, Any]:
    """The ratio of two contenders turn by turn: its median, minimum and maximum."""
    quotients = [a / b for a, b in zip(over, under, strict=True)]
    return {
        "median": round(statistics.median(quotients), 3),
        "low": round(min(quotients), 3),
        "high": round(max(quotients), 3),
    }


def seconds(clock: Clock) -> dict[str, Any]:
    """Median CPU and wall seconds by name, and every turn's CPU seconds."""
    return {
        name: {
            "cpu_s": round(statistics.median(times), 5),
            **({"wall_s": round(statistics.median(clock.wall[name]), 5)} if name in clock.wall else {}),
            "all_cpu_s": [round(value, 5) for value in times],
        }
        for name, times in clock.cpu.items()
    }
