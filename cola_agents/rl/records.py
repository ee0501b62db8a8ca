"""The figures recorded of a batch of episodes, and a warning if many updates in a row teach nothing."""

from __future__ import annotations

import warnings

import numpy as np

from cola_agents.rl.update import Batch, Record
from cola_envs.fields import SUCCESS, failures, mean_scores

#: The number of updates in a row without a difference between episodes before a warning.
PATIENCE = 10


def batch_figures(batch: Batch) -> Record:
    """Means over the episodes of a batch, and the batch's own figures.

    ``frac_zero_advantage`` is the share of episodes whose advantages are all 0, unless the batch has a figure
    of this name (the share of its groups).
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
        # If every episode succeeds there is nothing left to learn, and nothing to warn of.
        idle = record["frac_zero_advantage"] == 1 and record["success"] < 1
        self._updates = self._updates + 1 if idle else 0
        if self._updates == PATIENCE and warn:
            warnings.warn(
                f"in the last {PATIENCE} updates no episode was rewarded differently from those it is "
                "compared with, so that there was nothing to learn from: the task may be too hard or too "
                "easy at this max_tokens; more episodes an update or a higher temperature may help",
                stacklevel=4,
            )
