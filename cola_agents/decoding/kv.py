"""A key-value cache whose rows have lengths of their own.

Hugging Face decoders write keys and values through ``cache.update(keys, values, layer_idx)`` and take
any 4-D mask and position ids. That is enough to keep rows of unequal length side by side without
padding on the left and without touching the decoder: a :class:`Window` says where this forward pass
writes, and the mask says what each row may see. Plain decoders take the shorter way of
:mod:`cola_agents.decoding.lean` over the same cache, and small ones on a CPU the shortest, of
:mod:`cola_agents.decoding.fused`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cola_agents.common.threads import check_fork
from cola_agents.decoding.fused import LONGEST, FusedStack, Packed, fused_stack
from cola_agents.decoding.lean import Plan, lean_forward, plan
from cola_agents.model.families import decoder_mask
from cola_agents.model.versions import cache_argument

_FIRST_CAPACITY = 64


def capacity(length: int, limit: int, held: int = 0) -> int:
    """Positions that rows have room for when ``length`` are asked for, and they had room for ``held``."""
    return max(length, min(limit, max(_FIRST_CAPACITY, 2 * held)))


class GrowingRows:
    """A tensor [R, S, ...] whose length S grows by doubling.

    Args:
        num_rows: R.
        limit: the length that doubling stops at; only what is asked for goes beyond.
    """

    def __init__(self, num_rows: int, limit: int) -> None:
        self.num_rows = num_rows
        self.limit = limit
        self.data: Tensor | None = None

    def ensure(self, length: int, like: Tensor) -> Tensor:
        """Return the tensor with room for ``length`` positions of entries shaped as ``like``'s last dims."""
        held = 0 if self.data is None else self.data.shape[1]
        if self.data is None or held < length:
            room = capacity(length, self.limit, held)
            grown = like.new_zeros((self.num_rows, room, *like.shape[2:]))
            if self.data is not None:
                grown[:, :held] = self.data
            self.data = grown
        return self.data

    def erase(self, row: int, start: int) -> None:
        """Zero a row from position ``start``: a masked NaN still spoils whoever reads it, as 0 * NaN."""
        if self.data is not None:
            self.data[row, start:] = 0


class Chunk:
    """Where one forward pass writes: B of R rows, each continuing at a position of its own.

    Attributes:
        rows: the rows that run [B] int64, or None for all of them in order.
        widths: how many tokens each of them has; T is the most.
        positions: where each writes [B, T].
        where: the same as an index into [R, S, ...].
        length: how many positions are read, counted from 0.
        aligned: whether all rows stand at the same position, so that single tokens need no mask.
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
        index = torch.arange(num_rows, device=device) if every else torch.tensor(rows, device=device)
        first = torch.tensor(starts, device=device)[:, None]
        self.rows = None if every else index
        self.widths = widths
        self.positions = first if width == 1 else first + torch.arange(width, device=device)
        self.where = (index[:, None], self.positions)
        self.length = max(starts) + width
        self.aligned = width == 1 and min(starts) == max(starts)

    def lay(self, chunks: Sequence[Sequence[int]]) -> Tensor:
        """The rows' new ids as this pass reads them, padded on the right, [B, T]."""
        width = self.positions.shape[1]
        padded = [[*chunk, *[0] * (width - len(chunk))] for chunk in chunks]
        return torch.tensor(padded, device=self.positions.device)

    def ends(self, states: Tensor) -> Tensor:
        """Of states [B, T, D] each row's last before the pads, [B, D]."""
        if states.shape[1] == 1:
            return states[:, 0]
        device = states.device
        return states[
            torch.arange(len(self.widths), device=device), torch.tensor(self.widths, device=device) - 1
        ]

    def mask(self) -> Tensor:
        """Which keys a query sees, [B, 1, T, S] bool."""
        keys = torch.arange(self.length, device=self.positions.device)
        return keys <= self.positions[:, None, :, None]


class KVRows:
    """Keys and values of R rows for every layer that has written, [R, S, heads, head_dim] each."""

    def __init__(self, num_rows: int, limit: int) -> None:
        self.num_rows = num_rows
        self.limit = limit
        self._layers: dict[int, tuple[GrowingRows, GrowingRows]] = {}
        self._stack: nn.Module | None = None
        self._plan: Plan | None = None
        self._fused: FusedStack | None = None

    def plan_for(self, stack: nn.Module) -> Plan | None:
        """How to run ``stack`` leanly, looked up once; None where it has to run as it is."""
        if self._stack is not stack:
            self._stack, self._plan = stack, plan(stack)
            self._fused = None if self._plan is None else fused_stack(stack, self._plan)
        return self._plan

    def fused_for(self, stack: nn.Module) -> FusedStack | None:
        """The fused form of ``stack`` with its weights as they are now; None where it has none."""
        lean = self.plan_for(stack)
        if lean is not None and self._fused is not None and not self._fused.holds(lean):
            self._fused = fused_stack(stack, lean)
        return self._fused

    def forget_plan(self) -> None:
        """Look at the stack anew when it runs next."""
        self._stack = None

    def passes(
        self, stack: nn.Module, rows: Sequence[int], starts: Sequence[int], widths: Sequence[int]
    ) -> list[tuple[list[int], Chunk | Packed]]:
        """The forward passes that give some rows their new tokens.

        Rows with few tokens run together, and so do those with many. Padding costs a row as much as the
        longest has, so that single tokens run apart, unless tokens are packed.

        Args:
            rows: B rows; ``starts`` and ``widths`` say where each continues, and by how many tokens. Those
                without any do not run.

        Returns:
            of each pass who runs in it, as indices of ``rows``, and how they stand side by side.
        """
        fused = self.fused_for(stack)
        few = 1 if fused is None else LONGEST
        groups: tuple[list[int], list[int]] = ([], [])
        for index, width in enumerate(widths):
            if width:
                groups[width > few].append(index)
        found: list[tuple[list[int], Chunk | Packed]] = []
        for group in groups:
            if group:
                here, at, counts = ([column[i] for i in group] for column in (rows, starts, widths))
                chunk = (
                    Chunk(self.num_rows, here, at, counts, _device(stack))
                    if fused is None or group is groups[1]
                    else Packed(fused, self.num_rows, here, at, counts)
                )
                found.append((group, chunk))
        return found

    def room(self, layer: int, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer with room for ``length`` positions, [R, S, heads, head_dim]."""
        keys, values = self.layer(layer)
        return keys.ensure(length, like), values.ensure(length, like)

    def layer(self, index: int) -> tuple[GrowingRows, GrowingRows]:
        """Keys and values of a layer."""
        if index not in self._layers:
            self._layers[index] = tuple(GrowingRows(self.num_rows, self.limit) for _ in range(2))  # type: ignore[assignment]
        return self._layers[index]

    def erase(self, row: int, start: int) -> None:
        """Zero what a row holds from position ``start``, in every layer."""
        for keys, values in self._layers.values():
            keys.erase(row, start)
            values.erase(row, start)


class Window:
    """A cache for one forward pass: of :class:`KVRows` the part that a :class:`Chunk` names."""

    def __init__(self, kv: KVRows, chunk: Chunk) -> None:
        self._kv = kv
        self._chunk = chunk
        self.length = chunk.length

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write [B, T, heads, head_dim]; return those of positions 0 to ``length``."""
        held_keys, held_values = self._kv.layer(layer)
        return self._write(held_keys, keys), self._write(held_values, values)

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """What a Hugging Face decoder calls: :meth:`store` of [B, heads, T, head_dim]."""
        keys, values = self.store(layer_idx, keys.transpose(1, 2), values.transpose(1, 2))
        return keys.transpose(1, 2), values.transpose(1, 2)

    def _write(self, rows: GrowingRows, new: Tensor) -> Tensor:
        held = rows.ensure(self.length, new)
        held[self._chunk.where] = new
        rows_read = self._chunk.rows
        return held[:, : self.length] if rows_read is None else held[rows_read, : self.length]


def run_rows(stack: PreTrainedModel, kv: KVRows, chunk: Chunk | Packed, **inputs: Tensor) -> Tensor:
    """Run a decoder over new tokens of some rows, each continuing at a position of its own.

    Args:
        stack: a Hugging Face decoder of a supported family.
        kv: its cache.
        chunk: which rows, and where they continue: padded, or packed where :meth:`KVRows.passes` says so.
        inputs: ``input_ids`` [B, T] or ``inputs_embeds`` [B, T, D], padded on the right; packed [n] and
            [n, D]. What pads write lies behind the row's end, is masked, and is overwritten by what comes
            next.

    Returns:
        last hidden states [B, T, D], those of pads mean nothing; packed [n, D].

    Raises:
        RuntimeError: in a process that was forked after its parent computed with several threads.
    """
    check_fork()
    (given,) = inputs.values()
    lean = kv.plan_for(stack)
    if lean is not None:
        ids = inputs.get("input_ids")
        states = given if ids is None else nn.functional.embedding(ids, stack.embed_tokens.weight)
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


def _device(stack: nn.Module) -> torch.device:
    return next(stack.parameters()).device
