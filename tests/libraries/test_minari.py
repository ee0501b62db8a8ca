"""Minari: episodes that were played in batches are those that its DataCollector records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from cola_agents import PPO

minari = pytest.importorskip("minari", reason="in the extra 'libraries'")
from cola_agents.adaptors.minari import episode_buffers  # noqa: E402


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def test_a_collector_around_one_environment_records_its_episodes() -> None:
    pytest.importorskip("jax", reason="minari's extra 'create'")
    env = minari.DataCollector(gym.make("CoLA-Thinking-v0", max_tokens=4))
    env.action_space.seed(0)
    played: list[list[int]] = []
    for seed in range(3):
        env.reset(seed=seed)
        played.append([])
        done = False
        while not done:
            played[-1].append(int(env.action_space.sample()))
            *_, terminated, truncated, _ = env.step(played[-1][-1])
            done = terminated or truncated
    env.create_dataset("cola/collected-v0")
    dataset = minari.load_dataset("cola/collected-v0")
    assert [episode.actions.tolist() for episode in dataset] == played
    again = dataset.recover_environment()
    for episode, seed in zip(dataset, range(3), strict=True):
        states = [again.reset(seed=seed)[0], *(again.step(code)[0] for code in episode.actions)]
        np.testing.assert_array_equal(episode.observations, states)


@pytest.mark.parametrize("settings", [{}, {"budget_end": "truncate"}])
def test_episodes_that_were_played_in_batches_are_the_same(settings: dict[str, Any]) -> None:
    agent = PPO("CoLA-Thinking-v0", num_envs=4, seed=0, env_kwargs={"max_tokens": 4, **settings})
    seeds = np.arange(6)
    rollout = agent.play(seeds, seeds)
    buffers = episode_buffers(rollout)
    for seed, buffer in zip(seeds, buffers, strict=True):
        env = gym.make("CoLA-Thinking-v0", max_tokens=4, **settings)
        states, rewards = [env.reset(seed=int(seed))[0]], []
        for code in buffer.actions:
            state, reward, terminated, truncated, _ = env.step(code)
            states.append(state)
            rewards.append(reward)
        np.testing.assert_allclose(np.stack(buffer.observations), np.stack(states), atol=1e-5)
        assert buffer.rewards == pytest.approx(rewards)
        assert (buffer.terminations[-1], buffer.truncations[-1]) == (terminated, truncated)
        assert not any(buffer.terminations[:-1] + buffer.truncations[:-1])
    assert [buffer.id for buffer in episode_buffers(rollout, first_id=6)] == [6, 7, 8, 9, 10, 11]
    minari.create_dataset_from_buffers("cola/played-v0", buffers, env="CoLA-Thinking-v0")
    dataset = minari.load_dataset("cola/played-v0")
    assert dataset.total_steps == rollout.num_actions
    assert sum(float(episode.rewards.sum()) for episode in dataset) == pytest.approx(
        float(rollout.episode_rewards.sum())
    )


def test_episodes_whose_states_are_in_other_processes_are_refused() -> None:
    agent = PPO("CoLA-Thinking-v0", num_envs=4, seed=0, env_kwargs={"max_tokens": 4})
    rollout = agent.play(np.arange(2), np.arange(2))
    with pytest.raises(ValueError, match="several processes"):
        episode_buffers(replace(rollout, held=np.array([0, -1])))
