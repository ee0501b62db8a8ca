"""Stage 1: inverse dynamics, codebook and world model on a frozen base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional

from cola_agents.losses import assign_codes, gumbel_noise, negative_entropy, negative_marginal_entropy
from cola_agents.modeling import NO_INVERSE_DYNAMICS, CoLAForCausalLM, shift_codes
from cola_agents.train.data import IGNORED, Batch
from cola_agents.train.health import CollapseWatch
from cola_agents.train.loop import StageConfig, run_stage
from cola_agents.train.metrics import perplexity

WORLD_MODULES = ("inverse_trunk", "inverse_head", "codebook", "merge")
#: Trained with them where the readout has a norm of its own.
READOUT_MODULES = ("readout_norm",)


@dataclass(frozen=True)
class CodeConfig:
    """How codes are assigned while the world model is trained.

    Attributes:
        tau: Gumbel-softmax temperature. The official code uses 2.0; 1.0 trains better at small scale.
        entropy: weight of the per-position regulariser (official: 0.001).
        marginal: weight of the batch-marginal regulariser (not in the paper: without it the codebook
            of a small model collapses to a handful of codes).
    """

    tau: float = 1.0
    entropy: float = 0.001
    marginal: float = 0.02


def trained_parameters(model: CoLAForCausalLM, modules: tuple[str, ...]) -> list[torch.nn.Parameter]:
    """Freeze the model except the named modules, whose parameters are returned."""
    model.requires_grad_(False)
    parameters = []
    for name in modules:
        module = getattr(model, name)
        if module is None:
            raise ValueError(NO_INVERSE_DYNAMICS)
        parameters += list(module.requires_grad_(True).parameters())
    return parameters


def pretrain_world(
    model: CoLAForCausalLM,
    batches: Iterator[Batch],
    config: StageConfig,
    codes: CodeConfig | None = None,
    log: Path | None = None,
) -> None:
    """Train inverse dynamics and world model together (spec section 4, stage 1).

    The log records hold ``code_perplexity``, of the codes that the batch would have without noise; where
    it falls below a quarter of the codebook a :class:`~cola_agents.train.health.CodebookWarning` is given.
    """
    codes = codes or CodeConfig()
    noise_source = torch.Generator().manual_seed(config.seed)
    own_norm = model.config.readout == "normed_difference"
    trained = trained_parameters(model, WORLD_MODULES + READOUT_MODULES if own_norm else WORLD_MODULES)

    def loss_of(batch: Batch):
        with torch.no_grad():
            h = model.hidden(batch.ids, mask=batch.mask, positions=batch.positions)
        logits = shift_codes(model.infer(h, mask=batch.mask, positions=batch.positions))
        assigned = assign_codes(logits, gumbel_noise(logits.shape, noise_source), codes.tau)
        tokens = model.world_from_vectors(h, assigned.straight_through @ model.codebook.weight)
        ce = functional.cross_entropy(tokens.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)
        counts = batch.targets != IGNORED
        loss = (
            ce
            + codes.entropy * negative_entropy(assigned.probs, counts)
            + codes.marginal * negative_marginal_entropy(assigned.probs, counts)
        )
        used = torch.bincount(logits.argmax(-1)[counts], minlength=logits.shape[-1])
        return loss, {"world_ce": ce.item(), "code_perplexity": round(perplexity(used), 3)}

    watch = CollapseWatch(model.config.num_codes, config.warmup)
    run_stage("world", trained, loss_of, batches, config, log, watch)
    model.eval()
