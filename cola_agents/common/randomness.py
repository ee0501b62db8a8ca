"""Seed the draws of libraries that use torch's default generators."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def drawn_from(seed: int | None, device: torch.device | str | None = None) -> Iterator[None]:
    """Seed torch's default generators within a block; restore their states afterwards.

    For libraries that initialise weights, and for dropout; all other code takes a generator as an argument.

    Args:
        seed: None for the generators' current states.
        device: a GPU whose generator is seeded too.
    """
    device = torch.device("cpu" if device is None else device)
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            for gpu in gpus:
                with torch.cuda.device(gpu):
                    torch.cuda.manual_seed(seed)
        yield
