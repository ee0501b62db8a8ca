"""Stage 2: the policy is cloned from the inverse dynamics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional

from cola_agents.modeling import CoLAForCausalLM, shift_codes
from cola_agents.train.data import IGNORED, Batch
from cola_agents.train.loop import StageConfig, run_stage
from cola_agents.train.world import trained_parameters

POLICY_MODULES = ("policy_trunk", "policy_head")


def clone_policy(
    model: CoLAForCausalLM, batches: Iterator[Batch], config: StageConfig, log: Path | None = None
) -> None:
    """Train the policy to predict, from the past alone, the code that inverse dynamics reads.

    The target is the argmax without noise, shifted (spec section 4, stage 2). Positions without a
    next token carry no meaningful code and are left out; the official code counts them.
    """
    trained = trained_parameters(model, POLICY_MODULES)

    def loss_of(batch: Batch):
        with torch.no_grad():
            h = model.hidden(batch.ids, mask=batch.mask, positions=batch.positions)
            codes = shift_codes(model.infer(h, mask=batch.mask, positions=batch.positions)).argmax(-1)
            codes = codes.masked_fill(batch.targets == IGNORED, IGNORED)
        logits = model.policy(h, mask=batch.mask, positions=batch.positions)
        loss = functional.cross_entropy(logits.flatten(0, 1), codes.flatten(), ignore_index=IGNORED)
        return loss, {"clone_ce": loss.item()}

    run_stage("policy", trained, loss_of, batches, config, log)
    model.eval()
