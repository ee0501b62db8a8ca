"""RLOO: several answers to each problem, each compared with the mean of the others."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cola_agents.rl.agent import Agent
from cola_agents.rl.losses import leave_one_out, whiten, zero_groups
from cola_agents.rl.options import GroupOptions
from cola_agents.rl.update import Batch, Record


@dataclass(frozen=True)
class RLOOOptions(GroupOptions):
    """Options of :class:`RLOO`: those of groups."""


class RLOO(Agent):
    """REINFORCE with a leave-one-out baseline over latent or token actions; arguments as in :class:`Agent`.

    An episode's advantage is its reward less the mean reward of the other episodes of its group, the same
    for all its actions. With ``kl_in="reward"`` the KL of the whole episode is part of that reward. One
    pass over each batch, without ratios or clipping.

    Source: Ahmadian et al. 2024, arXiv 2402.14740.
    """

    options_class = RLOOOptions
    options: RLOOOptions

    def batch(self) -> Batch:
        o = self.options
        rollout = self.play(*self.draw_seeds(o.prompts, o.group_size))
        paid, sizes = rollout.episode_rewards, rollout.reward_sizes
        kl, figures = self.policy.kl_in_reward(rollout)
        figures = {"frac_zero_advantage": zero_groups(paid, o.group_size, sizes), **figures}
        rewards = paid - self.kl_coef * kl.sum(1)
        sizes = sizes + self.kl_coef * kl.abs().sum(1)
        advantages = leave_one_out(rewards, o.group_size, sizes)[:, None] * rollout.mask
        if o.whiten:
            advantages = whiten(advantages, rollout.mask)
        return Batch(rollout, rollout.mask, advantages, figures, o.loss_mean)

    def loss(self, part: Batch) -> tuple[Tensor, Record]:
        return self.reinforce_loss(part)
