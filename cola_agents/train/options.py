"""The options of the training stages and their defaults.

This module imports neither torch nor numpy: the help of ``cola pretrain`` reads it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cola_agents.common.checks import check_fields
from cola_agents.common.rates import scheduled_rate

PRECISIONS = ("float32", "bf16")
ATTENTIONS = ("mask", "documents")
#: Torch's generators take 64 bits, and some of a run's seeds are the next ones.
MOST_SEED = 2**63 - 1
#: Rows up to this length are masked by default: there the mask costs little. The bundled models' are such.
_MASKED_LENGTH = 512
#: Fields of :class:`StageConfig` that are whole numbers.
_COUNTS = ("steps", "rows", "length", "warmup", "seed", "log_every", "micro_rows", "save_every", "keep")
#: The least value of those that are not optional.
_LEAST = {**dict.fromkeys(("steps", "rows", "save_every", "keep", "log_every"), 1), "length": 8}
_LEAST |= {"seed": 0, "warmup": 0}


@dataclass(frozen=True)
class StageConfig:
    """Options of a training stage: length, batch, optimiser, precision, checkpoints.

    The defaults are for models of the bundled size; :meth:`paper_world` and :meth:`paper_policy` give the
    paper's values.

    Attributes:
        steps: optimiser steps.
        rows, length: shape of the global batch: rows of packed documents and their length in tokens. It
            does not depend on the number of micro-batches and processes.
        lr: peak learning rate, after a linear warm-up of ``warmup`` steps; a cosine decays it to ``final``
            times the peak. A run of fewer steps than ``warmup`` does not reach it, with a UserWarning.
        weight_decay, betas, clip: AdamW's options, and the largest norm of the gradient of all weights.
        seed: seed of the data order and the noise of the stage, below 2**63.
        log_every: steps between two log records.
        tensorboard: whether records also go to TensorBoard, next to the log file: None if it is installed,
            True to require it, False for never.
        micro_rows: rows of a micro-batch, which is one forward and backward pass; None for all rows of a
            process. Gradients are accumulated over a process' micro-batches.
        codebook_weight_decay: weight decay of the codebook; None for ``weight_decay``.
        precision: ``"float32"``, or ``"bf16"`` to compute in bfloat16 (autocast) with losses in float32.
        low_precision_weights: keep trained weights in the type in which they were loaded. Otherwise they,
            their gradients and the optimiser's moments are float32.
        gradient_checkpointing: recompute the activations of trained decoder layers in the backward pass:
            less memory, about a third more arithmetic, the same gradients.
        save_every: steps between two checkpoints, if there is a folder for checkpoints.
        keep: number of checkpoints to keep, the last ones.
        attention: how documents of a row are kept apart: ``"mask"``, by a mask of length x length, or
            ``"documents"``, by attention that computes no more than each document needs, where the model and
            its device allow it (see :func:`~cola_agents.model.documents.takes_documents`); None for
            ``"documents"`` in rows of more than 512 tokens. The results differ by rounding.
        liger: compute the cross-entropy over the vocabulary with Liger's kernel, on a GPU.
        compile: compile the trained layers with ``torch.compile``.
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
    attention: str | None = None
    liger: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            absent = name == "micro_rows" and value is None
            if not absent and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{name} must be a whole number, got {value!r}")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is not one of {PRECISIONS}")
        if self.attention not in (None, *ATTENTIONS):
            raise ValueError(f"attention={self.attention!r} is not one of {ATTENTIONS}, or None")
        if self.micro_rows is not None and (self.micro_rows < 1 or self.rows % self.micro_rows):
            raise ValueError(f"rows={self.rows} is not a multiple of micro_rows={self.micro_rows}")
        if self.seed > MOST_SEED:
            raise ValueError(f"seed must be at most {MOST_SEED} (2**63 - 1), got {self.seed}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be positive and finite, got {self.lr}")
        if not self.clip > 0:
            raise ValueError(f"clip must be positive, got {self.clip}")
        for name in ("final", "weight_decay", "codebook_weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {value}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers from 0 to below 1, got {self.betas}")

    @classmethod
    def paper_world(cls, **changed: Any) -> StageConfig:
        """Stage 1 as its authors trained it: 1.1e12 tokens at a global batch of 512 rows of 2,048.

        Source: the official pre-training code, single-node script: ``learning_rate`` 1e-4 and ``min_lr`` 4e-5
        (1e-5 in its multi-node script), ``warmup_steps`` 100, cosine; ``global_batch_size`` 512 of 2,048
        tokens in micro-batches of 4; AdamW with torch's betas, decay .01 and none on the codebook, clip 1.0;
        bf16-mixed with activation checkpointing; seed 42. That code divides the batch by the devices of one
        node, so that N nodes train on 512 N rows; here ``rows`` counts the rows of all processes.
        """
        return cls(**({"steps": _steps(1.1e12), "codebook_weight_decay": 0.0} | _PAPER | changed))

    @classmethod
    def paper_policy(cls, **changed: Any) -> StageConfig:
        """Stage 2: the same settings and 6.4e11 tokens, the number in the read-me of the released policy."""
        return cls(**({"steps": _steps(6.4e11)} | _PAPER | changed))

    @property
    def by_documents(self) -> bool:
        """Whether rows are attended to document by document, where that is possible."""
        return self.attention == "documents" or (self.attention is None and self.length > _MASKED_LENGTH)

    @property
    def tokens(self) -> int:
        """Tokens that the stage trains on."""
        return self.steps * self.rows * self.length

    def rate(self, step: int) -> float:
        """Learning rate of step ``step``, counted from 1, as a share of ``lr``."""
        return scheduled_rate(step, steps=self.steps, warmup=self.warmup, final=self.final)


def short_warmup(steps: int, warmup: int) -> int:
    """Steps of warm-up of a stage that may be short: ``warmup``, or an eighth of all where that is less."""
    return min(warmup, math.ceil(steps / 8))


_PAPER: dict[str, Any] = {
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


def paper_fta(steps: int, **changed: Any) -> StageConfig:
    """The authors' configuration of all three steps of FTA; they train for one epoch, here ``steps`` steps.

    Source: the official post-training scripts: ``learning_rate`` 5e-6, ``train_batch_size`` 256, ``max_len``
    2,048 for NuminaMath-CoT (512 for the domains: ``length=512``), ``max_epochs`` 1; Adam, betas (.9, .95),
    no decay, clip 1.0, cosine to a tenth, warm-up of 3 % of the steps, bf16. Their batch has 256 documents,
    ours 256 rows, each packed with as many documents as fit. Micro-batches of 4 rows and activation
    checkpointing are ours and do not change the result.
    """
    paper: dict[str, Any] = {
        "rows": 256,
        "micro_rows": 4,
        "length": 2048,
        "lr": 5e-6,
        "warmup": math.ceil(0.03 * steps),
        "final": 0.1,
        "weight_decay": 0.0,
        "betas": (0.9, 0.95),
        "clip": 1.0,
        "precision": "bf16",
        "gradient_checkpointing": True,
    }
    return StageConfig(steps=steps, **(paper | changed))


@dataclass(frozen=True)
class CodeConfig:
    """Options of the code assignment in the training of the world model.

    Attributes:
        tau: Gumbel-softmax temperature. The official code uses 2.0; 1.0 trains better at small scale.
        entropy: weight of the per-position regulariser (official: 0.001).
        marginal: weight of the batch-marginal regulariser, which is not in the paper: without it the
            codebook of a small model collapses to a handful of codes.

    Raises:
        ValueError: for a temperature that is not positive, a negative weight, or a number that is not finite.
    """

    tau: float = 1.0
    entropy: float = 0.001
    marginal: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.tau < math.inf:
            raise ValueError(f"the temperature tau (--tau) must be positive and finite, got {self.tau}")
        for name in ("entropy", "marginal"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} (--{name}) must be a finite number of at least 0, got {getattr(self, name)}: a "
                    "negative weight would reward the collapse of the codebook"
                )

    @classmethod
    def paper(cls) -> CodeConfig:
        """The official code's options: temperature 2.0, only the per-position regulariser."""
        return cls(tau=2.0, entropy=0.001, marginal=0.0)


#: Discount factor per action of a Q-function: the official code's.
DISCOUNT = 0.99


@dataclass(frozen=True)
class FitConfig:
    """Options of :func:`cola_agents.search.fitting.fit`.

    Attributes:
        steps: optimiser steps.
        batch_size: episodes per step (official, of the Q-function: 256).
        lr: Adam's learning rate; warmed up over 3 % of the steps, then constant (official: 5e-6 for an 8B
            model).
        clip: the largest gradient norm.
        check_every: steps between two evaluations on the held-out episodes, if there are any.
        seed: seed of the order of the episodes, 0 or above.
    """

    steps: int = 1000
    batch_size: int = 64
    lr: float = 1e-3
    clip: float = 1.0
    check_every: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "check_every")
        check_fields(self, counts=counts, seeds=("seed",), positive=("lr", "clip"))


@dataclass(frozen=True)
class QConfig(FitConfig):
    """Options of :func:`cola_agents.search.q.train_q`: those of :class:`FitConfig`, and one more.

    Attributes:
        target_every: steps between two copies of the weights to the target network (official: 50 micro
            steps).
    """

    target_every: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, counts=("target_every",))
