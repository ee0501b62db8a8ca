"""The configuration of a CoLA model."""

from __future__ import annotations

from typing import ClassVar

from transformers import AutoConfig, PretrainedConfig

from cola_agents.model.families import check_family

READOUTS = ("difference", "state", "normed_difference")


def non_defaults(config: PretrainedConfig) -> dict[str, object]:
    """The fields of a configuration that differ from its class's defaults.

    So a model keeps its digests when a release of transformers adds a field with a neutral default. Fields
    that saving and loading change are left out, too.
    """
    volatile = ("_name_or_path", "transformers_version", "dtype", "architectures")
    defaults = type(config)().to_dict()
    fields: dict[str, object] = {}
    for key, value in config.to_dict().items():
        nested = getattr(config, key, None)
        if isinstance(nested, PretrainedConfig):
            fields[key] = non_defaults(nested)
        elif key == "model_type" or (key not in volatile and value != defaults.get(key)):
            fields[key] = value
    return fields


class CoLAConfig(PretrainedConfig):  # type: ignore[misc]  # transformers' types are not read
    """Configuration of :class:`~cola_agents.model.modeling.CoLAForCausalLM`.

    Args:
        text_config: configuration of the base language model (a ``PretrainedConfig`` of a decoder of a
            supported family, or its dict). The inverse dynamics and the policy are built from the same
            family's layer.
        num_codes: size A of the codebook. 64 in the paper (official field ``num_code``).
        num_inverse_layers: decoder layers of the inverse dynamics model (``num_action_layer``, 4); 0 for a
            model without, as the official version 0 is.
        num_merge_layers: gated MLPs of the world model (``num_dyna_layer``, 2).
        num_policy_layers: decoder layers of the policy (``num_policy_layer``, 8).
        readout: how the world model's state z becomes token logits. ``"difference"`` is the official
            ``lm_head(norm(z) - h)`` with the base's own final norm: at the start neither the base nor, for a
            base with large norm weights, anything near a uniform model. ``"state"`` is ``lm_head(z)``: it
            starts as the base itself, exactly where the merge layers start at zero. ``"normed_difference"``
            is ``lm_head(norm2(z) - h)``, the paper's shape with a norm of its own, whose gain is trained and
            begins at ``2 * rms(h)``: it starts near the base. Cross-entropy in nats of new latent parts on
            SmolLM2-135M-Instruct (ln V is 10.8), with merge layers at zero and drawn: base 1.257,
            ``"state"`` 1.257 and 1.856, ``"normed_difference"`` 1.305 and 1.903, ``"difference"`` 22.871 and
            25.599 (``python -m benchmarks readouts``, ``benchmarks/results/readouts.json``).
        detach_state: whether the h that a difference readout subtracts passes a gradient back:
            not in the official versions 1 and 2 (True here), as any other term in version 0 (False).
        tie_word_embeddings: whether ``lm_head`` and the base's embedding are one weight.
        span: the number k of tokens that one code decides. 1 is the paper's. Above 1 an action is an option
            that ends after k tokens (Sutton, Precup and Singh 1999): the inverse dynamics reads it where the
            span ends, the world model writes the span's tokens under it one by one, and a learned vector for
            the token's number within the span, zero at the start, is added to the code's vector.
        span_ends: token ids that end a span early, a line's end for example. Only with ``span`` above 1.
        span_entropy: a span also ends early where the entropy of the base's prediction of the next token is
            above this, in nats: where the text may go several ways, a code is chosen again. None for no such
            end. Only with ``span`` above 1.

    Raises:
        ValueError: for an unknown readout, a size below its least value, a base of another family, a span
            that does not fit the base's context, ``span_ends`` that are no tokens of the base, a
            ``span_entropy`` that is not above 0, or one of these two without a span.

    Source: CoLA, arXiv 2503.21383; sizes from the official pre-training code.
    """

    model_type = "cola"
    sub_configs: ClassVar[dict[str, type[AutoConfig]]] = {"text_config": AutoConfig}

    text_config: PretrainedConfig = None
    num_codes: int = 64
    num_inverse_layers: int = 4
    num_merge_layers: int = 2
    num_policy_layers: int = 8
    readout: str = "difference"
    detach_state: bool = True
    tie_word_embeddings: bool = False
    span: int = 1
    span_ends: list[int] | None = None
    span_entropy: float | None = None

    def __post_init__(self, **kwargs: object) -> None:
        if self.text_config is None:
            self.text_config = AutoConfig.for_model("llama")
        elif isinstance(self.text_config, dict):
            fields = dict(self.text_config)
            self.text_config = AutoConfig.for_model(fields.pop("model_type", "llama"), **fields)
        check_family(self.text_config)
        if self.readout not in READOUTS:
            raise ValueError(f"readout {self.readout!r} is not one of {READOUTS}")
        least = {
            "num_codes": 2,
            "num_inverse_layers": 0,
            "num_merge_layers": 1,
            "num_policy_layers": 1,
            "span": 1,
        }
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {getattr(self, name)}")
        self._check_span()
        kwargs.setdefault("eos_token_id", self.text_config.eos_token_id)
        kwargs.setdefault("bos_token_id", self.text_config.bos_token_id)
        kwargs.setdefault("pad_token_id", self.text_config.pad_token_id)
        super().__post_init__(**kwargs)

    def _check_span(self) -> None:
        context = self.max_position_embeddings
        if self.span > 1 and self.span >= context:
            raise ValueError(
                f"a span of {self.span} tokens does not fit the base's context of {context} tokens beside a "
                f"prompt: span must be at most {context - 1}"
            )
        for name in ("span_ends", "span_entropy"):
            if getattr(self, name) and self.span == 1:
                raise ValueError(
                    f"{name} ends spans of several tokens, and span is 1: give span, or no {name}"
                )
        if self.span_entropy is not None and not 0 < self.span_entropy < float("inf"):
            raise ValueError(f"span_entropy must be a number of nats above 0, got {self.span_entropy}")
        if not self.span_ends:
            self.span_ends = None
            return
        self.span_ends = sorted({int(token) for token in self.span_ends})
        if self.span_ends[0] < 0 or self.span_ends[-1] >= self.vocab_size:
            raise ValueError(
                f"span_ends must be token ids of the base, 0 to {self.vocab_size - 1}, got {self.span_ends}"
            )

    @property
    def hidden_size(self) -> int:
        """The width of the base, D."""
        return int(self.text_config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """The size of the base's vocabulary, V."""
        return int(self.text_config.vocab_size)

    @property
    def max_position_embeddings(self) -> int:
        """The longest context of the base, in tokens."""
        return int(self.text_config.max_position_embeddings)
