"""A key-value cache whose rows have different lengths, and the forward passes over it.

Hugging Face decoders write keys and values through ``cache.update(keys, values, layer_idx)`` and accept any
4-D mask and position ids. So rows of unequal length can run in one pass without padding on the left and
without a change to the decoder: a :class:`Window` stores the keys and values at each row's own positions, and
the mask hides the others. Plain decoders run :mod:`cola_agents.decoding.lean` over the same cache, and small
ones on a CPU :mod:`cola_agents.decoding.fused`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cola_agents.common.threads import check_fork
from cola_agents.decoding.fused import LONGEST, FusedStack, Packed, fused_stack
from cola_agents.decoding.lean import Plan, lean_forward, plan
from cola_agents.decoding.transfer import to_device
from cola_agents.model.families import decoder_mask
from cola_agents.model.versions import cache_argument

_FIRST_CAPACITY = 64


def capacity(length: int, limit: int) -> int:
    """The number of positions to allocate for rows of ``length``: at most half as many again.

    It is 64 times a power of two, or one and a half times that: so buffers are copied rarely.
    """
    room = _FIRST_CAPACITY
    while room < length:
        room += room // 2 if room & (room - 1) == 0 else room // 3
    return max(length, min(limit, room))


class GrowingRows:
    """A tensor [R, S, ...] whose length S grows in steps of a half and a third (:func:`capacity`).

    Args:
        num_rows: R.
        limit: the length up to which S grows so; beyond it S grows to the needed length only.
    """

    def __init__(self, num_rows: int, limit: int) -> None:
        self.num_rows = num_rows
        self.limit = limit
        self.data: Tensor | None = None

    def ensure(self, length: int, like: Tensor) -> Tensor:
        """The tensor, grown to at least ``length`` positions; entries have the shape of ``like[0, 0]``."""
        held = 0 if self.data is None else self.data.shape[1]
        if self.data is None or held < length:
            room = capacity(length, self.limit)
            grown = like.new_zeros((self.num_rows, room, *like.shape[2:]))
            if self.data is not None:
                grown[:, :held] = self.data
            self.data = grown
        return self.data

    def copy(self, row: int, to: Sequence[int], start: int, end: int) -> None:
        """Copy the positions from ``start`` to ``end`` of a row to other rows."""
        if self.data is not None:
            self.data[list(to), start:end] = self.data[row, start:end].clone()

    def erase(self, row: int, start: int) -> None:
        """Zero a row from position ``start``: a NaN there would spread even where it is masked (0 * NaN)."""
        if self.data is not None:
            self.data[row, start:] = 0


class Passing(Protocol):
    """The rows and positions of a padded pass, as :class:`Window` reads them; see :class:`Chunk`."""

    @property
    def rows(self) -> Tensor | None: ...

    @property
    def where(self) -> tuple[Tensor, Tensor]: ...

    @property
    def length(self) -> int: ...


class Chunk:
    """The rows and positions of a padded forward pass: B of R rows, each from its own position on.

    Attributes:
        rows: the rows that run, [B] int64; None for all rows in order.
        widths: the number of new tokens of each of them; T is the largest.
        positions: the positions of the new tokens, [B, T].
        where: rows and positions as an index into [R, S, ...].
        length: the number of positions that are read.
        aligned: whether each row has one token, all at the same position: then no mask is needed.
    """

    def __init__(
        self,
        num_rows: int,
        rows: Sequence[int],
        starts: Sequence[int],
        widths: Sequence[int],
        device: torch.device,
    ) -> None:
        width = max(widths)
        every = len(rows) == num_rows and list(rows) == list(range(num_rows))
        index, first = to_device([rows, starts], device)
        first = first[:, None]
        self.rows = None if every else index
        self.widths = widths
        self.positions: Tensor = first if width == 1 else first + torch.arange(width, device=device)
        self.where = (index[:, None], self.positions)
        self.length = max(starts) + width
        self.aligned = width == 1 and min(starts) == max(starts)

    def lay(self, chunks: Sequence[Sequence[int]]) -> Tensor:
        """The rows' new ids, padded on the right, [B, T]."""
        width = self.positions.shape[1]
        padded = [[*chunk, *[0] * (width - len(chunk))] for chunk in chunks]
        return to_device(padded, self.positions.device)

    def ends(self, states: Tensor) -> Tensor:
        """The state of each row's last token, [B, D], of states [B, T, D]."""
        if states.shape[1] == 1:
            return states[:, 0]
        last = to_device([width - 1 for width in self.widths], states.device)
        return states[torch.arange(len(last), device=states.device), last]

    def mask(self) -> Tensor:
        """The keys that each query attends to, [B, 1, T, S] bool."""
        keys = torch.arange(self.length, device=self.positions.device)
        return keys <= self.positions[:, None, :, None]


class KVRows:
    """The cache: keys and values of R rows for every layer that has run, [R, S, heads, head_dim] each.

    Args:
        num_rows: R.
        limit: the most positions of a row.
        spare: further rows of the buffers; with any, no pass is packed.
    """

    def __init__(self, num_rows: int, limit: int, spare: int = 0) -> None:
        self.num_rows = num_rows
        self.limit = limit
        self.spare = spare
        self._layers: dict[int, tuple[GrowingRows, GrowingRows]] = {}
        self._stack: nn.Module | None = None
        self._plan: Plan | None = None
        self._fused: FusedStack | None = None

    def plan_for(self, stack: nn.Module) -> Plan | None:
        """The plan of ``stack``, made once; None if it must run as it is."""
        if self._stack is not stack:
            self._stack, self._plan = stack, plan(stack, self._plan)
            plain = self._plan is None or self.spare
            self._fused = None if plain or self._plan is None else fused_stack(stack, self._plan)
        return self._plan

    def fused_for(self, stack: nn.Module) -> FusedStack | None:
        """The fused form of ``stack`` with its current weights; None if it has none."""
        lean = self.plan_for(stack)
        if lean is not None and self._fused is not None and not self._fused.holds(lean):
            self._fused = fused_stack(stack, lean)
        return self._fused

    def forget_plan(self) -> None:
        """Make a new plan when the stack runs next."""
        self._stack = None

    def passes(
        self, stack: nn.Module, rows: Sequence[int], starts: Sequence[int], widths: Sequence[int]
    ) -> list[tuple[list[int], Chunk | Packed]]:
        """Divide rows with new tokens into one or two forward passes.

        A padded pass costs every row as much as its longest, so that rows with one new token run in a pass
        without the others. A packed pass takes all rows with up to :data:`~.fused.LONGEST` new tokens.

        Args:
            rows: B rows.
            starts: the position that each continues at.
            widths: the number of new tokens of each; rows without any do not run.

        Returns:
            for each pass the indices of its rows in ``rows``, and the pass.
        """
        fused = self.fused_for(stack)
        few = 1 if fused is None else LONGEST
        groups: tuple[list[int], list[int]] = ([], [])
        for index, width in enumerate(widths):
            if width:
                groups[width > few].append(index)
        passes: list[tuple[list[int], Chunk | Packed]] = []
        for group in groups:
            if group:
                members, at, counts = ([column[i] for i in group] for column in (rows, starts, widths))
                if fused is None or group is groups[1]:
                    device = next(stack.parameters()).device
                    passes.append((group, Chunk(self.num_rows, members, at, counts, device)))
                else:
                    passes.append((group, Packed(fused, self.num_rows, members, at, counts)))
        return passes

    def room(self, layer: int, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, grown to at least ``length`` positions: [R, S, heads, head_dim]."""
        keys, values = self.layer(layer)
        return keys.ensure(length, like), values.ensure(length, like)

    def layer(self, index: int) -> tuple[GrowingRows, GrowingRows]:
        """Keys and values of a layer."""
        if index not in self._layers:
            self._layers[index] = tuple(GrowingRows(self.num_rows + self.spare, self.limit) for _ in range(2))  # type: ignore[assignment]
        return self._layers[index]

    def copy(self, row: int, to: Sequence[int], start: int, end: int) -> None:
        """Copy the positions from ``start`` to ``end`` of a row to other rows, in every layer."""
        for keys, values in self._layers.values():
            keys.copy(row, to, start, end)
            values.copy(row, to, start, end)

    def erase(self, row: int, start: int) -> None:
        """Zero a row from position ``start``, in every layer."""
        for keys, values in self._layers.values():
            keys.erase(row, start)
            values.erase(row, start)


class Window:
    """The cache of one padded forward pass: the rows of a :class:`KVRows` that a :class:`Chunk` names."""

    def __init__(self, kv: KVRows, chunk: Passing) -> None:
        self._kv = kv
        self._chunk = chunk
        self.length = chunk.length

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values [B, T, heads, head_dim]; return all, [B, S, heads, head_dim]."""
        held_keys, held_values = self._kv.layer(layer)
        return self._write(held_keys, keys), self._write(held_values, values)

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """:meth:`store` in the form that Hugging Face decoders call: [B, heads, T, head_dim]."""
        keys, values = self.store(layer_idx, keys.transpose(1, 2), values.transpose(1, 2))
        return keys.transpose(1, 2), values.transpose(1, 2)

    def _write(self, rows: GrowingRows, new: Tensor) -> Tensor:
        held = rows.ensure(self.length, new)
        held[self._chunk.where] = new
        rows_read = self._chunk.rows
        if rows_read is None:
            return held[: self._kv.num_rows, : self.length]
        return held[rows_read, : self.length]


def run_rows(stack: PreTrainedModel, kv: KVRows, chunk: Chunk | Packed, **inputs: Tensor) -> Tensor:
    """Run a decoder over new tokens of some rows, each from its own position on.

    Args:
        stack: a Hugging Face decoder of a supported family.
        kv: its cache.
        chunk: the pass, as :meth:`KVRows.passes` returned it.
        inputs: ``input_ids`` [B, T] or ``inputs_embeds`` [B, T, D], padded on the right; packed [n] and
            [n, D]. The keys and values of pads are after the row's end: they are masked, and later tokens
            overwrite them.

    Returns:
        last hidden states [B, T, D], of pads undefined; packed [n, D].

    Raises:
        RuntimeError: in a process that was forked after its parent computed with several threads.
    """
    check_fork()
    (values,) = inputs.values()
    lean = kv.plan_for(stack)
    if lean is not None:
        ids = inputs.get("input_ids")
        states = values if ids is None else nn.functional.embedding(ids, stack.embed_tokens.weight)
    if isinstance(chunk, Packed):
        return chunk.stack.forward(states, chunk, kv)
    window = Window(kv, chunk)
    if lean is not None:
        return lean_forward(lean, states, chunk.positions, window, None if chunk.aligned else chunk.mask())
    hidden: Tensor = stack(
        attention_mask=decoder_mask(stack, chunk.mask(), chunk.positions),
        position_ids=chunk.positions,
        use_cache=True,
        **cache_argument(window),
        **inputs,
    ).last_hidden_state
    return hidden
