"""Tiny random models, built in milliseconds: the mathematics is that of the large ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.train.bundled.tokenizer import train_tokenizer

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


def make_cola(readout: str = "state", seed: int = 0, base: Any = None, **changed: Any) -> CoLAForCausalLM:
    """A CoLA model around a base, by default :func:`make_base`.

    Its norms are drawn too, so that a wrong one shows.
    """
    settings: dict[str, Any] = {
        "num_codes": CODES,
        "num_inverse_layers": 1,
        "num_merge_layers": 2,
        "num_policy_layers": 2,
        "readout": readout,
        **changed,
    }
    model = CoLAForCausalLM.from_base(base or make_base(seed), zero_start=False, **settings).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def make_spans(span: int = 3, **changed: Any) -> CoLAForCausalLM:
    """A model whose codes last several tokens; its vectors of phases differ, as those of a trained one."""
    model = make_cola(span=span, **changed)
    assert model.phases is not None
    with torch.no_grad():
        model.phases.weight.normal_(generator=torch.Generator().manual_seed(5))
    return model


def write_models(out: Path, seeds: Iterable[int]) -> Path:
    """A folder of pre-trained models as ``benchmarks models`` writes it, random and tiny."""
    tokenizer = make_tokenizer()
    for seed in seeds:
        base = make_base(seed, initializer_range=0.02)
        made = {
            "base": base,
            "cola": make_cola(seed=seed, num_codes=64),
            "rank": make_cola(base=base, num_codes=64),
            "longer": make_base(seed + 100, initializer_range=0.02),
            "fta": make_cola(seed=seed + 100, num_codes=64),
            "codes-16": make_cola(seed=seed, num_codes=16),
            "codes-256": make_cola(seed=seed, num_codes=256),
            "span-4": make_cola(seed=seed, num_codes=64, span=4),
            "span-8": make_cola(seed=seed, num_codes=64, span=8),
            "span-8-unsure": make_cola(seed=seed, num_codes=64, span=8, span_entropy=5.0),
        }
        for name, model in made.items():
            model.save_pretrained(out / str(seed) / name)
            tokenizer.save_pretrained(out / str(seed) / name)
    return out
