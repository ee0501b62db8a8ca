"""Stage 0: pre-train a base language model from scratch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from cola_agents.model.families import capped, mask_arguments
from cola_agents.train.data.packing import Batch
from cola_agents.train.loop import run_stage
from cola_agents.train.options import StageConfig
from cola_agents.train.stage import StageLoss


def tiny_llama(vocab_size: int, eos_token_id: int) -> LlamaForCausalLM:
    """The architecture of the bundled base: 3 layers of width 96, context 2,048, freshly initialised."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=96,
            intermediate_size=288,
            num_hidden_layers=3,
            num_attention_heads=3,
            num_key_value_heads=3,
            max_position_embeddings=2048,
            initializer_range=0.06,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=eos_token_id,
            pad_token_id=eos_token_id,
        )
    )


class BaseLoss(StageLoss):
    """Next-token cross-entropy of a causal LM within documents."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.decoder = model.model
        self.head = capped(model.lm_head, model.config)

    def forward(
        self, batch: Batch, generators: Sequence[torch.Generator], pooled: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        h = self.decoder(
            batch.ids,
            position_ids=batch.positions,
            use_cache=False,
            **mask_arguments(self.decoder, self.mask(batch)),
        ).last_hidden_state
        loss = self.token_loss(h, self.head, batch.targets)
        return loss, {"base_ce": loss.detach()}


def pretrain_base(
    model: PreTrainedModel,
    batches: Iterator[Batch],
    config: StageConfig,
    log: Path | None = None,
    *,
    checkpoints: Path | None = None,
) -> list[dict[str, float]]:
    """Train every weight of a causal LM by next-token cross-entropy within documents.

    Returns:
        the log records; arguments and errors are those of :func:`cola_agents.train.loop.run_stage`.
    """
    model.requires_grad_(True)
    objective = BaseLoss(model)
    records = run_stage(
        "base", objective, list(objective.parameters()), batches, config, log=log, checkpoints=checkpoints
    )
    model.eval()
    return records
