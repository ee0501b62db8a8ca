"""Join one info dict for each row into one dict of arrays, Gymnasium's format for vector environments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cola_envs.fields import Info

#: Arrays with one entry for each row; a field of dicts is nested.
Batched = dict[str, Any]


def batch_infos(num_envs: int, rows: Sequence[int], infos: Sequence[Info]) -> Batched:
    """Join the infos of ``rows`` as :meth:`gymnasium.vector.VectorEnv._add_info` does.

    Each key gives an array of length ``num_envs`` and a mask ``_key`` of the rows that have it. Numbers give
    an array of a type that holds them all (Gymnasium takes the first row's type, which rounds later floats
    to ints), arrays of equal shape are stacked, dicts nest, and everything else stays an object, also numbers
    that no type holds without rounding.
    """
    columns: dict[str, tuple[list[int], list[object]]] = {}
    for row, info in zip(rows, infos, strict=True):
        for key, value in info.items():
            if key not in columns:
                columns[key] = ([], [])
            where, values = columns[key]
            where.append(row)
            values.append(value)
    batched: Batched = {}
    for key, (where, values) in columns.items():
        mask = np.zeros(num_envs, dtype=bool)
        mask[where] = True
        kinds = set(map(type, values))
        numbers = _numbers(values, kinds)
        if numbers is not None:
            if len(values) == num_envs:
                batched[key] = numbers  # rows come in order, so a full column is already in place
            else:
                batched[key] = np.zeros(num_envs, dtype=numbers.dtype)
                batched[key][where] = numbers
        elif len(inner := [value for value in values if isinstance(value, dict)]) == len(values):
            batched[key] = batch_infos(num_envs, where, inner)
        else:
            batched[key] = _objects(num_envs, where, values)
        batched[f"_{key}"] = mask
    return batched


def _numbers(values: list[object], kinds: set[type]) -> np.ndarray | None:
    """``values``, of the types ``kinds``, as an array of numbers; None if it would not hold each exactly."""
    if not all(issubclass(kind, (int, float, np.number, np.bool_)) for kind in kinds):
        return None
    numbers = np.array(values)
    whole = [issubclass(kind, (int, np.integer)) for kind in kinds]
    if numbers.dtype.kind in "biu" or not any(whole):
        return numbers  # only integers among floats are ever rounded
    if all(whole) or numbers.dtype == object:
        return None
    # Python compares integers with floats exactly; NumPy's would be rounded first.
    integers = [int(value) if isinstance(value, (int, np.integer)) else None for value in values]
    pairs = zip(integers, numbers.tolist(), strict=True)
    return numbers if all(integer in (None, number) for integer, number in pairs) else None


def _objects(num_envs: int, where: list[int], values: list[object]) -> np.ndarray:
    first = values[0]
    array: np.ndarray = np.full(num_envs, None, dtype=object)
    if isinstance(first, np.ndarray) and all(
        isinstance(value, np.ndarray) and (value.shape, value.dtype) == (first.shape, first.dtype)
        for value in values
    ):
        array = np.zeros((num_envs, *first.shape), dtype=first.dtype)
    for row, value in zip(where, values, strict=True):
        array[row] = value
    return array
