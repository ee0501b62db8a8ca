"""A decoder's last hidden states at the acting positions of whole episodes, without computing the others.

In the last layer, queries, MLP and final norm are computed at the M acting positions only, and keys and
values at the P real tokens, not at pads. The other layers run over the episodes as they are or, where these
share long prompts, over each prompt once (:mod:`cola_agents.rl.shared_prompts`). States and gradients are
those of the whole stack.

Shapes: N episodes, T positions, P real tokens, M acting positions, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cola_agents.decoding.lean import Angles, is_plain, rotate, untouched
from cola_agents.rl.shared_prompts import shared_prompts


def acting_states(trunk: Any, states: Tensor, ids: Tensor, lengths: Tensor, mask: Tensor) -> Tensor | None:
    """The trunk's last hidden states at acting positions, [M, D]; None for a trunk that must run whole.

    Args:
        trunk: a Hugging Face decoder, with or without adapters in its linear layers.
        states: the input of its first layer, [N, T, D], padded on the right; equal after equal tokens.
        ids: token ids [N, T].
        lengths: real tokens of each episode, [N].
        mask: [N, T] bool, True at the M positions.
    """
    home = type(trunk).__module__
    if not is_plain(trunk) or trunk.training:
        return None
    if not all(untouched(part) for part in trunk.modules() if type(part).__module__ == home):
        return None
    *earlier, last = trunk.layers[: trunk.config.num_hidden_layers]
    shared = shared_prompts(ids, lengths, mask, states.shape[-1]) if earlier else None
    if shared is None:
        visible = None  # causal
        positions = torch.arange(states.shape[1], device=states.device)[None]
    else:
        states, visible, positions = shared.lay(states), shared.mask(), shared.positions
    angles = trunk.rotary_emb(states, position_ids=positions)
    for layer in earlier:
        states = layer(
            states,
            attention_mask=visible,
            position_ids=positions,
            position_embeddings=angles,
            use_cache=False,
        )
    if shared is not None:
        states = shared.spread(states)
    cos, sin = Angles(trunk.rotary_emb).table(states.shape[1], states).unbind(1)
    states = _last_layer(last, states, lengths, mask, cos, sin)
    acting: Tensor = trunk.norm(states)
    return acting


def _last_layer(
    layer: Any, states: Tensor, lengths: Tensor, mask: Tensor, cos: Tensor, sin: Tensor
) -> Tensor:
    """:func:`acting_states` of one layer; cos and sin [T, 1, head_dim], the first half of sin negated."""
    attention = layer.self_attn
    heads = (-1, attention.head_dim)
    real = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
    episodes, at = real.nonzero(as_tuple=True)
    acts = mask[real]
    x = layer.input_layernorm(states[real])

    def rotated(vectors: Tensor, norm: str, at: Tensor) -> Tensor:
        vectors = vectors.unflatten(-1, heads)
        if hasattr(attention, norm):
            vectors = getattr(attention, norm)(vectors)
        return rotate(vectors, cos[at], sin[at])

    keys = _padded(rotated(attention.k_proj(x), "k_norm", at), (episodes, at), real.shape)
    values = _padded(attention.v_proj(x).unflatten(-1, heads), (episodes, at), real.shape)
    # Queries are packed: an episode's actions are consecutive, padded to the largest number of actions.
    slots = episodes[acts], (mask.cumsum(1) - 1)[mask]
    shape = (len(mask), int(mask.sum(1).max()))
    queries = _padded(rotated(attention.q_proj(x[acts]), "q_norm", at[acts]), slots, shape)
    visible = (
        torch.arange(states.shape[1], device=states.device) <= _padded(at[acts], slots, shape)[..., None]
    )
    attended = functional.scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=visible[:, None],
        scale=attention.scaling,
        enable_gqa=queries.shape[2] > keys.shape[2],
    )
    acting = states[mask] + attention.o_proj(attended.transpose(1, 2)[slots].flatten(1))
    output: Tensor = acting + layer.mlp(layer.post_attention_layernorm(acting))
    return output


def _padded(packed: Tensor, where: tuple[Tensor, Tensor], shape: torch.Size | tuple[int, ...]) -> Tensor:
    """A tensor [*shape, ...] with the entries [P, ...] at the indices ``where``, and zeros elsewhere."""
    return packed.new_zeros((*shape, *packed.shape[1:])).index_put(where, packed)
