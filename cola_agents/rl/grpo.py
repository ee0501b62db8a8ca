"""GRPO: several answers to each problem, each compared with its group's mean."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cola_agents.rl.agent import Agent
from cola_agents.rl.losses import clipped_surrogate, group_advantages, macro_starts, zero_groups
from cola_agents.rl.options import ClippedOptions, GroupOptions
from cola_agents.rl.update import Batch, Record


@dataclass(frozen=True)
class GRPOOptions(GroupOptions, ClippedOptions):
    """Options of :class:`GRPO`: those of groups and of the clipped objective."""


class GRPO(Agent):
    """Group relative policy optimisation over latent or token actions; arguments as in :class:`Agent`.

    An episode's advantage is its reward standardised within its group, the same for all its actions.
    There is no value function.

    Source: Shao et al. 2024, arXiv 2402.03300; CoLA, arXiv 2503.21383, for latent actions.
    """

    options_class = GRPOOptions
    skipped_figures = (*Agent.skipped_figures, "clip_fraction")
    options: GRPOOptions

    def batch(self) -> Batch:
        o = self.options
        rollout = self.play(*self.draw_seeds(o.prompts, o.group_size))
        groups = rollout.episode_rewards, o.group_size, rollout.reward_sizes
        figures = {"frac_zero_advantage": zero_groups(*groups)}
        decision_mask = macro_starts(rollout.mask, o.macro, rollout.written)
        return self.same_for_all_actions(rollout, group_advantages(*groups), decision_mask, figures)

    def loss(self, part: Batch) -> tuple[Tensor, Record]:
        clip = self.options.clip
        now = self.policy.evaluate_actions(part.rollout)
        log_probs, old = part.by_decision(now.log_probs), part.by_decision(part.rollout.taken_log_probs)
        objective = clipped_surrogate(log_probs, old, part.advantages[part.decision_mask], clip)
        loss, figures = self.policy.regularised(-part.mean(objective, "decisions"), part, now, self.kl_coef)
        return loss, {**figures, **part.ratio_figures(log_probs - old, clip)}
