"""What of ``info`` other libraries' arrays can hold: numbers, and nothing else."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from cola_envs.checks import Actions
from cola_envs.infos import Batched


class NumericInfo(gym.vector.VectorWrapper):
    """A vector environment whose infos hold numeric arrays alone, for what cannot take text.

    Gymnasium's ``NumpyToTorch`` is one: ``NumpyToTorch(NumericInfo(envs))``. Text and objects are left out;
    observations of rows (``final_obs``) are stacked, [N, ...], with zeros in the rows that have none.
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
    """An array of numbers as it is, one of equal arrays stacked; None for anything else."""
    if not isinstance(value, np.ndarray):
        return None
    if value.dtype != object:
        return value if value.dtype.kind in "biufc" else None
    given = [one for one in value if one is not None]
    if not given or not all(isinstance(one, np.ndarray) and one.shape == given[0].shape for one in given):
        return None
    stacked = np.zeros((len(value), *given[0].shape), dtype=given[0].dtype)
    for row, one in enumerate(value):
        if one is not None:
            stacked[row] = one
    return stacked
