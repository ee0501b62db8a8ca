"""A lean forward pass of the plain Llama layer, for decoding.

With few rows and one token each, a small model's time goes into what surrounds the arithmetic: module
calls, hooks, argument checks, masks that are looked at again in every layer. This does the arithmetic
of ``transformers``' Llama decoder over the same weights and nothing else. A stack that is anything but
plain (another family, adapters, biases, hooks, other attention) gets no plan, and runs as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel

_LINEARS = (
    ("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),
    ("mlp", ("gate_proj", "up_proj", "down_proj")),
)


@dataclass(frozen=True)
class _Layer:
    """One layer's weights: the parameters themselves, so that training them in place shows here."""

    cache_layer: int
    attention_norm: Tensor
    mlp_norm: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


@dataclass(frozen=True)
class Plan:
    """What :func:`lean_forward` needs of a stack, looked up once."""

    layers: tuple[_Layer, ...]
    norm: Tensor
    eps: float
    head_dim: int
    scaling: float
    grouped: bool
    rotary: nn.Module


def plan(stack: Any) -> Plan | None:
    """A plan of a stack, or None where only the stack itself is sure to compute what it computes.

    A session plans when it first runs; a hook that is registered afterwards is not called there.
    """
    if type(stack) is not LlamaModel or stack.config._attn_implementation != "sdpa":
        return None
    if stack.training or stack.config.hidden_act != "silu":
        return None
    if any(module._forward_hooks or module._forward_pre_hooks for module in stack.modules()):
        return None
    layers = list(stack.layers[: stack.config.num_hidden_layers])
    if not all(type(layer) is LlamaDecoderLayer and _is_plain(layer) for layer in layers):
        return None
    attention = layers[0].self_attn
    return Plan(
        layers=tuple(_weights(layer) for layer in layers),
        norm=stack.norm.weight,
        eps=stack.norm.variance_epsilon,
        head_dim=attention.head_dim,
        scaling=attention.scaling,
        grouped=attention.num_key_value_groups > 1,
        rotary=stack.rotary_emb,
    )


def _is_plain(layer: Any) -> bool:
    for part, names in _LINEARS:
        linears = [getattr(getattr(layer, part), name) for name in names]
        if any(type(linear) is not nn.Linear or linear.bias is not None for linear in linears):
            return False
    return True


def _weights(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        cache_layer=attention.layer_idx,
        attention_norm=layer.input_layernorm.weight,
        mlp_norm=layer.post_attention_layernorm.weight,
        q=attention.q_proj.weight,
        k=attention.k_proj.weight,
        v=attention.v_proj.weight,
        o=attention.o_proj.weight,
        gate=mlp.gate_proj.weight,
        up=mlp.up_proj.weight,
        down=mlp.down_proj.weight,
    )


def lean_forward(plan: Plan, hidden: Tensor, positions: Tensor, window: Any, mask: Tensor) -> Tensor:
    """Run a planned stack.

    Args:
        plan: of a Llama decoder in eval mode.
        hidden: what its first layer reads, [B, T, D].
        positions: [B, T].
        window: takes and gives keys and values (:class:`cola_agents.kv.Window`).
        mask: which keys a query sees, [B, 1, T, S] bool.

    Returns:
        last hidden states [B, T, D].
    """
    linear, size, eps = functional.linear, hidden.shape[-1:], plan.eps
    cos, sin = (part.unsqueeze(2) for part in plan.rotary(hidden, position_ids=positions))
    left, right = sin.chunk(2, dim=-1)
    sin = torch.cat([-left, right], dim=-1)
    heads = (*hidden.shape[:2], -1, plan.head_dim)
    for layer in plan.layers:
        x = functional.rms_norm(hidden, size, layer.attention_norm, eps)
        q = _rotate(linear(x, layer.q).view(heads), cos, sin)
        k = _rotate(linear(x, layer.k).view(heads), cos, sin)
        v = linear(x, layer.v).view(heads)
        keys, values = window.update(k.transpose(1, 2), v.transpose(1, 2), layer.cache_layer)
        seen = functional.scaled_dot_product_attention(
            q.transpose(1, 2), keys, values, attn_mask=mask, scale=plan.scaling, enable_gqa=plan.grouped
        )
        hidden = hidden + linear(seen.transpose(1, 2).flatten(2), layer.o)
        x = functional.rms_norm(hidden, size, layer.mlp_norm, eps)
        hidden = hidden + linear(functional.silu(linear(x, layer.gate)) * linear(x, layer.up), layer.down)
    return functional.rms_norm(hidden, size, plan.norm, eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [B, T, heads, head_dim]; angles [B, T, 1, head_dim], the first sines negated."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)
