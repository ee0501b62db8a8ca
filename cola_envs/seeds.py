"""Seeds that follow from other numbers: the one way in which they do."""

from __future__ import annotations

import numpy as np


def derived_seed(*parts: int, bits: int = 53) -> int:
    """A seed below ``2**bits`` that follows from whole numbers, none negative; at most 64 bits.

    Nearby numbers give seeds that have nothing in common. 53 bits are what JSON and Gymnasium hold exactly.
    """
    state = np.random.SeedSequence([int(part) for part in parts]).generate_state(1, np.uint64)
    return int(state[0]) >> (64 - bits)
