"""The number of torch's threads for small models, and a check that a fork has not lost them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

#: The operations of models with fewer parameters are too short for several threads.
SMALL = 20_000_000

#: For each Python thread the process in which it first computed with several threads of torch.
_pool = threading.local()


def check_fork() -> None:
    """Raise RuntimeError in a forked child whose parent had computed with several threads of torch.

    These threads exist only in the parent, and OpenMP would wait for them for ever. A child that computes
    with one thread, such as a worker of a torch data loader, passes.
    """
    if torch.get_num_threads() == 1:
        return
    here = os.getpid()
    before = getattr(_pool, "process", here)
    if before != here:
        raise RuntimeError(
            f"this process was forked from process {before} after that had computed with several threads "
            f"of torch, which a fork does not copy: on {torch.get_num_threads()} threads the model would "
            'wait for ever. Start processes with context="spawn" (gymnasium.vector.AsyncVectorEnv), '
            'start_method="spawn" (SubprocVecEnv) or multiprocessing.get_context("spawn"); or call '
            "torch.set_num_threads(1), here or before the fork"
        )
    _pool.process = here


@contextmanager
def fitting_threads(model: nn.Module) -> Iterator[None]:
    """Use one thread within the block for a small model on the CPU, unless ``OMP_NUM_THREADS`` is set.

    An operation of a small model takes microseconds. Several threads wait for one another in each, and where
    another process uses one of the cores a step takes many times as long.
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
