"""NaN and infinity in what a model computes, by row."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class NotFiniteError(FloatingPointError):
    """NaN or infinity in row ``row``.

    Attributes:
        row: the row.
        left: whether it is in a text that the row does not hold any more, so that its step now says nothing.
    """

    def __init__(self, row: int, message: str, left: bool = False) -> None:
        super().__init__(message)
        self.row = row
        self.left = left


def not_finite(values: Tensor) -> list[int]:
    """The indices along the first dimension of [B, ...] of entries with NaN or infinity."""
    # A sum with NaN or infinity is not finite, and checking one number is faster. If a sum of finite values
    # overflows, the entries are checked one by one, too.
    if math.isfinite(values.sum(dtype=torch.float32)):
        return []
    return (~torch.isfinite(values)).reshape(len(values), -1).any(-1).nonzero().flatten().tolist()
