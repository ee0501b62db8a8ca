"""A decoder's last hidden states where actions were taken, and nowhere else.

Of whole episodes a learner reads the states at M acting positions. The last layer's queries, its MLP and the
norm behind it are needed there alone, and its keys and values at real tokens, not at the pads behind short
episodes. The other layers run as ever. The arithmetic, and with it the gradient, is that of the whole stack.

Shapes: N episodes, T positions, P real tokens, M acting positions, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cola_agents.decoding.lean import Angles, is_plain, rotate, untouched


def acting_states(trunk: Any, states: Tensor, lengths: Tensor, mask: Tensor) -> Tensor | None:
    """The trunk's last hidden states at acting positions, [M, D]; None for a trunk that has to run as it is.

    Args:
        trunk: a Hugging Face decoder; adapters in its linear layers are part of it.
        states: what its first layer reads, [N, T, D], padded on the right.
        lengths: real tokens of each episode, [N].
        mask: [N, T] bool, True at the M positions.
    """
    own = type(trunk).__module__
    if not is_plain(trunk) or trunk.training:
        return None
    if not all(untouched(part) for part in trunk.modules() if type(part).__module__ == own):
        return None
    *earlier, last = trunk.layers[: trunk.config.num_hidden_layers]
    positions = torch.arange(states.shape[1], device=states.device)[None]
    angles = trunk.rotary_emb(states, position_ids=positions)
    for layer in earlier:
        states = layer(
            states,
            attention_mask=None,  # causal
            position_ids=positions,
            position_embeddings=angles,
            use_cache=False,
        )
    cos, sin = Angles(trunk.rotary_emb).table(states.shape[1], states).unbind(1)
    states = _last_layer(last, states, lengths, mask, cos, sin)
    acting: Tensor = trunk.norm(states)
    return acting


def _last_layer(
    layer: Any, states: Tensor, lengths: Tensor, mask: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    """:func:`acting_states` of one layer; angles [T, 1, head_dim], the first half of the sines negated."""
    attention = layer.self_attn
    heads = (-1, attention.head_dim)
    real = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
    episodes, at = real.nonzero(as_tuple=True)
    acts = mask[real]
    x = layer.input_layernorm(states[real])

    def turned(of: Tensor, norm: str, at: Tensor) -> Tensor:
        of = of.unflatten(-1, heads)
        if hasattr(attention, norm):
            of = getattr(attention, norm)(of)
        return rotate(of, cos[at], sin[at])

    keys = _padded(turned(attention.k_proj(x), "k_norm", at), (episodes, at), real.shape)
    values = _padded(attention.v_proj(x).unflatten(-1, heads), (episodes, at), real.shape)
    # An episode's actions stand one behind the other, padded to the most of an episode.
    slots = episodes[acts], (mask.cumsum(1) - 1)[mask]
    shape = (len(mask), int(mask.sum(1).max()))
    queries = _padded(turned(attention.q_proj(x[acts]), "q_norm", at[acts]), slots, shape)
    seen = torch.arange(states.shape[1], device=states.device) <= _padded(at[acts], slots, shape)[..., None]
    read = functional.scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=seen[:, None],
        scale=attention.scaling,
        enable_gqa=queries.shape[2] > keys.shape[2],
    )
    acting = states[mask] + attention.o_proj(read.transpose(1, 2)[slots].flatten(1))
    after: Tensor = acting + layer.mlp(layer.post_attention_layernorm(acting))
    return after


def _padded(packed: Tensor, where: tuple[Tensor, Tensor], shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Entries [P, ...] put where they stand in [*shape, ...], zeros elsewhere."""
    return packed.new_zeros((*shape, *packed.shape[1:])).index_put(where, packed)
