"""Streams of documents, and mixtures of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from cola_envs.jsonl import JsonObject


@dataclass(frozen=True)
class Document:
    """A prompt and its continuation, which are tokenised separately, as in an episode."""

    prompt: str
    continuation: str

    @property
    def text(self) -> str:
        return self.prompt + self.continuation


@runtime_checkable
class Documents(Protocol):
    """A stream of documents that can be resumed.

    Attributes:
        name: name in errors and logs.
    """

    name: str

    def __iter__(self) -> Iterator[Document]: ...

    def __next__(self) -> Document: ...

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
            raise ValueError(f"the streams of a mixture need different names, got {', '.join(names)}")
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
