"""The assignment of codes by the inverse dynamics, and its entropy regularisers.

Shapes: B rows, T tokens, A codes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from cola_agents.rl.losses import masked_mean


class CodeAssignment(NamedTuple):
    """Relaxed codes: ``probs`` [..., A], and ``straight_through`` [..., A], one-hot in the forward pass."""

    probs: Tensor
    straight_through: Tensor


def gumbel_noise(shape: torch.Size, generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise, -log(-log(u))."""
    u = torch.rand(shape, generator=generator).clamp_(1e-10, 1 - 1e-7)
    return -torch.log(-torch.log(u))


def assign_codes(logits: Tensor, noise: Tensor, tau: float) -> CodeAssignment:
    """Straight-through Gumbel-softmax: p = softmax((l + g) / tau), a = onehot(argmax p) + p - sg(p).

    Args:
        logits: inverse-dynamics logits [..., A], already shifted.
        noise: Gumbel noise of the same shape, or zeros.
        tau: temperature; 2.0 in the official pre-training.
    """
    probs = torch.softmax((logits + noise) / tau, dim=-1)
    hard = functional.one_hot(probs.argmax(-1), logits.shape[-1]).to(probs)
    return CodeAssignment(probs, hard + probs - probs.detach())


def negative_entropy(probs: Tensor, mask: Tensor) -> Tensor:
    """Mean over positions of sum_c p log(p + 1e-8); the paper's regulariser is 0.001 times this.

    Minimising it flattens each position's distribution, but not the use of the codebook over positions.
    """
    return masked_mean((probs * torch.log(probs + 1e-8)).sum(-1), mask)


def mean_distribution(probs: Tensor, mask: Tensor) -> Tensor:
    """Mean [A] of distributions [..., A] over the positions where ``mask`` [...] is 1; zeros without any."""
    weights = mask.to(probs).unsqueeze(-1)
    return (probs * weights).flatten(0, -2).sum(0) / weights.sum().clamp_min(1)


def negative_marginal_entropy(probs: Tensor, mask: Tensor, at: Tensor | None = None) -> Tensor:
    """sum_c q log(q + 1e-8) of the batch's mean distribution q; minimising it evens out the use of codes.

    Args:
        probs: [..., A].
        mask: [...], 1 at counted positions.
        at: the mean distribution [A] of a larger batch, a constant. The result is then the tangent of the
            function at this point, evaluated at q: its mean over the parts of the larger batch, weighted by
            their counted positions, has the value and the gradient of the function of the larger batch.
    """
    marginal = mean_distribution(probs, mask)
    if at is None:
        return (marginal * torch.log(marginal + 1e-8)).sum()
    log = torch.log(at + 1e-8)
    return (at * log + (log + at / (at + 1e-8)) * (marginal - at)).sum()
