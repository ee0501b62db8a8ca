"""Tokens that the base has run over before the rows of a session hold them.

A step in fixed memory (:mod:`~cola_agents.decoding.static`) computes the token of an action together with the
action, several steps the tokens of several. They wait here until the session appends them, or until something
else is appended in their place. They lie in arrays: with an object for each of them, thousands of rows would
keep the host busy.

Shapes: R rows of the session, B rows of a call, K steps, D hidden.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cola_agents.decoding.kv import KVRows

#: The number of steps of a policy that the host waits for at once. What a row draws behind the end of its
#: episode is dropped, so that the more they are, the more short episodes lose. Not tuned on a GPU.
STEPS_AHEAD = 8
#: What of a token is not finite, as bits: the world model's logits, the base's state, a follower's state.
LOGITS, STATE, FOLLOWER = 1, 2, 4


class RunsAhead(Protocol):
    """A follower that runs over tokens with the base; see :class:`~.follower.Follower`."""

    kv: KVRows

    def gain(self, row: int, count: int) -> None: ...

    def roll_back(self, row: int, length: int) -> None: ...


@dataclass(frozen=True, eq=False)
class Run:
    """What all tokens of one run of steps have in common.

    Attributes:
        acted: whether its steps drew the actions.
        drawn: whether they drew the tokens, so that the actions could give others.
        followers: those that ran over the tokens, too.
    """

    acted: bool
    drawn: bool
    followers: tuple[RunsAhead, ...]


@dataclass(frozen=True)
class Made:
    """Tokens that steps made: of one step [B] in each array, of K steps [K, B].

    Attributes:
        tokens: ids, int32.
        actions: those that gave them, int32.
        log_probs: of the actions, float32; without meaning where the steps did not draw them.
        spoilt: the sum of what is not finite (:data:`LOGITS`, :data:`STATE`, :data:`FOLLOWER`), int32.
        observations: of the states after the tokens of one step, [B, D] float32; None if nobody reads them.
    """

    tokens: NDArray[np.int32]
    actions: NDArray[np.int32]
    log_probs: NDArray[np.float32]
    spoilt: NDArray[np.int32]
    observations: NDArray[np.float32] | None = None


class Holding(Protocol):
    """A session, whose rows the tokens follow; see :class:`~.session.Rows`."""

    tokens: list[list[int]]
    num_rows: int

    def erase(self, row: int, at: int) -> None: ...


class TokensAhead:
    """Of each row the tokens that follow those that it holds, in their order.

    Args:
        session: the session, in whose memory their keys, values and states are.

    Attributes:
        used: whether there ever were any: most sessions do not step in fixed memory.
    """

    def __init__(self, session: Holding) -> None:
        self._session = weakref.proxy(session)
        rows = session.num_rows
        self._tokens, self._actions, self._spoilt = np.zeros((3, STEPS_AHEAD, rows), dtype=np.int32)
        self._log_probs = np.zeros((STEPS_AHEAD, rows), dtype=np.float32)
        # A row is followed by the tokens of the steps from ``_at`` up to ``_end`` of its run.
        self._at, self._end = np.zeros((2, rows), dtype=np.int64)
        self._runs = np.full(rows, None, dtype=object)
        self._observed = np.zeros(rows, dtype=bool)
        self._observations = np.zeros((rows, 0), dtype=np.float32)
        self.used = False

    def put(self, rows: Sequence[int], made: Made, run: Run) -> None:
        """Set the tokens [K, B] that follow rows which nothing follows."""
        index, steps = _index(rows), len(made.tokens)
        self._tokens[:steps, index], self._actions[:steps, index] = made.tokens, made.actions
        self._log_probs[:steps, index], self._spoilt[:steps, index] = made.log_probs, made.spoilt
        self._at[index], self._end[index], self._runs[index] = 0, steps, run
        self._observed[index] = made.observations is not None
        if made.observations is not None:
            size = made.observations.shape[1]
            if self._observations.shape[1] != size:
                self._observations = np.zeros((len(self._at), size), dtype=np.float32)
            self._observations[index] = made.observations
        self.used = True

    def _followed(self, rows: Sequence[int]) -> NDArray[np.bool_]:
        """Whether a token follows each row, [B]."""
        index = _index(rows)
        followed: NDArray[np.bool_] = self._at[index] < self._end[index]
        return followed

    def next(self, rows: Sequence[int]) -> Made | None:
        """The token that follows each row, [B]; None if one of the rows is followed by none."""
        if not self.used or not self._followed(rows).all():
            return None
        index = _index(rows)
        where = self._at[index], index
        return Made(self._tokens[where], self._actions[where], self._log_probs[where], self._spoilt[where])

    def all(self, rows: Sequence[int]) -> tuple[Made, NDArray[np.int64]]:
        """All tokens that follow each row, [K, B], and the number of them, [B]; behind those any numbers."""
        index = _index(rows)
        steps = np.minimum(self._at[index] + np.arange(STEPS_AHEAD)[:, None], STEPS_AHEAD - 1)
        where = steps, index
        made = Made(self._tokens[where], self._actions[where], self._log_probs[where], self._spoilt[where])
        return made, self._end[index] - self._at[index]

    def of(self, rows: Sequence[int], actions: np.ndarray) -> Made | None:
        """What actions [B] give, if they gave the next tokens of all rows, and can give no others."""
        made = self.next(rows)
        if made is None or any(run.drawn for run in set(self._runs[_index(rows)])):
            return None
        return made if np.array_equal(made.actions, actions) else None

    def drawn(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray] | None:
        """The next actions [B] and their log-probabilities [B], if a step has drawn them for all rows."""
        made = self.next(rows)
        if made is None or not all(run.acted for run in set(self._runs[_index(rows)])):
            return None
        return made.actions.astype(np.int64), made.log_probs

    def rows_drawn(self, rows: Sequence[int]) -> list[int]:
        """Those of ``rows`` whose next action a step has drawn."""
        if not self.used:
            return []
        followed = _index(rows)[self._followed(rows)]
        return [row for row, run in zip(followed.tolist(), self._runs[followed], strict=True) if run.acted]

    def agreeing(
        self, rows: Sequence[int], chunks: Sequence[Sequence[int]]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Compare what follows rows with the tokens that they append.

        Returns:
            how many tokens of each chunk follow its row, [B], and what is not finite of each of them, [K, B].
        """
        made, counts = self.all(rows)
        appended = np.full(made.tokens.shape, -1)
        for step in range(min(STEPS_AHEAD, max(map(len, chunks), default=0))):
            appended[step] = [chunk[step] if step < len(chunk) else -1 for chunk in chunks]
        same = (made.tokens == appended) & (np.arange(STEPS_AHEAD)[:, None] < counts)
        return leading(same), made.spoilt

    def observations(self, rows: Sequence[int]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Whether the last step of each row brought an observation, [B], and the observations, [B, D]."""
        index = _index(rows)
        return self._observed[index], self._observations[index]

    def drop_observations(self) -> None:
        """Drop the observations of all rows: others are read from now on."""
        self._observed[:] = False

    def take(self, rows: Sequence[int], counts: NDArray[np.int64], whole: NDArray[np.bool_]) -> None:
        """Remove the next tokens of rows, which append them.

        Args:
            counts: how many of them each row appends, [B].
            whole: whether it appends nothing behind them, [B]; otherwise what follows them here is dropped.
        """
        index = _index(rows)
        self.drop(index[counts == 0].tolist())
        for row, run, count in zip(rows, self._runs[index].tolist(), counts.tolist(), strict=True):
            if count:
                for follower in run.followers:
                    follower.gain(row, count)
        self._at[index] += counts
        self._runs[index[self._at[index] == self._end[index]]] = None
        for i in np.flatnonzero((counts > 0) & ~whole).tolist():
            self.cut(rows[i], len(self._session.tokens[rows[i]]) + int(counts[i]))

    def drop(self, rows: Sequence[int]) -> None:
        """Drop what follows rows; followers compute their states at the rows' last tokens again."""
        if not self.used:
            return
        for row in _index(rows)[self._followed(rows)].tolist():
            length, followers = len(self._session.tokens[row]), self._runs[row].followers
            self.cut(row, length)
            for follower in followers:
                follower.roll_back(row, length)

    def cut(self, row: int, at: int) -> None:
        """Drop what follows a row from position ``at`` on; numbers that are not finite are erased."""
        steps = slice(self._at[row], self._end[row])
        self._at[row] = self._end[row]
        for place, spoilt in enumerate(self._spoilt[steps, row].tolist(), start=at):
            if spoilt & STATE:
                self._session.erase(row, place)
            if spoilt & FOLLOWER:
                for follower in self._runs[row].followers:
                    follower.kv.erase(row, place)
        self._runs[row] = None

    def clear(self) -> None:
        """Drop what follows all rows."""
        for row in np.flatnonzero(self._at < self._end).tolist():
            self.cut(row, len(self._session.tokens[row]))


def leading(marks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The number of True before the first False in each column of [K, B]: [B]."""
    count: NDArray[np.int64] = np.logical_and.accumulate(marks).sum(0)
    return count


def _index(rows: Sequence[int]) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64)
