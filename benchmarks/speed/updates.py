"""A PPO update of either level over random episodes, and the memory that it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.rl.actors import Actor
from cola_agents.rl.policy import TrainedPolicy
from cola_agents.rl.ppo import PPO, PPOOptions
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.workers import RolloutWorkers


class MeasuredPPO(PPO):
    """PPO's own update over a given rollout, without an environment or a tokenizer."""

    def __init__(self, actor: Actor, reference: Actor, micro: int) -> None:
        self.options = PPOOptions(epochs=1, minibatch=None, micro_batch=micro, lr=1e-6)
        self.workers = RolloutWorkers()
        self.begin()
        self.seed = 0
        self.actor = actor
        self.policy = TrainedPolicy(actor, reference, self.options, self.workers)
        self.optimiser = OwnTypeAdam(actor.parameters(), lr=1e-6)  # type: ignore[assignment]

    def once(self, rollout: Rollout) -> None:
        """Values, advantages, and one gradient step on all of the rollout."""
        self.train_on(self.batch_of(rollout))


class OwnTypeAdam:
    """Adam whose state is of the weights' own type.

    The agents' own optimiser keeps float32 twins beside lower types. 8B weights, their twins and a
    reference are more than a GPU holds, so both arms do without.
    """

    def __init__(self, parameters: Iterator[nn.Parameter], lr: float) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        fused = self._parameters[0].device.type == "cuda"
        self._adam = torch.optim.Adam(self._parameters, lr=lr, betas=(0.9, 0.95), fused=fused)

    def zero_grad(self) -> None:
        self._adam.zero_grad(set_to_none=True)

    def step(self, max_norm: float) -> float:
        norm = nn.utils.clip_grad_norm_(self._parameters, max_norm)
        self._adam.step()
        return float(norm)


@torch.no_grad()
def random_rollout(
    backbone: LatentBackbone | TokenBackbone, episodes: int, length: int, micro: int
) -> Rollout:
    """Whole episodes of random tokens and actions, an action a token.

    They come with the hidden states that playing them would have kept, made of ``micro`` episodes at a time.
    """
    base: Any = backbone.base
    device, source = backbone.model.device, torch.Generator().manual_seed(1)
    size = (episodes, length)
    num_actions = int(backbone.action_space.n)
    ids = torch.randint(backbone.vocab_size, size, generator=source).to(device)
    hidden = torch.cat([base(part, use_cache=False).last_hidden_state for part in ids.split(micro)])
    rewards = torch.zeros(size)
    rewards[:, -1] = torch.rand(episodes, generator=source)
    return Rollout(
        ids=ids,
        lengths=torch.full((episodes,), length, device=device),
        hidden=hidden,
        mask=torch.ones(size, dtype=torch.bool, device=device),
        actions=torch.randint(num_actions, size, generator=source).to(device),
        log_probs=torch.full(size, -math.log(num_actions), device=device),
        rewards=rewards.to(device),
        terminated=torch.ones(episodes, dtype=torch.bool, device=device),
        seeds=np.arange(episodes),
        problem_seeds=np.arange(episodes),
        infos=[{} for _ in range(episodes)],
    )
