"""RLlib's env runner over the batched environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cola_envs.testing import FakeBackbone
from tests.libraries import ENV_ID, SETTINGS, alone

pytest.importorskip("ray.rllib", reason="pins gymnasium 1.2.2: .ci/libraries makes an environment")
from ray.rllib.algorithms.ppo import PPOConfig

from cola_agents.adaptors.rllib import BatchedEnvRunner


def runner(**settings: Any) -> BatchedEnvRunner:
    config = (
        PPOConfig()
        .environment(f"cola_envs:{ENV_ID}", env_config={"model": FakeBackbone(), **SETTINGS, **settings})
        .env_runners(
            env_runner_cls=BatchedEnvRunner,
            gym_env_vectorize_mode="vector_entry_point",
            num_envs_per_env_runner=3,
            num_env_runners=0,
        )
        .debugging(seed=0)
    )
    return BatchedEnvRunner(config=config)


@pytest.mark.parametrize("settings", [{}, {"budget_end": "truncate"}])
def test_episodes_are_those_of_a_single_environment(settings: dict[str, Any]) -> None:
    own = runner(**settings)
    reset = own.env.unwrapped.episodes.reset
    used: list[int] = []

    def record(rows: Any, seeds: Any, *rest: Any) -> Any:
        used.extend(seeds)
        return reset(rows, seeds, *rest)

    own.env.unwrapped.episodes.reset = record
    episodes = own.sample(num_episodes=12, random_actions=True)
    assert len(episodes) >= 12
    assert all(episode.is_done for episode in episodes)
    for episode in episodes:
        states, actions = episode.get_observations(), episode.get_actions()
        ends = (episode.is_terminated, episode.is_truncated)
        same = [seed for seed in used if _is(seed, states, actions, episode.get_rewards(), ends, settings)]
        assert same, "no seed of a row gives this episode"
    assert any(episode.is_truncated for episode in episodes) == bool(settings)


def _is(
    seed: int, states: Any, actions: Any, rewards: Any, ends: tuple[bool, bool], settings: dict[str, Any]
) -> bool:
    """Whether a single environment with that seed plays this episode to its end, of that kind."""
    try:
        observations, wanted, *own = alone(seed, actions, **settings)
    except AssertionError:
        return False
    return tuple(own) == ends and np.array_equal(states, observations) and np.allclose(rewards, wanted)


@pytest.mark.parametrize("mode", ["same_step", "disabled"])
def test_another_autoreset_mode_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="next_step"):
        runner(autoreset_mode=mode)
