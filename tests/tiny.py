"""Tiny random models, built in milliseconds: the mathematics is that of the large ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from cola_agents.modeling import CoLAForCausalLM
from cola_agents.train.tokenizer import train_tokenizer

#: Values of the official code on tiny models; they live beside a developer's checkout, not in it.
FIXTURES = Path(__file__).parents[2] / "shared" / "fixtures"

VOCAB = 288
TOKENIZER = 280  # smaller than VOCAB, so that some ids stand for nothing
CODES = 16
CONTEXT = 512

LINES = (
    "Q: 8+6-4=?\nA: The answer is \\boxed{10}.",
    "Story: The small cat sleeps near the river. It sees a red ball.",
    "<think>3+4=7</think><answer>7</answer>",
)


def make_tokenizer() -> Any:
    return train_tokenizer(LINES, vocab_size=TOKENIZER)


def make_base(seed: int = 0, **changed: Any) -> LlamaForCausalLM:
    """A Llama of 2 layers and width 32 with grouped-query attention."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        # Wide enough that codes, tokens and positions all make a visible difference.
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
        **changed,
    }
    return LlamaForCausalLM(LlamaConfig(**settings)).eval()


def make_cola(readout: str = "state", seed: int = 0, **changed: Any) -> CoLAForCausalLM:
    """A CoLA model around :func:`make_base`; its norms are drawn too, so that a wrong one shows."""
    settings: dict[str, Any] = {
        "num_codes": CODES,
        "num_inverse_layers": 1,
        "num_merge_layers": 2,
        "num_policy_layers": 2,
        "readout": readout,
        **changed,
    }
    model = CoLAForCausalLM.from_base(make_base(seed), **settings).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def official(folder: str) -> tuple[CoLAForCausalLM, dict[str, torch.Tensor]]:
    """A model built from an official fixture, and the official code's values on it."""
    path = FIXTURES / folder
    fields = json.loads((path / "config.json").read_text())
    for other in ("architectures", "torch_dtype", "transformers_version", "model_type", "v"):
        fields.pop(other, None)
    sizes = {
        "num_codes": fields.pop("num_code"),
        "num_inverse_layers": fields.pop("num_action_layer"),
        "num_merge_layers": fields.pop("num_dyna_layer"),
        "num_policy_layers": fields.pop("num_policy_layer"),
    }
    base = LlamaForCausalLM(LlamaConfig(**fields, attn_implementation="eager"))
    model = CoLAForCausalLM.from_base(base, readout="difference", **sizes)
    model.load_state_dict({_ours(k): _shaped(k, v) for k, v in load_file(path / "model.safetensors").items()})
    return model.eval(), load_file(path / "golden.safetensors")


_PREFIXES = (
    ("model.embed_tokens.", "base.embed_tokens."),
    ("model.layers.", "base.layers."),
    ("model.norm.", "base.norm."),
    ("model.action_layers.", "inverse_trunk.layers."),
    ("model.action_norm.", "inverse_trunk.norm."),
    ("model.action_head.", "inverse_head."),
    ("model.action_code_book.", "codebook."),
    ("model.action_merge_layers.", "merge."),
    ("model.policy_layers.", "policy_trunk.layers."),
    ("model.policy_norm.", "policy_trunk.norm."),
    ("model.policy_head.", "policy_head."),
)


def _ours(key: str) -> str:
    for theirs, ours in _PREFIXES:
        if key.startswith(theirs):
            return ours + key[len(theirs) :]
    return key


def _shaped(key: str, value: torch.Tensor) -> torch.Tensor:
    # A code's vector is a column of the official weight and a row of ours.
    return value.T.contiguous() if "action_code_book" in key else value
