"""What differs between the families of Hugging Face decoders, in one place.

Everything else here knows one kind of decoder: it reads ids or hidden states, writes its keys and values
through ``cache.update``, and gives last hidden states after a final norm. A family adds its own
attention mask (sliding windows, one mask or one for each type of layer), how its logits are capped, and
names of fields. Embeddings are scaled inside Gemma's embedding module, so hidden states that are fed to a
stack as ``inputs_embeds`` are not scaled again.

Shapes: B rows, T queries, S keys, D hidden, V vocabulary.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from cola_agents.model.versions import cache_argument

Mask = Tensor | dict[str, Tensor] | None

#: ``model_type`` -> which masks the family's decoder takes: one, one that holds the sliding window where
#: there is one, or a dict by type of layer.
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

#: Rotary embeddings whose frequencies are the same for every row and length.
ROPES = ("default", "linear", "llama3", "yarn")


def check_family(config: PretrainedConfig) -> None:
    """Refuse a decoder whose masks, heads or positions are not known to be right here.

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
    """Refuse rotary embeddings that are not known to depend on a token's own position alone.

    "dynamic" and "longrope" choose their frequencies by the longest row of a pass: a row's states would
    depend on its neighbours, and keys that a cache holds would not fit those that come after.

    Args:
        config: a decoder's own configuration; of any family, also of one without rotary embeddings.

    Raises:
        ValueError: naming those that are supported.
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
    told = getattr(config, "rope_parameters", None) or {}
    each = [told] if "rope_type" in told else [part for part in told.values() if isinstance(part, dict)]
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

    Its layers have the types of the base's first ones; a stack that is deeper than the base goes through
    the base's types again.
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
    """The activation of the family's gated MLP: Gemma 2 and 3 call the field otherwise."""
    field = "hidden_activation" if hasattr(config, "hidden_activation") else "hidden_act"
    return str(getattr(config, field))


def decoder_mask(stack: PreTrainedModel, mask: Mask, at: Tensor | None = None) -> Mask:
    """An attention mask in the form that a decoder takes, sliding windows included.

    A decoder passes a mask of four dimensions on to its attention as it is. So whoever brings one has to
    know the family's windows, and that "eager" attention adds the mask where "sdpa" looks at it.

    Args:
        stack: a decoder of a supported family.
        mask: which keys a query may see, windows aside: [B or 1, 1, T, S] bool. Anything else (None, a
            padding mask [B, T], a mask that was made ready) is returned as it is.
        at: the index of each query among the keys, [B or 1, T]; None for the last T.

    Returns:
        the mask, or a dict of masks by type of layer.

    Raises:
        ValueError: for a family or an attention implementation that takes no such mask.
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
    made: dict[str, Tensor] = {}
    for kind in _layer_types(config):
        seen = mask
        if kind == _SLIDING:
            length, width = mask.shape[-1], mask.shape[-2]
            keys = torch.arange(length, device=mask.device)
            queries = keys[None, length - width :] if at is None else at
            seen = mask & (keys > queries[:, None, :, None] - config.sliding_window)
        if implementation == "eager":
            dtype = stack.dtype
            seen = torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
        made[kind] = seen
    return _as_taken(config, made)


def cached_mask(
    stack: PreTrainedModel, embeddings: Tensor, padding: Tensor | None, cache: Cache, positions: Tensor | None
) -> Mask:
    """The mask of T further positions over a Hugging Face cache, made before any stack writes to it.

    Args:
        stack: a decoder of a supported family.
        embeddings: of the new positions [B, T, D]; only shape and type are looked at.
        padding: a padding mask [B, S] or None.
        cache: a cache that holds what came before.
        positions: position ids [B, T] or None.
    """
    makers = {_FULL: create_causal_mask, _SLIDING: create_sliding_window_causal_mask}
    made: dict[str, Tensor] = {
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
    return _as_taken(stack.config, made)


def _as_taken(config: PretrainedConfig, made: dict[str, Tensor]) -> Mask:
    if FAMILIES[config.model_type] == "by layer type":
        return made
    (mask,) = made.values()
    return mask


class CappedLinear(nn.Linear):
    """A head whose logits are squashed into (-cap, cap): ``cap * tanh(x W' / cap)``.

    The families that cap their final logits (Gemma 2) do so outside their head; who takes the head alone
    would get other probabilities.
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
    """A causal LM's head with the capping that its ``forward`` would do; the weight is shared."""
    cap = getattr(config, "final_logit_softcapping", None)
    if cap is None or isinstance(head, CappedLinear):
        return head
    view = CappedLinear(head.in_features, head.out_features, cap, device="meta")
    view.weight = head.weight
    return view
