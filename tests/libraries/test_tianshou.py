"""Tianshou's collectors over the batched environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from cola_envs.testing import FakeBackbone
from tests.libraries import ENV_ID, SETTINGS, alone, make

pytest.importorskip("tianshou", reason="in the extra 'libraries'")
from tianshou.algorithm import Algorithm
from tianshou.algorithm.random import MARLRandomDiscreteMaskedOffPolicyAlgorithm
from tianshou.data import Batch, Collector, VectorReplayBuffer

from cola_agents.adaptors.tianshou import TianshouVectorEnv


def collector(env: TianshouVectorEnv, size: int = 3000) -> Collector:
    actions = env.action_space[0]
    actions.seed(0)
    policy = MARLRandomDiscreteMaskedOffPolicyAlgorithm(action_space=actions)
    return Collector(policy, env, VectorReplayBuffer(size, env.env_num))


def first_episode(buffer: Any) -> Batch:
    """Of one row's buffer, up to the first end."""
    batch, _ = buffer.sample(0)
    return batch[: int(np.flatnonzero(batch.done)[0]) + 1]


@pytest.mark.parametrize("settings", [{}, {"budget_end": "truncate"}])
def test_each_row_holds_the_episode_of_a_single_environment(settings: dict[str, Any]) -> None:
    env = TianshouVectorEnv(make(3, "disabled", **settings))
    env.seed(10)
    played = collector(env)
    played.reset()
    stats = played.collect(n_step=60, random=True)
    for row, buffer in enumerate(played.buffer.buffers):
        episode = first_episode(buffer)
        observations, rewards, terminated, truncated = alone(10 + row, episode.act, **settings)
        np.testing.assert_array_equal(episode.obs, observations[:-1])
        np.testing.assert_array_equal(episode.obs_next, observations[1:])
        assert episode.rew.tolist() == rewards
        assert (bool(episode.terminated[-1]), bool(episode.truncated[-1])) == (terminated, truncated)
    assert stats.n_collected_episodes > 10
    assert played.buffer.rew.sum() == pytest.approx(stats.returns.sum(), abs=3)  # three rows may be under way


def test_a_truncated_episode_is_worth_the_value_of_the_state_that_it_ended_in() -> None:
    env = TianshouVectorEnv(make(3, "disabled", budget_end="truncate"))
    env.seed(10)
    played = collector(env)
    played.reset()
    played.collect(n_step=60, random=True)
    cut = 0
    for row, buffer in enumerate(played.buffer.buffers):
        batch, indices = buffer.sample(0)
        returns, _ = Algorithm.compute_episodic_return(
            batch, buffer, indices, v_s_=batch.obs_next[:, 0], v_s=batch.obs[:, 0], gamma=1.0, gae_lambda=1.0
        )
        acts = first_episode(buffer).act
        observations, rewards, _, truncated = alone(10 + row, acts, budget_end="truncate")
        assert returns[0] == pytest.approx(sum(rewards) + truncated * observations[-1][0], abs=1e-5)
        cut += truncated
    assert cut


def test_a_step_of_all_rows_is_one_forward_pass() -> None:
    env = TianshouVectorEnv(ENV_ID, 8, model=FakeBackbone(), **SETTINGS)
    calls = []
    decode = env.env.episodes.session.decode
    env.env.episodes.session.decode = lambda rows, *rest: calls.append(len(rows)) or decode(rows, *rest)
    played = collector(env)
    played.reset()
    played.collect(n_step=80, random=True)
    assert calls == [8] * 10


def test_a_number_of_episodes_leaves_rows_idle_without_stepping_them() -> None:
    env = TianshouVectorEnv(make(4, "disabled"))
    played = collector(env)
    played.reset()
    assert played.collect(n_episode=9, random=True).n_collected_episodes == 9


def test_the_whole_info_of_an_end_is_kept_beside_the_buffer() -> None:
    env = TianshouVectorEnv(make(2, "disabled"))
    env.reset(seed=0)
    assert env.infos[1]["prompt"].startswith("Write")
    for _ in range(5):
        *_, terminated, _, _ = env.step([0, 0])
        if terminated.any():
            break
    assert "text" in env.infos[int(np.flatnonzero(terminated)[0])]


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_an_environment_that_resets_itself_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="disabled"):
        TianshouVectorEnv(make(2, mode))


def test_other_environments_and_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens"):
        TianshouVectorEnv(make(2, "disabled", max_episode_steps=3))
    with pytest.raises(TypeError, match="made already"):
        TianshouVectorEnv(make(2, "disabled"), 4)
    with pytest.raises(TypeError, match="CoLAVectorEnv"):
        TianshouVectorEnv(gym.make_vec("CartPole-v1", num_envs=2))


def test_seeds_of_every_form_are_one_a_row_and_others_are_refused_at_once() -> None:
    env = TianshouVectorEnv(make(3, "disabled"))
    assert (
        env.seed(5)
        == env.seed([5, 6, 7])
        == env.seed((5, 6, 7))
        == env.seed(np.array([5, 6, 7]))
        == [[5], [6], [7]]
    )
    env.reset(seed=[8, 9, 10])
    assert [env.env.episodes.seed(row) for row in range(3)] == [8, 9, 10]
    for call in (env.seed, lambda seed: env.reset(seed=seed)):
        for bad in ([1, 2], "5", 1.5, [1, 2, "3"], [1, 2, -3]):
            with pytest.raises((TypeError, ValueError), match="seed"):
                call(bad)


def test_an_attribute_is_set_for_all_rows_or_none() -> None:
    env = TianshouVectorEnv(make(3, "disabled"))
    env.set_env_attr("note", 1)
    assert env.get_env_attr("note") == [1, 1, 1]
    with pytest.raises(ValueError, match="the rows share one environment: 'note' can only be set for all"):
        env.set_env_attr("note", 2, [0])
