"""What PPO and GRPO share: the clipped objective, and macro actions."""

from __future__ import annotations

from torch import Tensor

from cola_agents.rl.agent import Agent
from cola_agents.rl.losses import clipped_surrogate, macro_starts, sum_macros
from cola_agents.rl.options import ClippedOptions
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.updates import Batch, Record


class ClippedAgent(Agent):
    """An agent that learns from a batch several times, held near the policy that played it."""

    options: ClippedOptions

    @property
    def passes(self) -> int:
        return self.options.epochs

    def decides(self, rollout: Rollout) -> Tensor:
        """Where decisions are taken, [N, T] bool: every action, or the first of each macro action."""
        return rollout.mask if self.options.macro == 1 else macro_starts(rollout.mask, self.options.macro)

    def grouped(self, part: Batch, values: Tensor) -> Tensor:
        return values if self.options.macro == 1 else sum_macros(values, part.rollout.mask, part.decides)

    def objective(self, log_probs: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
        return clipped_surrogate(log_probs, old, advantages, self.options.clip)

    def diagnostics(self, log_ratio: Tensor) -> Record:
        beyond = (log_ratio.exp() - 1).abs() > self.options.clip
        return {**super().diagnostics(log_ratio), "clip_fraction": beyond.float().mean().item()}
