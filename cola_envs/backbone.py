"""What Episodes needs of a language model: two protocols, and the one lazy way to a real one.

Shapes use one glossary throughout the project: B rows, T tokens, D hidden, A actions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import gymnasium as gym
import numpy as np

Level = Literal["latent", "token"]


class Tokenizer(Protocol):
    """The few words of a tokenizer that an episode needs (Hugging Face's are adapted to it).

    Three attributes may be left out (:mod:`cola_envs.text` reads them). ``end_ids`` are all ids that end a
    text; without them ``eos_token_id`` alone does. ``start_ids`` are what every context begins with; without
    them nothing is put in front of a prompt. ``largest_id`` is that of a token; without it the ids have no
    hole.
    """

    eos_token_id: int | None

    def __len__(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; no special token is added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids`` as the model wrote it: only ids that end a text are left out."""


@dataclass(frozen=True)
class Decoded:
    """What the actions of B rows turned into.

    Attributes:
        tokens: per row an int64 array of n_i >= 1 token ids.
    """

    tokens: list[np.ndarray]


class Session(Protocol):
    """Rows of context with their hidden states and caches. Every verb works on many rows at once.

    Arrays that are returned are fresh: no later call changes them, and the caller may write to them.
    NaN or infinite values raise FloatingPointError, naming the row and its last token; an int attribute
    ``row`` on the error lets Episodes name the step too.
    """

    num_rows: int
    max_length: int

    def load(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Make each row hold exactly these ids. What a row already shares with them is not recomputed."""

    def forget(self) -> None:
        """Drop what the rows hold and everything derived from it; they must be loaded again."""

    def extend(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Append a chunk of ids (of any length >= 1) to each row, in one forward pass."""

    def decode(
        self, rows: Sequence[int], actions: np.ndarray, u: np.ndarray | None = None, temperature: float = 0.0
    ) -> Decoded:
        """Turn an action [B] into the next token id(s) of each row; appends nothing.

        ``u`` [B] are uniforms in [0, 1) from each row's own stream; needed when ``temperature > 0``.
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
        """The likeliest tokens that each action would give: ids and log-probs, both [B, A, top_k]."""


class Backbone(Protocol):
    """A language model together with an action space over it.

    ``__deepcopy__`` returns the Backbone itself: Gymnasium copies an environment's arguments.
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
        """sha256 of weights, configuration and tokenizer; written into every result file."""

    def action_mask(self) -> np.ndarray:
        """Which actions may be taken, [A] bool: at token level not the ids that stand for no token."""

    def session(self, num_rows: int, max_length: int | None = None) -> Session:
        """Open a session of ``num_rows`` empty rows of at most ``max_length`` tokens."""
