"""Make the rows of an environment without its step loop, to play whole episodes in them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents.common.arguments import check_not_making
from cola_envs.build import check_environment
from cola_envs.task import TaskBatch
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
    _check_steps(kwargs)
    made = gym.make_vec(env_id, num_envs=num_rows, **kwargs).unwrapped
    if not isinstance(made, CoLAVectorEnv):
        raise TypeError(f"{env_id} is not one of the CoLA environments")
    try:
        _check_steps({"max_episode_steps": made.max_episode_steps})  # of the registration
    except TypeError:
        made.close()
        raise
    return made


def check_rows(env_id: str, /, **kwargs: Any) -> TaskBatch | None:
    """Check the arguments of :func:`make_rows` before a model is loaded, as :func:`check_environment` does.

    Returns:
        The task, closed; None for one that was not built.

    Raises:
        TypeError, ValueError: as :func:`make_rows`, but for what the model decides.
    """
    _check_steps(kwargs)
    return check_environment(env_id, **kwargs)


def _check_steps(kwargs: dict[str, Any]) -> None:
    """Raise TypeError for a parameter of ``gym.make_vec`` itself, or a limit of steps."""
    for name in kwargs:
        check_not_making(name)
    limit = kwargs.get("max_episode_steps")
    if limit is not None:
        raise TypeError(
            f"max_episode_steps={limit} is a limit around an environment, and whole "
            'episodes are played here: limit them by max_tokens=, with budget_end="truncate"'
        )
