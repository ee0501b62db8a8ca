"""An evaluator whose value of a state is the return of a rollout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cola_agents.model.sampling import Drawing
from cola_agents.rl.collecting import AnyPolicy, attach
from cola_agents.search.config import Evaluation
from cola_agents.search.playout import ActionScores, Judge, Player, Values, streams
from cola_envs.episodes import Episodes


class RolloutEvaluator:
    """Priors from a policy; the value of a state is the return of a rollout from it.

    A call plays its rows together until the last episode has ended. :func:`~cola_agents.search.search` calls
    instances of subclasses; for this class itself it uses ``player`` directly, so that a tree whose rollout
    has ended does not wait for the others. The results are the same.

    Args:
        episodes: the environments of the rows to evaluate.
        policy: gives action logits, as in :func:`cola_agents.collect`; None for the model's own.
        temperature, top_k, top_p: sampling options of the rollouts, as in :func:`cola_agents.collect`;
            temperature 0 takes the likeliest action. Priors are the policy's probabilities whatever they are.
        discount: discount factor of the return, per action; an estimate is a reward of the last action.
        seed: one seed, or one per row, beginning with row 0. Each row has a random stream of its own, which
            successive evaluations continue.
        q: maps rows to action values [B, A]. With it, the value of an ending is Q of its last action and the
            task's rewards are not read.
        judge: gives the value of an ending, in place of Q's and of the task's rewards.
    """

    def __init__(
        self,
        episodes: Episodes,
        policy: AnyPolicy | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        discount: float = 1.0,
        seed: int | Sequence[int] = 0,
        q: Values | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.logits: Values = attach(policy, episodes)
        rngs = streams(seed, episodes.num_rows if isinstance(seed, (int, np.integer)) else len(seed))
        drawing: Drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        self.player = Player(
            episodes,
            self.logits,
            dict(enumerate(rngs)),
            drawing=drawing,
            discount=discount,
            q=q,
            judge=judge,
        )

    def __call__(self, rows: Sequence[int], /) -> Evaluation:
        evaluation = prior_evaluation(self.player.score(rows))
        endings = self.player.to_the_end(rows)
        return evaluation._replace(value=np.array([ending.value for ending in endings]), endings=endings)


def prior_evaluation(scores: ActionScores) -> Evaluation:
    """An evaluation without rollouts: priors and action values, and 0 for every state value."""
    prior = torch.softmax(scores.logits.double(), dim=-1).cpu().numpy()
    action_values = None if scores.values is None else scores.values.double().cpu().numpy()
    return Evaluation(prior, np.zeros(len(prior)), action_values)
