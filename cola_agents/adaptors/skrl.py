"""skrl: the batched environment under skrl's own wrapper, after a check of how it resets."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import AutoresetMode, VectorEnv
from skrl.envs.wrappers.torch import wrap_env


def wrap(env: VectorEnv) -> Any:
    """``env`` for skrl's trainers, which learn from every step: each must act in an episode.

    skrl asks no environment for its autoreset mode. Under next-step autoreset it would learn from steps whose
    action is ignored.

    Args:
        env: a Gymnasium vector environment, wrapped or not, of two rows or more.

    Raises:
        ValueError: without same-step autoreset, or of one row (skrl's trainers reset that themselves).
    """
    mode = env.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.SAME_STEP:
        raise ValueError(f"skrl needs autoreset_mode='same_step', and this environment has {mode}")
    if env.num_envs < 2:
        raise ValueError(
            "skrl resets an environment of one row by itself: give it gym.make(...), or more rows"
        )
    return wrap_env(env, wrapper="gymnasium", verbose=False)
