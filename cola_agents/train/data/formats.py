"""Conversion of an object of data (a line of JSON, a row of a table) into a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from cola_agents.rl.recording import KIND, REPLIES, check_episode
from cola_agents.train.data.documents import AnyDocument, Conversation, Document, RecordedEpisode
from cola_envs.contract import checked_text
from cola_envs.prompts import Message

#: Formatting of a prompt: unchanged, as the user's turn of a dialogue, or in the tokenizer's chat template.
Template = Literal["plain", "dialogue", "chat"]
#: The turns of a dialogue. Source: the official fine-tuning's "User: {}\nAssistant: "; "system" is ours.
TURNS = {"system": "System: {}\n", "user": "User: {}\n", "assistant": "Assistant: {}\n"}
ANSWER = "Assistant: "
_CONTINUATIONS = ("response", "continuation")
#: Fields by which an object is an episode of a recording.
_EPISODE = {"ids", "positions", "actions"}


@dataclass(frozen=True)
class RowFormat:
    """The fields of an object that make up a document, and the template.

    An object has one of four forms: a complete text; a prompt and a response; ``messages``, a list of
    objects with ``role`` (system, user, assistant) and ``content``, of which the last is an assistant's; or
    an episode of ``cola generate``, whose token ids are taken as they are. All messages before the last form
    the prompt.

    Attributes:
        text: the field of a complete text; None for ``text`` if the object has it.
        prompt, response: the fields of the two parts; None for ``prompt`` and ``response`` or
            ``continuation`` if the object has them.
        template: ``"dialogue"`` formats a prompt as ``"User: {}\\nAssistant: "``, and ends the response with
            one space in place of its line breaks, as the official fine-tuning does. ``"chat"`` makes a user's
            and an assistant's message of them, in the tokenizer's own chat template. Messages are a dialogue
            unless the template is ``"chat"``. The official code tokenises the two parts together, ours
            separately.

    Raises:
        ValueError: for an unknown template, or for ``text`` together with ``prompt``, ``response`` or a
            template other than ``"plain"``.
    """

    text: str | None = None
    prompt: str | None = None
    response: str | None = None
    template: Template = "plain"

    def __post_init__(self) -> None:
        if self.template not in get_args(Template):
            raise ValueError(f"template={self.template!r} is not one of {get_args(Template)}")
        if self.text and (self.prompt or self.response):
            raise ValueError(
                f"an object is either a complete text (text={self.text!r}) or a prompt and a response "
                f"(prompt={self.prompt!r}, response={self.response!r})"
            )
        if self.text and self.template != "plain":
            raise ValueError(f"text={self.text!r} {self._without_prompt}")

    def document(self, row: object, where: str) -> AnyDocument:
        """Convert one object to a document.

        Args:
            row: the object.
            where: its place (file and line, for instance), for errors.

        Raises:
            ValueError: naming ``where``, for an object that has none of the four forms, or several; for a
                complete text or an episode where there is a template for prompts; for text with a lone
                surrogate.
        """
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}: an object with named fields is needed, got {type(row).__name__}")
        if row.get("kind") == KIND:  # the first line of a recording
            return Document("", "")
        if row.keys() >= _EPISODE:
            return self._episode(row, where)
        forms = self._forms(row)
        if len(forms) != 1:
            names = f"has the fields {', '.join(map(repr, row)) or '(none)'}"
            if forms:
                raise ValueError(
                    f"{where} {names}, which can be read as {' or as '.join(map(repr, forms))}: choose the "
                    "field by text=, or the fields by prompt= and response="
                )
            if self.text:
                needed = repr(self.text)
            elif self.prompt or self.response:
                needed = f"{self.prompt or 'prompt'!r} and {self.response or ' or '.join(_CONTINUATIONS)!r}"
            else:
                needed = (
                    "'text', or 'prompt' with 'response' or 'continuation', or 'messages'; or name the fields"
                )
            raise ValueError(f"{where} {names}; it needs {needed}")
        form, fields = next(iter(forms.items()))
        if form == "messages":
            return self._laid_out(_messages(row["messages"], where))
        values = [row[field] for field in fields]
        for field, value in zip(fields, values, strict=True):
            if not isinstance(value, str):
                raise ValueError(f"{where}: the field {field!r} must be a string, got {type(value).__name__}")
            checked_text(value, f"{where}: the field {field!r}")
        if form == "text" and self.template != "plain":
            raise ValueError(f"{where}: the field {fields[0]!r} {self._without_prompt}")
        if form == "text":
            return Document("", values[0])
        if self.template == "plain":
            return Document(*values)
        return self._laid_out(
            [{"role": "user", "content": values[0]}, {"role": "assistant", "content": values[1]}]
        )

    def _episode(self, row: Mapping[str, object], where: str) -> RecordedEpisode:
        if self != RowFormat():
            raise ValueError(
                f"{where}: a recorded episode is trained on as it was played: leave text=, prompt=, "
                "response= and template= out"
            )
        try:
            check_episode(row)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        episode: Any = row
        if not episode["positions"]:
            raise ValueError(f"{where}: the episode holds no action")
        text = episode["info"].get("text")
        return RecordedEpisode(
            tuple(episode["ids"]),
            episode["positions"][0] + 1,
            text if isinstance(text, str) and "\ufffd" not in text else None,
            where,
            tuple((start, end) for start, end in episode.get(REPLIES, ())),
        )

    @property
    def _without_prompt(self) -> str:
        return (
            f"is a complete text, without a prompt that template={self.template!r} could lay out: leave the "
            "template out, or give prompts and responses (prompt=, response=)"
        )

    def _laid_out(self, messages: Sequence[Message]) -> AnyDocument:
        """Messages in the chat template, or as a dialogue, whose last turn is the continuation."""
        if self.template == "chat":
            return Conversation(tuple(messages))
        turns = [TURNS[message["role"]].format(message["content"]) for message in messages[:-1]]
        return Document("".join(turns) + ANSWER, messages[-1]["content"].rstrip("\n") + " ")

    def _forms(self, row: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
        """The forms that an object can be read as, with the fields of each."""
        has_parts = self.prompt or self.response
        forms: dict[str, tuple[str, ...]] = {}
        if not has_parts and (self.text or "text") in row:
            forms["text"] = (self.text or "text",)
        if not self.text:
            prompt = self.prompt or "prompt"
            responses = (self.response,) if self.response else _CONTINUATIONS
            forms |= {f"{prompt} and {r}": (prompt, r) for r in responses if prompt in row and r in row}
        if not has_parts and not self.text and "messages" in row:
            forms["messages"] = ("messages",)
        return forms


def _messages(messages: object, where: str) -> list[Message]:
    """The checked ``messages`` of an object."""
    given = messages if isinstance(messages, (list, tuple)) else ()
    checked: list[Message] = []
    for message in given:
        role = message.get("role") if isinstance(message, Mapping) else None
        content = message.get("content") if isinstance(message, Mapping) else None
        if role not in TURNS or not isinstance(content, str):
            raise ValueError(
                f"{where}: a message is an object with role ({', '.join(TURNS)}) and content, a string; got "
                f"{message!r:.80}"
            )
        checked.append({"role": role, "content": checked_text(content, f"{where}: a message's content")})
    if len(checked) < 2 or checked[-1]["role"] != "assistant":
        raise ValueError(f"{where}: messages are a list of two or more that ends with an assistant's")
    return checked
