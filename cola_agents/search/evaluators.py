"""Where a search's priors and values come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cola_agents.rl.rollout import InitialPolicy, Policy
from cola_agents.search.config import Evaluation
from cola_agents.search.playout import Outlook, Player, Values, streams
from cola_envs.episodes import Episodes


def probabilities(logits: Tensor) -> np.ndarray:
    """Softmax of action logits, [B, A] float64."""
    return torch.softmax(logits.double(), dim=-1).cpu().numpy()


class RolloutEvaluator:
    """Priors from a policy; the value of a state is what came of playing it on to its end.

    A call plays its rows on together, until the last of them has ended. :func:`~cola_agents.search.search`
    does not call it (but does call a subclass): it has ``player`` play the rows, so that a tree whose row
    has ended goes on at once. What is found is the same.

    Args:
        episodes: whose rows are evaluated.
        policy: gives action logits, as in :func:`cola_agents.rl.rollout.collect`; None for the model's own.
        temperature: at which the rest is played; 0 takes the likeliest action.
        discount: of the return, per action.
        seed: of the draws: one, or one for each row from the first on. The evaluations of a row draw on
            from one stream of its own.
        q: rows to action values [B, A]. Where it is given, an end is worth what it says of the last action,
            and the task's rewards are not looked at: what an evaluation needs.
    """

    def __init__(
        self,
        episodes: Episodes,
        policy: Policy | Callable[[Any, list[int]], Tensor] | None = None,
        *,
        temperature: float = 1.0,
        discount: float = 1.0,
        seed: int | Sequence[int] = 0,
        q: Values | None = None,
    ) -> None:
        session = episodes.session
        chosen: Any = policy or InitialPolicy()
        self.logits: Values = (
            chosen.attach(session) if hasattr(chosen, "attach") else partial(chosen, session)
        )
        own = streams(seed, episodes.num_rows if isinstance(seed, (int, np.integer)) else len(seed))
        self.player = Player(
            episodes, self.logits, dict(enumerate(own)), temperature=temperature, discount=discount, q=q
        )

    def __call__(self, rows: Sequence[int], /) -> Evaluation:
        judged = unplayed(self.player.look(rows))
        endings = self.player.to_the_end(rows)
        return judged._replace(value=np.array([ending.value for ending in endings]), endings=endings)


def unplayed(seen: Outlook) -> Evaluation:
    """What a player sees of rows, as an evaluation whose values, 0, are still to be played for."""
    action_values = None if seen.values is None else seen.values.double().cpu().numpy()
    return Evaluation(probabilities(seen.logits), np.zeros(len(seen.logits)), action_values)
