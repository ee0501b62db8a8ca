"""The formulas of RL training (advantages, losses, KL) as pure functions of tensors.

Shapes: B rows, T tokens, A actions. A mask is 1 at entries that count.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` is 1, over everything; 0 where nothing counts."""
    mask = mask.to(values)
    return (values * mask).sum() / mask.sum().clamp_min(1)


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, bootstrap: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over the positions where an action was taken.

    ``delta = r + gamma V(next) - V``, ``A = delta + gamma lam A(next)``, where *next* is the row's next
    acting position: text of the environment in between is not discounted.

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


#: Numbers are equal if they differ by less than this share of the summands' size: the rounding error of
#: float32, a few units in the last place.
ROUNDING = 8 * torch.finfo(torch.float32).eps


def alike(low: Tensor, high: Tensor, size: Tensor) -> Tensor:
    """Whether the least and the greatest of some numbers are equal up to rounding error, bool [...].

    Args:
        low, high: the least and the greatest.
        size: the magnitude that determines the error: the largest sum of the summands' magnitudes.
    """
    return high - low <= ROUNDING * size


def equal_groups(rewards: Tensor, group_size: int, sizes: Tensor | None = None) -> Tensor:
    """Which groups of consecutive rows have equal rewards throughout, [N / group_size] bool.

    Rewards are equal up to rounding error, relative to the magnitudes of their summands, so that .70 and .71
    differ, and 7e-7 and 7.1e-7 too.

    Args:
        rewards: [N] with N a multiple of ``group_size``.
        sizes: [N], for each reward the sum of its summands' magnitudes: 100 - 99.8 has the rounding error of
            100. None for the magnitudes of the rewards.

    Raises:
        ValueError: where N is no multiple, or a group has fewer than two members.
    """
    if group_size < 2 or len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards do not divide into groups of {group_size} (at least 2)")
    groups = rewards.view(-1, group_size)
    sizes = rewards.abs() if sizes is None else sizes
    return alike(groups.amin(1), groups.amax(1), sizes.view(-1, group_size).amax(1))


def group_advantages(rewards: Tensor, group_size: int, sizes: Tensor | None = None) -> Tensor:
    """Rewards standardised within groups of consecutive rows: (r - mean) / std, with the unbiased std.

    A group whose rewards are all equal has zero advantages. Arguments and errors as in :func:`equal_groups`.

    Source: Shao et al. 2024 (GRPO, arXiv 2402.03300), section 4.1.2; CoLA's post-training code.
    """
    equal = equal_groups(rewards, group_size, sizes)[:, None]
    groups = rewards.view(-1, group_size)
    # Scaled by a power of two, which is exact, so that squares of tiny or huge rewards stay finite.
    exponent = torch.frexp(groups.abs().amax(1, keepdim=True)).exponent.clamp(-126, 126)
    groups = torch.ldexp(groups, -exponent)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / groups.std(1, keepdim=True)).masked_fill(equal, 0.0).flatten()


def leave_one_out(rewards: Tensor, group_size: int, sizes: Tensor | None = None) -> Tensor:
    """Rewards less the mean of the *other* members of their groups of consecutive rows.

    A group whose rewards are all equal has zero advantages. Arguments and errors as in :func:`equal_groups`.

    Source: Kool et al. 2019; Ahmadian et al. 2024 (RLOO, arXiv 2402.14740), section 2.3.
    """
    equal = equal_groups(rewards, group_size, sizes)[:, None]
    groups = rewards.view(-1, group_size)
    others = (groups.sum(1, keepdim=True) - groups) / (group_size - 1)
    return (groups - others).masked_fill(equal, 0.0).flatten()


def less_baseline(rewards: Tensor, baselines: Tensor, sizes: Tensor) -> Tensor:
    """Rewards less their baselines, [N]; 0 where the two are equal up to rounding error.

    Args:
        sizes: [N], magnitudes as in :func:`equal_groups`.
    """
    low, high = torch.minimum(rewards, baselines), torch.maximum(rewards, baselines)
    return (rewards - baselines).masked_fill(alike(low, high, sizes), 0.0)


def zero_groups(rewards: Tensor, group_size: int, sizes: Tensor | None = None) -> float:
    """The share of groups whose rewards are all equal, which have zero advantages.

    Arguments and errors as in :func:`equal_groups`.
    """
    return equal_groups(rewards, group_size, sizes).float().mean().item()


def rewards_to_go(rewards: Tensor) -> Tensor:
    """The sum of each position's reward and all later ones, [B, T]."""
    return rewards.flip(1).cumsum(1).flip(1)


def macro_starts(mask: Tensor, length: int, written: Tensor | None = None) -> Tensor:
    """The starts of macro actions, [B, T] bool: every ``length``-th action of a run of consecutive ones.

    A run ends with its episode, or at text of the environment; its last macro action may be shorter.

    Args:
        mask: [B, T], 1 at acting positions.
        written: [B, T], 1 at tokens that an action wrote, of which it may write several; None where each
            wrote one.

    Source: Chai et al. 2024 (MA-RLHF, arXiv 2410.02743), section 3.2.1, fixed n-grams.
    """
    mask = mask.bool()
    written = functional.pad(mask[:, :-1], (1, 0)) if written is None else written.bool()
    before = mask.long().cumsum(1) - mask.long()
    # The actions before the last text of the environment are those before the run.
    first = before.masked_fill(written, 0).cummax(1).values
    return mask & ((before - first) % length == 0)


def sum_macros(values: Tensor, mask: Tensor, starts: Tensor) -> Tensor:
    """Sums of ``values`` [M], one for each position of ``mask``, over macro actions: [G]."""
    which = starts[mask.bool()].long().cumsum(0) - 1
    return values.new_zeros(int(starts.sum())).index_add(0, which, values)


def whiten(values: Tensor, mask: Tensor, *, size: Tensor | None = None) -> Tensor:
    """Shift and scale to mean 0 and variance 1 (population) over masked entries; 0 elsewhere.

    Entries that are all equal up to rounding error become 0.

    Args:
        values: of any shape; ``mask`` has the same.
        size: a scalar, the magnitude of the values' summands, as in :func:`equal_groups`; None for the
            largest of the values.
    """
    counts = mask.bool()
    if not counts.any():
        return torch.zeros_like(values)
    taken = values[counts]
    if alike(taken.min(), taken.max(), taken.abs().max() if size is None else size):
        return torch.zeros_like(values)
    mask = mask.to(values)
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    # The official code's 1e-8, but at most a hundredth of the variance, so that small rewards are scaled too.
    return (values - mean) * torch.rsqrt(variance + (variance / 100).clamp_max(1e-8)) * mask


def clipped_surrogate(log_probs: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """PPO's clipped objective, entry by entry: ``min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)``.

    Source: Schulman et al. 2017 (arXiv 1707.06347), equation 7.
    """
    ratio = torch.exp(log_probs - old)
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def reinforce_objective(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """REINFORCE's objective, entry by entry: ``log pi(a) A``, without a ratio.

    Source: Williams 1992; CoLA's ReMax, after Li et al. 2023 (arXiv 2310.10505).
    """
    return log_probs * advantages


def value_errors(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error of the value, the larger of clipped and unclipped, entry by entry.

    Source: the PPO reference implementation; CoLA's post-training uses clip 0.2 and the factor 0.5.
    """
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def average(values: Tensor, mask: Tensor, how: str, total: int | None = None) -> Tensor:
    """The mean of ``values`` [M], one for each position of ``mask``.

    Args:
        mask: [B, T]; every row has at least one position.
        how: ``"token"``: over all positions; ``"sequence"``: over each row's positions, then over the rows.
        total: the divisor where ``mask`` is a part of a larger batch: the number of that batch's positions,
            or rows; None for those of this mask.
    """
    mask = mask.bool()
    if how == "token":
        return values.sum() / (len(values) if total is None else total)
    lengths = mask.sum(1)
    return (values / lengths.repeat_interleave(lengths)).sum() / (len(mask) if total is None else total)


def sampled_kl(log_probs: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """An estimate of KL(policy || reference) from the log-probabilities of actions that the policy took.

    ``"k1"``: log p - log q; unbiased, negative half the time. ``"k3"``: q/p - 1 - log(q/p); unbiased as
    well and never negative. Shapes as given.

    Source: J. Schulman, *Approximating KL divergence*, 2020; k3 in the loss: arXiv 2402.03300, equation 4.
    """
    ratio = reference - log_probs
    return torch.expm1(ratio) - ratio if estimator == "k3" else -ratio


def adapted_kl_coef(coef: float, kl: float, target: float, gain: float) -> float:
    """The next KL coefficient: ``coef (1 + gain e)`` with e = kl / target - 1, clipped to [-0.2, 0.2].

    Source: Ziegler et al. 2019 (arXiv 1909.08593), section 2.2, where ``gain`` is 0.1.
    """
    return coef * (1 + gain * max(-0.2, min(0.2, kl / target - 1)))


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of categorical distributions given by log-probabilities [..., A], exactly: [...].

    p may be 0 (log -inf) somewhere, and q with it; infinite where q is 0 and p is not.
    """
    gap = (_finite(log_p) - log_q).masked_fill(log_p.isneginf(), 0.0)
    return (log_p.exp() * gap).sum(-1)


def categorical_entropy(log_p: Tensor) -> Tensor:
    """Entropy in nats of log-probabilities [..., A]: [...]."""
    return -(log_p.exp() * _finite(log_p)).sum(-1)


def _finite(log_p: Tensor) -> Tensor:
    """Log-probabilities whose product with a probability of 0 is 0."""
    return log_p.clamp_min(torch.finfo(log_p.dtype).min)
