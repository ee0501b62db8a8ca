"""Stage 0: the base language model (only for models grown from scratch)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from cola_agents.families import capped, decoder_mask
from cola_agents.train.data import IGNORED, Batch
from cola_agents.train.loop import StageConfig, run_stage


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


def pretrain_base(
    model: PreTrainedModel, batches: Iterator[Batch], config: StageConfig, log: Path | None = None
) -> None:
    """Train every weight of a causal LM by next-token cross-entropy within documents."""
    model.train()
    decoder, head = model.model, capped(model.lm_head, model.config)

    def loss_of(batch: Batch):
        mask = decoder_mask(decoder, batch.mask)
        h = decoder(
            batch.ids, attention_mask=mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        logits = head(h)
        loss = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)
        return loss, {"base_ce": loss.item()}

    run_stage("base", list(model.parameters()), loss_of, batches, config, log)
    model.eval()
