"""What other libraries collect from these environments is what the episodes were, played alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from cola_envs.testing import FakeBackbone
from tests.envs.tiny import Copy

ENV_ID = "CoLA-Text-v0"
SETTINGS: dict[str, Any] = {"task": Copy, "max_tokens": 5}


def make(num_envs: int = 3, autoreset_mode: str = "next_step", **settings: Any) -> Any:
    """Rows of episodes of one to five steps, over a model of a few lines of numpy."""
    settings = {"model": FakeBackbone(), **SETTINGS, **settings}
    return gym.make_vec(ENV_ID, num_envs=num_envs, autoreset_mode=autoreset_mode, **settings)


def alone(seed: int, actions: Sequence[int], **settings: Any) -> tuple[np.ndarray, list[float], bool, bool]:
    """The episode of one environment under ``actions``: n + 1 observations, n rewards, how it ended."""
    env = gym.make(ENV_ID, **{"model": FakeBackbone(), **SETTINGS, **settings})
    observations, rewards = [env.reset(seed=seed)[0]], []
    terminated = truncated = False
    for action in actions:
        assert not any((terminated, truncated)), "these actions go on after the episode's end"
        observation, reward, terminated, truncated, _ = env.step(int(action))
        observations.append(observation)
        rewards.append(float(reward))
    return np.stack(observations), rewards, terminated, truncated
