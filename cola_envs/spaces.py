"""Action spaces with a mask of allowed actions."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Discrete, MultiDiscrete
from gymnasium.spaces.space import MaskNDArray
from gymnasium.vector.utils import batch_space


class MaskedDiscrete(Discrete):
    """``Discrete(n)`` that samples and contains only the actions that a mask allows.

    A language model's vocabulary is often larger than its tokenizer's, whose ids may have gaps. From a plain
    ``Discrete``, a random agent or an environment checker would draw ids without a token.

    Args:
        mask: [n] bool, at least one of them True.
        seed: of the space's sampling.
    """

    def __init__(self, mask: np.ndarray, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(len(mask), seed=seed)
        self.mask = np.array(mask, dtype=np.int8)

    def sample(self, mask: MaskNDArray | None = None, probability: MaskNDArray | None = None) -> np.int64:
        if mask is None and probability is None:
            mask = self.mask
        return super().sample(mask, probability)

    def contains(self, x: Any) -> bool:
        return super().contains(x) and bool(self.mask[int(x)])


class MaskedMultiDiscrete(MultiDiscrete):
    """The action space of a vector environment with ``num_envs`` times one :class:`MaskedDiscrete`.

    Args:
        mask: [n] bool, the same for all environments.
        num_envs: number of environments.
        seed: of the space's sampling.
    """

    def __init__(
        self, mask: np.ndarray, num_envs: int, seed: int | np.random.Generator | None = None
    ) -> None:
        super().__init__(np.full(num_envs, len(mask)), seed=seed)
        self.masks = (np.array(mask, dtype=np.int8),) * num_envs

    def sample(
        self, mask: tuple[MaskNDArray, ...] | None = None, probability: tuple[MaskNDArray, ...] | None = None
    ) -> npt.NDArray[np.int64]:
        if mask is None and probability is None:
            mask = self.masks
        return super().sample(mask, probability)

    def contains(self, x: Any) -> bool:
        return super().contains(x) and bool(self.masks[0][np.asarray(x)].all())

    def __getitem__(self, index: Any) -> MaskedDiscrete | MaskedMultiDiscrete:
        """The space of one environment for an integer, of several for a slice or a list."""
        part = super().__getitem__(index)
        if isinstance(part, Discrete):
            return MaskedDiscrete(self.masks[0], part.np_random)
        return MaskedMultiDiscrete(self.masks[0], len(part.nvec), part.np_random)


@batch_space.register(MaskedDiscrete)
def _batch_masked(space: MaskedDiscrete, n: int = 1) -> MaskedMultiDiscrete:
    """Gymnasium's vector environments over single ones make their action space by this."""
    return MaskedMultiDiscrete(space.mask, n, seed=copy.deepcopy(space.np_random))


def reach(mask: np.ndarray) -> int:
    """The largest action that ``mask`` [n] allows, plus 1."""
    return int(np.flatnonzero(mask)[-1]) + 1


def widths(mask: np.ndarray) -> tuple[int, ...]:
    """The A that logits, values or probabilities [B, A] of actions may have, rising.

    It is n of ``mask`` [n], or :func:`reach`: a token policy may leave out the ids beyond its tokenizer's.
    """
    return tuple(sorted({reach(mask), len(mask)}))


def masked(space: Discrete, mask: np.ndarray) -> Discrete:
    """``space``, or a :class:`MaskedDiscrete` if the mask forbids an action."""
    return space if mask.all() else MaskedDiscrete(mask)
