"""Turn an object of data (a line of JSON, a row of a table) into a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from cola_agents.train.data.documents import Document

#: The form of a prompt: unchanged, or as the user's turn of a dialogue.
Template = Literal["plain", "dialogue"]
#: The turns of a dialogue. Source: the official fine-tuning's "User: {}\nAssistant: "; "system" is ours.
TURNS = {"system": "System: {}\n", "user": "User: {}\n", "assistant": "Assistant: {}\n"}
ANSWER = "Assistant: "
_CONTINUATIONS = ("response", "continuation")


@dataclass(frozen=True)
class RowFormat:
    """The fields of an object that make up a document, and the template.

    There are three forms: a whole text; a prompt and a response; ``messages``, a list of objects with
    ``role`` (system, user, assistant) and ``content``, which ends with an assistant's. All messages but the
    last are the prompt.

    Attributes:
        text: the field of a whole text; None for ``text`` where the object has it.
        prompt, response: the fields of the two parts; None for ``prompt`` and ``response`` or
            ``continuation`` where the object has them.
        template: ``"dialogue"`` puts a prompt into ``"User: {}\\nAssistant: "``, and ends the response with
            one blank in place of its line ends, as the official fine-tuning does. Messages are always a
            dialogue. The official code tokenises the two parts together, this one separately.

    Raises:
        ValueError: for an unknown template, or for ``text`` together with ``prompt`` or ``response``.
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
                f"an object is either a whole text (text={self.text!r}) or a prompt and a response "
                f"(prompt={self.prompt!r}, response={self.response!r})"
            )

    def document(self, row: object, where: str) -> Document:
        """The document of one object.

        Args:
            row: the object.
            where: names the object in errors: file and line, say.

        Raises:
            ValueError: naming ``where``, for an object that has none of the three forms, or several.
        """
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}: an object with named fields is needed, got {type(row).__name__}")
        forms = self._forms(row)
        if len(forms) != 1:
            have = f"has the fields {', '.join(map(repr, row)) or '(none)'}"
            if forms:
                raise ValueError(
                    f"{where} {have}, which can be read as {' or as '.join(map(repr, forms))}: say which "
                    "field is meant by text=, or by prompt= and response="
                )
            if self.text:
                needed = repr(self.text)
            elif self.prompt or self.response:
                needed = f"{self.prompt or 'prompt'!r} and {self.response or ' or '.join(_CONTINUATIONS)!r}"
            else:
                needed = (
                    "'text', or 'prompt' with 'response' or 'continuation', or 'messages'; or name the fields"
                )
            raise ValueError(f"{where} {have}; needed is {needed}")
        form, fields = next(iter(forms.items()))
        if form == "messages":
            return _dialogue(row["messages"], where)
        values = [row[field] for field in fields]
        for field, value in zip(fields, values, strict=True):
            if not isinstance(value, str):
                raise ValueError(f"{where}: the field {field!r} must be a string, got {type(value).__name__}")
        if form == "text":
            return Document("", values[0])
        if self.template == "plain":
            return Document(*values)
        return _dialogue(
            [{"role": "user", "content": values[0]}, {"role": "assistant", "content": values[1]}], where
        )

    def _forms(self, row: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
        """The forms that an object has, and the fields of each."""
        named = self.prompt or self.response
        forms: dict[str, tuple[str, ...]] = {}
        if not named and (self.text or "text") in row:
            forms["text"] = (self.text or "text",)
        if not self.text:
            prompt = self.prompt or "prompt"
            responses = (self.response,) if self.response else _CONTINUATIONS
            forms |= {f"{prompt} and {r}": (prompt, r) for r in responses if prompt in row and r in row}
        if not named and not self.text and "messages" in row:
            forms["messages"] = ("messages",)
        return forms


def _dialogue(messages: object, where: str) -> Document:
    turns: list[str] = []
    role = None
    messages = messages if isinstance(messages, (list, tuple)) else ()
    for message in messages:
        role = message.get("role") if isinstance(message, Mapping) else None
        content = message.get("content") if isinstance(message, Mapping) else None
        if role not in TURNS or not isinstance(content, str):
            raise ValueError(
                f"{where}: a message is an object with role ({', '.join(TURNS)}) and content, a string; got "
                f"{message!r:.80}"
            )
        turns.append(content if len(turns) + 1 == len(messages) else TURNS[role].format(content))
    if role != "assistant" or len(turns) < 2:
        raise ValueError(f"{where}: messages are a list of two or more that ends with an assistant's")
    return Document("".join(turns[:-1]) + ANSWER, turns[-1].rstrip("\n") + " ")
