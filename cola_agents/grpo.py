"""GRPO: groups of answers to one problem, each judged against its group."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass

from cola_agents.agent import Agent, AgentOptions, Record
from cola_agents.losses import group_advantages


@dataclass(frozen=True)
class GRPOOptions(AgentOptions):
    """Options of :class:`GRPO`.

    Attributes:
        prompts: problems per update.
        group_size: answers to each.
    """

    prompts: int = 16
    group_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts < 1 or self.group_size < 2:
            raise ValueError(f"prompts >= 1 and group_size >= 2 are needed, got {self}")


class GRPO(Agent):
    """Group relative policy optimisation over latent or token actions; arguments as in :class:`Agent`.

    An episode's advantage is its reward standardised within its group, the same for all its actions.
    The KL to the initial policy is in the loss, exact over the actions. There is no value function.

    Source: Shao et al. 2024, arXiv 2402.03300; CoLA, arXiv 2503.21383, for latent actions.
    """

    options_class = GRPOOptions
    options: GRPOOptions

    def update(self) -> Record:
        started = time.process_time()
        o = self.options
        rollout = self._collect(o.prompts, o.group_size)
        advantages = group_advantages(rollout.episode_rewards, o.group_size)
        figures: dict[str, list[float]] = defaultdict(list)
        for index in self._minibatches(len(rollout)):
            part = rollout.select(index)
            advantage = advantages[index][:, None].expand_as(part.mask)[part.mask]
            loss, _, recorded = self._policy_loss(part, advantage)
            self._step(loss)
            for name, value in {**recorded, "loss": loss.item()}.items():
                figures[name].append(value)
        return self._record(rollout, started, figures)
