"""Protocols of the language model that :class:`~cola_envs.episodes.Episodes` steps, and of its tokenizer.

Shapes use one glossary throughout the project: B rows, T tokens, D hidden, A actions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np

Level = Literal["latent", "token"]


class Tokenizer(Protocol):
    """The part of a tokenizer that an episode uses (an adapter gives it to Hugging Face's tokenizers).

    Three attributes are optional (:mod:`cola_envs.text` reads them): ``end_ids``, all ids that end a text, by
    default ``eos_token_id``; ``start_ids``, the ids that every context begins with, by default none; and
    ``largest_id``, the largest token id, by default the length less 1.
    """

    eos_token_id: int | None

    def __len__(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; no special token is added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` as the model wrote it, special tokens included, ids that end a text left out."""


@dataclass(frozen=True)
class Decoded:
    """The tokens that the actions of B rows gave.

    Attributes:
        tokens: for each row an int64 array of one or more token ids; an array [B, k] where each row has k.
    """

    tokens: Sequence[np.ndarray] | np.ndarray


class Session(Protocol):
    """The contexts of many rows, with their hidden states and caches; every method works on several rows.

    Returned arrays are new: no later call changes them, and the caller may write to them. NaN or infinite
    values raise FloatingPointError with the row and its last token in the message; if the error has an
    attribute ``row`` (int), Episodes adds the step; not where it has an attribute ``left`` that is True: then
    the row does not hold the text any more.
    """

    num_rows: int
    max_length: int

    def load(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Set the ids of each row; a prefix that the row already holds is not computed again."""

    def forget(self) -> None:
        """Drop all rows' ids and caches; the rows must be loaded again."""

    def extend(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Append one or more ids to each row, in one forward pass, or two if the numbers of ids differ."""

    def decode(
        self, rows: Sequence[int], actions: np.ndarray, u: np.ndarray | None = None, temperature: float = 0.0
    ) -> Decoded:
        """Return the next token id(s) that the actions [B] give in each row, without appending them.

        ``u`` [B] are uniform numbers in [0, 1) from each row's own stream, needed for ``temperature > 0``;
        [B, k] for a session with an attribute ``draws`` = k above 1, whose actions give up to k tokens.
        """

    def hidden(self, rows: Sequence[int]) -> np.ndarray:
        """The base LM's last normed hidden state at each row's last token, [B, D] float32."""

    def features(self, rows: Sequence[int]) -> np.ndarray:
        """The frozen policy's last hidden state at each row's last token, [B, D] float32."""

    def prior(self, rows: Sequence[int]) -> np.ndarray:
        """Log-probabilities of the frozen initial policy over the actions, [B, A] float32."""

    def outcomes(
        self, rows: Sequence[int], actions: Sequence[int] | None = None, top_k: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """The most probable tokens that each action would give: ids and log-probs, both [B, A, top_k]."""


@runtime_checkable
class DeferringSession(Session, Protocol):
    """A session in which new tokens of different rows can share one forward pass. Optional."""

    #: The ids of each row.
    tokens: list[list[int]]

    def deferred(self) -> AbstractContextManager[None]:
        """A block in which passes wait until a state is read, and then run over all rows at once."""

    def final(self, rows: Sequence[int], observation: str) -> Callable[[], np.ndarray]:
        """Take the observations of rows that will be loaded with other texts in a :meth:`deferred` block.

        Args:
            rows: B rows.
            observation: the method that computes them, ``"hidden"`` or ``"features"``.

        Returns:
            a function that returns them, [B, D] float32, once the next pass has run.
        """


class Backbone(Protocol):
    """A language model together with an action space over it.

    ``__deepcopy__`` must return the object itself, because Gymnasium copies an environment's arguments.
    """

    level: Level
    hidden_size: int
    max_length: int

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the language model."""

    @property
    def action_space(self) -> gym.spaces.Discrete:
        """Actions are 0 to A - 1."""

    @property
    def fingerprint(self) -> str:
        """The sha256 of weights, configuration and tokenizer, written into every result file."""

    def action_mask(self) -> np.ndarray:
        """The allowed actions, [A] bool; at token level, ids without a token are not allowed."""

    def session(self, num_rows: int, max_length: int | None = None) -> Session:
        """Open a session of ``num_rows`` empty rows of at most ``max_length`` tokens."""
