"""Weights of the authors' pre-training code (a litgpt fork) under their official names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from transformers import PretrainedConfig

from cola_agents.model.official import rename

#: Prefix of a tensor's name here, official.
NAMES = (
    ("transformer.wte.", "model.embed_tokens."),
    ("transformer.h.", "model.layers."),
    ("transformer.ln_f.", "model.norm."),
    ("lm_head.", "lm_head."),
    ("action_transformer.h.", "model.action_layers."),
    ("action_transformer.ln_f.", "model.action_norm."),
    ("action_head.", "model.action_head."),
    ("action_code_book.", "model.action_code_book."),
    ("action_merge_layer.", "model.action_merge_layers."),
    ("policy_transformer.h.", "model.policy_layers."),
    ("policy_transformer.ln_f.", "model.policy_norm."),
    ("policy_layer.", "model.policy_head."),
)
PARTS = (
    (".norm_1.", ".input_layernorm."),
    (".norm_2.", ".post_attention_layernorm."),
    (".attn.proj.", ".self_attn.o_proj."),
    (".fc_1.", ".gate_proj."),
    (".fc_2.", ".up_proj."),
    (".proj.", ".down_proj."),
)


def litgpt_to_official(state: Mapping[str, Tensor], config: PretrainedConfig) -> dict[str, Tensor]:
    """Rename the weights of the authors' pre-training code, and split its fused attention weights.

    Args:
        state: litgpt's state dict (or gradients by its names).
        config: the base's configuration: ``num_attention_heads`` and ``num_key_value_heads`` are read.

    Raises:
        ValueError: for a name that is not litgpt's.

    Source: the conversion script of CoLA's published code. A fused weight holds, for each key-value
    head, its query heads, then the key head, then the value head.
    """
    groups = config.num_key_value_heads
    per_group = config.num_attention_heads // groups
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        renamed = rename(name, NAMES)
        if ".attn.attn." in renamed:
            heads = tensor.unflatten(0, (groups, per_group + 2, -1))
            parts = {"q": heads[:, :per_group], "k": heads[:, per_group], "v": heads[:, per_group + 1]}
            for part, weight in parts.items():
                out[renamed.replace(".attn.attn.", f".self_attn.{part}_proj.")] = weight.reshape(
                    -1, *tensor.shape[1:]
                )
            continue
        for theirs, official in PARTS:
            if theirs in renamed:
                renamed = renamed.replace(theirs, official)
                break
        out[renamed] = tensor
    return out
