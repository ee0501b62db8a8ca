"""The mathematics of training: pure functions of tensors.

Shapes: B rows, T tokens, A actions. A mask is 1 where an entry counts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class CodeAssignment(NamedTuple):
    """A relaxed choice of codes: ``probs`` [..., A], and ``straight_through`` [..., A], one-hot forwards."""

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
        noise: Gumbel noise of the same shape; zeros for none.
        tau: temperature; 2.0 in the official pre-training.
    """
    probs = torch.softmax((logits + noise) / tau, dim=-1)
    hard = functional.one_hot(probs.argmax(-1), logits.shape[-1]).to(probs)
    return CodeAssignment(probs, hard + probs - probs.detach())


def negative_entropy(probs: Tensor, mask: Tensor) -> Tensor:
    """Mean over positions of sum_c p log(p + 1e-8): the paper's regulariser is 0.001 of this.

    Minimising it spreads each position's own distribution, not the use of the codebook.
    """
    return masked_mean((probs * torch.log(probs + 1e-8)).sum(-1), mask)


def negative_marginal_entropy(probs: Tensor, mask: Tensor) -> Tensor:
    """sum_c q log(q + 1e-8) of the batch's mean distribution q: minimising it spreads the codebook's use."""
    weights = mask.to(probs).unsqueeze(-1)
    marginal = (probs * weights).flatten(0, -2).sum(0) / weights.sum()
    return (marginal * torch.log(marginal + 1e-8)).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` is 1, over everything; 0 where nothing counts."""
    mask = mask.to(values)
    return (values * mask).sum() / mask.sum().clamp_min(1)


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, bootstrap: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over the positions where an action was taken.

    ``delta = r + gamma V(next) - V``, ``A = delta + gamma lam A(next)``, where *next* is the row's next
    acting position: text that the environment wrote in between does not decay anything.

    Args:
        rewards, values: [B, T]; read where ``mask`` is 1.
        mask: [B, T], 1 at acting positions.
        bootstrap: [B], the value after each row's last action: 0 where the episode terminated, V of
            the final state where it was truncated.

    Returns:
        advantages and returns (advantages + values), [B, T], 0 where ``mask`` is 0.

    Source: Schulman et al. 2016 (arXiv 1506.02438), equation 16.
    """
    advantages = torch.zeros_like(values)
    following_value, following_advantage = bootstrap.clone(), torch.zeros_like(bootstrap)
    for t in reversed(range(rewards.shape[1])):
        acts = mask[:, t].bool()
        delta = rewards[:, t] + gamma * following_value - values[:, t]
        advantage = delta + gamma * lam * following_advantage
        advantages[:, t] = torch.where(acts, advantage, torch.zeros_like(advantage))
        following_advantage = torch.where(acts, advantage, following_advantage)
        following_value = torch.where(acts, values[:, t], following_value)
    return advantages, (advantages + values) * mask.to(values)


def group_advantages(rewards: Tensor, group_size: int, *, eps: float = 1e-8) -> Tensor:
    """Rewards standardised within groups of consecutive rows: (r - mean) / std.

    The standard deviation is the unbiased one, floored at ``eps``; a group whose rewards are all equal
    has zero advantages.

    Args:
        rewards: [N] with N a multiple of ``group_size``.

    Raises:
        ValueError: where it is not, or a group has fewer than two members.

    Source: Shao et al. 2024 (GRPO, arXiv 2402.03300), section 4.1.2; CoLA's post-training code.
    """
    if group_size < 2 or len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards do not divide into groups of {group_size} (at least 2)")
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    # The mean of equal numbers is not always that number: what is left must not be blown up by 1 / eps.
    equal = (groups == groups[:, :1]).all(1, keepdim=True)
    return (centred / groups.std(1, keepdim=True).clamp_min(eps)).masked_fill(equal, 0.0).flatten()


def whiten(values: Tensor, mask: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Shift and scale to mean 0 and variance 1 (population) over masked entries; 0 elsewhere."""
    mask = mask.to(values)
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return (values - mean) * torch.rsqrt(variance + eps) * mask


def clipped_loss(log_probs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    """PPO's clipped surrogate, averaged over masked positions of the whole batch.

    ``-min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)``, ratio = exp(log_probs - old). All arguments
    are [B, T].

    Source: Schulman et al. 2017 (arXiv 1707.06347), equation 7.
    """
    ratio = torch.exp((log_probs - old) * mask.to(old))
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -masked_mean(surrogate, mask)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    """Half the squared error of the value, the larger of clipped and unclipped, over masked positions.

    Source: the PPO reference implementation; CoLA's post-training uses clip 0.2 and the factor 0.5.
    """
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), mask)


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of categorical distributions given by log-probabilities [..., A], exactly: [...]."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def categorical_entropy(log_p: Tensor) -> Tensor:
    """Entropy in nats of log-probabilities [..., A]: [...]."""
    return -(log_p.exp() * log_p).sum(-1)
