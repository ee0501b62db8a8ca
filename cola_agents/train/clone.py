"""Stage 2: clone the policy from the inverse dynamics (behaviour cloning)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cola_agents.model.modeling import NO_INVERSE_DYNAMICS, CoLAForCausalLM, shift_codes
from cola_agents.train.data.packing import IGNORED, Batch
from cola_agents.train.loop import run_stage
from cola_agents.train.stage import StageConfig, StageLoss, target_cross_entropy
from cola_agents.train.world import trained_parameters

POLICY_MODULES = ("policy_trunk", "policy_head")


class CloneLoss(StageLoss):
    """Cross-entropy of the policy against the codes of the inverse dynamics.

    The target is the argmax without noise, shifted by one position. Positions without a next token, whose
    code has no meaning, are left out; the official code counts them.
    """

    def __init__(self, model: CoLAForCausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, batch: Batch, generators: Sequence[torch.Generator], pooled: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mask = batch.mask
        with torch.no_grad():
            h = self.model.hidden(batch.ids, mask=mask, positions=batch.positions)
            codes = shift_codes(self.model.infer(h, mask=mask, positions=batch.positions)).argmax(-1)
        logits = self.model.policy(h, mask=mask, positions=batch.positions)
        loss = target_cross_entropy(logits, codes.masked_fill(batch.targets == IGNORED, IGNORED))
        return loss, {"clone_ce": loss.detach()}


def clone_policy(
    model: CoLAForCausalLM,
    batches: Iterator[Batch],
    config: StageConfig,
    log: Path | None = None,
    *,
    checkpoints: Path | None = None,
) -> list[dict[str, float]]:
    """Train the policy to predict from past tokens the codes that the inverse dynamics infers from the next.

    Returns:
        the log records; arguments and errors are those of :func:`cola_agents.train.loop.run_stage`.
    """
    trained = trained_parameters(model, POLICY_MODULES)
    if model.inverse_trunk is None:
        raise ValueError(NO_INVERSE_DYNAMICS)
    return run_stage("policy", CloneLoss(model), trained, batches, config, log=log, checkpoints=checkpoints)
