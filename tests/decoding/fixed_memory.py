"""Models whose sessions step in fixed memory and as usual, for the tests of both."""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config

from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.model.sampling import sample
from tests import tiny

STEPS = 40


PROMPTS = [[1, 2, 3], [4], [5, 6], [7] * 30, [8]]


@functools.cache
def model_of(kind: str) -> Any:
    if kind == "token":
        return tiny.make_base()
    if kind in ("state", "difference"):
        return tiny.make_cola(kind)
    fields = tiny.make_base().config.to_dict()
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "initializer_range")
    config = {"qwen2": Qwen2Config, "qwen3": Qwen3Config}[kind](
        **{key: fields[key] for key in keys},
        num_hidden_layers=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=tiny.CONTEXT,
    )
    torch.manual_seed(1)
    return tiny.make_cola("state", base=AutoModelForCausalLM.from_config(config).eval())


@functools.cache
def backbone_of(kind: str, fixed: bool) -> LatentBackbone | TokenBackbone:
    make = TokenBackbone if kind == "token" else LatentBackbone
    return make(model_of(kind), tiny.make_tokenizer(), static=fixed)


def written(backbone: Any, temperature: float, world: float) -> tuple[list, list, np.ndarray]:
    """Tokens, actions and observations of five rows, of which one rests now and then."""
    one = backbone.session(5)
    one.load(range(5), PROMPTS)
    rng, taken, seen = np.random.default_rng(1), [], []
    draw = partial(sample, temperature=temperature)
    for t in range(STEPS):
        rows = list(range(5)) if t % 5 else [0, 2, 3]
        u, world_u = rng.random((2, len(rows)))
        drawn = None if world or not backbone.static else one.act(rows, one.device_policy(), draw, u)
        if drawn is None:
            drawn = [draw(one.policy(rows), torch.from_numpy(u))[0].numpy()]
        decoded = one.decode(rows, drawn[0], world_u, world)
        one.extend(rows, [ids.tolist() for ids in decoded.tokens])
        taken.append(drawn[0].tolist())
        seen += [one.hidden(range(5)), one.features(range(5))]
    return one.tokens, taken, np.array(seen)
