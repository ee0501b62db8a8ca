"""What is recorded of an update, and the warning where update after update teaches nothing."""

from __future__ import annotations

import warnings

import numpy as np

from cola_agents.rl.update import Batch, Record
from cola_envs.fields import SUCCESS, failures, mean_scores

#: Updates without a difference between episodes, after which a warning is given.
PATIENCE = 10


def batch_figures(batch: Batch) -> Record:
    """Figures of what was played: means over the episodes, and the batch's own.

    ``frac_zero_advantage`` is the share of episodes from which nothing is learned, unless the batch says
    which share of its groups that is.
    """
    rollout = batch.rollout
    idle = (batch.advantages.masked_fill(~batch.decision_mask, 0.0) == 0).all(1)
    return {
        "reward": rollout.episode_rewards.mean().item(),
        "success": float(np.mean([SUCCESS.of(info) for info in rollout.infos])),
        "length": rollout.num_actions / len(rollout),
        **mean_scores(rollout.infos),
        **failures(rollout.infos),
        "frac_zero_advantage": idle.float().mean().item(),
        **batch.figures,
    }


class Idle:
    """Counts the updates in a row in which no episode was better than another."""

    def __init__(self) -> None:
        self._updates = 0

    def notice(self, record: Record, *, warn: bool) -> None:
        """Count an update, and warn once after :data:`PATIENCE` of them."""
        # Where every episode succeeds there is nothing left to learn, and nothing to warn of.
        idle = record["frac_zero_advantage"] == 1 and record["success"] < 1
        self._updates = self._updates + 1 if idle else 0
        if self._updates == PATIENCE and warn:
            warnings.warn(
                f"in the last {PATIENCE} updates no episode was rewarded differently from those it is "
                "compared with, so that there was nothing to learn from: the task may be too hard or too "
                "easy at this max_tokens; more episodes an update or a higher temperature may help",
                stacklevel=4,
            )
