"""Stage 2: clone the policy from the inverse dynamics (behaviour cloning)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cola_agents.model.modeling import NO_INVERSE_DYNAMICS, CoLAForCausalLM, shift_codes
from cola_agents.model.spans import ends_from_everywhere, read_codes
from cola_agents.train.cross_entropy import target_cross_entropy
from cola_agents.train.data.packing import IGNORED, Batch
from cola_agents.train.loop import run_stage
from cola_agents.train.options import StageConfig
from cola_agents.train.stage import StageLoss
from cola_agents.train.states import StateCache, frozen_states, opened, settings_of
from cola_agents.train.world import trained_parameters
from cola_envs.jsonl import JsonObject

POLICY_MODULES = ("policy_trunk", "policy_head")


class CloneLoss(StageLoss):
    """Cross-entropy of the policy against the codes of the inverse dynamics.

    The target is the argmax without noise, shifted by one position. Positions without a next token, whose
    code has no meaning, are left out; the official code counts them.

    A code that lasts several tokens is chosen at the first state of its span only, and training divides texts
    into spans at random, so that every state is the first of a span at some time. The policy learns in each
    the code of the span that would begin there.
    """

    def __init__(self, model: CoLAForCausalLM, states: StateCache | None = None) -> None:
        super().__init__()
        self.model = model
        self._states = states

    def forward(
        self, batch: Batch, generators: Sequence[torch.Generator], pooled: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mask = self.mask(batch)
        h = frozen_states(self.model, self._states, batch, self.mask)
        with torch.no_grad():
            inferred = self.model.infer(h, mask=mask, positions=batch.positions)
            codes = span_codes(self.model, batch, h, inferred)
        logits = self.model.policy(h, mask=mask, positions=batch.positions)
        loss = target_cross_entropy(logits, codes.masked_fill(batch.targets == IGNORED, IGNORED))
        return loss, {"clone_ce": loss.detach()}

    def settings(self) -> JsonObject:
        return settings_of(self._states)


def span_codes(model: CoLAForCausalLM, batch: Batch, h: Tensor, logits: Tensor) -> Tensor:
    """The inverse dynamics' code of the span that begins in each state, [B, T].

    Args:
        h: hidden states [B, T, D].
        logits: its logits, unshifted, [B, T, A].
    """
    if model.config.span == 1:
        return shift_codes(logits).argmax(-1)
    closing = model.closing(batch.ids, h)
    ends = ends_from_everywhere(model.config.span, batch.ids, batch.segments, closing)
    return read_codes(logits, ends).argmax(-1)


def clone_policy(
    model: CoLAForCausalLM,
    batches: Iterator[Batch],
    config: StageConfig,
    log: Path | None = None,
    *,
    checkpoints: Path | None = None,
    states: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> list[dict[str, float]]:
    """Train the policy to predict from past tokens the codes that the inverse dynamics infers from the next.

    Args:
        states: as in :func:`~cola_agents.train.world.pretrain_world`.

    Returns:
        the log records; the other arguments and errors are those of
        :func:`cola_agents.train.loop.run_stage`.
    """
    if model.inverse_trunk is None:
        raise ValueError(NO_INVERSE_DYNAMICS)
    trained = trained_parameters(model, POLICY_MODULES)
    with opened(states, model, config.precision) as cache:
        objective = CloneLoss(model, cache)
        return run_stage(
            "policy", objective, trained, batches, config, log=log, checkpoints=checkpoints, say=say
        )
