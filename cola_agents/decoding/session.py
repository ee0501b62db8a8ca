"""Rows of tokens over one base LM; hidden states and caches are derived from the tokens."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cola_agents.common.threads import fitting_threads
from cola_agents.decoding.contract import PolicySession
from cola_agents.decoding.fused import Packed
from cola_agents.decoding.kv import Chunk, GrowingRows, KVRows, run_rows
from cola_agents.model.families import check_family


class NotFiniteError(FloatingPointError):
    """NaN or infinity in row ``row``."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def not_finite(values: Tensor) -> list[int]:
    """The indices along the first dimension of [B, ...] of entries with NaN or infinity."""
    # A sum with NaN or infinity is not finite, and checking one number is faster. If a sum of finite values
    # overflows, the entries are checked one by one, too.
    if math.isfinite(values.sum(dtype=torch.float32)):
        return []
    return (~torch.isfinite(values)).reshape(len(values), -1).any(-1).nonzero().flatten().tolist()


class Rows:
    """A session of R rows of tokens, with their hidden states under a base LM.

    Args:
        base: a Hugging Face decoder. Its weights must not change while rows hold tokens; call
            :meth:`forget` after a change.
        num_rows: R.
        max_length: the most tokens that a row may hold.

    Attributes:
        tokens: the ids of each row.
        tokens_forwarded: the number of tokens that the base has run over.

    Raises:
        ValueError: for ``num_rows`` below 1, or a base that is not supported
            (:func:`~cola_agents.model.families.check_family`).
    """

    def __init__(self, base: nn.Module, num_rows: int, max_length: int) -> None:
        if num_rows < 1:
            raise ValueError(f"a session needs at least one row, got num_rows={num_rows}")
        check_family(base.config)
        self.base = base
        self.num_rows = num_rows
        self.max_length = max_length
        self.tokens: list[list[int]] = [[] for _ in range(num_rows)]
        self.tokens_forwarded = 0
        self._device = next(base.parameters()).device
        self.threads = fitting_threads(base)
        self._order = list(range(num_rows))
        self._kv = KVRows(num_rows, max_length)
        self._states = GrowingRows(num_rows, max_length)
        self._last: Tensor | None = None
        self._followers: weakref.WeakSet[Follower] = weakref.WeakSet()

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
        growing, chunks = [], []
        for row, ids in zip(rows, tokens, strict=True):
            old = self.tokens[row]
            keep = _common_prefix(old, ids)
            self.tokens[row] = old[:keep]
            for follower in self._followers:
                follower.roll_back(row, keep)
            if keep < len(ids):
                growing.append(row)
                chunks.append(list(ids[keep:]))
            else:
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
        for row, chunk in zip(rows, tokens, strict=True):
            length = len(self.tokens[row]) + len(chunk)
            if not chunk or length > self.max_length:
                raise ValueError(
                    f"row {row}: a chunk of {len(chunk)} tokens makes {length}; chunks hold at least one "
                    f"and rows at most {self.max_length} tokens"
                )
        starts, widths = [len(self.tokens[row]) for row in rows], [len(chunk) for chunk in tokens]
        for group, placed in self._kv.passes(self.base, rows, starts, widths):
            self._forward(placed, [rows[i] for i in group], [tokens[i] for i in group])

    @torch.no_grad()
    def _forward(self, chunk: Chunk | Packed, rows: Sequence[int], chunks: Sequence[Sequence[int]]) -> None:
        with self.threads:
            h = run_rows(self.base, self._kv, chunk, input_ids=chunk.lay(chunks))
        self.tokens_forwarded += sum(chunk.widths)
        self._states.ensure(chunk.length, h.reshape(-1, 1, h.shape[-1]))[chunk.where] = h
        last = chunk.ends(h)
        bad = not_finite(last)
        if bad:
            for i in bad:
                self._kv.erase(rows[i], len(self.tokens[rows[i]]))
                self._states.erase(rows[i], len(self.tokens[rows[i]]))
            i = bad[0]
            position = len(self.tokens[rows[i]]) + len(chunks[i]) - 1
            raise NotFiniteError(
                rows[i],
                f"hidden state of row {rows[i]} is not finite at position {position}, token {chunks[i][-1]}",
            )
        if chunk.rows is None:
            self._last = last
        else:
            if self._last is None:
                self._last = h.new_zeros(self.num_rows, h.shape[-1])
            self._last[chunk.rows] = last
        for row, new in zip(rows, chunks, strict=True):
            self.tokens[row].extend(new)

    def _every(self, rows: Sequence[int]) -> bool:
        """Whether ``rows`` are all rows in order, so that nothing needs to be gathered."""
        return len(rows) == self.num_rows and list(rows) == self._order

    def last(self, rows: Sequence[int]) -> Tensor:
        """Hidden states at the rows' last tokens, [B, D], in the model's dtype."""
        if self._last is None:
            raise RuntimeError("the session holds no tokens yet: load() its rows first")
        if self._every(rows):
            return self._last
        return self._last[list(rows)]

    def hidden(self, rows: Sequence[int]) -> np.ndarray:
        """Hidden states at the rows' last tokens, [B, D] float32."""
        # A copy: without it, the next step would write to the returned array.
        return self.last(rows).to(torch.float32, copy=True).cpu().numpy()

    def states(self, row: int) -> Tensor:
        """Hidden states of all tokens of a row, [T, D]; a view, valid until the row changes."""
        assert self._states.data is not None
        return self._states.data[row, : len(self.tokens[row])]

    def follow(self, trunk: nn.Module) -> Follower:
        """A reader of this session's hidden states by another decoder stack (a policy, say)."""
        follower = Follower(self, trunk)
        self._followers.add(follower)
        return follower

    def forget(self) -> None:
        """Empty all rows and drop everything derived from them, for example after a change of weights."""
        self.tokens = [[] for _ in range(self.num_rows)]
        self._kv.forget_plan()
        for follower in self._followers:
            follower.forget()


class Follower:
    """A decoder stack over a session's hidden states, with its own cache.

    It is lazy: :meth:`features` runs the stack over the tokens that the rows have gained since the last call.
    """

    def __init__(self, session: Rows, trunk: nn.Module) -> None:
        self._session = weakref.proxy(session)
        self.trunk = trunk
        self.forget()

    def forget(self) -> None:
        """Drop the cache, for example after a change of the trunk's weights."""
        self._kv = KVRows(self._session.num_rows, self._session.max_length)
        self._held = [0] * self._session.num_rows
        self._last: Tensor | None = None

    def roll_back(self, row: int, length: int) -> None:
        """Drop a row's cache from its token ``length - 1`` on, which is the last that the session kept."""
        self._held[row] = min(self._held[row], max(0, length - 1))

    @torch.no_grad()
    def features(self, rows: Sequence[int]) -> Tensor:
        """The trunk's hidden state at each row's last token, [B, D], in the model's dtype."""
        lengths = [len(self._session.tokens[row]) for row in rows]
        missing = [length - self._held[row] for row, length in zip(rows, lengths, strict=True)]
        for group, chunk in self._kv.passes(self.trunk, rows, [self._held[row] for row in rows], missing):
            self._catch_up(chunk, [rows[i] for i in group])
        if self._last is None:
            raise RuntimeError("the session holds no tokens yet: load() its rows first")
        return self._last if self._session._every(rows) else self._last[list(rows)]

    def _catch_up(self, chunk: Chunk | Packed, rows: list[int]) -> None:
        session = self._session
        index, at = chunk.where
        if max(chunk.widths) == 1:
            h = session.last(rows).reshape(*at.shape, -1)
        else:
            # The pads of a short row have positions after its end.
            states = session._states.data
            h = states[index, at.clamp_max(states.shape[1] - 1)]
        with session.threads:
            out = run_rows(self.trunk, self._kv, chunk, inputs_embeds=h)
        last = chunk.ends(out)
        bad = not_finite(last)
        if bad:
            for i in bad:
                self._kv.erase(rows[i], self._held[rows[i]])
            row = rows[bad[0]]
            token = session.tokens[row][-1]
            raise NotFiniteError(
                row, f"the policy's state of row {row} is not finite at its last token, {token}"
            )
        if chunk.rows is None:
            self._last = last
        else:
            if self._last is None:
                self._last = out.new_zeros(session.num_rows, out.shape[-1])
            self._last[chunk.rows] = last
        for row, count in zip(rows, chunk.widths, strict=True):
            self._held[row] += count


def last_states(trunk: nn.Module, session: PolicySession) -> Callable[[Sequence[int]], Tensor]:
    """A reader of a session's tokens by another language model.

    Args:
        trunk: a Hugging Face decoder over token ids; its weights must not change.

    Returns:
        a function from rows to the trunk's hidden states at their last tokens, [B, D]; common prefixes with
        the last call are not computed again.
    """
    cache = Rows(trunk, session.num_rows, session.max_length)

    def last(rows: Sequence[int]) -> Tensor:
        cache.load(rows, [session.tokens[row] for row in rows])
        return cache.last(rows)

    return last


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return min(len(a), len(b))
