"""Text to token ids and back, over a Hugging Face tokenizer and the model that it belongs to."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROBE = string.ascii_letters + string.digits
#: Arguments of transformers' rendering that are no variables of a template, or that the caller sets.
_NOT_VARIABLES = (
    *("messages", "conversation", "add_generation_prompt", "continue_final_message", "chat_template"),
    *("tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs"),
)
#: Names in a template that its rendering sets.
_SET = frozenset({"messages", "add_generation_prompt", "raise_exception", "strftime_now"})
#: The tags with which transformers extends Jinja.
_OWN_TAGS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


class PlainTokenizer:
    """A Hugging Face tokenizer with the interface that episodes need (:class:`cola_envs.backbone.Tokenizer`).

    Encoding adds no special token; those at the beginning of a context are in ``start_ids``. Decoding keeps
    special tokens such as tags and chat markers, except for the ids that end a text.

    Args:
        tokenizer: the Hugging Face tokenizer.
        model: its model, whose configurations may name further ids that end a text.

    Attributes:
        source: the Hugging Face tokenizer.
        ids: all ids of tokens; there may be holes between them.
        largest_id: the largest of them.
        end_ids: the ids that end a text: the tokenizer's and the model's.
        eos_token_id: the id that closes a document, by default the tokenizer's; None without any.
        start_ids: the ids that the tokenizer's template puts before a text (a beginning-of-text token).

    Raises:
        ValueError: for a tokenizer without tokens, or a template that changes the text's own tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None) -> None:
        self.source = tokenizer
        self.ids = frozenset(tokenizer.get_vocab().values())
        if not self.ids:
            raise ValueError("the tokenizer has no tokens: pass the model's own tokenizer=")
        self.largest_id = max(self.ids)
        named = [*_as_ids(tokenizer.eos_token_id), *(_model_ends(model, tokenizer) if model else ())]
        ends = [token for token in named if token in self.ids]
        self.end_ids = frozenset(ends)
        self.eos_token_id: int | None = ends[0] if ends else None
        # transformers' wrapper around a fast tokenizer costs several times the tokenizing.
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        self._decoder = self._fast if _decodes_as_its_backend(tokenizer) else None
        self.start_ids = self._start()
        added = getattr(tokenizer, "added_tokens_decoder", {}).items()
        # A byte-level decoder reads the é of a tag as a byte; an added token is spelt as it was added.
        self._spelt = {id_: str(token) for id_, token in added if self._decoded([id_]) != str(token)}

    def __len__(self) -> int:
        return len(self.source)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, nothing added."""
        # What a call of the wrapper asked for (truncation, padding) stays set on the fast tokenizer.
        if self._fast is None or self._fast.truncation is not None or self._fast.padding is not None:
            ids: list[int] = self.source.encode(text, add_special_tokens=False)
        else:
            ids = self._fast.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, less those that end a text."""
        return self.spell([token for token in ids if token not in self.end_ids])

    def spell(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, those that end a text included."""
        if self._spelt.keys().isdisjoint(ids):
            return self._decoded(ids)
        runs = groupby(ids, key=self._spelt.get)
        return "".join(self._decoded(run) if spelt is None else spelt * len(list(run)) for spelt, run in runs)

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer comes with a chat template."""
        return bool(getattr(self.source, "chat_template", None))

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        add_generation_prompt: bool,
        chat_template_kwargs: Mapping[str, object],
    ) -> str:
        """The text of a conversation in the tokenizer's chat template, which runs in Jinja's sandbox.

        Raises:
            ValueError: no template, one that fails, or a variable that it does not read; names the tokenizer.
        """
        if chat_template_kwargs:
            self._check_variables(chat_template_kwargs)
        try:
            return str(
                self.source.apply_chat_template(
                    list(messages),
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **chat_template_kwargs,
                )
            )
        except Exception as error:  # a template raises what it likes
            raise ValueError(
                f"the chat template of {self._name!r} failed: {type(error).__name__}: {error}; repair it, "
                "change chat_template_kwargs= or system=, or use prompt_format='plain'"
            ) from error

    @property
    def _name(self) -> str:
        return self.source.name_or_path or type(self.source).__name__

    def _check_variables(self, given: Mapping[str, object]) -> None:
        """Raise ValueError for a variable that the template does not read, or that is not the caller's."""
        read = self._template_variables()
        for name in given:
            if name in _NOT_VARIABLES:
                raise ValueError(
                    f"chat_template_kwargs has {name!r}, which is no variable of a chat template but an "
                    "argument of its rendering, and set by the environment: leave it out"
                )
            if read is not None and name not in read:
                raise ValueError(
                    f"chat_template_kwargs has {name!r}, and the chat template of {self._name!r} reads no "
                    f"such variable; those that it reads are {', '.join(sorted(read - _SET)) or 'none'}"
                )

    def _template_variables(self) -> frozenset[str] | None:
        """The variables that the chat template reads; None where it cannot be told, or there is none."""
        from jinja2 import Environment, TemplateSyntaxError, meta  # here: only templates need it

        try:
            template = _OWN_TAGS.sub("", self.source.get_chat_template())
            parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
        except (TemplateSyntaxError, ValueError):  # a broken template, or none
            return None
        return frozenset(meta.find_undeclared_variables(parsed))

    def ids_with(self, text: str) -> list[int]:
        """The ids of all tokens whose text contains ``text``."""
        return [token for token in sorted(self.ids) if text in self.spell([token])]

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of added tokens, the markers of a conversation among them."""
        return frozenset(getattr(self.source, "added_tokens_decoder", ()))

    def _decoded(self, ids: Iterable[int]) -> str:
        if self._decoder is not None:
            return str(self._decoder.decode(list(ids), skip_special_tokens=False))
        plain = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return str(self.source.decode(list(ids), **plain))

    def _start(self) -> tuple[int, ...]:
        plain, whole = self.encode(_PROBE), list(self.source.encode(_PROBE))
        for at in range(len(whole) - len(plain) + 1):
            if whole[at : at + len(plain)] == plain:
                return tuple(whole[:at])
        raise ValueError(
            f"the tokenizer's template makes {whole} of a text whose own tokens are {plain}; a template may "
            "only add tokens in front of a text and behind it"
        )


def _decodes_as_its_backend(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether decoding only calls the fast tokenizer; some classes change the ids or the text themselves."""
    from transformers import PreTrainedTokenizerFast  # here, because it takes seconds to import

    kind = type(tokenizer)
    own = (getattr(kind, "decode", None), getattr(kind, "_decode", None))
    return own == (PreTrainedTokenizerFast.decode, PreTrainedTokenizerFast._decode)


def check_fits(tokenizer: PlainTokenizer, vocab_size: int) -> None:
    """Raise ValueError for a tokenizer with an id beyond a model's embeddings."""
    if tokenizer.largest_id >= vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} entries and the model {vocab_size} embeddings, none of them "
            f"for id {tokenizer.largest_id}: they do not belong together; pass the model's own tokenizer="
        )


def _as_ids(ids: int | list[int] | tuple[int, ...] | None) -> list[int]:
    """A configuration's token id, or several, or none."""
    if ids is None:
        return []
    return list(ids) if isinstance(ids, (list, tuple)) else [int(ids)]


def _model_ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    """Ids at which a model's configurations end a text.

    A configuration that was made without one has its class's default (2 for Llama), whatever the tokenizer
    holds there: it counts where that is an added token, as end-of-text tokens are, and not the first of a
    text.
    """
    text = model.config.get_text_config()
    default = _as_ids(type(text)().eos_token_id)
    added = set(getattr(tokenizer, "added_tokens_decoder", ())) - {getattr(tokenizer, "bos_token_id", None)}
    for config in (getattr(model, "generation_config", None), model.config, text):
        named = _as_ids(getattr(config, "eos_token_id", None))
        if named != default or added.issuperset(named):
            yield from named
