"""Rotary embeddings: a row depends on its own tokens alone, or the model is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    PreTrainedModel,
    Qwen3Config,
)

from cola_agents.decoding.backbones import TokenBackbone
from cola_agents.decoding.session import Rows
from cola_agents.model.families import ROPES, check_rope
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.train.reward import RewardModel
from tests import tiny

LENGTH, LONG = 16, 40
THETA: dict[str, Any] = {"rope_theta": 10_000.0}
FIXED: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": LENGTH},
    "llama3": {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": LENGTH,
    },
}
CHANGING: dict[str, dict[str, Any]] = {
    "dynamic": {"factor": 4.0},
    "longrope": {
        "factor": 4.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": LENGTH,
    },
}
FAMILIES = {
    "llama": LlamaConfig,
    "qwen3": Qwen3Config,
    "mistral": MistralConfig,
    "gemma": GemmaConfig,
    "gemma3": Gemma3TextConfig,
}


def base_of(family: str, kind: str) -> PreTrainedModel:
    """A model with the context that the frequencies were made for, which rows may grow beyond."""
    parameters: dict[str, Any] = {"rope_type": kind, **THETA, **{**FIXED, **CHANGING}[kind]}
    if family == "gemma3":
        parameters = {"full_attention": parameters, "sliding_attention": {"rope_type": "default", **THETA}}
    torch.manual_seed(0)
    config = FAMILIES[family](
        vocab_size=tiny.VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=LENGTH,
        initializer_range=0.2,
        rope_parameters=parameters,
        **({"layer_types": ["full_attention", "sliding_attention"] * 2} if family == "gemma3" else {}),
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ROPES)
def test_a_row_is_the_same_alone_beside_a_long_one_and_in_a_plain_pass(family, kind):
    model: Any = base_of(family, kind)
    short, long = [5, 6, 7, 8, 9, 10], list(range(1, 1 + LONG))
    alone, beside = Rows(model.model, 2, 64), Rows(model.model, 2, 64)
    alone.load([0], [short[:3]])
    beside.load([0, 1], [short[:3], long])
    for token in short[3:]:
        alone.extend([0], [[token]])
        beside.extend([0, 1], [[token], [9]])
    with torch.no_grad():
        plain = model.model(input_ids=torch.tensor([short])).last_hidden_state[0]
        other = model.model(input_ids=torch.tensor([[*long, 9, 9, 9]])).last_hidden_state[0]
    torch.testing.assert_close(alone.states(0), plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(beside.states(0), plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(beside.states(1), other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", CHANGING)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_frequencies_that_change_with_the_longest_row_are_refused_at_construction(
    family, kind, tiny_tokenizer
):
    model: Any = base_of(family, kind)
    for build in (
        lambda: TokenBackbone(model, tiny_tokenizer),
        lambda: CoLAForCausalLM.from_base(model),
        lambda: Rows(model.model, 2, 64),
    ):
        with pytest.raises(ValueError, match=f"'{kind}'.*default, linear, llama3, yarn"):
            build()


def test_a_reward_model_of_such_frequencies_is_refused(tmp_path, tiny_tokenizer):
    config = base_of("llama", "dynamic").config
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'dynamic' are not supported"):
        RewardModel(tmp_path)(["a"], ["b"])


def test_up_to_the_trained_context_dynamic_is_the_default():
    """What the refusal advises."""
    dynamic, default = base_of("llama", "dynamic"), base_of("llama", "default")
    ids = torch.arange(1, 1 + LENGTH)[None]
    with torch.no_grad():
        torch.testing.assert_close(dynamic(ids).logits, default(ids).logits, rtol=0, atol=0)


def test_a_model_without_rotary_embeddings_is_none_of_this():
    check_rope(object())
