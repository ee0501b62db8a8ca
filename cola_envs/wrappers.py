"""A vector wrapper for libraries whose infos can hold only numbers."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from cola_envs.checks import Actions
from cola_envs.infos import Batched


class NumericInfo(gym.vector.VectorWrapper):
    """Keeps only the numeric arrays of a vector environment's infos, for wrappers that cannot take text.

    For example ``NumpyToTorch(NumericInfo(envs))`` with Gymnasium's ``NumpyToTorch``. Observations of rows
    (``final_obs``) are stacked, [N, ...], with zeros in the rows that have none.
    """

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, Batched]:
        observations, infos = self.env.reset(seed=seed, options=options)
        return observations, _numeric(infos)

    def step(self, actions: Actions) -> tuple[Any, Any, Any, Any, Batched]:
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        return observations, rewards, terminated, truncated, _numeric(infos)


def _numeric(infos: Batched) -> Batched:
    kept: Batched = {}
    for key, value in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        number = _numeric(value) if isinstance(value, dict) else _stacked(value)
        if number is not None:
            kept[key] = number
            if f"_{key}" in infos:
                kept[f"_{key}"] = infos[f"_{key}"]
    return kept


def _stacked(value: Any) -> np.ndarray | None:
    """A numeric array unchanged, an array of equal-shaped arrays stacked; None for anything else."""
    if not isinstance(value, np.ndarray):
        return None
    if value.dtype != object:
        return value if value.dtype.kind in "biufc" else None
    arrays = [entry for entry in value if entry is not None]
    if not arrays or not all(isinstance(a, np.ndarray) and a.shape == arrays[0].shape for a in arrays):
        return None
    stacked = np.zeros((len(value), *arrays[0].shape), dtype=arrays[0].dtype)
    for row, entry in enumerate(value):
        if entry is not None:
            stacked[row] = entry
    return stacked
