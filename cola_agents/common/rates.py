"""The learning rate over a training."""

from __future__ import annotations

import math


def scheduled_rate(step: int, *, steps: int, warmup: int, final: float) -> float:
    """Learning rate of step ``step`` of ``steps``, counted from 1, as a share of its peak.

    It rises linearly over ``warmup`` steps, from ``1 / warmup`` and not from 0, and a cosine takes it to
    ``final``.
    """
    if step <= warmup:
        return step / warmup
    progress = (step - 1 - warmup) / max(1, steps - warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
