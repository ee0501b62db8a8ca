"""The loss of a training stage.

Shapes: B rows, T tokens, A codes, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cola_agents.model.documents import DocumentMask
from cola_agents.model.families import Mask
from cola_agents.train.cross_entropy import head_cross_entropy
from cola_agents.train.data.packing import Batch
from cola_envs.jsonl import JsonObject
from cola_envs.seeds import derived_seed


class StageLoss(nn.Module, ABC):
    """The loss of a stage, as a module that holds the model.

    DDP and FSDP wrap this module, so a training loop calls only :meth:`forward` (and :meth:`pool`). The
    global batch of a step is split into micro-batches, in one process or several; the loss of each is
    weighted by its share of the counted targets, so that a mean over targets does not depend on the split.
    A loss that is not such a mean (for example a function of the batch's mean distribution) needs ``pooled``.

    Attributes:
        pools: whether the loss needs :meth:`pool`.
        by_documents, liger: how masks and cross-entropies are computed; the training loop sets them.
    """

    pools: bool = False
    by_documents: bool = False
    liger: bool = False

    @abstractmethod
    def forward(
        self, batch: Batch, generators: Sequence[torch.Generator], pooled: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a micro-batch.

        Args:
            batch: B rows.
            generators: a random generator for each row, independent of the split of the global batch.
            pooled: the mean of :meth:`pool` over the global batch; None where this batch is the global one,
                or ``pools`` is False.

        Returns:
            the mean loss over the batch's counted targets, and figures for the log: means over the same
            targets, detached, of any shape. For a batch without targets both must be finite, preferably 0.
        """

    def pool(self, batch: Batch, generators: Sequence[torch.Generator]) -> Tensor:
        """A mean over a micro-batch's counted targets; :meth:`forward` gets its mean over the global batch.

        Called only where ``pools`` is set and there are several micro-batches, without gradients and before
        any :meth:`forward`.
        """
        raise TypeError(f"{type(self).__name__} sets pools, but does not define pool()")

    def report(self, figures: dict[str, Tensor]) -> dict[str, float]:
        """Turn the figures' means over the global batch into the entries of a log record."""
        return {name: value.item() for name, value in figures.items()}

    def settings(self) -> JsonObject:
        """Further settings that change the result, as JSON values; a resumed run must have the same ones."""
        return {}

    def mask(self, batch: Batch) -> Mask:
        """The attention mask of a batch's rows: causal, and within one document."""
        return DocumentMask.of(batch.segments) if self.by_documents else batch.mask

    def token_loss(self, states: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
        """The mean cross-entropy of a head's logits, as ``head_cross_entropy`` computes it.

        Args:
            states: [B, T, D].
            head: of V outputs.
            targets: [B, T]; -100 is ignored.
        """
        return head_cross_entropy(states, head, targets, liger=self.liger)

    @property
    def _no_split_modules(self) -> list[str]:
        """Class names of the layers that FSDP shards one by one; accelerate reads this attribute."""
        present = {type(module).__name__ for module in self.modules()}
        named = {
            name for module in self.children() for name in getattr(module, "_no_split_modules", None) or ()
        }
        return sorted(named & present)


def row_generators(seed: int, step: int, rows: range) -> list[torch.Generator]:
    """One generator for each of ``rows`` of the global batch of a step, seeded by (seed, step, row)."""
    return [torch.Generator().manual_seed(derived_seed(seed, step, row, bits=64)) for row in rows]
