"""Another decoder stack, a policy say, over the hidden states of a session."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cola_agents.decoding.ahead import TokensAhead
from cola_agents.decoding.finite import NotFiniteError, not_finite
from cola_agents.decoding.fused import LONGEST, Packed
from cola_agents.decoding.kv import Chunk, KVRows, run_rows
from cola_agents.decoding.sharing import any_long, beginnings, without_twins
from cola_agents.decoding.static import DeviceRows
from cola_agents.decoding.transfer import to_device


class Followed(Protocol):
    """A session, as a follower reads it; see :class:`~.session.Rows`."""

    tokens: list[list[int]]
    num_rows: int
    max_length: int
    kv: KVRows
    threads: Any

    def compute(self, rows: Sequence[int] | None = None) -> None: ...

    def last(self, rows: Sequence[int]) -> Tensor: ...

    def at(self, rows: Tensor, positions: Tensor) -> Tensor:
        """The states at positions of rows; of a position after a row's end any state."""

    def every(self, rows: Sequence[int]) -> bool: ...

    def take(self, row: int) -> Tensor: ...

    @property
    def ahead(self) -> TokensAhead: ...


@dataclass
class _LastTaken:
    """A copy of a follower's state at a row's last token that waits for the follower's next pass.

    Attributes:
        row: the row.
        start: the number of the row's tokens that the follower had run over.
        states: the base's states of all of the row's tokens, [T, D].
        last: [D].
    """

    row: int
    start: int
    states: Tensor
    last: Tensor


def outdated(states: Tensor | None, stack: nn.Module) -> bool:
    """Whether states were made in inference mode, so that they are read-only, or in another type."""
    if states is None:
        return False
    return states.is_inference() or states.dtype != next(stack.parameters()).dtype


class Follower:
    """A decoder stack over a session's hidden states, with its own cache.

    It is lazy: :meth:`features` runs the stack over the tokens that the rows have gained since the last call.
    """

    def __init__(self, session: Followed, trunk: nn.Module) -> None:
        self._session = weakref.proxy(session)
        self.trunk = trunk
        self._fixed = session.kv.spare > 0
        self.kv = KVRows(session.num_rows, session.max_length, session.kv.spare)
        self._last: Tensor | None = None
        self.forget()

    def forget(self) -> None:
        """Drop the cache, for example after a change of the trunk's weights."""
        self.drop_taken()
        self._held = [0] * self._session.num_rows
        if self._fixed and not outdated(self._last, self.trunk):  # the memory stays where it is
            self.kv.forget_plan()
        else:
            self.kv = KVRows(self._session.num_rows, self._session.max_length, self._session.kv.spare)
            self._last = None

    @property
    def last(self) -> Tensor:
        """The trunk's state at each row's last token, [R + 1, D], of a session that steps in fixed memory."""
        assert self._last is not None
        return self._last

    def keeps_up(self, rows: Sequence[int]) -> bool:
        """Whether the trunk has run over all tokens of ``rows``, and can step in fixed memory."""
        if self._last is None or self.kv.plan_for(self.trunk) is None:
            return False
        return all(self._held[row] == len(self._session.tokens[row]) for row in rows)

    def gain(self, row: int, count: int) -> None:
        """Count tokens of a row that steps have run the trunk over."""
        self._held[row] += count

    def roll_back(self, row: int, length: int) -> None:
        """Drop a row's cache from its token ``length - 1`` on, which is the last that the session kept."""
        self._held[row] = min(self._held[row], max(0, length - 1))

    def drop_taken(self) -> None:
        """Forget the states that :meth:`take` promised."""
        self._leaving: list[_LastTaken] = []

    def take(self, row: int) -> Tensor:
        """A copy of the trunk's hidden state at a row's last token, [D].

        In a :meth:`Rows.deferred` block it is filled in by the next :meth:`features`, also if the row is
        loaded with another text before.
        """
        session, start = self._session, self._held[row]
        missing = len(session.tokens[row]) - start
        if not 0 < missing <= LONGEST or self.kv.fused_for(self.trunk) is None:
            return self.features([row])[0].clone()
        states = session.take(row)
        taken = _LastTaken(row, start, states, states.new_empty(states.shape[-1]))
        self._leaving.append(taken)
        return taken.last

    def features(self, rows: Sequence[int] | DeviceRows) -> Tensor:
        """The trunk's hidden state at each row's last token, [B, D], in the model's dtype.

        Valid until a row changes. Of all rows in order it is the follower's own memory, which later passes
        write to: clone what is kept.
        """
        if isinstance(rows, DeviceRows):
            return self.last[rows.index]
        self.catch_up(rows)
        if self._last is None:
            raise RuntimeError("the session holds no tokens yet: load() its rows first")
        if self._session.every(rows):
            return self._last[: len(rows)]
        with self._session.threads:
            return self._last[to_device(np.array(rows, dtype=np.int64), self._last.device)]

    def catch_up(self, rows: Sequence[int]) -> None:
        """Run the trunk over all tokens of ``rows`` that it has not seen."""
        self._session.ahead.drop(rows)
        leaving, self._leaving = self._leaving, []
        self._session.compute(None if leaving else rows)
        with self._session.threads:
            self._run(leaving, rows)

    @torch.no_grad()
    def _run(self, leaving: list[_LastTaken], rows: Sequence[int]) -> None:
        """Run the passes over what is new in texts that are ``leaving`` and in rows."""
        tokens, copies = self._session.tokens, dict[int, list[int]]()
        # Tokens of texts that are leaving attend to what their rows held before.
        if not leaving and any_long(tokens, self._held, rows):
            rows, copies = without_twins(tokens, self._held, rows)
            for row, others, end in beginnings(tokens, self._held, rows):
                start = self._held[row]
                for _, chunk in self.kv.passes(self.trunk, [row], [start], [end - start]):
                    self._catch_up(chunk, [], [row])
                self._copy(row, others, end)
        members = [text.row for text in leaving] + list(rows)
        starts = [text.start for text in leaving] + [self._held[row] for row in rows]
        ends = [len(text.states) for text in leaving] + [len(tokens[row]) for row in rows]
        widths = [end - start for start, end in zip(starts, ends, strict=True)]
        for group, chunk in self.kv.passes(self.trunk, members, starts, widths):
            texts = [text for i, text in enumerate(leaving) if i in group]
            self._catch_up(chunk, texts, [members[i] for i in group])
        for row, twins in copies.items():
            self._copy(row, twins, len(tokens[row]))

    def _copy(self, row: int, to: Sequence[int], end: int) -> None:
        """Give rows the keys and values of their new tokens up to ``end``, and the last state of ``row``."""
        self.kv.copy(row, to, self._held[to[0]], end)
        for other in to:
            self.last[other] = self.last[row]
            self._held[other] = end

    def _catch_up(self, chunk: Chunk | Packed, leaving: Sequence[_LastTaken], rows: list[int]) -> None:
        """Run one pass over new tokens of rows, the first of which are of texts that are ``leaving``."""
        session = self._session
        index, at = chunk.where
        if max(chunk.widths) == 1 and not leaving:
            h = session.last(rows).reshape(*at.shape, -1)
        else:
            h = session.at(index, at)  # the pads of a short row have positions after its end
        if leaving:
            gone = torch.cat([text.states[text.start :] for text in leaving])
            h[: len(gone)] = gone
        out = run_rows(self.trunk, self.kv, chunk, inputs_embeds=h)
        last, changed, widths = chunk.ends(out), chunk.rows, chunk.widths
        bad = not_finite(last)
        if bad:
            starts = [text.start for text in leaving] + [self._held[row] for row in rows[len(leaving) :]]
            for i in bad:
                self.kv.erase(rows[i], starts[i])
            row = rows[bad[0]]
            left = bad[0] < len(leaving)
            where = "before its next text" if left else f"at its last token, {session.tokens[row][-1]}"
            raise NotFiniteError(row, f"the policy's state of row {row} is not finite {where}")
        if leaving:
            for text, state in zip(leaving, last, strict=False):
                text.last.copy_(state)
            rows, last, widths = rows[len(leaving) :], last[len(leaving) :], widths[len(leaving) :]
            changed = torch.tensor(rows, dtype=torch.long)
        if changed is None and not self._fixed:
            self._last = last
        else:
            if self._last is None:
                self._last = out.new_zeros(session.num_rows + self.kv.spare, out.shape[-1])
            self._last[slice(session.num_rows) if changed is None else changed] = last
        for row, count in zip(rows, widths, strict=True):
            self._held[row] += count
