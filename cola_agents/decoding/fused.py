"""A small plain stack on a CPU in float32, few calls a layer: packed tokens of rows of unequal length.

The arithmetic of :mod:`cola_agents.decoding.lean` over tokens that stand one behind the other instead of rows
that are padded to the longest. Queries, keys and values are one matrix product, and so are the first two of
a gated MLP; what lies between the products is compiled (:mod:`cola_agents.decoding.kernels`), and reads of a
row as much as there is. A larger stack spends its time in the products: it runs lean.

Shapes: n tokens, D hidden, I inner size of an MLP; H heads of keys, each shared by G heads of queries.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cola_agents.common.threads import SMALL
from cola_agents.decoding.lean import Plan, Weights, marks

#: Tokens of a row in one pass beyond which torch's own attention, in blocks, is faster than a loop.
LONGEST = 128


class Packed:
    """Where one forward pass writes: n tokens of B rows, one row behind the other.

    Attributes:
        stack: the stack that runs.
        rows: the rows that run [B] int64, or None for all of them in order.
        widths: how many tokens each of them has.
        where: row and position of each token, two of [n] int64: an index into [R, S, ...].
        length: how many positions are read at most, counted from 0.
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
        """The rows' new ids as this pass reads them, [n]."""
        return torch.tensor([token for chunk in chunks for token in chunk])

    def ends(self, states: Tensor) -> Tensor:
        """Of states [n, D] each row's last, [B, D]."""
        return states if self._single else states[self._ends]


class Room(Protocol):
    """Where the keys and values of all rows are kept."""

    def room(self, layer: int, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer with room for ``length`` positions, [R, S, H, head_dim], of the type of
        ``like``, whose last dimensions are an entry's."""


@dataclass(frozen=True)
class _Layer:
    """One layer's weights, matrices as products want them: input by output."""

    cache_layer: int
    attention_norm: NDArray[np.float32]
    mlp_norm: NDArray[np.float32]
    head_norms: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    qkv: Weights
    o: Weights
    gate_up: Weights
    down: Weights


class FusedStack:
    """A planned stack's weights, side by side where they are multiplied by the same.

    Args:
        plan: of a stack, a small one on the CPU in float32; see :func:`fused_stack`.
        kernels: :mod:`cola_agents.decoding.kernels`.
    """

    def __init__(self, plan: Plan, kernels: Any) -> None:
        self._plan = plan
        self._kernels = kernels
        self._made_of = marks(plan.weights)
        self._layers = tuple(_side_by_side(plan))
        self._norm = _array(plan.norm)
        self._like = plan.norm.new_empty(1, 1, plan.key_heads, plan.head_dim)

    def holds(self, plan: Plan) -> bool:
        """Whether the weights of ``plan`` are still what this was made of; see :func:`~.lean.marks`."""
        return self._made_of == marks(plan.weights)

    @torch.no_grad()
    def forward(self, hidden: Tensor, packed: Packed, cache: Room) -> Tensor:
        """Run the stack.

        Args:
            hidden: what its first layer reads, [n, D]; not written to.
            packed: whose tokens these are.
            cache: keeps keys and values.

        Returns:
            last hidden states [n, D].
        """
        plan, kernels = self._plan, self._kernels
        hidden = hidden.clone()
        rows, positions = (part.numpy() for part in packed.where)
        angles = plan.angles.table(packed.length, hidden).numpy()
        first, count = self._layers[0], len(hidden)
        inner = len(first.down[0])
        normed, seen = torch.empty_like(hidden), hidden.new_empty(count, len(first.o[0]))
        qkv, gated = hidden.new_empty(count, first.qkv[0].shape[1]), hidden.new_empty(count, inner)
        gate_up = hidden.new_empty(count, 2 * inner)
        gate, up = gate_up.chunk(2, dim=1)
        x, y, h, out = normed.numpy(), qkv.numpy(), hidden.numpy(), seen.numpy()
        for layer in self._layers:
            kernels.rms_norm(h, layer.attention_norm, plan.eps, x)
            _multiply(normed, layer.qkv, qkv)
            if layer.head_norms is not None:
                self._norm_heads(y, layer.head_norms, out.shape[1])
            keys, values = cache.room(layer.cache_layer, packed.length, self._like)
            kernels.attend(y, angles, keys.numpy(), values.numpy(), rows, positions, plan.scaling, out)
            _add_product(hidden, seen, layer.o)
            kernels.rms_norm(h, layer.mlp_norm, plan.eps, x)
            _multiply(normed, layer.gate_up, gate_up)
            torch.mul(nn.functional.silu(gate, inplace=True), up, out=gated)
            _add_product(hidden, gated, layer.down)
        kernels.rms_norm(h, self._norm, plan.eps, h)
        return hidden

    def _norm_heads(self, qkv: Any, norms: tuple[Any, Any], width: int) -> None:
        """Norms of queries and keys, [n, (G * H + 2 * H) * head_dim] in place; queries take ``width``."""
        plan, (of_queries, of_keys) = self._plan, norms
        self._kernels.norm_heads(qkv, 0, width // plan.head_dim, of_queries, plan.eps)
        self._kernels.norm_heads(qkv, width, plan.key_heads, of_keys, plan.eps)


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
    """A view of a weight, which changes as it does."""
    return weight.detach().numpy()


def _side_by_side(plan: Plan) -> Iterator[_Layer]:
    def of(*parts: Weights) -> Weights:
        weights, biases = zip(*parts, strict=True)
        weight = (torch.cat(weights) if len(parts) > 1 else weights[0]).detach()
        if biases[0] is None:
            return weight.t(), None
        return weight.t(), torch.cat(biases).detach()

    for layer in plan.layers:
        head_norms = None
        if layer.q_norm is not None and layer.k_norm is not None:
            head_norms = _array(layer.q_norm), _array(layer.k_norm)
        yield _Layer(
            cache_layer=layer.cache_layer,
            attention_norm=_array(layer.attention_norm),
            mlp_norm=_array(layer.mlp_norm),
            head_norms=head_norms,
            qkv=of(layer.q, layer.k, layer.v),
            o=of(layer.o),
            gate_up=of(layer.gate, layer.up),
            down=of(layer.down),
        )


#: Sessions over one stack share what is made of its weights.
_made: weakref.WeakKeyDictionary[nn.Module, FusedStack] = weakref.WeakKeyDictionary()


def fused_stack(stack: nn.Module, plan: Plan) -> FusedStack | None:
    """The fused form of a stack, or None where it has to run lean: a large one, one on a device or of another
    type than float32, weights without a count of their changes, or an installation without numba."""
    weights = plan.weights
    if sum(weight.numel() for weight in weights) >= SMALL:
        return None
    plain = torch.float32, torch.device("cpu")
    if any((w.dtype, w.device) != plain or w.is_inference() or not w.is_contiguous() for w in weights):
        return None
    kernels = _kernels()
    if kernels is None:
        return None
    made = _made.get(stack)
    if made is None or not made.holds(plan):
        made = _made[stack] = FusedStack(plan, kernels)
    return made


@functools.cache
def _kernels() -> ModuleType | None:
    """The compiled loops; None, once with a warning that says why, where numba does not work."""
    try:
        import numba

        from cola_agents.decoding import kernels
    except ImportError as error:  # what numba also raises beside a numpy that is too new for it
        cause = str(error)
    else:
        if not numba.config.DISABLE_JIT:
            return kernels
        cause = "NUMBA_DISABLE_JIT is set"
    warnings.warn(
        f"decoding on this CPU gives the same tokens at about half the speed: no compiled loops ({cause}); "
        "pip install numba",
        RuntimeWarning,
        stacklevel=2,
    )
    return None
