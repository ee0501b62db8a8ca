"""How many threads a small model is computed with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

#: Parameters below which the operations of a model are too short to be shared.
SMALL = 20_000_000


@contextmanager
def fitting_threads(model: nn.Module) -> Iterator[None]:
    """One thread while a small model on the CPU is at work; as many as before for another.

    An operation of a small model takes microseconds. Several threads wait for one another in each, and where
    another process has one of the cores a step takes many times as long. ``OMP_NUM_THREADS`` has its say.
    """
    parameters = list(model.parameters())
    small = sum(parameter.numel() for parameter in parameters) < SMALL
    here = all(parameter.device.type == "cpu" for parameter in parameters)
    before = torch.get_num_threads()
    if small and here and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
