"""PPO over whole episodes: a policy with a value head on its own trunk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cola_agents.rl.clipped import ClippedAgent
from cola_agents.rl.losses import alike, average, gae, sum_macros, value_errors, whiten
from cola_agents.rl.options import ClippedOptions
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.updates import Batch, Record


@dataclass(frozen=True)
class PPOOptions(ClippedOptions):
    """Options of :class:`PPO`.

    Attributes:
        episodes: episodes per update.
        gamma, lam: of generalised advantage estimation. Both 1 by default: a reward at the end reaches
            the first action undiminished. (The official code's lambda of .95 leaves nothing of it after
            a hundred tokens.)
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
        self._positive("value_clip")
        if self.value_coef < 0:
            raise ValueError(f"value_coef must not be negative, got {self.value_coef}")
        if self.episodes < 1 or not 0 < self.gamma <= 1 or not 0 <= self.lam <= 1:
            raise ValueError(f"episodes >= 1, gamma in (0, 1] and lam in [0, 1] are needed, got {self}")


class PPO(ClippedAgent):
    """Proximal policy optimisation over latent or token actions; arguments as in :class:`Agent`.

    Updates are at the level of whole episodes: one pass of the trunk over each gives policy and value
    at every position, and at latent level it reads hidden states kept while playing, so that the base
    language model is not run again. Advantages are whitened over the batch.

    Source: Schulman et al. 2017, arXiv 1707.06347; CoLA, arXiv 2503.21383, for latent actions.
    """

    options_class = PPOOptions
    options: PPOOptions

    def gather(self) -> Batch:
        rollout = self._collect(self.options.episodes, 1)
        rewards = rollout.episode_rewards
        equal = alike(rewards.min(), rewards.max(), rollout.reward_sizes.max())
        figures = {"frac_zero_advantage": float(equal)}
        return self._judged(rollout, figures)

    @torch.no_grad()
    def _judged(self, rollout: Rollout, figures: Record) -> Batch:
        """Values, advantages and returns at every decision."""
        o = self.options
        rewards, decides = rollout.rewards, self.decides(rollout)
        if o.kl_in == "reward":
            kl = self.kl_of(rollout)
            figures = {**figures, "kl": average(kl[rollout.mask], rollout.mask, "token").item()}
            rewards = rewards - self.kl_coef * kl
        if o.macro > 1:
            summed = torch.zeros_like(rewards)
            summed[decides] = sum_macros(rewards[rollout.mask], rollout.mask, decides)
            rewards = summed
        values = torch.zeros_like(rewards)
        for index in self._parts(rollout):
            part = rollout.select(index)
            values[index, : part.mask.shape[1]] = self.actor.values(self.actor.features(part))
        values = self.workers.sum(values)
        last = values.gather(1, rollout.lengths[:, None] - 1).squeeze(1)
        bootstrap = torch.where(rollout.terminated, torch.zeros_like(last), last)
        advantages, returns = gae(rewards, values, decides, bootstrap, gamma=o.gamma, lam=o.lam)
        if o.whiten:
            size = rewards.abs().sum(1).max() + values.abs().max()
            advantages = whiten(advantages, decides, size=size)
        return Batch(rollout, decides, advantages, figures, values, returns)

    def has_other_terms(self) -> bool:
        return super().has_other_terms() or self.options.value_coef > 0

    def value_term(self, part: Batch, features: Tensor, decisions: int) -> tuple[Tensor | None, Record]:
        assert part.values is not None
        assert part.returns is not None
        o, at = self.options, part.decides
        if o.macro > 1:
            features = features[at[part.rollout.mask]]
        found = self.actor.values(features)
        errors = value_errors(found, part.values[at], part.returns[at], o.value_clip)
        value = average(errors, at, o.loss_mean, decisions)
        return o.value_coef * value, {"value_loss": value.item()}
