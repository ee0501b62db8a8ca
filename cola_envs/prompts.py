"""Prompt formats: what a language model reads around a task's text, as plain text or in its chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypedDict, runtime_checkable

from cola_envs.backbone import Tokenizer
from cola_envs.checks import WrongType
from cola_envs.contract import checked_text
from cola_envs.shots import Shot
from cola_envs.text import end_ids

FormatName = Literal["plain", "chat"]
#: Stand for the agent's text and a user's where a template is rendered to see what surrounds them.
_PROBE, _ASKED = "written-by-the-agent", "Hello."


class Message(TypedDict):
    """One turn of a conversation, in the keys of Hugging Face chat templates."""

    role: Literal["system", "user", "assistant"]
    content: str


@runtime_checkable
class ChatTokenizer(Tokenizer, Protocol):
    """A :class:`~cola_envs.backbone.Tokenizer` that can render a conversation."""

    @property
    def has_chat_template(self) -> bool:
        """Whether there is a template to render it with."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of tokens that stand for no text, such as the markers of a conversation."""

    def chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        chat_template_kwargs: Mapping[str, object],
    ) -> str:
        """The conversation as the text that the model was tuned on.

        Raises:
            ValueError: a tokenizer without a template, or a template that fails; names the template.
        """


class PlainFormat:
    """A task's text as it is: the system text and the worked examples stand in front of the first prompt.

    Args:
        tokenizer: the model's tokenizer.
        system: text in front of everything, separated by an empty line.
        shots: worked examples, each followed by an empty line.
    """

    name: FormatName = "plain"

    def __init__(self, tokenizer: Tokenizer, system: str | None = None, shots: Sequence[Shot] = ()) -> None:
        self._encode = tokenizer.encode
        self.end_ids = end_ids(tokenizer)
        examples = ["".join(text + answer for text, answer in shot) for shot in shots]
        self._before = "".join(f"{part}\n\n" for part in [*([system] if system else []), *examples])

    def first(self, text: str) -> list[int]:
        """Ids of a context that begins with a task's prompt."""
        return list(self._encode(self._before + text)) if text else []

    def next(self, text: str, tokens: Sequence[int], done: bool) -> list[int]:
        """Ids of a task's response, which follow ``tokens``."""
        return list(self._encode(text)) if text else []


class ChatFormat:
    """A task's texts as user turns of a conversation, in the tokenizer's own chat template.

    The agent writes the assistant's turns. Its token ids stay as it wrote them; only what the template puts
    between two turns is encoded and appended. Where the agent did not write the end marker of its turn (a
    stop string or a budget ended it), the marker is added, with what the template puts in front of it.

    Args:
        tokenizer: the model's tokenizer, with a chat template.
        system: content of the system message; None leaves it to the template.
        shots: worked examples, as earlier turns of the user and the assistant; spaces around an answer go.
        frame: what stands before and behind a text of the task in the plain format alone
            (``"User: "``, ``"\\nAssistant: "``); it is left out of a message, as are line breaks around it.
        chat_template_kwargs: variables of the template, such as ``enable_thinking``.

    Attributes:
        marker: the end marker of an assistant's turn: of the tokens between the assistant's text and the next
            user's the first that ends the model's texts, or else a special token right behind the text; None
            where there is neither.
        ending: the ids from the assistant's text to the marker: the marker alone, or with white space (Llama
            2) or other text before it; empty without one.
        end_ids: the ids that end a segment: those that end a text, and the marker.

    Raises:
        ValueError: no template, one that fails, or one that drops the assistant's text.
    """

    name: FormatName = "chat"

    def __init__(
        self,
        tokenizer: Tokenizer,
        system: str | None = None,
        shots: Sequence[Shot] = (),
        frame: tuple[str, str] = ("", ""),
        chat_template_kwargs: Mapping[str, object] | None = None,
    ) -> None:
        if not (isinstance(tokenizer, ChatTokenizer) and tokenizer.has_chat_template):
            raise ValueError(
                "prompt_format='chat' needs a tokenizer with a chat template, and this model's has none; "
                "use prompt_format='plain'"
            )
        self._tokenizer = tokenizer
        self._encode = tokenizer.encode
        self._kwargs = dict(chat_template_kwargs or {})
        self._frame = frame
        self._before: list[Message] = [{"role": "system", "content": system}] if system is not None else []
        for text, answer in (exchange for shot in shots for exchange in shot):
            self._before.append({"role": "user", "content": self._content(text)})
            self._before.append({"role": "assistant", "content": answer.strip()})
        closing = list(self._encode(self._between(_ASKED).partition(_ASKED)[0]))
        special = [token for token in closing if token in tokenizer.special_ids]
        markers = [token for token in special if token in end_ids(tokenizer)]
        if not markers and closing[:1] == special[:1]:  # further on it would open the user's turn
            markers = special
        self.marker: int | None = markers[0] if markers else None
        self.ending: list[int] = closing[: closing.index(markers[0]) + 1] if markers else []
        self.end_ids = end_ids(tokenizer) | frozenset(markers[:1])

    def first(self, text: str) -> list[int]:
        """Ids of a conversation up to the beginning of the assistant's first turn."""
        if not text:
            return []
        return list(
            self._encode(self._render([*self._before, {"role": "user", "content": self._content(text)}]))
        )

    def next(self, text: str, tokens: Sequence[int], done: bool) -> list[int]:
        """Ids from the end of the assistant's turn, whose last ids ``tokens`` has, to its next turn."""
        if done and not text:
            return []
        ids = list(self._encode(self._between(text)))
        if tokens and tokens[-1] == self.marker and self.marker in ids:
            return ids[ids.index(self.marker) + 1 :]
        return ids

    def _content(self, text: str) -> str:
        before, behind = self._frame
        return text.removeprefix(before).removesuffix(behind).strip("\n")

    def _render(self, messages: list[Message]) -> str:
        return self._tokenizer.chat(messages, add_generation_prompt=True, chat_template_kwargs=self._kwargs)

    def _between(self, text: str) -> str:
        """What the template puts between the assistant's text and its next turn, around a user's ``text``."""
        turns: list[Message] = [
            {"role": "user", "content": _PROBE.upper()},
            {"role": "assistant", "content": _PROBE},
            {"role": "user", "content": self._content(text)},
        ]
        rendered = self._render(turns)
        _, assistant, rest = rendered.partition(_PROBE)
        if not assistant:
            raise ValueError(
                f"the chat template does not show the assistant's text: it made {rendered!r:.300} of a "
                "conversation of three turns; use prompt_format='plain' or another template"
            )
        return rest


def prompt_format(
    tokenizer: Tokenizer,
    name: FormatName | None = None,
    *,
    system: str | None = None,
    shots: Sequence[Shot] = (),
    frame: tuple[str, str] = ("", ""),
    chat_template_kwargs: Mapping[str, object] | None = None,
) -> PlainFormat | ChatFormat:
    """The format that ``name`` asks for, or the model's default.

    The default is ``"chat"`` where the tokenizer has a chat template whose end marker of an assistant's turn
    is among the ids that end the model's texts; a base model's tokenizer may carry a template, but a model
    that was not tuned on it does not stop at its marker. Otherwise it is ``"plain"``.

    Raises:
        TypeError: a system text that is no text, or variables that are no dict.
        ValueError: another name, a template that is missing or fails, or ``chat_template_kwargs`` without a
            template.
    """
    check_format(name, system, chat_template_kwargs)
    chat = None
    has_template = isinstance(tokenizer, ChatTokenizer) and tokenizer.has_chat_template
    if name == "chat" or (name is None and has_template):
        chat = ChatFormat(tokenizer, system, shots, frame, chat_template_kwargs)
    if chat is not None and (name == "chat" or chat.marker in end_ids(tokenizer)):
        return chat
    if chat_template_kwargs:
        raise ValueError(_NO_TEMPLATE)
    return PlainFormat(tokenizer, system, shots)


_NO_TEMPLATE = "chat_template_kwargs are variables of a chat template; pass prompt_format='chat'"


def check_format(name: object, system: object, chat_template_kwargs: object) -> None:
    """Check what :func:`prompt_format` takes besides worked examples, as far as it needs no tokenizer.

    Raises:
        TypeError, ValueError: as :func:`prompt_format`.
    """
    if name is not None and (not isinstance(name, str) or name not in ("plain", "chat")):
        raise ValueError(f"prompt_format must be 'plain' or 'chat' (None: by the model), got {name!r}")
    if system is not None:
        checked_text(system, "system")
    if not isinstance(chat_template_kwargs, (Mapping, type(None))):
        raise WrongType(f"chat_template_kwargs must be a dict or None, got {chat_template_kwargs!r:.80}")
    if name == "plain" and chat_template_kwargs:
        raise ValueError(_NO_TEMPLATE)
