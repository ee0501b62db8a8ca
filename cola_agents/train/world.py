"""Stage 1: train inverse dynamics, codebook and world model on a frozen base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from cola_agents.model.modeling import NO_INVERSE_DYNAMICS, CoLAForCausalLM, shift_codes
from cola_agents.model.spans import Spans, find_spans, read_codes
from cola_agents.train.code_losses import (
    CodeAssignment,
    assign_codes,
    gumbel_noise,
    mean_distribution,
    negative_entropy,
    negative_marginal_entropy,
)
from cola_agents.train.data.packing import IGNORED, Batch
from cola_agents.train.health import CollapseWatch
from cola_agents.train.loop import run_stage
from cola_agents.train.metrics import perplexity
from cola_agents.train.options import CodeConfig, StageConfig
from cola_agents.train.stage import StageLoss
from cola_agents.train.states import StateCache, frozen_states, opened, settings_of
from cola_envs.jsonl import JsonObject

WORLD_MODULES = ("inverse_trunk", "inverse_head", "codebook", "merge")
#: Trained too in a model that has them: a norm of the readout's own, and vectors of a span's tokens.
OPTIONAL_MODULES = ("readout_norm", "phases")


def trained_parameters(model: CoLAForCausalLM, modules: tuple[str, ...]) -> list[torch.nn.Parameter]:
    """Freeze the model except ``modules``; return their parameters."""
    kept = [getattr(model, name) for name in modules]
    if None in kept:
        raise ValueError(NO_INVERSE_DYNAMICS)
    model.requires_grad_(False)
    parameters = []
    for module in kept:
        parameters += list(module.requires_grad_(True).parameters())
    return parameters


class WorldLoss(StageLoss):
    """Cross-entropy of the next token under the inverse dynamics' relaxed codes, with regularisers.

    The batch-marginal regulariser is a function of the mean code distribution of the global batch. With
    several micro-batches the mean is computed first, which takes another forward pass of base and inverse
    dynamics; ``marginal=0`` (the paper's) avoids it.

    For codes that last k tokens each document is divided into spans of k, the first whole one beginning at a
    random one of its first k tokens. The inverse dynamics reads a span's code where the span ends, with one
    noise, and the world model predicts all of its tokens under that code.
    """

    def __init__(self, model: CoLAForCausalLM, codes: CodeConfig, states: StateCache | None = None) -> None:
        super().__init__()
        self.model = model
        self.codes = codes
        self._states = states
        self.pools = codes.marginal != 0

    def forward(
        self, batch: Batch, generators: Sequence[torch.Generator], pooled: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        codes, counted = self.codes, batch.targets != IGNORED
        h, logits, assigned, phase = self._assign(batch, generators)
        vectors = self.model.vectors(assigned.straight_through @ self.model.codebook.weight, phase)
        z = self.model.world_state(h, vectors)
        ce = self.token_loss(z, self.model.lm_head, batch.targets)
        loss = ce + codes.entropy * negative_entropy(assigned.probs, counted)
        if self.pools:
            loss = loss + codes.marginal * negative_marginal_entropy(assigned.probs, counted, pooled)
        used = torch.bincount(logits.argmax(-1)[counted], minlength=logits.shape[-1])
        return loss, {"world_ce": ce.detach(), "code_use": used / counted.sum().clamp_min(1)}

    def pool(self, batch: Batch, generators: Sequence[torch.Generator]) -> Tensor:
        """The mean code distribution [A] over the counted positions."""
        return mean_distribution(self._assign(batch, generators)[2].probs, batch.targets != IGNORED)

    def _assign(
        self, batch: Batch, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor, CodeAssignment, Tensor | None]:
        """Hidden states [B, T, D], their spans' code logits [B, T, A], the codes drawn, and phases [B, T]."""
        mask = self.mask(batch)
        h = frozen_states(self.model, self._states, batch, self.mask)
        logits = self.model.infer(h, mask=mask, positions=batch.positions)
        spans = random_spans(self.model, batch, h, generators)
        logits = (shift_codes(logits) if spans is None else read_codes(logits, spans.end)).float()
        noise = torch.stack([gumbel_noise(logits.shape[1:], generator) for generator in generators])
        noise = noise.to(logits.device)
        if spans is not None:
            noise = read_codes(noise, spans.end)
        drawn = assign_codes(logits, noise, self.codes.tau)
        return h, logits, drawn, None if spans is None else spans.phase

    def report(self, figures: dict[str, Tensor]) -> dict[str, float]:
        """``world_ce``, and ``code_perplexity`` of the codes without noise."""
        return {
            "world_ce": figures["world_ce"].item(),
            "code_perplexity": round(perplexity(figures["code_use"]), 3),
        }

    def settings(self) -> JsonObject:
        codes = {f"codes.{name}": value for name, value in asdict(self.codes).items()}
        return codes | settings_of(self._states)


def random_spans(
    model: CoLAForCausalLM, batch: Batch, h: Tensor, generators: Sequence[torch.Generator]
) -> Spans | None:
    """The spans of a batch's documents, each document's beginning in a random phase.

    Args:
        h: the batch's hidden states [B, T, D].
        generators: one for each row.

    Returns:
        the spans; None for a model whose codes last one token, for which nothing is drawn.
    """
    config = model.config
    if config.span == 1:
        return None
    size = batch.ids.shape[1:]
    drawn = torch.stack([torch.randint(config.span, size, generator=source) for source in generators])
    closing = model.closing(batch.ids, h)
    return find_spans(config.span, batch.ids, batch.segments, drawn.to(batch.ids.device), closing)


def pretrain_world(
    model: CoLAForCausalLM,
    batches: Iterator[Batch],
    config: StageConfig,
    codes: CodeConfig | None = None,
    log: Path | None = None,
    *,
    checkpoints: Path | None = None,
    states: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> list[dict[str, float]]:
    """Train inverse dynamics, codebook and world model together.

    The log records hold ``code_perplexity``, the perplexity of the batch's codes without noise; below a
    quarter of the codebook's size a :class:`~cola_agents.train.health.CodebookWarning` is issued.

    Args:
        states: folder of a :class:`~cola_agents.train.states.StateCache`, from which the frozen base's states
            are read, and to which missing ones are added; None to compute them in every step.

    Returns:
        the log records; the other arguments and errors are those of
        :func:`cola_agents.train.loop.run_stage`.
    """
    present = tuple(name for name in OPTIONAL_MODULES if getattr(model, name) is not None)
    trained = trained_parameters(model, WORLD_MODULES + present)
    with opened(states, model, config.precision) as cache:
        return run_stage(
            "world",
            WorldLoss(model, codes or CodeConfig(), cache),
            trained,
            batches,
            config,
            log=log,
            watch=CollapseWatch(model.config.num_codes, config.warmup),
            checkpoints=checkpoints,
            say=say,
        )
