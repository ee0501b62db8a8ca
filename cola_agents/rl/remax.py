"""ReMax: each answer compared with the greedy answer to the same problem."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cola_agents.rl.agent import Agent
from cola_agents.rl.losses import less_baseline
from cola_agents.rl.options import AgentOptions
from cola_agents.rl.update import Batch, Record
from cola_envs.order import check_prompts


@dataclass(frozen=True)
class ReMaxOptions(AgentOptions):
    """Options of :class:`ReMax`.

    Attributes:
        episodes: problems per update, each answered twice: once drawn, once greedily.
    """

    episodes: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "episodes")


class ReMax(Agent):
    """REINFORCE with the greedy rollout's reward as baseline; arguments as in :class:`Agent`.

    Greedy rollouts count as timesteps and episodes, since they cost as much. They are not trained on, and the
    recorded reward is that of the drawn episodes. One pass over each batch, without ratios or clipping.

    Source: Li et al. 2023, arXiv 2310.10505; CoLA, arXiv 2503.21383, for latent actions.
    """

    options_class = ReMaxOptions
    options: ReMaxOptions

    def batch(self) -> Batch:
        seeds, problems = self.draw_seeds(self.options.episodes)
        rollout = self.play(seeds, problems)
        greedy = self.play(seeds, problems, greedy=True)
        check_prompts(self.episodes.tasks, [*problems, *problems], [*rollout.prompts, *greedy.prompts])
        baselines = greedy.episode_rewards
        sizes = torch.maximum(rollout.reward_sizes, greedy.reward_sizes)
        advantages = less_baseline(rollout.episode_rewards, baselines, sizes)
        figures = {
            "frac_zero_advantage": (advantages == 0).float().mean().item(),
            "greedy_reward": baselines.mean().item(),
        }
        return self.same_for_all_actions(rollout, advantages, rollout.mask, figures)

    def loss(self, part: Batch) -> tuple[Tensor, Record]:
        return self.reinforce_loss(part)
