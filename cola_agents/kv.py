"""A key-value cache whose rows have lengths of their own.

Hugging Face decoders write keys and values through ``cache.update(keys, values, layer_idx)`` and take
any 4-D mask and position ids. That is enough to keep rows of unequal length side by side without
padding on the left and without touching the decoder: a :class:`Window` says where this forward pass
writes, and the mask says what each row may see. Plain Llamas take the shorter way of
:mod:`cola_agents.lean` over the same cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cola_agents.families import decoder_mask
from cola_agents.lean import Plan, lean_forward, plan

_FIRST_CAPACITY = 64


class GrowingRows:
    """A tensor [R, S, ...] whose length S grows by doubling, up to what was asked for."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.data: Tensor | None = None

    def ensure(self, length: int, like: Tensor) -> Tensor:
        """Return the tensor with room for ``length`` positions of entries shaped as ``like``'s last dims."""
        held = 0 if self.data is None else self.data.shape[1]
        if self.data is None or held < length:
            capacity = max(_FIRST_CAPACITY, length, 2 * held)
            grown = like.new_zeros((self.num_rows, capacity, *like.shape[2:]))
            if self.data is not None:
                grown[:, :held] = self.data
            self.data = grown
        return self.data

    def erase(self, row: int, start: int) -> None:
        """Zero a row from position ``start``: a masked NaN still spoils whoever reads it, as 0 * NaN."""
        if self.data is not None:
            self.data[row, start:] = 0


class KVRows:
    """Keys and values of R rows for every layer that has written, [R, S, heads, head_dim] each."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self._layers: dict[int, tuple[GrowingRows, GrowingRows]] = {}
        self._stack: nn.Module | None = None
        self._plan: Plan | None = None

    def plan_for(self, stack: nn.Module) -> Plan | None:
        """How to run ``stack`` leanly, looked up once; None where it has to run as it is."""
        if self._stack is not stack:
            self._stack, self._plan = stack, plan(stack)
        return self._plan

    def window(self, rows: Tensor | None, positions: Tensor, length: int) -> Window:
        """A cache for one forward pass.

        Args:
            rows: the rows that run [B] int64, or None for all of them in order.
            positions: where each writes [B, T].
            length: how many positions are read, counted from 0.
        """
        return Window(self, rows, positions, length)

    def erase(self, row: int, start: int) -> None:
        """Zero what a row holds from position ``start``, in every layer."""
        for keys, values in self._layers.values():
            keys.erase(row, start)
            values.erase(row, start)


class Window:
    """What a decoder takes for ``past_key_values`` during one forward pass."""

    def __init__(self, kv: KVRows, rows: Tensor | None, positions: Tensor, length: int) -> None:
        self._kv = kv
        self._rows = rows
        self._length = length
        row_index = torch.arange(kv.num_rows, device=positions.device) if rows is None else rows
        self._where = (row_index[:, None], positions)

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values [B, heads, T, head_dim]; return those of positions 0 to ``length``."""
        layer = self._kv._layers.get(layer_idx)
        if layer is None:
            layer = (GrowingRows(self._kv.num_rows), GrowingRows(self._kv.num_rows))
            self._kv._layers[layer_idx] = layer
        return self._write(layer[0], keys), self._write(layer[1], values)

    def _write(self, rows: GrowingRows, new: Tensor) -> Tensor:
        new = new.transpose(1, 2)
        held = rows.ensure(self._length, new)
        held[self._where] = new
        read = held[:, : self._length] if self._rows is None else held[self._rows, : self._length]
        return read.transpose(1, 2)


def run_rows(stack: Any, kv: KVRows, rows: Sequence[int], starts: Sequence[int], **inputs: Tensor) -> Tensor:
    """Run a decoder over a chunk of every row, each continuing at a position of its own.

    Args:
        stack: a Hugging Face decoder of a supported family.
        kv: its cache.
        rows: row numbers [B].
        starts: how many positions of each row are cached already.
        inputs: ``input_ids`` [B, T] or ``inputs_embeds`` [B, T, D], padded on the right. What pads
            write lies behind the row's end, is masked, and is overwritten by what comes next.

    Returns:
        last hidden states [B, T, D]; those of pads mean nothing.
    """
    (given,) = inputs.values()
    width, device = given.shape[1], given.device
    first = torch.tensor(starts, device=device)
    positions = first[:, None] if width == 1 else first[:, None] + torch.arange(width, device=device)
    length = max(starts) + width
    mask = torch.arange(length, device=device) <= positions[:, None, :, None]
    every = len(rows) == kv.num_rows and list(rows) == list(range(kv.num_rows))
    index = None if every else torch.tensor(rows, device=device)
    window = kv.window(index, positions, length)
    lean = kv.plan_for(stack)
    if lean is not None:
        hidden = inputs["inputs_embeds"] if "inputs_embeds" in inputs else stack.embed_tokens(given)
        return lean_forward(lean, hidden, positions, window, mask)
    return stack(
        attention_mask=decoder_mask(stack, mask, positions),
        position_ids=positions,
        past_key_values=window,
        use_cache=True,
        **inputs,
    ).last_hidden_state
