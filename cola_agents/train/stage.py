"""What a training stage is: how long and how it is trained, and what it minimises.

Shapes: B rows, T tokens, A codes, V vocabulary.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cola_agents.train.data.packing import IGNORED, Batch
from cola_envs.jsonl import JsonObject
from cola_envs.seeds import derived_seed

PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class StageConfig:
    """How a stage is trained.

    The defaults suit models of the bundled size; :meth:`paper_world` and :meth:`paper_policy` are the
    paper's.

    Attributes:
        steps: optimiser steps.
        rows, length: shape of the global batch: rows of packed documents and their length in tokens. A step
            learns from all of its rows, in however many pieces and processes.
        lr: peak learning rate; a linear warm-up of ``warmup`` steps, then a cosine to ``final`` of it.
        weight_decay, betas, clip: AdamW's, and the largest norm of the whole gradient.
        seed: seeds the data order and the noise of the stage.
        log_every: steps between two log records.
        tensorboard: whether they go to TensorBoard too, next to the log file: None for where it is installed,
            True to insist on it.
        micro_rows: rows of a micro-batch, that is of one forward and backward pass; None for all the rows
            that a process takes. Gradients are accumulated over a process' micro-batches.
        codebook_weight_decay: of the codebook, in place of ``weight_decay``; None for no difference.
        precision: ``"float32"``, or ``"bf16"`` to compute in bfloat16 (autocast) with losses in float32.
        low_precision_weights: leave trained weights in the type that they were loaded in. Otherwise they,
            their gradients and the optimiser's moments are float32.
        gradient_checkpointing: recompute the activations of trained decoder layers in the backward pass:
            less memory, about a third more arithmetic, the same gradients.
        save_every: steps between two checkpoints, where checkpoints are asked for.
        keep: how many of the last checkpoints are kept.
    """

    steps: int
    rows: int = 8
    length: int = 256
    lr: float = 3e-3
    warmup: int = 50
    final: float = 0.05
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    seed: int = 0
    log_every: int = 100
    tensorboard: bool | None = None
    micro_rows: int | None = None
    codebook_weight_decay: float | None = None
    precision: str = "float32"
    low_precision_weights: bool = False
    gradient_checkpointing: bool = False
    save_every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rows < 1 or self.length < 8:
            raise ValueError(f"steps, rows >= 1 and length >= 8 are needed, got {self}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is not one of {PRECISIONS}")
        if self.micro_rows is not None and (self.micro_rows < 1 or self.rows % self.micro_rows):
            raise ValueError(f"rows={self.rows} is not a multiple of micro_rows={self.micro_rows}")
        for name in ("save_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0 or self.warmup < 0:
            raise ValueError(
                f"seed and warmup must not be negative, got seed={self.seed}, warmup={self.warmup}"
            )
        if not (self.lr > 0 and self.clip > 0):
            raise ValueError(f"lr and clip must be positive, got lr={self.lr}, clip={self.clip}")

    @classmethod
    def paper_world(cls, **changed: Any) -> StageConfig:
        """Stage 1 as its authors trained it: 1.1e12 tokens at a global batch of 512 rows of 2,048.

        Source: the official pre-training code, single-node script: ``learning_rate`` 1e-4 and ``min_lr`` 4e-5
        (1e-5 in its multi-node script), ``warmup_steps`` 100, cosine; ``global_batch_size`` 512 of 2,048
        tokens in micro-batches of 4; AdamW with torch's betas, decay .01 and none on the codebook, clip 1.0;
        bf16-mixed with activation checkpointing; seed 42. It divides the batch by the devices of one node,
        so that N nodes train on 512 N rows; here ``rows`` is that of all processes.
        """
        return cls(**({"steps": _steps(1.1e12), "codebook_weight_decay": 0.0} | _PAPER | changed))

    @classmethod
    def paper_policy(cls, **changed: Any) -> StageConfig:
        """Stage 2 likewise: 6.4e11 tokens, at which the released policy was taken (its read-me)."""
        return cls(**({"steps": _steps(6.4e11)} | _PAPER | changed))

    @property
    def tokens(self) -> int:
        """Tokens the stage reads."""
        return self.steps * self.rows * self.length

    def rate(self, step: int) -> float:
        """Learning rate of step ``step``, counted from 1, as a share of ``lr``."""
        done = step - 1
        if done < self.warmup:
            return (done + 1) / self.warmup
        progress = (done - self.warmup) / max(1, self.steps - self.warmup)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


_PAPER: JsonObject = {
    "rows": 512,
    "micro_rows": 4,
    "length": 2048,
    "lr": 1e-4,
    "warmup": 100,
    "final": 0.4,
    "weight_decay": 0.01,
    "betas": (0.9, 0.999),
    "clip": 1.0,
    "seed": 42,
    "precision": "bf16",
    "gradient_checkpointing": True,
}


def _steps(tokens: float) -> int:
    return round(tokens / (_PAPER["rows"] * _PAPER["length"]))


class StageLoss(nn.Module, ABC):
    """What a stage minimises, with the model that it is a loss of.

    DDP and FSDP wrap this module, so that :meth:`forward` (and :meth:`pool`) are all that a training loop
    calls. The global batch of a step is cut into micro-batches, in this process or in several; the loss of
    one is weighted by its share of the counted targets. A loss that is a mean over targets is then the same
    however the batch is cut. What is no such mean (a function of the batch's mean distribution, say) is made
    so by ``pooled``.

    Attributes:
        pools: whether the loss needs :meth:`pool`.
    """

    pools: bool = False

    @abstractmethod
    def forward(
        self, batch: Batch, generators: Sequence[torch.Generator], pooled: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a micro-batch.

        Args:
            batch: B rows.
            generators: a source of noise for each row, the same however the global batch is cut.
            pooled: the mean of :meth:`pool` over the global batch; not given where that is this batch alone,
                or nothing is pooled.

        Returns:
            the mean loss over the batch's counted targets, and figures for the log: means over the same
            targets, detached, of any shape. Both must be finite, and zero at best, where no target counts.
        """

    def pool(self, batch: Batch, generators: Sequence[torch.Generator]) -> Tensor:
        """What the loss of the global batch needs to know of a micro-batch: a mean over its counted targets.

        Called only where ``pools`` is set and there are several micro-batches, without gradients and before
        any :meth:`forward`.
        """
        raise TypeError(f"{type(self).__name__} sets pools and does not define pool()")

    def report(self, figures: dict[str, Tensor]) -> dict[str, float]:
        """What is logged of the figures' means over the global batch."""
        return {name: value.item() for name, value in figures.items()}

    def settings(self) -> JsonObject:
        """What else changes the result, for a resumed run to be compared with: names and JSON values."""
        return {}

    @property
    def _no_split_modules(self) -> list[str]:
        """Layers that FSDP shards one by one, as their models name them (accelerate asks for this name)."""
        present = {type(module).__name__ for module in self.modules()}
        named = {
            name for module in self.children() for name in getattr(module, "_no_split_modules", None) or ()
        }
        return sorted(named & present)


def target_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the targets that count, in float32; 0 where none does.

    Args:
        logits: [B, T, V].
        targets: [B, T], -100 where nothing counts.
    """
    total = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / (targets != IGNORED).sum().clamp_min(1)


def row_generators(seed: int, step: int, rows: range) -> list[torch.Generator]:
    """A generator for each of some rows of step ``step``'s global batch, seeded by (seed, step, row)."""
    return [torch.Generator().manual_seed(derived_seed(seed, step, row, bits=64)) for row in rows]
