"""Streams of documents, and mixtures of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from cola_envs.jsonl import JsonObject


@dataclass(frozen=True)
class Document:
    """A text in two parts that are tokenised apart, as they are when a model continues a prompt."""

    prompt: str
    continuation: str

    @property
    def text(self) -> str:
        return self.prompt + self.continuation


@runtime_checkable
class Documents(Protocol):
    """A stream of documents that knows its place.

    Attributes:
        name: what errors and logs call it.
    """

    name: str

    def __iter__(self) -> Iterator[Document]: ...

    def __next__(self) -> Document: ...

    def state_dict(self) -> JsonObject:
        """The place after the last document that was drawn; JSON can hold it."""

    def load_state_dict(self, state: JsonObject) -> None:
        """Go on from such a place.

        Raises:
            ValueError: where it is one of other data.
        """


class Mixture:
    """Several streams that a row is drawn from by their weights.

    The weights are shares of rows, so of tokens but for what a row leaves empty, and not of documents: as in
    the official loader, which draws the stream of a block of tokens. A stream that ends leaves its share to
    the others; where all have ended, so has the mixture.

    Args:
        streams: the streams and their weights, positive and of any sum.
        seed: of the order. Row n is drawn by (seed, n).

    Raises:
        ValueError: without streams, for two of the same name, or for a weight that is not a positive number.
    """

    def __init__(self, streams: Sequence[tuple[Documents, float]], seed: int = 0) -> None:
        if not streams:
            raise ValueError("a mixture needs at least one stream")
        names = [documents.name for documents, _ in streams]
        if len(set(names)) < len(names):
            raise ValueError(f"the streams of a mixture need different names, got {', '.join(names)}")
        for documents, weight in streams:
            if not 0 < weight < float("inf"):
                raise ValueError(f"{documents.name}: a weight is a positive number, got {weight}")
        self.streams = [documents for documents, _ in streams]
        self.weights = np.array([weight for _, weight in streams], dtype=np.float64)
        self.seed = seed

    def draw(self, number: int, ended: Sequence[int]) -> int:
        """The stream of row ``number``, of those that have not ended."""
        weights = self.weights.copy()
        weights[list(ended)] = 0.0
        return int(np.random.default_rng((self.seed, number)).choice(len(weights), p=weights / weights.sum()))
