"""The infos of a step, and one dict of arrays in place of one dict for each row, Gymnasium's format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from cola_envs.fields import Info

#: Arrays with one entry for each row; a field of dicts is nested.
Batched = dict[str, Any]


@dataclass(frozen=True, eq=False)
class StepInfos(Sequence[Info]):
    """The infos of a step of B rows: a sequence of B dicts, most of which are made anew whenever one is read.

    Most actions give one token and end nothing, and their infos hold these two numbers alone. With a dict for
    each of thousands of rows the host's part of a step would take a third longer or more.

    Attributes:
        tokens: the first token id of each row, [B] int64.
        actions: [B] int64.
        whole: by index into the batch the infos that are dicts already.
    """

    tokens: np.ndarray
    actions: np.ndarray
    whole: dict[int, Info] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    @overload
    def __getitem__(self, index: int) -> Info: ...

    @overload
    def __getitem__(self, index: slice) -> list[Info]: ...

    def __getitem__(self, index: int | slice) -> Info | list[Info]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        held = self.whole.get(at)
        return {"token": int(self.tokens[at]), "action": int(self.actions[at])} if held is None else held

    def batched(self) -> Batched:
        """All infos in Gymnasium's format, as :func:`batch_infos` of them."""
        short = np.ones(len(self), dtype=bool)
        if not self.whole:
            return {"token": self.tokens, "_token": short, "action": self.actions, "_action": short.copy()}
        rows = sorted(self.whole)  # in which order they were added depends on the step
        batched = batch_infos(len(self), rows, [self.whole[row] for row in rows])
        short[rows] = False
        if short.any():
            for key, numbers in (("token", self.tokens), ("action", self.actions)):
                batched[key] = np.where(short, numbers, batched.get(key, 0))
                batched[f"_{key}"] = short | batched.get(f"_{key}", False)
        return batched


def batch_infos(num_envs: int, rows: Sequence[int], infos: Sequence[Info]) -> Batched:
    """Join the infos of ``rows`` as :meth:`gymnasium.vector.VectorEnv._add_info` does.

    ``rows`` are ascending. Each key gives an array of length ``num_envs`` and a mask ``_key`` of the rows
    that have it. Numbers give an array of a type that holds them all (Gymnasium takes the first row's type,
    which rounds later floats to ints), arrays of equal shape are stacked, dicts nest, and everything else
    stays an object, also numbers that no type holds without rounding.
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
