"""The world model with its codes looked up.

A merge layer multiplies the concatenation of a state and a code's vector, ``[z; e] W'``. There are only A
codes, so ``e W_e'`` is a table, and what is left of the layer reads half of its weights:
``z W_z' + table[a]``. The sum is the same; in float32 it agrees with
:meth:`~cola_agents.model.modeling.CoLAForCausalLM.world` within 1e-5 of the largest logit; in bfloat16, where
table and sum are rounded once more each, the error is up to 1.3 times the world model's own.

Shapes: B rows, D hidden, A codes, I inner size of a merge layer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cola_agents.decoding.lean import marks, untouched
from cola_agents.model.modeling import CoLAForCausalLM, MergeLayer


@dataclass(frozen=True)
class _Layer:
    """One merge layer. The halves are views of its weights, [I, D]; only ``gate`` and ``up`` are new."""

    gate: Tensor
    up: Tensor
    gate_state: Tensor
    up_state: Tensor
    down: Tensor
    activation: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CodeTable:
    """What every code adds inside every merge layer: A * 2 I numbers a layer.

    It holds for the weights that it was made of: see :meth:`holds`.
    """

    layers: tuple[_Layer, ...]
    model: CoLAForCausalLM
    made_of: tuple[tuple[int, int], ...]

    def holds(self) -> bool:
        """Whether the codebook and the merge layers are still what the table was made of.

        Training in place, loading and moving to another type or device are noticed; writing through
        ``.data`` is not.
        """
        return self.made_of == marks(_weights(self.model))

    @property
    def num_bytes(self) -> int:
        """Memory that the table takes beside the weights."""
        return sum(t.numel() * t.element_size() for layer in self.layers for t in (layer.gate, layer.up))

    def world(self, h: Tensor, codes: Tensor) -> Tensor:
        """:meth:`CoLAForCausalLM.world`; codebook and merge layers get no gradient of it.

        Args:
            h: hidden states [..., D].
            codes: as many dimensions less one; sizes may be 1 on either side. States [B, 1, D] under
                codes [A] give all of a state's outcomes, and share its work before the first sum.

        Returns:
            logits [..., V].
        """
        z = h
        for layer in self.layers:
            gate = _sum(layer.gate[codes], z, layer.gate_state)
            up = _sum(layer.up[codes], z, layer.up_state)
            z = _sum(z, layer.activation(gate) * up, layer.down)
        return self.model.readout(z, h)


def _sum(to: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``to + x weight'``; where rows stand side by side, [B, ...] both, in one operation."""
    if x.dim() == 2 and len(to) == len(x):
        return torch.addmm(to, x, weight.t())
    return nn.functional.linear(x, weight) + to


@torch.no_grad()
def code_table(model: CoLAForCausalLM) -> CodeTable | None:
    """The table of a model, or None where its parts do something else than their weights say.

    That is where an adapter, a hook or a placement over several devices stands in the way, or where
    weights keep no count of their changes (those made under ``torch.inference_mode``).
    """
    parts = [model.codebook, *(part for layer in model.merge for part in layer.modules())]
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
    layers = []
    for layer in _merge_layers(model):
        gate, up = layer.gate_proj.weight, layer.up_proj.weight
        layers.append(
            _Layer(
                gate=vectors @ gate[:, size:].t(),
                up=vectors @ up[:, size:].t(),
                gate_state=gate[:, :size],
                up_state=up[:, :size],
                down=layer.down_proj.weight.detach(),
                activation=layer.activation,
            )
        )
    return CodeTable(tuple(layers), model, marks(weights))


def _merge_layers(model: CoLAForCausalLM) -> Iterator[MergeLayer]:
    return (layer for layer in model.merge if isinstance(layer, MergeLayer))


def _weights(model: CoLAForCausalLM) -> Iterator[Tensor]:
    yield model.codebook.weight
    for layer in _merge_layers(model):
        yield layer.gate_proj.weight
        yield layer.up_proj.weight
        yield layer.down_proj.weight
