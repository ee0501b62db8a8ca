"""The benchmark of SB3's algorithms with plain networks: as many tokens for every arm, and no run twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sb3_contrib", reason="in the extra 'libraries'")
from benchmarks.__main__ import main
from benchmarks.plain_networks import _test_reward
from cola_agents import SB3VecEnv
from cola_envs.testing import FakeBackbone
from tests import tiny
from tests.libraries import ENV_ID, SETTINGS, alone


def test_every_arm_writes_as_many_tokens_and_an_ended_run_is_not_repeated(tmp_path: Path) -> None:
    models, out = tiny.write_models(tmp_path / "models", seeds=(0,)), tmp_path / "sb3.json"
    argv = ["sb3", "--models", str(models), "--tasks", "Countdown", "--algorithms", "dqn", "--tokens", "256"]
    argv += ["--num-envs", "4", "--episodes", "4", "--seeds", "1", "--out", str(out), "--arms"]
    assert main([*argv, "latent", "latent-span-4"]) == 0
    first = json.loads(out.read_text())["runs"]
    assert [(one["arm"], one["steps"]) for one in first] == [("latent", 256), ("latent-span-4", 64)]
    assert main([*argv, "latent", "latent-span-4", "token"]) == 0
    runs = json.loads(out.read_text())["runs"]
    assert runs[:2] == first
    assert [(one["arm"], one["steps"]) for one in runs[2:]] == [("token", 256)]
    assert all(0 <= one["test_reward"] <= 1 and len(one["curve"]) == 10 for one in runs)


def test_the_test_reward_is_that_of_each_rows_first_episode() -> None:
    class Always:
        def predict(self, observations: np.ndarray, deterministic: bool) -> tuple[np.ndarray, None]:
            assert deterministic
            return np.full(len(observations), 2), None

    envs = SB3VecEnv(ENV_ID, 3, env_kwargs={"model": FakeBackbone(), **SETTINGS})
    reward = _test_reward(Always(), envs)
    envs.close()
    expected = []
    for seed in range(10_000, 10_003):
        for length in range(1, 9):
            _, rewards, terminated, truncated = alone(seed, [2] * length)
            if terminated or truncated:
                expected.append(sum(rewards))
                break
    assert len(expected) == 3
    assert reward == pytest.approx(np.mean(expected))
