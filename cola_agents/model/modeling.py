"""The latent-action model: base LM, inverse dynamics, world model and policy over one codebook.

Every public method is a pure function of the weights and its arguments. Shapes: B rows, T tokens,
D hidden, A codes, V vocabulary.

Source: CoLA, arXiv 2503.21383, and the published code of its authors.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.utils import ModelOutput

from cola_agents.common.randomness import drawn_from
from cola_agents.common.threads import check_fork
from cola_agents.model.base_reference import origin_of
from cola_agents.model.configuration import CoLAConfig
from cola_agents.model.families import (
    Mask,
    activation,
    cached_mask,
    check_family,
    mask_arguments,
    stack_config,
    token_head,
)
from cola_agents.model.hub import CoLAPreTrainedModel
from cola_agents.model.loading import ONE_AT_A_TIME, load_config, load_model
from cola_agents.model.official import DeviceMap, from_official
from cola_agents.model.reach import reachable
from cola_agents.model.sampling import sample
from cola_agents.model.sizes import GROWTH
from cola_agents.model.spans import HeldCodes, code_posterior, find_spans
from cola_agents.model.versions import cache_argument, cache_name


@dataclass
class CoLAOutput(ModelOutput):  # type: ignore[misc]  # transformers' types are not read
    """The output of :meth:`CoLAForCausalLM.forward`.

    Attributes:
        loss: cross-entropy of the next token where ``labels`` were given.
        logits: token logits of the world model under ``actions``, [B, T, V].
        cache: keys and values: the base's layers first, then the policy's.
        actions: the code chosen at each position, [B, T] int64.
        action_logits: the policy's logits, [B, T, A].
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: Cache | None = None
    actions: Tensor | None = None
    action_logits: Tensor | None = None

    @property
    def past_key_values(self) -> Cache | None:
        """The cache, by its name in transformers before 5.24."""
        return self.cache


class MergeLayer(nn.Module):
    """A gated MLP on a state and a code's vector: ``down(act(gate([z; e])) * up([z; e]))``."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(2 * hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(2 * hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)
        self.activation = ACT2FN[activation]

    def forward(self, z: Tensor, e: Tensor) -> Tensor:
        """z and e [..., D] -> [..., D], without the residual."""
        x = torch.cat([z, e], dim=-1)
        out: Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return out


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """The cache, passed by either of its names.

    Raises:
        ValueError: where both name different caches.
    """
    if cache is not None and past_key_values is not None and cache is not past_key_values:
        raise ValueError("cache and past_key_values are two names of one argument; give one of them")
    return past_key_values if cache is None else cache


NO_INVERSE_DYNAMICS = (
    "this model has no inverse dynamics (num_inverse_layers is 0; an official checkpoint with v=0), so the "
    "codes of a text cannot be inferred, and neither the world model nor the policy can be trained on text. "
    "Rollouts, generation and RL work"
)


def shift_codes(codes: Tensor) -> Tensor:
    """Shift codes by one position: t gets the code of t + 1; the last position keeps its own.

    Inverse dynamics infers the code of the step from t to t + 1 after it has read token t + 1. The code of
    the last position is meaningless without a next token.

    Args:
        codes: [B, T] codes, or [B, T, A] logits, unshifted.
    """
    return torch.cat([codes[:, 1:], codes[:, -1:]], dim=1)


def positions_of(mask: Tensor) -> Tensor:
    """Position ids of a padding mask [B, T]: counted over real tokens, 1 at pads (as ``generate`` does)."""
    positions = mask.long().cumsum(-1) - 1
    return positions.masked_fill(mask == 0, 1)


def _stack(config: PretrainedConfig, num_layers: int, first_cache_layer: int = 0) -> PreTrainedModel:
    """A decoder of ``num_layers`` layers of the base's family that reads hidden states, not ids."""
    stack = AutoModel.from_config(stack_config(config, num_layers), trust_remote_code=False)
    stack.embed_tokens = None
    for index, layer in enumerate(stack.layers):
        layer.self_attn.layer_idx = first_cache_layer + index
    return stack


class CoLAForCausalLM(CoLAPreTrainedModel, GenerationMixin):  # type: ignore[misc]  # transformers' types are not read
    """A causal language model controlled by one discrete code (latent action) per token, or per span of them.

    Args:
        config: a :class:`~cola_agents.model.configuration.CoLAConfig`.

    Modules: ``base`` (the decoder), ``lm_head``, ``inverse_trunk`` and ``inverse_head`` (inverse
    dynamics; None where ``num_inverse_layers`` is 0), ``codebook`` [A, D], ``merge`` (the world model's
    gated MLPs), ``policy_trunk`` and ``policy_head``; ``readout_norm`` under the readout
    ``"normed_difference"``; ``phases`` [k, D] for a span of k > 1 tokens. The stacks are made of the base's
    own layers, whichever of the supported families (:data:`cola_agents.model.families.FAMILIES`) it is
    of.
    """

    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "base.embed_tokens.weight"}

    def __init__(self, config: CoLAConfig) -> None:
        super().__init__(config)
        text = config.text_config
        self.base = AutoModel.from_config(text, trust_remote_code=False)
        self.lm_head = token_head(text)
        self.inverse_trunk: nn.Module | None = None
        self.inverse_head: nn.Module | None = None
        if config.num_inverse_layers:
            self.inverse_trunk = _stack(text, config.num_inverse_layers)
            self.inverse_head = nn.Linear(text.hidden_size, config.num_codes, bias=False)
        self.codebook = nn.Embedding(config.num_codes, text.hidden_size)
        self.merge = nn.ModuleList(
            MergeLayer(text.hidden_size, text.intermediate_size, activation(text))
            for _ in range(config.num_merge_layers)
        )
        self.policy_trunk = _stack(text, config.num_policy_layers, text.num_hidden_layers)
        self.policy_head = nn.Linear(text.hidden_size, config.num_codes, bias=False)
        self.readout_norm: nn.RMSNorm | None = None
        if config.readout == "normed_difference":
            self.readout_norm = nn.RMSNorm(text.hidden_size, eps=text.rms_norm_eps)
        self.phases: nn.Embedding | None = None
        if config.span > 1:
            self.phases = nn.Embedding(config.span, text.hidden_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.readout_norm:
            # A fresh base's final norm has gain 1, so its states have root mean square 1.
            init.constant_(module.weight, 2.0)
        elif module is self.phases:
            init.zeros_(module.weight)

    @classmethod
    def from_base(
        cls,
        base: PreTrainedModel | str | Path,
        *,
        seed: int | None = None,
        calibrate_on: Tensor | None = None,
        zero_start: bool = True,
        **config: object,
    ) -> CoLAForCausalLM:
        """Grow a CoLA model around a pre-trained causal LM; the new modules are freshly initialised.

        By default the new merge layers add nothing (``down_proj`` is zero), so that under the readout
        ``"state"`` every code predicts exactly what the base predicts.

        Args:
            base: a causal LM of a supported family, or a path or hub id of one (in safetensors), which is
                loaded in the type of its file. The new parts have the base's type (bfloat16 for most
                published ones, where ``make_backbone`` and ``cola pretrain`` load float32), and the model is
                on the CPU, wherever the base is: convert or move the result.
            seed: of the new weights; None for the current state of torch's generator, which stays unchanged.
            calibrate_on: token ids [B, T] of text, for the readout ``"normed_difference"``: see
                :func:`calibrate_readout`; None for 256 random ids.
            zero_start: False draws ``down_proj`` of the merge layers too, as the official code does.
            config: fields of :class:`~cola_agents.model.configuration.CoLAConfig` besides ``text_config``;
                the others are :data:`~cola_agents.model.sizes.GROWTH`, as in ``cola pretrain world``.
                Where the base's head is tied to its embedding, so is the model's, unless
                ``tie_word_embeddings=False``.

        Raises:
            ValueError: for a base of another family, with unsupported rotary embeddings or without a head,
                or ``tie_word_embeddings`` for a base with an untied head.
        """
        path = base if isinstance(base, (str, Path)) else None
        if isinstance(base, (str, Path)):
            base = reachable(base, "base")
            known = load_config(base)
            check_family(known)
            base = load_model(AutoModelForCausalLM, base, config=known)
        check_family(base.config)
        if not hasattr(base, "lm_head"):
            raise ValueError(f"a base has an lm_head, as a causal LM's; {type(base).__name__} has none")
        tied = base.lm_head.weight is base.get_input_embeddings().weight
        fields = {**GROWTH, "tie_word_embeddings": tied, **config}
        if fields["tie_word_embeddings"] and not tied:
            raise ValueError("the base's head is not its embedding: tie_word_embeddings must be False")
        # The path of the base is private, and not needed to load the model.
        text = {name: value for name, value in base.config.to_dict().items() if name != "_name_or_path"}
        whole = CoLAConfig(text_config=text, **fields)
        with drawn_from(seed), ONE_AT_A_TIME:
            model: CoLAForCausalLM = cls._from_config(whole, dtype=base.dtype)
        model.base.load_state_dict(base.model.state_dict())
        model.lm_head.load_state_dict(base.lm_head.state_dict())
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(model.generation_config, name, getattr(base.generation_config, name))
        # The readout with a norm of its own doubles the output of drawn merge layers.
        scale = 0.0 if zero_start else 1.0 if model.readout_norm is None else 0.5
        with torch.no_grad():
            for layer in model.merge:
                assert isinstance(layer, MergeLayer)
                layer.down_proj.weight.mul_(scale)
        model.origin = origin_of(base, path)
        if model.readout_norm is not None:
            if calibrate_on is None:
                shape = (4, min(64, model.config.max_position_embeddings))
                source = torch.Generator().manual_seed(0)
                calibrate_on = torch.randint(model.config.vocab_size, shape, generator=source)
            calibrate_readout(model, calibrate_on)
        return model

    @classmethod
    def from_official(
        cls, source: str | Path, *, dtype: torch.dtype | str | None = None, device_map: DeviceMap = None
    ) -> CoLAForCausalLM:
        """Load a checkpoint in the authors' format: see :func:`cola_agents.model.official.from_official`."""
        return from_official(cls, source, dtype=dtype, device_map=device_map)

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.base.get_input_embeddings()
        return embeddings

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers for the number of tokens that the model has.

        Raises:
            ValueError: for another one, before anything is changed.
        """
        rows = self.get_input_embeddings().num_embeddings
        if new_num_tokens in (None, rows):
            return self.get_input_embeddings()
        raise ValueError(
            f"the vocabulary of a latent-action model is its base's, of {rows} tokens, and {new_num_tokens} "
            "were asked for: resize the base, and grow a model around it with CoLAForCausalLM.from_base"
        )

    def hidden(
        self,
        ids: Tensor,
        *,
        mask: Mask = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The base's last normed hidden states.

        Args:
            ids: token ids [B, T].
            mask: padding mask [B, T], or an attention mask [B, 1, T, S] (bool; a family's sliding windows
                are added); a :class:`~cola_agents.model.documents.DocumentMask` within
                :func:`~cola_agents.model.documents.document_attention`; None for plain causal rows.
            positions: position ids [B, T]; counted over ``mask`` where it is a padding mask.
            cache: a cache of the earlier positions, extended in place.

        Returns:
            h [B, T, D].
        """
        return self._run(self.base, mask, positions, cache, input_ids=ids)

    def infer(self, h: Tensor, *, mask: Mask = None, positions: Tensor | None = None) -> Tensor:
        """Inverse dynamics: code logits [B, T, A], unshifted: see :func:`shift_codes`.

        Raises:
            ValueError: for a model without inverse dynamics.
        """
        if self.inverse_trunk is None or self.inverse_head is None:
            raise ValueError(NO_INVERSE_DYNAMICS)
        trunk = self._run(self.inverse_trunk, mask, positions, None, inputs_embeds=h)
        logits: Tensor = self.inverse_head(trunk)
        return logits

    def world(self, h: Tensor, a: Tensor, phase: Tensor | int | None = None) -> Tensor:
        """Token logits after taking codes.

        Args:
            h: hidden states [..., D].
            a: codes [...], one for each hidden state.
            phase: as in :meth:`vectors`.

        Returns:
            logits [..., V] of the next token.
        """
        return self.world_from_vectors(h, self.vectors(self.codebook(a), phase))

    def vectors(self, e: Tensor, phase: Tensor | int | None = None) -> Tensor:
        """The vectors [..., D] that steer the world model, of vectors e [..., D] of codes.

        Args:
            phase: of each state [...], or one for all: the number of tokens that its code has decided already
                (:mod:`cola_agents.model.spans`); None for 0. A code that decides one token has no other.
        """
        if self.phases is None:
            return e
        if phase is None or isinstance(phase, int):
            return e + self.phases.weight[phase or 0]
        steered: Tensor = e + self.phases(phase)
        return steered

    @torch.no_grad()
    def closing(self, ids: Tensor, h: Tensor, *, chunk: int = 4096) -> Tensor | None:
        """Whether a code is chosen anew after each token, however many its span has left, [...].

        That is so after a token of ``span_ends``, and where the base's prediction of the next token has an
        entropy above ``span_entropy``.

        Args:
            ids: token ids [...].
            h: the states after them [..., D].
            chunk: states whose logits are in memory at a time.

        Returns:
            [...] bool; None for a model whose spans never end early.
        """
        config, closing = self.config, None
        if config.span_ends:
            closing = torch.isin(ids, torch.tensor(config.span_ends, device=ids.device))
        if config.span_entropy is not None:
            logits = (self.lm_head(part).float() for part in h.flatten(0, -2).split(chunk))
            entropy = torch.cat([torch.special.entr(one.softmax(-1)).sum(-1) for one in logits])
            unsure = entropy.view(ids.shape) > config.span_entropy
            closing = unsure if closing is None else closing | unsure
        return closing

    def world_from_vectors(self, h: Tensor, e: Tensor) -> Tensor:
        """:meth:`world` for codes as vectors e [..., D], for example relaxed codes in training."""
        logits: Tensor = self.lm_head(self.world_state(h, e))
        return logits

    def world_state(self, h: Tensor, e: Tensor) -> Tensor:
        """The vectors [..., D] from which ``lm_head`` computes the logits of :meth:`world_from_vectors`."""
        z = h
        for layer in self.merge:
            z = z + layer(z, e).to(z.device)
        return self._before_head(z, h)

    def readout(self, z: Tensor, h: Tensor) -> Tensor:
        """Token logits [..., V] from the world model's last state z and the base's h, both [..., D]."""
        logits: Tensor = self.lm_head(self._before_head(z, h))
        return logits

    def _before_head(self, z: Tensor, h: Tensor) -> Tensor:
        if self.config.readout == "state":
            return z
        norm = self.base.norm if self.readout_norm is None else self.readout_norm
        subtracted = h.detach() if self.config.detach_state else h
        difference: Tensor = norm(z).to(h.device) - subtracted
        return difference

    def policy(
        self,
        h: Tensor,
        *,
        mask: Mask = None,
        positions: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The policy's code logits [B, T, A] for h [B, T, D]; arguments as in :meth:`hidden`."""
        trunk = self._run(self.policy_trunk, mask, positions, cache, inputs_embeds=h)
        logits: Tensor = self.policy_head(trunk)
        return logits

    @staticmethod
    def _run(
        stack: PreTrainedModel, mask: Mask, positions: Tensor | None, cache: Cache | None, **inputs: Tensor
    ) -> Tensor:
        check_fork()
        if positions is None and isinstance(mask, Tensor) and mask.dim() == 2:
            positions = positions_of(mask)[:, -next(iter(inputs.values())).shape[1] :]
        hidden: Tensor = stack(
            position_ids=positions,
            use_cache=cache is not None,
            **mask_arguments(stack, mask),
            **cache_argument(cache),
            **inputs,
        ).last_hidden_state
        return hidden

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        actions: Tensor | None = None,
        code_sampler: CodeSampler | None = None,
        past_key_values: Cache | None = None,
        phases: Tensor | None = None,
        held: HeldCodes | None = None,
        **kwargs: object,
    ) -> CoLAOutput:
        """The Hugging Face interface: token logits under the policy's codes.

        Of codes that last several tokens, every position is the first of a span unless ``phases`` are given.

        Args:
            input_ids: [B, T].
            attention_mask: padding mask [B, S], with S including cached positions.
            position_ids: [B, T]; None to count them over the mask.
            cache: a cache from an earlier call, extended in place.
            labels: [B, T] for the next-token cross-entropy; -100 is ignored.
            use_cache: return a cache.
            logits_to_keep: number of last positions for which logits, and the loss, are computed; 0 for all.
            actions: codes [B, T] to use in place of the policy's.
            code_sampler: draws the codes; None for the argmax.
            past_key_values: the name of ``cache`` in transformers before 5.24.
            phases: with ``actions``, the number of the tokens that each code has decided already, [B, T].
            held: what :meth:`generate` keeps from pass to pass; replaces ``phases``.

        Raises:
            ValueError: for two different caches, or labels with ``logits_to_keep=1``, where no label is left.
        """
        if labels is not None and logits_to_keep == 1:
            raise ValueError("labels need logits_to_keep=0, or at least 2: the first of them has no logits")
        cache = one_cache(cache, past_key_values)
        if use_cache and cache is None:
            cache = DynamicCache()
        if position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
            position_ids = positions_of(attention_mask)[:, -input_ids.shape[1] :]
        mask: Mask = attention_mask
        if cache is not None:
            # Both stacks share one mask, computed before the base extends the cache.
            embeddings = self.base.get_input_embeddings()(input_ids)
            mask = cached_mask(self.base, embeddings, attention_mask, cache, position_ids)
            if position_ids is None:
                start = cache.get_seq_length()
                position_ids = torch.arange(start, start + input_ids.shape[1], device=input_ids.device)[None]
        h = self.hidden(input_ids, mask=mask, positions=position_ids, cache=cache)
        action_logits = self.policy(h, mask=mask, positions=position_ids, cache=cache)
        kept = slice(-logits_to_keep, None)
        h, action_logits = h[:, kept], action_logits[:, kept]
        actions, phases, labels = (x if x is None else x[:, kept] for x in (actions, phases, labels))
        if actions is None:
            actions = code_sampler(action_logits) if code_sampler else action_logits.argmax(-1)
        if held is not None:
            closing = self.closing(input_ids[:, -1], h[:, -1])
            actions, phases = held.choose(actions, closing)
        logits = self.world(h, actions, phases)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100
            )
        return CoLAOutput(loss, logits, cache, actions, action_logits)

    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Tensor | ModelOutput:
        """Generate text: the policy picks codes, the world model's likeliest token follows.

        ``do_sample=True`` draws the *code* (with ``temperature``, ``top_k``, ``top_p`` over the A
        codes); the token is always the world model's argmax, as in the paper. A code that lasts several
        tokens is kept for all of them. Everything else is :meth:`transformers.GenerationMixin.generate`, beam
        search excepted. As there, options come from the arguments, else from ``generation_config=``, else
        from the model's own ``generation_config``.

        Raises:
            ValueError: for ``num_beams`` above 1, wherever it is set.
        """
        configs = [kwargs.get("generation_config"), self.generation_config]

        def option(name: str) -> Any:
            """An option's value; None where nothing sets it."""
            values = [kwargs.get(name), *(getattr(config, name, None) for config in configs)]
            return next((value for value in values if value is not None), None)

        if (option("num_beams") or 1) != 1:
            raise ValueError("generate() has no beam search over codes: num_beams must be 1")
        copies = option("num_return_sequences") or 1
        # Codes are drawn in forward(): for transformers this is a greedy search of one sequence.
        for name in ("num_beams", "num_return_sequences"):
            kwargs.pop(name, None)
            if (option(name) or 1) != 1:
                given = copy.deepcopy(kwargs.get("generation_config") or GenerationConfig())
                setattr(given, name, 1)
                kwargs["generation_config"] = given
        if copies > 1:
            if inputs is None:
                inputs = kwargs.pop("input_ids", None)
            if inputs is None:
                raise ValueError(f"num_return_sequences={copies} repeats a prompt: give input ids")
            inputs = inputs.repeat_interleave(copies, dim=0)
            if kwargs.get("attention_mask") is not None:
                kwargs["attention_mask"] = kwargs["attention_mask"].repeat_interleave(copies, dim=0)
        drawn = option("do_sample")
        kwargs.pop("do_sample", None)
        if drawn:
            drawing = {name: option(name) for name in ("temperature", "top_k", "top_p")}
            for name in drawing:
                kwargs.pop(name, None)
            drawing["top_k"] = drawing["top_k"] or None  # 0 is none, as in transformers
            kwargs["code_sampler"] = CodeSampler(**{k: v for k, v in drawing.items() if v is not None})
        cache = one_cache(kwargs.pop("cache", None), kwargs.pop("past_key_values", None))
        if cache is not None:
            kwargs |= cache_argument(cache)
        if self.phases is not None:
            kwargs["held"] = HeldCodes(self.config.span)
        return super().generate(inputs, do_sample=False, **kwargs)

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, object],
        *args: object,
        **kwargs: object,
    ) -> object:
        """As in transformers, but the default cache has room for the policy's layers after the base's."""
        if generation_config.use_cache is not False and model_kwargs.get(cache_name()) is None:
            kind = generation_config.cache_implementation
            if kind not in (None, "dynamic"):
                raise ValueError(
                    f"cache_implementation={kind!r} counts the base's layers and leaves no room for the "
                    "policy's; leave it out, or give a cache of your own"
                )
            model_kwargs |= cache_argument(DynamicCache())
            generation_config.cache_implementation = None
        return super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)

    @torch.no_grad()
    def composed_log_prob(self, ids: Tensor, *, mask: Mask = None, chunk: int = 256) -> Tensor:
        """log sum_a pi(a|s) p(x|s, a) of every next token x.

        Of codes that last several tokens, the spans follow each other from a row's first token, and pi is
        conditioned on the tokens of the span so far, so that the tokens' log-probabilities add up to those of
        the spans.

        Args:
            ids: [B, T].
            mask: as in :meth:`hidden`.
            chunk: positions whose [chunk, A, V] logits are in memory at a time.

        Returns:
            [B, T - 1] log-probabilities of ``ids[:, 1:]``.
        """
        h = self.hidden(ids, mask=mask)
        log_pi = self.policy(h, mask=mask).float().log_softmax(-1)
        if self.phases is not None:
            real = mask.long() if isinstance(mask, Tensor) and mask.dim() == 2 else None
            return self.compose_spans(h, log_pi, ids, real, chunk=chunk)[:, :-1]
        composed = self.compose(
            h[:, :-1].flatten(0, 1), log_pi[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), chunk=chunk
        )
        return composed.view(ids.shape[0], -1)

    @torch.no_grad()
    def compose_spans(
        self, h: Tensor, log_pi: Tensor, ids: Tensor, segments: Tensor | None = None, *, chunk: int = 256
    ) -> Tensor:
        """:meth:`compose` for rows of text under codes that last several tokens.

        Args:
            h: hidden states [B, T, D].
            log_pi: log-probabilities of the codes [B, T, A].
            ids: token ids [B, T].
            segments: index of a token's document within its row [B, T]; None for one document a row.
            chunk: as in :meth:`compose`.

        Returns:
            [B, T] log-probabilities of the tokens that follow, shared out to the tokens of a span as in
            :meth:`composed_log_prob`; meaningless at the end of a document.
        """
        spans = find_spans(self.config.span, ids, segments, closing=self.closing(ids, h))
        following, phase = ids.roll(-1, 1).flatten(), spans.phase.flatten()
        log_probs = self.code_log_probs(h.flatten(0, 1), following, phase, chunk=chunk).view_as(log_pi)
        return (code_posterior(log_pi, log_probs, spans.start) + log_probs).logsumexp(-1)

    @torch.no_grad()
    def compose(
        self, h: Tensor, log_pi: Tensor, targets: Tensor, phase: Tensor | None = None, *, chunk: int = 256
    ) -> Tensor:
        """log sum_a pi(a|s) p(x|s, a) for N states s, policies and tokens x.

        Args:
            h: hidden states [N, D].
            log_pi: log-probabilities of the codes [N, A].
            targets: tokens x [N].
            phase: of each state [N], as in :meth:`vectors`.
            chunk: states whose [chunk, A, V] logits are in memory at a time.

        Returns:
            [N] log-probabilities.
        """
        return torch.logsumexp(log_pi + self.code_log_probs(h, targets, phase, chunk=chunk), dim=-1)

    @torch.no_grad()
    def code_log_probs(
        self, h: Tensor, targets: Tensor, phase: Tensor | None = None, *, chunk: int = 256
    ) -> Tensor:
        """log p(x|s, a) of N states and tokens under every code, [N, A]; arguments as in :meth:`compose`."""
        codes = torch.arange(self.config.num_codes, device=h.device)
        phase = torch.zeros_like(targets) if phase is None else phase
        pieces = []
        for state, target, number in zip(
            h.split(chunk), targets.split(chunk), phase.split(chunk), strict=True
        ):
            shape = (len(state), len(codes))
            each = state[:, None].expand(*shape, -1)
            logits = self.world(each, codes.expand(shape), number[:, None].expand(shape)).float()
            gold = target[:, None, None].expand(*shape, 1)
            pieces.append(logits.gather(-1, gold).squeeze(-1) - logits.logsumexp(-1))
        return torch.cat(pieces)


@torch.no_grad()
def calibrate_readout(model: CoLAForCausalLM, ids: Tensor, *, mask: Tensor | None = None) -> None:
    """Set the gain of the readout ``"normed_difference"`` so that it starts as the base on text like ``ids``.

    The readout is ``g * z / rms(z) - h`` with a gain g, and before training z is about h. It equals the
    base's h for ``g = 2 * rms(h)``. The root mean square of h varies little from token to token (the final
    norm fixes it before its weight is applied), and g uses its mean. It is measured, not derived from the
    norm's weight, because large models scale down the channels of the largest states there.

    Args:
        model: its gain is overwritten, so calibrate before training.
        ids: token ids [B, T]; a few hundred tokens are enough.
        mask: padding mask [B, T], or None.

    Raises:
        ValueError: for a model of another readout.
    """
    if model.readout_norm is None:
        raise ValueError(f"the readout {model.config.readout!r} has no gain to calibrate")
    h = model.hidden(ids, mask=mask)
    if mask is not None:
        h = h[mask.bool()]
    model.readout_norm.weight.fill_(2 * h.float().square().mean(-1).sqrt().mean())


@dataclass
class CodeSampler:
    """Draws codes from policy logits in :meth:`CoLAForCausalLM.generate`.

    Attributes:
        temperature, top_k, top_p: as in :func:`cola_agents.model.sampling.sample`.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __call__(self, logits: Tensor) -> Tensor:
        u = torch.rand(logits.shape[:-1], device=logits.device)
        return sample(logits, u, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)[0]


AutoConfig.register("cola", CoLAConfig)
AutoModelForCausalLM.register(CoLAConfig, CoLAForCausalLM)
