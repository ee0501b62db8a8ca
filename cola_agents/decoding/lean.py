"""A forward pass with little overhead for the plain decoders of Llama, Mistral, Qwen2 and Qwen3.

With few rows and one token each, a small model spends its time around the arithmetic: module calls, hooks,
argument checks, and angles and masks that are computed again for every pass or layer. This module does the
arithmetic of ``transformers``' decoder over the same weights and nothing else. A stack that is not plain
(another family, sliding windows, adapters, hooks, other attention) gets no plan and runs as it is.

Shapes: B rows, T queries, S keys, D hidden; H heads of keys, each shared by G heads of queries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from cola_agents.model.families import ROPES, attends_fully, rope_types

if TYPE_CHECKING:
    from transformers.modeling_layers import GradientCheckpointingLayer

#: Families whose layer is ``x + attention(norm(x))`` and then ``x + mlp(norm(x))`` with rotated queries
#: and keys and a gated MLP. Biases are used where there are some, and so are norms of queries and keys.
_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
SILU = type(ACT2FN["silu"])
_PLAIN = (nn.ModuleList, nn.Embedding, nn.Linear, SILU)
_FIRST_ANGLES = 64

Weights = tuple[Tensor, Tensor | None]


class Cache(Protocol):
    """The cache of a lean pass; it reads ``length`` positions."""

    length: int

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values [B, T, H, head_dim]; return all of the rows', [B, S, H, head_dim]."""


class Angles:
    """A table of the cosines and sines of rotary positions, computed by the family's own module."""

    def __init__(self, rotary: nn.Module) -> None:
        self._rotary = rotary
        self._table: Tensor | None = None

    def at(self, positions: Tensor, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [B, T, 1, head_dim] at positions [B, T], all of them below ``length``.

        The first half of the sines is negated, so that rotating needs no negation.
        """
        cos, sin = self.table(length, like)[positions].unbind(2)
        return cos, sin

    def table(self, length: int, like: Tensor) -> Tensor:
        """Cosines and sines of at least ``length`` positions, [positions, 2, 1, head_dim]."""
        table = self._table
        if table is None or len(table) < length or table.dtype != like.dtype or table.device != like.device:
            table = self._table = self._make(max(_FIRST_ANGLES, 1 << (length - 1).bit_length()), like)
        return table

    def renewed(self, rotary: nn.Module) -> Angles:
        """The angles of ``rotary``, in the same memory, which a CUDA graph may read."""
        self._rotary = rotary
        table = self._table
        if table is not None and table.is_inference():  # which can only be written to in inference mode
            self._table = None
        elif table is not None:
            table.copy_(self._make(len(table), table))
        return self

    @torch.no_grad()
    def _make(self, length: int, like: Tensor) -> Tensor:
        cos, sin = self._rotary(like, position_ids=torch.arange(length, device=like.device)[None])
        left, right = sin.chunk(2, dim=-1)
        return torch.stack([cos[0], torch.cat([-left, right], dim=-1)[0]], dim=1).unsqueeze(2)


@dataclass(frozen=True)
class _Layer:
    """One layer's weights: the parameters themselves, so that changes in place apply here too."""

    cache_layer: int
    attention_norm: Tensor
    mlp_norm: Tensor
    q: Weights
    k: Weights
    v: Weights
    o: Weights
    q_norm: Tensor | None
    k_norm: Tensor | None
    gate: Weights
    up: Weights
    down: Weights


@dataclass(frozen=True)
class Plan:
    """The parts of a stack that :func:`lean_forward` uses."""

    layers: tuple[_Layer, ...]
    norm: Tensor
    eps: float
    head_dim: int
    key_heads: int
    scaling: float
    angles: Angles

    @cached_property
    def weights(self) -> tuple[Tensor, ...]:
        """All weights and biases."""
        weights: list[Tensor | None] = [self.norm]
        for layer in self.layers:
            weights += [layer.attention_norm, layer.mlp_norm, layer.q_norm, layer.k_norm]
            for pair in (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down):
                weights += pair
        return tuple(weight for weight in weights if weight is not None)


def marks(weights: Iterable[Tensor]) -> tuple[tuple[int, int], ...]:
    """The address of every weight and the number of writes to it, to notice that weights changed.

    Writes through ``.data`` are not counted, nor are those of torch's fused optimisers (``fused=True``).
    """
    return tuple([(weight.data_ptr(), weight._version) for weight in weights])


def untouched(module: nn.Module) -> bool:
    """Whether a module has no hooks and no replaced ``forward``."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def is_plain(stack: nn.Module) -> bool:
    """Whether a stack is of a plain family, without sliding windows, and uses torch's attention."""
    config: PretrainedConfig = getattr(stack, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in _FAMILIES or type(stack).__module__ != f"transformers.models.{kind}.modeling_{kind}":
        return False
    if config._attn_implementation != "sdpa" or not attends_fully(config) or not config.num_hidden_layers:
        return False
    # Other types of rotary embeddings may depend on the longest row of a pass: no table can hold them.
    return rope_types(config).issubset(ROPES)


def plan(stack: PreTrainedModel, before: Plan | None = None) -> Plan | None:
    """The plan of a stack, or None for a stack that is not plain and must run as it is.

    It takes over the memory for angles of the plan ``before`` it. A session makes the plan at its first pass
    and after :meth:`~cola_agents.decoding.session.Rows.forget`. A hook that is registered in between is not
    called.
    """
    if not is_plain(stack) or stack.training:
        return None
    home, config = type(stack).__module__, stack.config
    if not all(
        (type(module).__module__ == home or type(module) in _PLAIN) and untouched(module)
        for module in stack.modules()
    ):
        return None
    layers = list(stack.layers[: config.num_hidden_layers])
    if type(layers[0].mlp.act_fn) is not SILU:
        return None
    attention = layers[0].self_attn
    return Plan(
        layers=tuple(_weights(layer) for layer in layers),
        norm=stack.norm.weight,
        eps=stack.norm.variance_epsilon,
        head_dim=attention.head_dim,
        key_heads=config.num_key_value_heads,
        scaling=attention.scaling,
        angles=Angles(stack.rotary_emb) if before is None else before.angles.renewed(stack.rotary_emb),
    )


def _weights(layer: GradientCheckpointingLayer) -> _Layer:
    def of(linear: nn.Linear) -> Weights:
        return linear.weight, linear.bias

    attention, mlp = layer.self_attn, layer.mlp
    normed = hasattr(attention, "q_norm")
    return _Layer(
        cache_layer=attention.layer_idx,
        attention_norm=layer.input_layernorm.weight,
        mlp_norm=layer.post_attention_layernorm.weight,
        q=of(attention.q_proj),
        k=of(attention.k_proj),
        v=of(attention.v_proj),
        o=of(attention.o_proj),
        q_norm=attention.q_norm.weight if normed else None,
        k_norm=attention.k_norm.weight if normed else None,
        gate=of(mlp.gate_proj),
        up=of(mlp.up_proj),
        down=of(mlp.down_proj),
    )


def lean_forward(plan: Plan, hidden: Tensor, positions: Tensor, cache: Cache, mask: Tensor | None) -> Tensor:
    """Run a planned stack.

    Args:
        plan: of a decoder in eval mode.
        hidden: the input of the first layer, [B, T, D].
        positions: [B, T].
        cache: stores keys and values.
        mask: the keys that each query attends to, [B, 1, T, S] bool; None for all.

    Returns:
        last hidden states [B, T, D].
    """
    linear, rms_norm, eps = functional.linear, functional.rms_norm, plan.eps
    size, head = hidden.shape[-1:], (plan.head_dim,)
    cos, sin = plan.angles.at(positions, cache.length, hidden)
    bias = None
    if mask is not None:
        # Otherwise attention would convert the mask in every layer.
        bias = hidden.new_zeros(()).masked_fill(~mask, float("-inf"))
    heads = (*hidden.shape[:2], -1, plan.head_dim)
    for layer in plan.layers:
        x = rms_norm(hidden, size, layer.attention_norm, eps)
        q, k, v = linear(x, *layer.q).view(heads), linear(x, *layer.k).view(heads), linear(x, *layer.v)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = rms_norm(q, head, layer.q_norm, eps), rms_norm(k, head, layer.k_norm, eps)
        keys, values = cache.store(layer.cache_layer, rotate(k, cos, sin), v.view(heads))
        attended = _attend(plan, rotate(q, cos, sin), keys, values, bias)
        hidden = hidden + linear(attended, *layer.o)
        x = rms_norm(hidden, size, layer.mlp_norm, eps)
        hidden = hidden + linear(functional.silu(linear(x, *layer.gate)) * linear(x, *layer.up), *layer.down)
    return rms_norm(hidden, size, plan.norm, eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [..., heads, head_dim]; angles [..., 1, head_dim], the first sines negated."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def _attend(plan: Plan, q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of queries [B, T, G * H, head_dim] over [B, S, H, head_dim]: [B, T, G * H * head_dim]."""
    rows, width, heads, _ = q.shape
    keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    if width == 1:
        # A group's queries have the same keys, so they can take the place of a chunk's tokens, and no kernel
        # needs to handle groups or repeat the keys.
        q = q.view(rows, plan.key_heads, -1, plan.head_dim)
        grouped = False
    else:
        q = q.transpose(1, 2)
        grouped = heads > plan.key_heads
    attended = functional.scaled_dot_product_attention(
        q, keys, values, attn_mask=bias, scale=plan.scaling, enable_gqa=grouped
    )
    return (attended if width == 1 else attended.transpose(1, 2)).reshape(rows, width, -1)
