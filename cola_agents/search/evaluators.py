"""An evaluator that plays each state on to the end of its episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cola_agents.rl.rollout import AnyPolicy, attach
from cola_agents.search.config import Evaluation
from cola_agents.search.playout import Outlook, Player, Values, streams
from cola_envs.episodes import Episodes


def probabilities(logits: Tensor) -> np.ndarray:
    """Softmax of action logits, [B, A] float64."""
    return torch.softmax(logits.double(), dim=-1).cpu().numpy()


class RolloutEvaluator:
    """Priors from a policy; the value of a state is the return of a rollout from it.

    A call plays its rows together until the last one has ended. :func:`~cola_agents.search.search` calls
    only subclasses; for this class itself it uses ``player`` directly, so that a tree whose rollout has ended
    does not wait for the others. The results are the same.

    Args:
        episodes: the rows to evaluate belong to these.
        policy: gives action logits, as in :func:`cola_agents.rl.rollout.collect`; None for the model's own.
        temperature: of the rollouts; 0 takes the likeliest action.
        discount: of the return, per action.
        seed: of the draws: one, or one for each row from the first on. Each row has a random stream of its
            own, which successive evaluations continue.
        q: rows to action values [B, A]. With it, the value of an ending is Q of its last action and the
            task's rewards are not read.
    """

    def __init__(
        self,
        episodes: Episodes,
        policy: AnyPolicy | None = None,
        *,
        temperature: float = 1.0,
        discount: float = 1.0,
        seed: int | Sequence[int] = 0,
        q: Values | None = None,
    ) -> None:
        self.logits: Values = attach(policy, episodes)
        rngs = streams(seed, episodes.num_rows if isinstance(seed, (int, np.integer)) else len(seed))
        self.player = Player(
            episodes, self.logits, dict(enumerate(rngs)), temperature=temperature, discount=discount, q=q
        )

    def __call__(self, rows: Sequence[int], /) -> Evaluation:
        priors = priors_of(self.player.look(rows))
        endings = self.player.to_the_end(rows)
        return priors._replace(value=np.array([ending.value for ending in endings]), endings=endings)


def priors_of(outlook: Outlook) -> Evaluation:
    """An evaluation before its rollouts: priors and action values, and 0 for every value."""
    action_values = None if outlook.values is None else outlook.values.double().cpu().numpy()
    return Evaluation(probabilities(outlook.logits), np.zeros(len(outlook.logits)), action_values)
