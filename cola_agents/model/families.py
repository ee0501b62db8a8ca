"""The differences between the families of Hugging Face decoders.

All other code assumes one kind of decoder: it reads ids or hidden states, writes its keys and values through
``cache.update``, and returns last hidden states after a final norm. A family adds its attention masks
(sliding windows, one mask or one for each type of layer), the capping of its logits, and names of fields.
Gemma scales embeddings inside its embedding module, so hidden states given to a stack as ``inputs_embeds``
are not scaled again.

Shapes: B rows, T queries, S keys, D hidden, V vocabulary.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from cola_agents.model.documents import DocumentMask
from cola_agents.model.versions import cache_argument

Mask = Tensor | dict[str, Tensor] | DocumentMask | None

#: ``model_type`` -> the masks of the family's decoder: one, one that includes any sliding window, or a dict
#: by type of layer.
FAMILIES: dict[str, Literal["one", "window", "by layer type"]] = {
    "llama": "one",
    "mistral": "window",
    "qwen2": "by layer type",
    "qwen3": "by layer type",
    "gemma": "one",
    "gemma2": "by layer type",
    "gemma3_text": "by layer type",
}
_FULL, _SLIDING = "full_attention", "sliding_attention"

#: Types of rotary embeddings whose frequencies do not depend on row or length.
ROPES = ("default", "linear", "llama3", "yarn")


def check_family(config: PretrainedConfig) -> None:
    """Raise ValueError for a decoder whose masks, heads or positions are not supported.

    Args:
        config: the decoder's own configuration.

    Raises:
        ValueError: naming the families, or the rotary embeddings, that are supported.
    """
    kind = config.model_type
    if kind not in FAMILIES:
        raise ValueError(
            f"a base of model type {kind!r} is not supported; these are: {', '.join(FAMILIES)} "
            "(of Gemma 3 the models that read text alone)"
        )
    if getattr(config, "use_bidirectional_attention", None):
        raise ValueError(
            f"this {kind} attends in both directions (use_bidirectional_attention): it is no causal LM"
        )
    if _SLIDING in _layer_types(config) and not config.sliding_window:
        raise ValueError(f"this {kind} has layers of type {_SLIDING!r}, but no sliding_window")
    check_rope(config)


def check_rope(config: PretrainedConfig) -> None:
    """Raise ValueError for rotary embeddings that depend on more than a token's position.

    "dynamic" and "longrope" choose their frequencies by the longest row of a pass: a row's states would
    depend on its neighbours, and cached keys would not fit later ones.

    Args:
        config: a decoder's own configuration; of any family, also of one without rotary embeddings.
    """
    unknown = sorted(rope_types(config) - set(ROPES))
    if unknown:
        raise ValueError(
            f"rotary embeddings of type {unknown[0]!r} are not supported; these are: {', '.join(ROPES)}. "
            "Others may choose their frequencies by the longest row, so that a row's states change with its "
            "neighbours. Load the model with rope_parameters of one of these types; up to "
            "max_position_embeddings tokens 'dynamic' is the same as 'default'"
        )


def rope_types(config: PretrainedConfig) -> set[str]:
    """The types of rotary embeddings that a decoder has: one, or one for each type of its layers."""
    rope = getattr(config, "rope_parameters", None) or {}
    each = [rope] if "rope_type" in rope else [part for part in rope.values() if isinstance(part, dict)]
    return {parameters.get("rope_type", "default") for parameters in each}


def _layer_types(config: PretrainedConfig) -> set[str]:
    """The types of attention layers that a decoder has."""
    takes = FAMILIES[config.model_type]
    if takes == "by layer type":
        return set(config.layer_types)
    return {_SLIDING if takes == "window" and config.sliding_window else _FULL}


def attends_fully(config: PretrainedConfig) -> bool:
    """Whether no layer of a decoder has a sliding window."""
    return _layer_types(config) == {_FULL}


def stack_config(config: PretrainedConfig, num_layers: int) -> PretrainedConfig:
    """The configuration of a stack of the family's layers that reads hidden states in place of ids.

    Its layers have the types of the base's first layers; a stack deeper than the base repeats them.
    """
    config = copy.deepcopy(config)
    types = getattr(config, "layer_types", None)
    if types:
        config.layer_types = [types[i % len(types)] for i in range(num_layers)]
    config.num_hidden_layers = num_layers
    config.vocab_size = 1
    config.use_cache = False
    config.pad_token_id = config.bos_token_id = config.eos_token_id = None
    return config


def activation(config: PretrainedConfig) -> str:
    """The activation of the family's gated MLP; Gemma 2 and 3 have another name for the field.

    Files of Gemma 1 may have both fields: its layers read the usual one.
    """
    other = None if config.model_type == "gemma" else getattr(config, "hidden_activation", None)
    return str(other or config.hidden_act)


def decoder_mask(stack: PreTrainedModel, mask: Mask, at: Tensor | None = None) -> Mask:
    """An attention mask in the form that a decoder takes, sliding windows included.

    A decoder passes a mask of four dimensions to its attention unchanged. So the mask must include the
    family's windows, and be additive for "eager" attention but boolean for "sdpa".

    Args:
        stack: a decoder of a supported family.
        mask: the keys that each query attends to, without windows: [B or 1, 1, T, S] bool. Anything else
            (None, a padding mask [B, T], a finished mask) is returned unchanged.
        at: the index of each query among the keys, [B or 1, T]; None for the last T.

    Returns:
        the mask, or a dict of masks by type of layer.

    Raises:
        ValueError: for a family or an attention implementation that does not take such a mask.
    """
    if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.dtype != torch.bool:
        return mask
    config = stack.config
    check_family(config)
    implementation = config._attn_implementation
    if implementation not in ("sdpa", "eager"):
        raise ValueError(
            f"attention {implementation!r} takes no mask with rows of their own: load the model with "
            "attn_implementation='sdpa' or 'eager'"
        )
    masks: dict[str, Tensor] = {}
    for kind in _layer_types(config):
        allowed = mask
        if kind == _SLIDING:
            length, width = mask.shape[-1], mask.shape[-2]
            keys = torch.arange(length, device=mask.device)
            queries = keys[None, length - width :] if at is None else at
            allowed = mask & (keys > queries[:, None, :, None] - config.sliding_window)
        if implementation == "eager":
            dtype = stack.dtype
            allowed = torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
        masks[kind] = allowed
    return _as_taken(config, masks)


def mask_arguments(stack: PreTrainedModel, mask: Mask) -> dict[str, Any]:
    """The arguments by which a decoder takes an attention mask: see :func:`decoder_mask`."""
    if isinstance(mask, DocumentMask):
        return {"attention_mask": None, "documents": mask}
    return {"attention_mask": decoder_mask(stack, mask)}


def cached_mask(
    stack: PreTrainedModel, embeddings: Tensor, padding: Tensor | None, cache: Cache, positions: Tensor | None
) -> Mask:
    """The mask of T further positions over a Hugging Face cache, before any stack writes to it.

    Args:
        stack: a decoder of a supported family.
        embeddings: of the new positions [B, T, D]; only shape and type matter.
        padding: a padding mask [B, S] or None.
        cache: a cache of the earlier positions.
        positions: position ids [B, T] or None.
    """
    makers = {_FULL: create_causal_mask, _SLIDING: create_sliding_window_causal_mask}
    masks: dict[str, Tensor] = {
        kind: makers[kind](
            config=stack.config,
            inputs_embeds=embeddings,
            attention_mask=padding,
            position_ids=positions,
            allow_is_causal_skip=False,
            **cache_argument(cache),
        )
        for kind in _layer_types(stack.config)
    }
    return _as_taken(stack.config, masks)


def _as_taken(config: PretrainedConfig, masks: dict[str, Tensor]) -> Mask:
    if FAMILIES[config.model_type] == "by layer type":
        return masks
    (mask,) = masks.values()
    return mask


class CappedLinear(nn.Linear):
    """A head whose logits are capped to (-cap, cap): ``cap * tanh(x W' / cap)``.

    Families with capped logits (Gemma 2) cap them outside their head, so that the head alone would give other
    probabilities.
    """

    def __init__(self, in_features: int, out_features: int, cap: float, device: str | None = None) -> None:
        super().__init__(in_features, out_features, bias=False, device=device)
        self.cap = cap

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> capped logits [..., V]."""
        return self.cap * torch.tanh(super().forward(x) / self.cap)


def token_head(config: PretrainedConfig) -> nn.Linear:
    """A new head from hidden states to the family's token logits."""
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is None:
        return nn.Linear(config.hidden_size, config.vocab_size, bias=False)
    return CappedLinear(config.hidden_size, config.vocab_size, cap)


def capped(head: nn.Linear, config: PretrainedConfig) -> nn.Linear:
    """A causal LM's head with the capping of its ``forward``; the weight is shared."""
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is None or isinstance(head, CappedLinear):
        return head
    view = CappedLinear(head.in_features, head.out_features, cap, device="meta")
    view.weight = head.weight
    return view
