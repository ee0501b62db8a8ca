"""The world model with the products of its codes precomputed in a table.

A merge layer multiplies the concatenation of a state and a code's vector, ``[z; e] W'``. There are only A
codes, so ``e W_e'`` is a table, and a step reads half of the layer's weights: ``z W_z' + table[a]``. In
float32 the result agrees with :meth:`~cola_agents.model.modeling.CoLAForCausalLM.world` within 1e-5 of the
largest logit; in bfloat16, where table and sum are each rounded once more, the error is up to 1.3 times the
world model's own. For a small model on a CPU gate and up are one product, and a few states pass each merge
layer in one compiled call.

Shapes: B rows, D hidden, A codes, I inner size of a merge layer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import torch
from torch import Tensor, nn

from cola_agents.decoding.fused import FEW, kernels_for
from cola_agents.decoding.lean import SILU, marks, untouched
from cola_agents.model.modeling import CoLAForCausalLM, MergeLayer


@dataclass(frozen=True)
class _Layer:
    """One merge layer: the tables ``gate`` and ``up`` [A * k, I], and views of its weights."""

    gate: Tensor
    up: Tensor
    gate_state: Tensor
    up_state: Tensor
    down: Tensor
    activation: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class _SideBySide:
    """A merge layer with gate and up side by side; see :func:`~cola_agents.decoding.kernels.merge_layer`.

    Attributes:
        terms: of every code, [A * k, 2 * I].
        state, down: weights [input, output].
    """

    terms: Tensor
    state: Tensor
    down: Tensor

    def apply(self, z: Tensor, codes: Tensor) -> None:
        """Apply the layer to states z [B, D] in place, under codes [B]."""
        gate, up = self.terms.index_select(0, codes).addmm_(z, self.state).chunk(2, 1)
        z.addmm_(torch.mul(nn.functional.silu(gate, inplace=True), up), self.down)


@dataclass(frozen=True)
class CodeTable:
    """The term of every code in every merge layer: A * 2 I numbers a layer.

    Of codes that last k tokens there is a term for each of them, in the order of the codes: A * k * 2 I.

    It is valid for the weights that it was made of: see :meth:`holds`.

    Attributes:
        compiled: whether compiled layers may be used; in fixed memory the operations must be torch's.
    """

    layers: tuple[_Layer, ...]
    model: CoLAForCausalLM
    made_of: tuple[tuple[int, int], ...]
    compiled: bool = True

    @cached_property
    def _kernels(self) -> ModuleType | None:
        """The compiled layers; None for a model that they are not for."""
        sizes = [size for layer in self.layers for size in layer.down.shape]
        if not self.compiled or any(size % 8 for size in sizes):
            return None
        if not all(isinstance(layer.activation, SILU) for layer in self.layers):
            return None
        return kernels_for(list(_weights(self.model)))

    @cached_property
    def _side_by_side(self) -> tuple[_SideBySide, ...]:
        return tuple(
            _SideBySide(
                terms=torch.cat([one.gate, one.up], 1),
                state=torch.cat([one.gate_state, one.up_state]).detach().t().contiguous(),
                down=one.down.t().contiguous(),
            )
            for one in self.layers
        )

    def holds(self) -> bool:
        """Whether the codebook and the merge layers are unchanged since the table was made.

        Training in place, loading and moving to another type or device are noticed. Writing through ``.data``
        is not, nor is torch's fused optimisers' (``fused=True``): call the session's ``forget`` after it.
        """
        return self.made_of == marks(_weights(self.model))

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that a step reads, besides the head and the norm: the table's, and views of weights."""
        return [
            tensor
            for one in self.layers
            for tensor in (one.gate, one.up, one.gate_state, one.up_state, one.down)
        ]

    @property
    def num_bytes(self) -> int:
        """Memory of the table and of the compiled layers' copies, once they are made; without weights."""
        table = sum(t.numel() * t.element_size() for layer in self.layers for t in (layer.gate, layer.up))
        # A property that was not read has no copies.
        copies: tuple[_SideBySide, ...] = self.__dict__.get("_side_by_side", ())
        return table + sum(part.nbytes for one in copies for part in (one.terms, one.state, one.down))

    def world(self, h: Tensor, codes: Tensor, phase: int = 0) -> Tensor:
        """As :meth:`CoLAForCausalLM.world`, without a gradient for codebook, phases and merge layers.

        Args:
            h: hidden states [..., D].
            codes: [...], broadcast with the states. For states [B, 1, D] and codes [A], the products of a
                state in the first layer are computed once for all codes.
            phase: the number of tokens that the codes have decided already.

        Returns:
            logits [..., V].
        """
        if self.model.phases is not None:
            codes = codes * self.model.config.span + phase
        each = h.dim() == 2 and h.shape[:1] == codes.shape and not h.requires_grad
        if each and self._kernels is not None:
            z = h.clone()
            for one in self._side_by_side:
                if len(h) <= FEW:
                    parts = (part.numpy() for part in (one.state, one.down))
                    self._kernels.merge_layer(z.numpy(), one.terms.numpy(), codes.numpy(), *parts)
                else:
                    one.apply(z, codes)
            return self.model.readout(z, h)
        z = h
        for layer in self.layers:
            gate = _sum(nn.functional.embedding(codes, layer.gate), z, layer.gate_state)
            up = _sum(nn.functional.embedding(codes, layer.up), z, layer.up_state)
            z = _sum(z, layer.activation(gate) * up, layer.down)
        return self.model.readout(z, h)


def _sum(to: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``to + x weight'``, in one operation if both are [B, ...]."""
    if x.dim() == 2 and len(to) == len(x):
        return torch.addmm(to, x, weight.t())
    return nn.functional.linear(x, weight) + to


@torch.no_grad()
def code_table(
    model: CoLAForCausalLM, *, compiled: bool = True, memory: CodeTable | None = None
) -> CodeTable | None:
    """The table of a model, or None for a world model that must run as it is.

    That is one with an adapter or a hook, one spread over several devices, or one with weights that do not
    count their changes (made under ``torch.inference_mode``).

    Args:
        compiled: as in :class:`CodeTable`.
        memory: an earlier table, which is written over if it is of the same size, type and device: a CUDA
            graph may read it.
    """
    parts = [model.codebook, *(part for layer in model.merge for part in layer.modules())]
    if model.phases is not None:
        parts.append(model.phases)
    plain = (nn.Embedding, nn.Linear, MergeLayer)
    if not all(untouched(part) and (type(part) in plain or not list(part.parameters())) for part in parts):
        return None
    if any(isinstance(part, nn.Linear) and part.bias is not None for part in parts):
        return None
    weights = list(_weights(model))
    if len({weight.device for weight in weights}) > 1 or any(weight.is_inference() for weight in weights):
        return None
    size = model.codebook.embedding_dim
    vectors = model.codebook.weight
    if model.phases is not None:
        vectors = (vectors[:, None] + model.phases.weight).flatten(0, 1)
    layers = []
    merge = list(_merge_layers(model))
    held = memory.layers if memory is not None and len(memory.layers) == len(merge) else [None] * len(merge)
    for layer, before in zip(merge, held, strict=True):
        gate, up = layer.gate_proj.weight, layer.up_proj.weight
        layers.append(
            _Layer(
                gate=_into(None if before is None else before.gate, vectors @ gate[:, size:].t()),
                up=_into(None if before is None else before.up, vectors @ up[:, size:].t()),
                gate_state=gate[:, :size],
                up_state=up[:, :size],
                down=layer.down_proj.weight.detach(),
                activation=layer.activation,
            )
        )
    return CodeTable(tuple(layers), model, marks(weights), compiled)


def _into(memory: Tensor | None, values: Tensor) -> Tensor:
    """``values``, in ``memory`` if they fit there."""
    if memory is None or memory.is_inference():
        return values
    fits = (memory.shape, memory.dtype, memory.device) == (values.shape, values.dtype, values.device)
    return memory.copy_(values) if fits else values


def _merge_layers(model: CoLAForCausalLM) -> Iterator[MergeLayer]:
    return (layer for layer in model.merge if isinstance(layer, MergeLayer))


def _weights(model: CoLAForCausalLM) -> Iterator[Tensor]:
    yield model.codebook.weight
    if model.phases is not None:
        yield model.phases.weight
    for layer in _merge_layers(model):
        yield layer.gate_proj.weight
        yield layer.up_proj.weight
        yield layer.down_proj.weight
