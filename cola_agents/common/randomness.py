"""Draws of libraries that know no generator but torch's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def drawn_from(seed: int | None, device: torch.device | str | None = None) -> Iterator[None]:
    """A block in which torch's own generators draw from ``seed``; behind it they are as they were before.

    For weights that a library initialises and for dropout. Everything else is handed a generator.

    Args:
        seed: None to draw from the generators as they stand.
        device: whose generator is meant too, where that is a GPU; the CPU's always is.
    """
    chosen = torch.device("cpu" if device is None else device)
    gpus = [chosen] if chosen.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            for gpu in gpus:
                with torch.cuda.device(gpu):
                    torch.cuda.manual_seed(seed)
        yield
