"""A fused forward pass of small plain decoders on a CPU in float32, over packed rows of unequal length.

The arithmetic is that of :mod:`cola_agents.decoding.lean`, but the tokens of all rows are packed into [n, D]
instead of padded to the longest row. Queries, keys and values are one matrix product, and so are gate and up
of the MLP. The operations between the products are compiled loops (:mod:`cola_agents.decoding.kernels`);
their attention reads no further than each row's own length. Of a few tokens a whole layer is one compiled
call. A larger stack spends its time in the matrix products, so it runs :mod:`~cola_agents.decoding.lean`.

Shapes: n tokens, D hidden, I inner size of an MLP; H heads of keys, each shared by G heads of queries.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cola_agents.common.threads import SMALL
from cola_agents.decoding.lean import Plan, Weights, marks

#: The most tokens of a row in a packed pass: for longer chunks torch's blocked attention is faster.
LONGEST = 128
#: The most tokens of a pass whose layers are compiled whole: of more, torch's matrix products are faster.
FEW = 16


class Packed:
    """The rows and positions of a packed forward pass: n new tokens of B rows, row after row.

    Attributes:
        stack: the stack that runs.
        rows: the rows that run, [B] int64; None for all rows in order.
        widths: the number of new tokens of each of them.
        where: row and position of each token, two of [n] int64: an index into [R, S, ...].
        length: the largest number of positions that a token attends to.
    """

    def __init__(
        self,
        stack: FusedStack,
        num_rows: int,
        rows: Sequence[int],
        starts: Sequence[int],
        widths: Sequence[int],
    ) -> None:
        self.stack = stack
        self.widths = widths
        self._single = max(widths) == 1
        index, at = np.array(rows, dtype=np.int64), np.array(starts, dtype=np.int64)
        every = len(rows) == num_rows and list(rows) == list(range(num_rows))
        self.rows = None if every else torch.from_numpy(index)
        if not self._single:
            counts = np.array(widths, dtype=np.int64)
            ends = counts.cumsum()
            index = index.repeat(counts)
            at = np.arange(len(index)) + (at - ends + counts).repeat(counts)
            self._ends = torch.from_numpy(ends - 1)
        self.where = (torch.from_numpy(index), torch.from_numpy(at))
        self.length = int(at.max()) + 1

    def lay(self, chunks: Sequence[Sequence[int]]) -> Tensor:
        """The rows' new ids packed, [n]."""
        return torch.from_numpy(np.array([token for chunk in chunks for token in chunk], dtype=np.int64))

    def ends(self, states: Tensor) -> Tensor:
        """The state of each row's last token, [B, D], of states [n, D]."""
        return states if self._single else states.index_select(0, self._ends)


class Room(Protocol):
    """A cache of the keys and values of all rows."""

    def room(self, layer: int, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, grown to at least ``length`` positions: [R, S, H, head_dim].

        Args:
            like: a tensor [..., H, head_dim] of their type.
        """


@dataclass(frozen=True)
class _Layer:
    """One layer's weights; matrices are [input, output]."""

    cache_layer: int
    attention_norm: NDArray[np.float32]
    mlp_norm: NDArray[np.float32]
    head_norms: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    qkv: Weights
    o: Weights
    gate_up: Weights
    down: Weights

    @cached_property
    def whole(self) -> tuple[NDArray[np.float32], ...] | None:
        """The weights of :func:`~.kernels.decoder_layer`; None for sizes that it does not take."""
        pairs = (self.qkv, self.o, self.gate_up, self.down)
        if any(len(weight) % 8 for weight, _ in pairs):
            return None
        nothing = np.empty(0, dtype=np.float32)
        qkv, o, gate_up, down = (
            (weight.numpy(), nothing if bias is None else bias.numpy()) for weight, bias in pairs
        )
        head_norms = self.head_norms or (nothing, nothing)
        return (self.attention_norm, *qkv, *head_norms, *o, self.mlp_norm, *gate_up, *down)


class FusedStack:
    """A stack with the matrices of one input concatenated.

    Args:
        plan: the plan of a small stack on the CPU in float32; see :func:`fused_stack`.
        kernels: :mod:`cola_agents.decoding.kernels`.
    """

    def __init__(self, plan: Plan, kernels: Any) -> None:
        self.plan = plan
        self._kernels = kernels
        self._made_of = marks(plan.weights)
        self._layers = tuple(_side_by_side(plan))
        self._norm = _array(plan.norm)
        self._like = plan.norm.new_empty(1, 1, plan.key_heads, plan.head_dim)

    def holds(self, plan: Plan) -> bool:
        """Whether no change of the weights of ``plan`` was counted since; see :func:`~.lean.marks`."""
        return self._made_of == marks(plan.weights)

    def equals(self, plan: Plan) -> bool:
        """Whether the copies here are equal to the weights of ``plan``, which :meth:`holds`."""
        for layer, own in zip(plan.layers, self._layers, strict=True):
            for made, parts in (
                (own.qkv, (layer.q, layer.k, layer.v)),
                (own.o, (layer.o,)),
                (own.gate_up, (layer.gate, layer.up)),
                (own.down, (layer.down,)),
            ):
                if not _is_joined(made, parts):
                    return False
        return True

    @torch.no_grad()
    def forward(self, hidden: Tensor, packed: Packed, cache: Room) -> Tensor:
        """Run the stack.

        Args:
            hidden: the input of the first layer, [n, D]; not changed.
            packed: the rows and positions of the tokens.
            cache: stores keys and values.

        Returns:
            last hidden states [n, D].
        """
        hidden = hidden.clone()
        few = len(hidden) <= FEW and self._layers[0].whole is not None
        (self._whole_layers if few else self._layers_in_parts)(hidden, packed, cache)
        h = hidden.numpy()
        self._kernels.rms_norm(h, self._norm, self.plan.eps, h)
        return hidden

    def _whole_layers(self, hidden: Tensor, packed: Packed, cache: Room) -> None:
        """Run the layers in place, each as one compiled call."""
        plan, layer = self.plan, self._kernels.decoder_layer
        rows, positions = (part.numpy() for part in packed.where)
        angles, h = plan.angles.table(packed.length, hidden).numpy(), hidden.numpy()
        for one in self._layers:
            keys, values = cache.room(one.cache_layer, packed.length, self._like)
            layer(h, one.whole, plan.eps, angles, keys.numpy(), values.numpy(), rows, positions, plan.scaling)

    def _layers_in_parts(self, hidden: Tensor, packed: Packed, cache: Room) -> None:
        """Run the layers in place: products by torch, what is between them compiled."""
        plan, kernels = self.plan, self._kernels
        rows, positions = (part.numpy() for part in packed.where)
        angles = plan.angles.table(packed.length, hidden).numpy()
        first, count = self._layers[0], len(hidden)
        inner = len(first.down[0])
        normed, attended = torch.empty_like(hidden), hidden.new_empty(count, len(first.o[0]))
        qkv, gated = hidden.new_empty(count, first.qkv[0].shape[1]), hidden.new_empty(count, inner)
        gate_up = hidden.new_empty(count, 2 * inner)
        gate, up = gate_up.chunk(2, dim=1)
        x, y, h, out = normed.numpy(), qkv.numpy(), hidden.numpy(), attended.numpy()
        for layer in self._layers:
            kernels.rms_norm(h, layer.attention_norm, plan.eps, x)
            _multiply(normed, layer.qkv, qkv)
            if layer.head_norms is not None:
                (query_norm, key_norm), width = layer.head_norms, out.shape[1]
                kernels.norm_heads(y, 0, width // plan.head_dim, query_norm, plan.eps)
                kernels.norm_heads(y, width, plan.key_heads, key_norm, plan.eps)
            keys, values = cache.room(layer.cache_layer, packed.length, self._like)
            kernels.attend(y, angles, keys.numpy(), values.numpy(), rows, positions, plan.scaling, out)
            _add_product(hidden, attended, layer.o)
            kernels.rms_norm(h, layer.mlp_norm, plan.eps, x)
            _multiply(normed, layer.gate_up, gate_up)
            torch.mul(nn.functional.silu(gate, inplace=True), up, out=gated)
            _add_product(hidden, gated, layer.down)


def _multiply(x: Tensor, weights: Weights, out: Tensor) -> None:
    weight, bias = weights
    if bias is None:
        torch.mm(x, weight, out=out)
    else:
        torch.addmm(bias, x, weight, out=out)


def _add_product(to: Tensor, x: Tensor, weights: Weights) -> None:
    weight, bias = weights
    to.addmm_(x, weight)
    if bias is not None:
        to += bias


def _array(weight: Tensor) -> NDArray[np.float32]:
    """A view of a weight, not a copy."""
    return weight.detach().numpy()


def _is_joined(made: Weights, parts: Sequence[Weights]) -> bool:
    """Whether weights [input, output] and biases are those of linear layers, one after another."""
    rows, (weights, biases) = [len(weight) for weight, _ in parts], zip(*parts, strict=True)
    pairs = [*zip(made[0].t().split(rows), weights, strict=True)]
    if made[1] is not None:
        pairs += zip(made[1].split(rows), biases, strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def _side_by_side(plan: Plan) -> Iterator[_Layer]:
    def joined(*parts: Weights) -> Weights:
        weights, biases = zip(*parts, strict=True)
        weight = torch.cat(weights).detach().t().contiguous()
        return weight, None if biases[0] is None else torch.cat(biases).detach()

    for layer in plan.layers:
        head_norms = None
        if layer.q_norm is not None and layer.k_norm is not None:
            head_norms = _array(layer.q_norm), _array(layer.k_norm)
        yield _Layer(
            cache_layer=layer.cache_layer,
            attention_norm=_array(layer.attention_norm),
            mlp_norm=_array(layer.mlp_norm),
            head_norms=head_norms,
            qkv=joined(layer.q, layer.k, layer.v),
            o=joined(layer.o),
            gate_up=joined(layer.gate, layer.up),
            down=joined(layer.down),
        )


#: The fused form of each stack, shared by its sessions.
_made: weakref.WeakKeyDictionary[nn.Module, FusedStack] = weakref.WeakKeyDictionary()


def fused_stack(stack: nn.Module, plan: Plan) -> FusedStack | None:
    """The fused form of a stack, or None if it must run :mod:`~cola_agents.decoding.lean`.

    What was made before is compared with the weights themselves: sessions call this at their first pass,
    after :meth:`~cola_agents.decoding.session.Rows.forget`, and where a change was counted.

    That is a large stack, one on a device or of another type than float32, one with weights that do not count
    their changes, and any stack without numba.
    """
    kernels = kernels_for(plan.weights)
    if kernels is None:
        return None
    made = _made.get(stack)
    if made is None or not made.holds(plan) or not made.equals(plan):
        made = _made[stack] = FusedStack(plan, kernels)
    made.plan = plan  # its angles are those that the stack has now
    return made


def kernels_for(weights: Sequence[Tensor]) -> ModuleType | None:
    """:mod:`~cola_agents.decoding.kernels`, or None for weights that it is not for, or without numba.

    It is for those of small modules on the CPU in float32 that count their changes.
    """
    if sum(weight.numel() for weight in weights) >= SMALL:
        return None
    plain = torch.float32, torch.device("cpu")
    if any((w.dtype, w.device) != plain or w.is_inference() or not w.is_contiguous() for w in weights):
        return None
    return _kernels()


@functools.cache
def _kernels() -> ModuleType | None:
    """The module of compiled loops; None, with a warning that names the cause, if numba does not work."""
    try:
        import numba

        from cola_agents.decoding import kernels
    except ImportError as error:  # numba raises this also for a numpy that is too new for it
        cause = str(error)
    else:
        if not numba.config.DISABLE_JIT:
            return kernels
        cause = "NUMBA_DISABLE_JIT is set"
    warnings.warn(
        "decoding on this CPU gives the same tokens at about half the speed: no compiled loops "
        f"({cause}); pip install numba",
        RuntimeWarning,
        stacklevel=2,
    )
    return None
