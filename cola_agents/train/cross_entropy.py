"""Cross-entropy over a large vocabulary, without the logits of all positions in memory at once.

Shapes: N positions, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from cola_agents.train.data.packing import IGNORED

#: So many logits are computed at once, with automatic differentiation: 16 MiB of float32. More are cut up.
WHOLE = 2**22
#: Logits of a chunk, 64 MiB of float32. Products of fewer rows are slower.
CHUNK = 2**24


def target_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the targets that are not -100, in float32; 0 if there are none.

    Args:
        logits: [B, T, V].
        targets: [B, T].
    """
    total = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / (targets != IGNORED).sum().clamp_min(1)


def head_cross_entropy(states: Tensor, head: nn.Linear, targets: Tensor, *, liger: bool = False) -> Tensor:
    """:func:`target_cross_entropy` of ``head(states)``, in chunks where these are many logits.

    The forward pass replaces a chunk's logits by their gradient, so that no chunk is computed twice and one
    is in memory at a time: the states' gradient costs one more product with the head's weight, and that
    weight's another where it is trained. The gradient has no gradient of its own.

    Args:
        states: [B, T, D].
        head: without bias; its logits may be capped (:class:`~cola_agents.model.families.CappedLinear`).
        targets: [B, T]; -100 at positions that do not count, for which no logits are computed.
        liger: compute with the kernel of `liger_kernel`, which needs a GPU.

    Raises:
        ImportError: where ``liger`` is set and `liger_kernel` is not installed.
        ValueError: where ``liger`` is set and the states are not on a GPU.
    """
    if liger:
        return _liger(states, head, targets)
    if targets.numel() * head.out_features <= WHOLE:
        return target_cross_entropy(head(states), targets)
    counted = targets != IGNORED
    total: Tensor = _Chunked.apply(states[counted], head.weight, targets[counted], getattr(head, "cap", None))
    return total / counted.sum().clamp_min(1)


class _Chunked(torch.autograd.Function):
    """Summed cross-entropy, with the gradients of states and weight computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, cap: float | None) -> Tensor:
        """States [N, D], weight [V, D], targets [N] -> the sum of N cross-entropies in float32."""
        device = states.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        of_states, of_weight = ctx.needs_input_grad[:2]
        with torch.autocast(device, enabled=False):
            x, w = (states, weight) if low is None else (states.to(low), weight.to(low))
            rows = max(1, CHUNK // len(weight))
            losses = torch.zeros(len(x), dtype=torch.float32, device=x.device)
            grad_x = torch.empty_like(x) if of_states else None
            grad_w = torch.zeros_like(weight, dtype=torch.float32) if of_weight else None
            room = torch.empty(min(rows, len(x)), len(weight), dtype=x.dtype, device=x.device)
            for start in range(0, len(x), rows):
                part = slice(start, min(start + rows, len(x)))
                logits = torch.mm(x[part], w.T, out=room[: part.stop - part.start])
                losses[part], logits = _differentiated(logits, targets[part], cap)
                if grad_x is not None:
                    torch.mm(logits.to(x.dtype), w, out=grad_x[part])
                if grad_w is not None:
                    grad_w += logits.to(x.dtype).T @ x[part]
        ctx.grads = grad_x, grad_w
        ctx.dtypes = states.dtype, weight.dtype
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grads, dtypes = ctx.grads, ctx.dtypes  # type: ignore[attr-defined]
        scaled = [
            None if grad is None else (grad * upstream[0]).to(dtype)
            for grad, dtype in zip(grads, dtypes, strict=True)
        ]
        return scaled[0], scaled[1], None, None


def _differentiated(logits: Tensor, targets: Tensor, cap: float | None) -> tuple[Tensor, Tensor]:
    """Cross-entropies [N] of uncapped logits [N, V], and their gradient with respect to these logits.

    The gradient overwrites ``logits`` where these are float32 and not capped.
    """
    logits = logits.float()
    slope = None
    if cap is not None:
        shares = torch.tanh(logits / cap)
        slope, logits = 1 - shares.square(), cap * shares
    at = targets[:, None]
    gold = logits.gather(1, at)
    most = logits.amax(1, keepdim=True)
    sums = logits.sub_(most).exp_().sum(1, keepdim=True)
    losses = sums.log() + most - gold
    grad = logits.div_(sums)
    grad.scatter_add_(1, at, torch.full_like(gold, -1.0))
    return losses.squeeze(1), grad if slope is None else grad.mul_(slope)


def _liger(states: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    """The same by Liger's fused kernel. Source: arXiv 2410.10989."""
    if states.device.type == "cpu":
        raise ValueError("Liger's kernel needs a GPU, and the model is on the CPU: leave liger (--liger) out")
    try:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction
    except ImportError as error:
        raise ImportError("Liger's kernel is not installed: pip install 'cola-rl[liger]'") from error
    counted = targets != IGNORED
    total: Tensor = LigerFusedLinearCrossEntropyFunction.apply(
        states[counted],
        head.weight,
        targets[counted],
        None,  # bias
        None,  # weights of the tokens
        IGNORED,
        0.0,  # penalty of the normaliser
        0.0,  # label smoothing
        "sum",
        getattr(head, "cap", None),
    )[0]
    return total / counted.sum().clamp_min(1)
