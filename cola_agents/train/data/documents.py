"""Streams of documents, and mixtures of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from cola_envs.backbone import Tokenizer
from cola_envs.jsonl import JsonObject
from cola_envs.prompts import ChatFormat, ChatTokenizer, Message


@dataclass(frozen=True)
class Document:
    """A prompt and its continuation, which are tokenised separately, as in an episode."""

    prompt: str
    continuation: str

    @property
    def text(self) -> str:
        return self.prompt + self.continuation

    def ids(self, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
        """Token ids of the prompt and of the continuation."""
        prompt = tokenizer.encode(self.prompt) if self.prompt else []
        return list(prompt), list(tokenizer.encode(self.continuation))


@dataclass(frozen=True)
class Conversation:
    """Messages in a tokenizer's chat template: all before the last are a prompt, the last continues it.

    Attributes:
        messages: at least two, of which the last is an assistant's.
    """

    messages: tuple[Message, ...]

    @property
    def text(self) -> str:
        return "\n".join(message["content"] for message in self.messages)

    def ids(self, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
        """Token ids of the prompt, to the template's generation prompt, and of the last message.

        The last message ends as an assistant's turn does in the template, without the end-of-text token, if
        that is its end marker: every document ends with it.

        Raises:
            ValueError: for a tokenizer without a chat template, or a template that fails.
        """
        if not (isinstance(tokenizer, ChatTokenizer) and tokenizer.has_chat_template):
            raise ValueError(
                "template='chat' needs a tokenizer with a chat template, and this one has none; use "
                "template='dialogue' or 'plain'"
            )
        prompt = tokenizer.chat(self.messages[:-1], add_generation_prompt=True, chat_template_kwargs={})
        chat = ChatFormat(tokenizer)
        ending = chat.ending[:-1] if chat.marker == tokenizer.eos_token_id else chat.ending
        return list(tokenizer.encode(prompt)), [
            *tokenizer.encode(self.messages[-1]["content"].strip()),
            *ending,
        ]


@dataclass(frozen=True)
class RecordedEpisode:
    """An episode that ``cola generate`` recorded, as the token ids that the model read and wrote.

    Attributes:
        tokens: all of them.
        start: how many stand before the first action: the prompt, with system text and worked examples.
        answer: text of the agent, all turns joined: by it the tokenizer is checked. None for no check.
        where: file and line, for errors.
        replies: ranges of tokens behind the first action that the task wrote.
    """

    tokens: tuple[int, ...]
    start: int
    answer: str | None
    where: str
    replies: tuple[tuple[int, int], ...] = ()

    @property
    def text(self) -> str:
        return self.answer or self.where

    def ids(self, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
        """Token ids of the prompt and of what follows, without an end of the text, which all documents get.

        Raises:
            ValueError: for ids that the tokenizer has not, or that say something else in it.
        """
        prompt, answer = list(self.tokens[: self.start]), list(self.tokens[self.start :])
        largest = getattr(tokenizer, "largest_id", len(tokenizer) - 1)
        if max(self.tokens) > largest or not self._says_answer(tokenizer):
            raise ValueError(
                f"{self.where}: the episode was recorded with another tokenizer than the model's: take the "
                "model that it was recorded with, or write its texts as prompt and response"
            )
        if answer and answer[-1] == tokenizer.eos_token_id:
            answer.pop()
        return prompt, answer

    def _says_answer(self, tokenizer: Tokenizer) -> bool:
        """Whether the agent's tokens say its answer, apart from white space.

        Where no replies are known, the lines of the answer need only stand in what follows the prompt.
        """
        at = 0
        if not self.replies:
            text = tokenizer.decode(list(self.tokens[self.start :]))
            for line in (self.answer or "").splitlines():
                at = text.find(line, at)
                if at < 0:
                    return False
                at += len(line)
            return True
        answer = "".join((self.answer or "").split())
        borders = [self.start, *(border for span in self.replies for border in span), len(self.tokens)]
        for start, end in zip(borders[::2], borders[1::2], strict=True):
            turn = "".join(tokenizer.decode(list(self.tokens[start:end])).split())
            for said, expected in zip(turn, answer[at:], strict=False):
                if said != expected:  # the end marker of a chat template, behind the turn
                    break
                at += 1
        return at == len(answer)


#: What a stream of documents holds.
AnyDocument = Document | Conversation | RecordedEpisode


@runtime_checkable
class Documents(Protocol):
    """A stream of documents that can be resumed.

    Attributes:
        name: name in errors and logs.
    """

    name: str

    def __iter__(self) -> Iterator[AnyDocument]: ...

    def __next__(self) -> AnyDocument: ...

    def state_dict(self) -> JsonObject:
        """The position after the last document, as JSON values."""

    def load_state_dict(self, state: JsonObject) -> None:
        """Resume at a position that :meth:`state_dict` returned.

        Raises:
            ValueError: for a position in other data.
        """


class Mixture:
    """Several streams; the stream of each row of a batch is drawn by the streams' weights.

    The weights are shares of rows (and so of tokens, apart from padding), not of documents, as in the
    official loader, which draws a stream for each block of tokens. When a stream ends, its share goes to the
    others; the mixture ends with the last one.

    Args:
        streams: the streams and their weights, which are positive and have any sum.
        seed: seed of the draws; that of row n depends on (seed, n) alone.

    Raises:
        ValueError: without streams, for two of the same name, or for a weight that is not a positive number.
    """

    def __init__(self, streams: Sequence[tuple[Documents, float]], seed: int = 0) -> None:
        if not streams:
            raise ValueError("a mixture needs at least one stream")
        names = [documents.name for documents, _ in streams]
        if len(set(names)) < len(names):
            raise ValueError(
                f"the streams of a mixture need different names, got {', '.join(names)}: "
                "give name= to all but one of each"
            )
        for documents, weight in streams:
            if not 0 < weight < float("inf"):
                raise ValueError(f"{documents.name}: the weight must be a positive number, got {weight}")
        self.streams = [documents for documents, _ in streams]
        self.weights = np.array([weight for _, weight in streams], dtype=np.float64)
        self.seed = seed

    def draw(self, number: int, ended: Sequence[int]) -> int:
        """Draw the stream of row ``number`` from those that have not ended."""
        weights = self.weights.copy()
        weights[list(ended)] = 0.0
        return int(np.random.default_rng((self.seed, number)).choice(len(weights), p=weights / weights.sum()))
