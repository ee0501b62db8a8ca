"""Tokens that the base has run over before the rows of a session hold them.

A step in fixed memory (:mod:`~cola_agents.decoding.static`) computes the token of an action together with the
action, several steps the tokens of several. They wait here until the session appends them, or until something
else is appended in their place.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cola_agents.decoding.kv import KVRows


class RunsAhead(Protocol):
    """A follower that runs over tokens with the base; see :class:`~.follower.Follower`."""

    kv: KVRows

    def gain(self, row: int) -> None: ...

    def roll_back(self, row: int, length: int) -> None: ...


@dataclass
class Ahead:
    """A token that the base has run over before its row holds it.

    Attributes:
        action, token: the action, and the token that it gave.
        log_prob: of an action that the step drew; None if it was given.
        drawn: whether the token was drawn, so that the action could give another.
        finite: whether the world model's logits are, the base's state and the followers' states.
        followers: those that have run over it, too.
        observation: of the state after it, [D] float32; None if nobody reads observations.
    """

    action: int
    token: int
    log_prob: float | None
    drawn: bool
    finite: tuple[bool, bool, bool]
    followers: tuple[RunsAhead, ...]
    observation: np.ndarray | None


class Holding(Protocol):
    """A session, whose rows the tokens follow; see :class:`~.session.Rows`."""

    tokens: list[list[int]]

    def erase(self, row: int, at: int) -> None: ...


class TokensAhead:
    """Of each row the tokens that follow those that it holds, in their order.

    Args:
        session: the session, in whose memory their keys, values and states are.
    """

    def __init__(self, session: Holding) -> None:
        self._session = weakref.proxy(session)
        self._rows: dict[int, deque[Ahead]] = {}  # of a row at least one

    def put(self, rows: Iterable[int], made: Iterable[list[Ahead]]) -> None:
        """Set the tokens that follow each row."""
        self._rows.update(zip(rows, map(deque, made), strict=True))

    def next(self, row: int) -> Ahead | None:
        """The token that follows a row, if it is known."""
        ahead = self._rows.get(row)
        return None if ahead is None else ahead[0]

    def of(self, rows: Sequence[int], actions: np.ndarray) -> list[Ahead] | None:
        """What actions [B] give, if they gave the next tokens of all rows, and can give no others."""
        found = []
        for row, action in zip(rows, actions, strict=True):
            ahead = self.next(row)
            if ahead is None or ahead.action != action or ahead.drawn:
                return None
            found.append(ahead)
        return found

    def drawn(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray] | None:
        """The next actions [B] and their log-probabilities [B], if a step has drawn them for all rows."""
        heads = [self._rows[row][0] for row in rows if row in self._rows]
        log_probs = [one.log_prob for one in heads if one.log_prob is not None]
        if len(log_probs) < len(rows):
            return None
        return np.array([one.action for one in heads]), np.array(log_probs, dtype=np.float32)

    def rows_drawn(self, rows: Sequence[int]) -> list[int]:
        """Those of ``rows`` whose next action a step has drawn."""
        return [row for row in rows if row in self._rows and self._rows[row][0].log_prob is not None]

    def take(self, row: int, more: bool) -> None:
        """Remove the token that follows a row, which appends it.

        Args:
            more: whether the row appends more behind it, so that those that follow here are dropped.
        """
        ahead = self._rows[row]
        ahead.popleft()
        if more or not ahead:
            self.cut(row, len(self._session.tokens[row]) + 1)

    def drop(self, rows: Iterable[int]) -> None:
        """Drop what follows rows; followers compute their states at the rows' last tokens again."""
        for row in rows:
            ahead = self.next(row)
            if ahead is not None:
                length = len(self._session.tokens[row])
                self.cut(row, length)
                for follower in ahead.followers:
                    follower.roll_back(row, length)

    def cut(self, row: int, at: int) -> None:
        """Drop what follows a row from position ``at`` on; numbers that are not finite are erased."""
        for place, one in enumerate(self._rows.pop(row, ()), start=at):
            if not one.finite[1]:
                self._session.erase(row, place)
            if not one.finite[2]:
                for follower in one.followers:
                    follower.kv.erase(row, place)

    def clear(self) -> None:
        """Drop what follows all rows."""
        for row in list(self._rows):
            self.cut(row, len(self._session.tokens[row]))
