"""GRPO: groups of answers to one problem, each judged against its group."""

from __future__ import annotations

from dataclasses import dataclass

from cola_agents.rl.clipped import ClippedAgent
from cola_agents.rl.losses import group_advantages, zero_groups
from cola_agents.rl.options import ClippedOptions, GroupOptions
from cola_agents.rl.updates import Batch


@dataclass(frozen=True)
class GRPOOptions(GroupOptions, ClippedOptions):
    """Options of :class:`GRPO`: those of groups and of the clipped objective."""


class GRPO(ClippedAgent):
    """Group relative policy optimisation over latent or token actions; arguments as in :class:`Agent`.

    An episode's advantage is its reward standardised within its group, the same for all its actions.
    There is no value function.

    Source: Shao et al. 2024, arXiv 2402.03300; CoLA, arXiv 2503.21383, for latent actions.
    """

    options_class = GRPOOptions
    options: GRPOOptions

    def gather(self) -> Batch:
        o = self.options
        rollout = self._collect(o.prompts, o.group_size)
        groups = rollout.episode_rewards, o.group_size, rollout.reward_sizes
        figures = {"frac_zero_advantage": zero_groups(*groups)}
        return self.spread(rollout, group_advantages(*groups), self.decides(rollout), figures)
