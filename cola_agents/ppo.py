"""PPO over whole episodes: a policy with a value head on its own trunk."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from cola_agents.agent import Agent, AgentOptions, Record
from cola_agents.losses import gae, value_loss, whiten
from cola_agents.rollout import Rollout


@dataclass(frozen=True)
class PPOOptions(AgentOptions):
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
    episodes: int = 128
    gamma: float = 1.0
    lam: float = 1.0
    value_coef: float = 0.5
    value_clip: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.episodes < 1 or not 0 < self.gamma <= 1 or not 0 <= self.lam <= 1:
            raise ValueError(f"episodes >= 1, gamma in (0, 1] and lam in [0, 1] are needed, got {self}")


class PPO(Agent):
    """Proximal policy optimisation over latent or token actions; arguments as in :class:`Agent`.

    Updates are at the level of whole episodes: one pass of the trunk over each gives policy and value
    at every position, and at latent level it reads hidden states kept while playing, so that the base
    language model is not run again. Advantages are whitened over the batch; the KL to the initial
    policy is in the loss, exact over the actions.

    Source: Schulman et al. 2017, arXiv 1707.06347; CoLA, arXiv 2503.21383, for latent actions.
    """

    options_class = PPOOptions
    options: PPOOptions

    def update(self) -> Record:
        started = time.process_time()
        o = self.options
        rollout = self._collect(o.episodes, 1)
        values, advantages, returns = self._advantages(rollout)
        figures: dict[str, list[float]] = defaultdict(list)
        for index in self._minibatches(len(rollout)):
            part = rollout.select(index)
            length = part.mask.shape[1]
            old_values, advantage, target = (
                tensor[index][:, :length][part.mask] for tensor in (values, advantages, returns)
            )
            loss, scores, recorded = self._policy_loss(part, advantage)
            every = torch.ones_like(target)
            value = value_loss(scores.values, old_values, target, every, o.value_clip)
            loss = loss + o.value_coef * value
            self._step(loss)
            for name, figure in {**recorded, "value_loss": value.item(), "loss": loss.item()}.items():
                figures[name].append(figure)
        return self._record(rollout, started, figures)

    @torch.no_grad()
    def _advantages(self, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
        """Values, whitened advantages and returns at every position, all [N, T]."""
        values = self.actor.values(self.actor.features(rollout))
        last = values.gather(1, rollout.lengths[:, None] - 1).squeeze(1)
        bootstrap = torch.where(rollout.terminated, torch.zeros_like(last), last)
        advantages, returns = gae(
            rollout.rewards, values, rollout.mask, bootstrap, gamma=self.options.gamma, lam=self.options.lam
        )
        return values, whiten(advantages, rollout.mask), returns
