"""Rows of tokens over one base LM; hidden states and caches are derived from the tokens."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cola_agents.common.threads import fitting_threads
from cola_agents.decoding.ahead import FOLLOWER, STATE, STEPS_AHEAD, Made, TokensAhead, leading
from cola_agents.decoding.contract import PolicySession
from cola_agents.decoding.finite import NotFiniteError, not_finite
from cola_agents.decoding.follower import Follower, outdated
from cola_agents.decoding.fused import LONGEST, Packed
from cola_agents.decoding.kv import Chunk, GrowingRows, KVRows, run_rows
from cola_agents.decoding.sharing import any_long, beginnings, common_prefix, without_twins
from cola_agents.decoding.static import DeviceAct, DeviceRows, Draw, Steps
from cola_agents.decoding.transfer import to_device, to_host
from cola_agents.model.families import check_family


@dataclass
class _Taken:
    """A copy of a row's states that waits for those of its last tokens.

    Attributes:
        row: the row.
        start: the position of the first missing state.
        tokens: the ids from there on, once the row holds another text.
        states: [T, D].
    """

    row: int
    start: int
    tokens: list[int]
    states: Tensor


class Rows:
    """A session of R rows of tokens, with their hidden states under a base LM.

    Args:
        base: a Hugging Face decoder. Its weights must not change while rows hold tokens; call
            :meth:`forget` after a change.
        num_rows: R.
        max_length: the most tokens that a row may hold.
        static: whether steps run in fixed memory (:mod:`cola_agents.decoding.static`); None for True on a
            GPU. A base without a plan (:mod:`cola_agents.decoding.lean`) runs as usual.

    Attributes:
        static: whether steps run in fixed memory.
        tokens: the ids of each row.
        num_actions: A; of the base alone the size of its vocabulary.
        tokens_forwarded: the number of tokens that the base has run over.
        ahead: tokens that it has run over and no row holds yet.

    Raises:
        ValueError: for ``num_rows`` or ``max_length`` below 1, or a base that is not supported
            (:func:`~cola_agents.model.families.check_family`).
    """

    def __init__(self, base: nn.Module, num_rows: int, max_length: int, static: bool | None = False) -> None:
        if num_rows < 1:
            raise ValueError(f"a session needs at least one row, got num_rows={num_rows}")
        if max_length < 1:
            raise ValueError(f"the rows of a session hold at least one token, got max_length={max_length}")
        check_family(base.config)
        self.base = base
        self.num_rows = num_rows
        self.max_length = max_length
        self.tokens: list[list[int]] = [[] for _ in range(num_rows)]
        self.tokens_forwarded = 0
        self.device = next(base.parameters()).device
        self.threads = fitting_threads(base)
        self._order = list(range(num_rows))
        static = self.device.type == "cuda" if static is None else static
        self.static = static
        self._spare = int(static)
        self._allocate()
        self._steps = Steps(self) if static else None
        self.ahead = TokensAhead(self)
        config: Any = base.config
        self.num_actions: int = config.vocab_size
        # The observations that steps brought to the host: their name, the rows that have one, and [R, D].
        self._observed: str | None = None
        self._seen = np.zeros(num_rows, dtype=bool)
        self._observations = np.zeros((num_rows, 0), dtype=np.float32)
        self._last: Tensor | None = None
        self._held = [0] * num_rows  # the number of tokens of each row whose states were computed
        self._behind = False  # whether a row may hold more tokens than that
        self._deferred = False
        self._beyond: dict[int, list[int]] = {}  # of each row tokens that it does not hold, with their states
        self._taken: list[_Taken] = []
        self._leaving: list[_Taken] = []
        self.followers: weakref.WeakSet[Follower] = weakref.WeakSet()
        self.readers: weakref.WeakSet[Rows] = weakref.WeakSet()  # of this session's tokens by other models

    def _allocate(self) -> None:
        """Begin with empty memory for keys, values and states."""
        self.kv = KVRows(self.num_rows, self.max_length, self._spare)
        self._states = GrowingRows(self.num_rows + self._spare, self.max_length)

    def erase(self, row: int, at: int) -> None:
        """Zero a row's memory from position ``at`` on: a NaN there would spread even where it is masked."""
        self.kv.erase(row, at)
        self._states.erase(row, at)

    def load(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Set the tokens of each row; the common prefix of old and new tokens is not computed again.

        Raises:
            ValueError: for a row that would be empty or longer than ``max_length``; nothing is changed then.
        """
        for row, ids in zip(rows, tokens, strict=True):
            if not 0 < len(ids) <= self.max_length:
                raise ValueError(
                    f"row {row} would hold {len(ids)} tokens; 1 to {self.max_length} fit this session"
                )
        if self._leaving and not {leaving.row for leaving in self._leaving}.isdisjoint(rows):
            self.compute()
        growing, chunks = [], []
        for row, ids in zip(rows, tokens, strict=True):
            keep = common_prefix(self.tokens[row], ids)
            self._roll_back(row, keep)
            if keep < len(ids):
                growing.append(row)
                chunks.append(list(ids[keep:]))
            elif self._held[row] == keep and self._steps is None:
                assert self._states.data is not None
                assert self._last is not None
                self._last[row] = self._states.data[row, keep - 1]
        if growing:
            self.extend(growing, chunks)

    def extend(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Append a chunk of tokens to each row, in one or two forward passes (:meth:`.kv.KVRows.passes`).

        Raises:
            ValueError: for an empty chunk or a row that would get too long; nothing is changed then.
            FloatingPointError: for a hidden state that is not finite, naming row and token.
        """
        for row, held, chunk in zip(rows, self.lengths(rows), tokens, strict=True):
            length = held + len(chunk)
            if not chunk or length > self.max_length:
                raise ValueError(
                    f"row {row}: a chunk of {len(chunk)} tokens makes {length}; chunks hold at least one "
                    f"and rows at most {self.max_length} tokens"
                )
        if self._steps is not None:
            self._accept(rows, tokens)
        for row, chunk in zip(rows, tokens, strict=True):
            self.tokens[row].extend(chunk)
        if self._beyond:
            for row, chunk in zip(rows, tokens, strict=True):
                if known := common_prefix(self._beyond.pop(row, ()), chunk):
                    self._regain(row, known)
        self._behind = True
        if not self._deferred:
            self.compute(rows)

    def lengths(self, rows: Sequence[int]) -> list[int]:
        """The number of tokens that each row holds."""
        return list(map(len, map(self.tokens.__getitem__, rows)))

    def _computed(self, rows: Sequence[int], lengths: list[int]) -> bool:
        """Whether the states of rows of these lengths are all there."""
        return list(map(self._held.__getitem__, rows)) == lengths

    def step_back(self, lengths: Mapping[int, int]) -> None:
        """Cut rows to earlier lengths, and keep the states of the tokens that go.

        Where :meth:`extend` gives a row the same tokens next, the base does not run over them again. No
        follower may have read the tokens that go.

        Args:
            lengths: of each row the number of tokens that stay, at least 1.
        """
        for row, length in lengths.items():
            gone = self.tokens[row][length:]
            if not gone:
                continue
            known = gone[: max(0, self._held[row] - length)]
            self.tokens[row] = self.tokens[row][:length]
            self._held[row] = min(self._held[row], length)
            if known:
                self._beyond[row] = known
                self._regain(row, 0)

    def _regain(self, row: int, count: int) -> None:
        """Count a row's next ``count`` tokens as computed, whose states are there."""
        assert self._states.data is not None
        assert self._last is not None
        self._held[row] += count
        self._last[row] = self._states.data[row, self._held[row] - 1]

    # ---------------------------------------------------------------- steps in fixed memory

    def step(self, rows: Sequence[int], actions: np.ndarray | Tensor, **world: Any) -> Made | None:
        """Run the base over the tokens of actions [B] before the rows hold them.

        Args:
            actions: on the host or on the device. Of the latter those out of range are taken for the nearest
                in range, and come back as they are.
            world: ``world_u`` and ``temperature``, as in :meth:`~.static.Steps.run`.

        Returns:
            the tokens [B]; None if the step must run piece by piece.
        """
        if not self._can_step(rows):
            return None
        if not isinstance(actions, Tensor):
            kept = self.ahead.of(rows, actions)
            if kept is not None and not world.get("temperature"):
                return kept
        assert self._steps is not None
        with self.threads:
            made, run = self._steps.run(list(rows), actions, **world)
        self.ahead.put(rows, made, run)
        return self.ahead.next(rows)

    def act(
        self, rows: Sequence[int], act: DeviceAct, draw: Draw, u: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Draw actions in the same step as their tokens; :meth:`decode` of these actions finds it done.

        Args:
            u: uniforms [B], or [B, k] for the next k actions of each row: :attr:`ahead` holds those behind
                the first while :meth:`decode` and :meth:`extend` follow them.

        Returns:
            the first actions [B] int64 and their log-probabilities [B] float32; None if this is not possible.

        Raises:
            ValueError: for a k beyond :data:`~.ahead.STEPS_AHEAD`.
        """
        u = u.reshape(len(rows), -1)
        if not 0 < u.shape[1] <= STEPS_AHEAD:
            raise ValueError(f"act draws 1 to {STEPS_AHEAD} actions a row, got uniforms {list(u.shape)}")
        self.compute(rows)
        if not self._can_step(rows, u.shape[1]):
            return None
        assert self._steps is not None
        with self.threads:
            made, run = self._steps.run(list(rows), u=u, act=act, draw=draw)
        self.ahead.put(rows, made, run)
        return self.ahead.drawn(rows)

    def _can_step(self, rows: Sequence[int], steps: int = 1) -> bool:
        if self._steps is None or self.kv.plan_for(self.base) is None or self._states.data is None:
            return False
        lengths = self.lengths(rows)
        if not lengths or min(lengths) == 0 or max(lengths) > self.max_length - steps:
            return False
        return self._computed(rows, lengths)

    def world_tokens(
        self, h: Tensor, actions: Tensor, u: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor | None]:
        """The tokens [B] of actions [B] in states [B, D], and the largest logit of each, [B], if any."""
        return actions, None

    def weights(self) -> list[Tensor]:
        """The weights that :meth:`world_tokens` reads."""
        return []

    def states_of(self, length: int) -> Tensor:
        """The states of all rows, grown to at least ``length`` positions, [R + 1, S, D]."""
        assert self._states.data is not None
        return self._states.ensure(length, self._states.data[:1, :1])

    def observed(self, followers: Sequence[Follower]) -> Follower | str | None:
        """What computes the observations that were read last; None if nobody reads them, or it lags."""
        if self._observed is None:
            return None
        follower = self._follower_of(self._observed)
        return "base" if follower is None else follower if follower in followers else None

    def _accept(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        """Count the tokens that the base has run over as computed, where they begin the rows' chunks."""
        index = np.array(rows, dtype=np.int64)
        known, spoilt = self.ahead.agreeing(rows, tokens)
        finite = leading(spoilt & STATE == 0)
        for i in np.flatnonzero(finite < known).tolist():
            row, at = rows[i], int(finite[i])
            self.ahead.drop(rows)
            raise NotFiniteError(row, _not_finite(row, len(self.tokens[row]) + at, tokens[i][at]))
        # What is not finite of a follower is computed again, and refused there.
        known = np.minimum(known, leading(spoilt & FOLLOWER == 0))
        whole = known == [len(chunk) for chunk in tokens]
        self.ahead.take(rows, known, whole)
        for row, count in zip(rows, known.tolist(), strict=True):
            self._held[row] += count
        observed, observations = self.ahead.observations(rows)
        self._seen[index] = seen = observed & whole
        if seen.any():
            if self._observations.shape[1] != observations.shape[1]:
                self._observations = np.zeros((self.num_rows, observations.shape[1]), dtype=np.float32)
            self._observations[index[seen]] = observations[seen]

    def observations(self, rows: Sequence[int], name: str) -> np.ndarray | None:
        """The observations that the last step brought to the host, [B, D]; None if they are not all here."""
        if self._steps is None:
            return None
        if self._observed != name:
            self._observed, self._seen[:] = name, False
            self.ahead.drop_observations()
        index = list(rows)
        return self._observations[index] if index and self._seen[index].all() else None

    # ---------------------------------------------------------------- passes that wait

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block in which forward passes wait until a state is read, and then run over all rows at once.

        So tokens that :meth:`extend` and :meth:`load` give to different rows share a pass. It also runs after
        an error in the block. If it fails itself, the rows that it was to compute are empty.
        """
        self._deferred = True
        try:
            try:
                yield
            finally:
                self.compute()
        except BaseException:
            for row, ids in enumerate(self.tokens):
                if self._held[row] < len(ids):
                    self._roll_back(row, 0)
            raise
        finally:
            self._deferred = self._behind = False
            self._taken, self._leaving = [], []
            for follower in self.followers:
                follower.drop_taken()

    def take(self, row: int) -> Tensor:
        """A copy of the hidden states of all of a row's tokens, [T, D].

        In a :meth:`deferred` block the states of new tokens are filled in by the next pass, also if the row
        is loaded with another text before.
        """
        start, length = self._held[row], len(self.tokens[row])
        if start < length and not self._can_leave(length - start):
            self.compute()
            start = length
        held = self._states.data
        assert held is not None
        states = held.new_empty(length, held.shape[-1])
        with self.threads:
            states[:start] = held[row, :start]
        if start < length:
            self._taken.append(_Taken(row, start, [], states))
        return states

    def _can_leave(self, width: int) -> bool:
        """Whether a packed pass can compute ``width`` tokens of a row before those of its next text."""
        return self._states.data is not None and width <= LONGEST and self.kv.fused_for(self.base) is not None

    def _roll_back(self, row: int, keep: int) -> None:
        """Keep the first ``keep`` tokens of a row."""
        for taken in [taken for taken in self._taken if taken.row == row]:
            taken.tokens = self.tokens[row][taken.start :]
            self._taken.remove(taken)
            self._leaving.append(taken)
        self.tokens[row] = self.tokens[row][:keep]
        self._held[row] = min(self._held[row], keep)
        self.ahead.cut(row, keep)
        self._beyond.pop(row, None)
        self._seen[row] = False
        for follower in self.followers:
            follower.roll_back(row, keep)

    def compute(self, rows: Sequence[int] | None = None) -> None:
        """Compute all new tokens of the session, if any of ``rows`` has some; None for all rows.

        Raises:
            FloatingPointError: for a hidden state that is not finite, naming row and token. The new tokens
                of the rows of that pass are dropped.
        """
        if not self._behind:
            return
        if rows is not None and self._computed(rows, self.lengths(rows)):
            return
        with self.threads:
            self._compute()

    def _compute(self) -> None:
        """Run the passes over all new tokens, and fill in the states that :meth:`take` promised."""
        leaving, self._leaving = self._leaving, []
        held = list(self._held)
        growing = [row for row in self._order if self._held[row] < len(self.tokens[row])]
        copies, sharing = dict[int, list[int]](), any_long(self.tokens, self._held, growing)
        if sharing:
            growing, copies = without_twins(self.tokens, self._held, growing)
        try:
            if sharing and not leaving:  # whose tokens attend to what their rows held before
                self._compute_beginnings(growing)
            members = [text.row for text in leaving] + growing
            starts = [text.start for text in leaving] + [self._held[row] for row in growing]
            chunks = [text.tokens for text in leaving]
            chunks += [self.tokens[row][self._held[row] :] for row in growing]
            widths = [len(chunk) for chunk in chunks]
            for group, placed in self.kv.passes(self.base, members, starts, widths):
                self._forward(
                    placed,
                    [text for i, text in enumerate(leaving) if i in group],
                    [members[i] for i in group],
                    [chunks[i] for i in group],
                )
        except NotFiniteError:
            for row in [*growing, *(twin for twins in copies.values() for twin in twins)]:
                if self._held[row] < len(self.tokens[row]):
                    self.tokens[row] = self.tokens[row][: held[row]]
                    self._held[row] = held[row]
                    for follower in self.followers:  # whose last state may be of tokens drawn ahead
                        follower.roll_back(row, held[row])
            raise
        for row, twins in copies.items():
            self._copy(row, twins, len(self.tokens[row]))
        for text in self._taken:
            assert self._states.data is not None
            text.states[text.start :] = self._states.data[text.row, text.start : len(text.states)]
        self._taken, self._behind = [], False

    def _compute_beginnings(self, rows: Sequence[int]) -> None:
        """Compute what rows of different texts begin alike with, once for all of them."""
        for row, others, end in beginnings(self.tokens, self._held, rows):
            start = self._held[row]
            for _, placed in self.kv.passes(self.base, [row], [start], [end - start]):
                self._forward(placed, [], [row], [self.tokens[row][start:end]])
            self._copy(row, others, end)

    def _copy(self, row: int, to: Sequence[int], end: int) -> None:
        """Give rows the states, keys and values of their new tokens up to ``end``, which ``row`` has."""
        start = self._held[to[0]]
        self.kv.copy(row, to, start, end)
        self._states.copy(row, to, start, end)
        for twin in to:
            self._held[twin] = end
            if self._steps is None:
                assert self._last is not None
                self._last[twin] = self._last[row]

    @torch.no_grad()
    def _forward(
        self,
        placed: Chunk | Packed,
        leaving: Sequence[_Taken],
        rows: Sequence[int],
        chunks: Sequence[Sequence[int]],
    ) -> None:
        """Run one pass over chunks of tokens, the first of which are of texts that are ``leaving``."""
        h = run_rows(self.base, self.kv, placed, input_ids=placed.lay(chunks))
        self.tokens_forwarded += sum(placed.widths)
        last = placed.ends(h)
        bad = not_finite(last)
        if bad:
            starts = [text.start for text in leaving] + [self._held[row] for row in rows[len(leaving) :]]
            for i in bad:
                self.kv.erase(rows[i], starts[i])
            row, start, chunk, left = rows[bad[0]], starts[bad[0]], chunks[bad[0]], bad[0] < len(leaving)
            message = _not_finite(row, start + len(chunk) - 1, chunk[-1])
            raise NotFiniteError(row, message + " of the text that it held before" * left, left)
        (index, at), changed = placed.where, placed.rows
        if leaving:
            assert isinstance(placed, Packed)
            first = 0
            for text in leaving:
                text.states[text.start :] = h[first : first + len(text.tokens)]
                first += len(text.tokens)
            rows = rows[len(leaving) :]
            h, last, index, at = h[first:], last[len(leaving) :], index[first:], at[first:]
            changed = torch.tensor(rows, dtype=torch.long)
        self._states.ensure(placed.length, h.reshape(-1, 1, h.shape[-1]))[index, at] = h
        if self._steps is None:  # otherwise :meth:`last` reads the states
            if changed is None:
                self._last = last
            else:
                if self._last is None:
                    self._last = h.new_zeros(self.num_rows, h.shape[-1])
                self._last[changed] = last
        for row, chunk in zip(rows, chunks[len(leaving) :], strict=True):
            self._held[row] += len(chunk)

    def every(self, rows: Sequence[int]) -> bool:
        """Whether ``rows`` are all rows in order, so that nothing needs to be gathered."""
        return len(rows) == self.num_rows and list(rows) == self._order

    def last(self, rows: Sequence[int] | DeviceRows) -> Tensor:
        """Hidden states at the rows' last tokens, [B, D], in the model's dtype; valid until a row changes.

        Of all rows in order it is the session's own memory, which later passes write to: clone what is kept.
        """
        if isinstance(rows, DeviceRows):
            assert self._states.data is not None
            return self._states.data[rows.index, rows.at - 1]
        if not all(map(self.tokens.__getitem__, rows)):
            empty = next(row for row in rows if not self.tokens[row])
            raise RuntimeError(f"row {empty} of the session holds no tokens: load() it first")
        self.compute(rows)
        if self._steps is not None and self._states.data is not None:
            places = np.array([rows, self.lengths(rows)], dtype=np.int64)
            index, ends = to_device(places, self.device)
            with self.threads:
                return self._states.data[index, ends - 1]
        assert self._last is not None
        if self.every(rows):
            return self._last
        with self.threads:
            return self._last.index_select(0, to_device(np.array(rows, dtype=np.int64), self.device))

    def at(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Hidden states at ``positions`` of ``rows``, of one shape; after a row's end any state."""
        assert self._states.data is not None
        return self._states.data[rows, positions.clamp_max(self._states.data.shape[1] - 1)]

    def hidden(self, rows: Sequence[int]) -> np.ndarray:
        """Hidden states at the rows' last tokens, [B, D] float32."""
        here = self.observations(rows, "hidden")
        return self._copied(self.last(rows)) if here is None else here

    def final(self, rows: Sequence[int], observation: str) -> Callable[[], np.ndarray]:
        """Observations of rows that are about to be loaded: as in ``DeferringSession`` of ``cola_envs``."""
        last = self.take_observations(rows, observation)
        return lambda: self._copied(*last)

    def _copied(self, *states: Tensor) -> np.ndarray:
        """States [B, D], or B states [D], as a new array in float32, which no later pass writes to."""
        with self.threads:
            return copied(states[0] if states[0].dim() > 1 else torch.stack(states))

    def _log_probs(self, logits: Tensor) -> np.ndarray:
        """The log-probabilities [B, A] of logits, in float32."""
        with self.threads:
            return to_host(logits.float().log_softmax(-1))

    def take_observations(self, rows: Sequence[int], observation: str) -> list[Tensor]:
        """:meth:`final` on the device: of each row [D] in the model's dtype, filled in by the next pass."""
        follower = self._follower_of(observation)
        return [self.take(row)[-1] if follower is None else follower.take(row) for row in rows]

    def observe(self, rows: Sequence[int], observation: str) -> Tensor:
        """The observations ``"hidden"`` or ``"features"`` on the device, as :meth:`last`: [B, D]."""
        follower = self._follower_of(observation)
        return self.last(rows) if follower is None else follower.features(rows)

    def _follower_of(self, observation: str) -> Follower | None:
        """The stack that computes an observation; None for the base."""
        return None

    def states(self, row: int) -> Tensor:
        """Hidden states of all tokens of a row, [T, D]; a view, valid until the row changes."""
        self.compute([row])
        assert self._states.data is not None
        return self._states.data[row, : len(self.tokens[row])]

    def follow(self, trunk: nn.Module) -> Follower:
        """A reader of this session's hidden states by another decoder stack (a policy, say)."""
        if self._steps is not None:
            # A graph depends on a follower's memory: another collection by the same trunk takes it over.
            for follower in self.followers:
                if follower.trunk is trunk:
                    self.ahead.drop(self._order)  # the follower does not hold them any more
                    follower.forget()
                    return follower
        follower = Follower(self, trunk)
        self.followers.add(follower)
        return follower

    def forget(self) -> None:
        """Empty all rows and drop everything derived from them, for example after a change of weights.

        The weights are read anew, however they were written.
        """
        self.ahead.clear()
        self.tokens = [[] for _ in range(self.num_rows)]
        self._held, self._behind = [0] * self.num_rows, False
        self._taken, self._leaving = [], []
        self._seen[:], self._beyond = False, {}
        self.kv.forget_plan()
        if outdated(self._states.data, self.base):
            self._allocate()
            self._last = None
        for follower in self.followers:
            follower.forget()
        for reader in self.readers:
            reader.forget()


def _not_finite(row: int, position: int, token: int) -> str:
    return f"hidden state of row {row} is not finite at position {position}, token {token}"


def copied(states: Tensor) -> np.ndarray:
    """States as a new float32 array, which no later pass writes to."""
    return to_host(states.float())


def last_states(trunk: nn.Module, session: PolicySession) -> Callable[[Sequence[int]], Tensor]:
    """A reader of a session's tokens by another language model.

    Args:
        trunk: a Hugging Face decoder over token ids; its weights must not change while the rows hold tokens.
            After a change call the session's ``forget``. Sessions of other classes than :class:`Rows` do not
            know of the reader: there, make a new one.

    Returns:
        a function from rows to the trunk's hidden states at their last tokens, [B, D]; common prefixes with
        the last call are not computed again. The states are valid until the next call.
    """
    cache = Rows(trunk, session.num_rows, session.max_length)
    if isinstance(session, Rows):
        session.readers.add(cache)

    def last(rows: Sequence[int]) -> Tensor:
        cache.load(rows, [session.tokens[row] for row in rows])
        return cache.last(rows)

    return last
