"""The number of torch's threads for small models, and what a fork does to them.

A fork does not copy the threads of its process, and OpenMP, once it has made some, waits for them for ever.
So a small model in a forked child leaves torch with one thread there, and a larger one is refused.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType

import torch
from torch import nn

#: Models with fewer parameters are small: their operations are too short for several threads.
SMALL = 20_000_000
#: Environment variables that set the number of threads, of small models too.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")

#: Whether :func:`set_threads` was called.
_chosen = False

#: Per Python thread, the process in which it first computed with several threads of torch.
_pool = threading.local()
#: The process that imported this module; another one is forked from it.
_importer = os.getpid()
#: Per Python thread, the number of torch's threads before each of its open blocks, the outermost first.
_blocks = threading.local()


def check_fork() -> None:
    """Raise RuntimeError in a forked child whose parent had computed with several threads of torch.

    A parent that computes a small model with one thread counts too where it has more outside the block: its
    other operations take those. A child that computes with one thread, such as a worker of a torch data
    loader, passes.
    """
    count = max([torch.get_num_threads(), *_blocks.__dict__.get("outside", ())[:1]])
    if count == 1:
        return
    process = os.getpid()
    parent = getattr(_pool, "process", process)
    if parent != process:
        raise RuntimeError(
            f"this process was forked from process {parent}, which had computed with several threads of "
            f"torch. A fork does not copy them: with {count} threads the model would wait "
            'for ever. Start processes with context="spawn" (gymnasium.vector.AsyncVectorEnv), '
            'start_method="spawn" (SubprocVecEnv) or multiprocessing.get_context("spawn"); or call '
            "torch.set_num_threads(1), here or before the fork"
        )
    _pool.process = process


def set_threads(count: int) -> None:
    """Compute with ``count`` threads from now on, in small models too.

    Raises:
        ValueError: for less than one.
    """
    global _chosen
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"the number of threads is an integer of at least 1, got {count!r}")
    torch.set_num_threads(count)
    _chosen = True


class fitting_threads:
    """A block in which small models on a CPU are computed with one thread of torch.

    An operation of a small model takes microseconds. Threads wait for one another in each operation, and
    where another process uses one of the cores, a step takes many times as long. For a larger model, or one
    on another device, the block uses the number of threads outside all such blocks. Where
    ``OMP_NUM_THREADS`` or ``MKL_NUM_THREADS`` is set or :func:`set_threads` was called, nothing changes.

    In a forked process a block of a small model leaves torch with one thread, since the process may lack the
    others.

    Parameters are counted once, in the constructor; entering and leaving takes about a microsecond. Blocks
    can be entered repeatedly and nested; each restores the previous number of threads.

    Args:
        parts: models, or objects with a model in ``model`` (a backbone); others are ignored.
    """

    def __init__(self, *parts: object) -> None:
        models = [part if isinstance(part, nn.Module) else getattr(part, "model", None) for part in parts]
        parameters = {p for model in models if isinstance(model, nn.Module) for p in model.parameters()}
        self._small = (
            0 < sum(p.numel() for p in parameters) < SMALL
            and all(p.device.type == "cpu" for p in parameters)
            and not any(name in os.environ for name in VARIABLES)
        )

    def __enter__(self) -> None:
        before = torch.get_num_threads()
        outside: list[int] = _blocks.__dict__.setdefault("outside", [])
        alone = self._small and not _chosen
        if alone and os.getpid() != _importer:
            torch.set_num_threads(1)
            before, outside[:] = 1, [1] * len(outside)
        outside.append(before)
        wanted = 1 if alone else outside[0]
        if wanted != before:
            torch.set_num_threads(wanted)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        before = _blocks.outside.pop()
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
