"""RLOO: groups of answers to one problem, each judged against the mean of the others."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cola_agents.rl.agent import Agent
from cola_agents.rl.losses import average, leave_one_out, reinforce_objective, whiten, zero_groups
from cola_agents.rl.options import GroupOptions
from cola_agents.rl.updates import Batch


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

    def gather(self) -> Batch:
        o = self.options
        rollout = self._collect(o.prompts, o.group_size)
        rewards, sizes = rollout.episode_rewards, rollout.reward_sizes
        figures = {"frac_zero_advantage": zero_groups(rewards, o.group_size, sizes)}
        if o.kl_in == "reward":
            kl = self.kl_of(rollout)
            figures["kl"] = average(kl[rollout.mask], rollout.mask, "token").item()
            rewards = rewards - self.kl_coef * kl.sum(1)
            sizes = sizes + self.kl_coef * kl.abs().sum(1)
        every = leave_one_out(rewards, o.group_size, sizes)[:, None] * rollout.mask
        return Batch(rollout, rollout.mask, whiten(every, rollout.mask) if o.whiten else every, figures)

    def objective(self, log_probs: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
        return reinforce_objective(log_probs, advantages)
