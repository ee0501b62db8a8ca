"""Make the rows of an environment without its step loop, to play whole episodes in them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents.common.arguments import check_not_making
from cola_envs.vector import CoLAVectorEnv


def make_rows(env_id: str, num_rows: int, /, **kwargs: Any) -> CoLAVectorEnv:
    """An environment of ``gym.make_vec``, whose ``.episodes`` are played directly.

    Args:
        env_id: a registered id.
        num_rows: number of rows.
        kwargs: arguments of the environment.

    Raises:
        TypeError: for an id of another package, for a parameter of ``gym.make_vec`` itself, or for a
            ``max_episode_steps``: only the vector environment counts steps, its Episodes do not.
    """
    for name in kwargs:
        check_not_making(name)
    made = gym.make_vec(env_id, num_envs=num_rows, **kwargs).unwrapped
    if not isinstance(made, CoLAVectorEnv):
        raise TypeError(f"{env_id} is not one of the CoLA environments")
    if made.max_episode_steps is not None:
        made.close()
        raise TypeError(
            f"max_episode_steps={made.max_episode_steps} is a limit around an environment, and whole "
            'episodes are played here: limit them by max_tokens=, with budget_end="truncate"'
        )
    return made
