"""PPO over whole episodes: a policy with a value head on its own trunk.

Shapes: N episodes, T positions, M acting positions, G decisions (M of them, or fewer macro actions).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cola_agents.rl.agent import Agent
from cola_agents.rl.losses import (
    alike,
    clipped_surrogate,
    gae,
    macro_starts,
    sum_macros,
    value_errors,
    whiten,
)
from cola_agents.rl.options import ClippedOptions
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.update import Batch, Record


@dataclass(frozen=True)
class PPOOptions(ClippedOptions):
    """Options of :class:`PPO`.

    Attributes:
        episodes: episodes per update.
        gamma, lam: of generalised advantage estimation. Both 1 by default, so that a reward at the end
            reaches the first action undiminished. (Under the official code's lambda of .95 it reaches an
            action a hundred steps earlier as .006 of it.)
        value_coef: weight of the value loss.
        value_clip: clipping range of the value.
    """

    epochs: int = 2
    minibatch: int | None = 64
    whiten: bool = True
    episodes: int = 128
    gamma: float = 1.0
    lam: float = 1.0
    value_coef: float = 0.5
    value_clip: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "episodes")
        self._positive("value_clip", "gamma")
        if self.value_coef < 0:
            raise ValueError(f"value_coef must not be negative, got {self.value_coef}")
        if self.gamma > 1:
            raise ValueError(f"gamma must be at most 1, got {self.gamma}")
        if not 0 <= self.lam <= 1:
            raise ValueError(f"lam must be from 0 to 1, got {self.lam}")


class PPO(Agent):
    """Proximal policy optimisation over latent or token actions; arguments as in :class:`Agent`.

    An update runs the trunk once over each whole episode and gets policy and value at every position. At
    latent level the trunk reads hidden states that were kept during the rollout, so the base language model
    is not run again. Advantages are whitened over the batch.

    Source: Schulman et al. 2017, arXiv 1707.06347; CoLA, arXiv 2503.21383, for latent actions.
    """

    options_class = PPOOptions
    skipped_figures = (*Agent.skipped_figures, "clip_fraction")
    options: PPOOptions

    def batch(self) -> Batch:
        return self.batch_of(self.play(*self.draw_seeds(self.options.episodes)))

    @torch.no_grad()
    def batch_of(self, rollout: Rollout) -> Batch:
        """Compute values, advantages and returns at every decision of some episodes."""
        o = self.options
        totals = rollout.episode_rewards
        equal = alike(totals.min(), totals.max(), rollout.reward_sizes.max())
        kl, kl_figures = self.policy.kl_in_reward(rollout)
        decision_mask = macro_starts(rollout.mask, o.macro, rollout.written)
        paid = (rollout.rewards - self.kl_coef * kl)[rollout.mask]
        rewards = torch.zeros_like(rollout.rewards)
        rewards[decision_mask] = sum_macros(paid, rollout.mask, decision_mask)
        values = self.policy.values(rollout)
        last = values.gather(1, rollout.lengths[:, None] - 1).squeeze(1)
        bootstrap = torch.where(rollout.terminated, torch.zeros_like(last), last)
        advantages, returns = gae(rewards, values, decision_mask, bootstrap, gamma=o.gamma, lam=o.lam)
        if o.whiten:
            size = rewards.abs().sum(1).max() + values.abs().max()
            advantages = whiten(advantages, decision_mask, size=size)
        figures = {"frac_zero_advantage": float(equal), **kl_figures}
        return Batch(rollout, decision_mask, advantages, figures, o.loss_mean, values, returns)

    def loss(self, part: Batch) -> tuple[Tensor, Record]:
        o, at = self.options, part.decision_mask
        assert part.values is not None
        assert part.returns is not None
        now = self.policy.evaluate_actions(part.rollout)
        log_probs, old = part.by_decision(now.log_probs), part.by_decision(part.rollout.taken_log_probs)
        objective = clipped_surrogate(log_probs, old, part.advantages[at], o.clip)
        loss, figures = self.policy.regularised(-part.mean(objective, "decisions"), part, now, self.kl_coef)
        values = self.actor.values(now.features[at[part.rollout.mask]])
        errors = value_errors(values, part.values[at], part.returns[at], o.value_clip)
        value_loss = part.mean(errors, "decisions")
        figures |= {**part.ratio_figures(log_probs - old, o.clip), "value_loss": value_loss.item()}
        return loss + o.value_coef * value_loss, figures

    def has_other_terms(self) -> bool:
        return super().has_other_terms() or self.options.value_coef > 0
