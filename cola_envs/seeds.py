"""Derive seeds from other numbers."""

from __future__ import annotations

import numpy as np

#: The highest seed of a first problem: those of the next ones are counted up from it, in 64 bits.
HIGHEST_SEED = 2**62


def derived_seed(*parts: int, bits: int = 53) -> int:
    """A seed below ``2**bits`` (at most 64 bits) computed from integers >= 0.

    Nearby integers give unrelated seeds. JSON and Gymnasium hold up to 53 bits exactly.
    """
    state = np.random.SeedSequence([int(part) for part in parts]).generate_state(1, np.uint64)
    return int(state[0]) >> (64 - bits)
