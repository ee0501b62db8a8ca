"""A task that fails costs learners an episode, which they count, and never the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from cola_agents import GRPO, collect
from cola_agents.evaluation.reports import Played, summary, table
from cola_agents.evaluation.run import evaluate
from cola_agents.rl.collecting import InitialPolicy
from cola_agents.rl.generate import generate, read
from cola_agents.search import MCTS, SearchConfig
from cola_envs import Turn
from cola_envs.tasks.arithmetic import ArithmeticTask


class Failing:
    """Fails for every other problem."""

    stop = ()

    def reset(self, rng: np.random.Generator) -> str:
        self.fails = bool(rng.integers(2))
        return "Q: 1+1=?\nA:"

    def step(self, text: str) -> Turn:
        if self.fails:
            raise RuntimeError("the grader is gone")
        return Turn(reward=1.0)


SETTINGS: dict[str, Any] = {"task": Failing, "max_tokens": 2, "on_task_error": "truncate"}


def failing(seeds: Any) -> list[bool]:
    return [bool(np.random.default_rng([seed, 1]).integers(2)) for seed in seeds]


def test_collect_goes_on_and_marks_the_episodes_as_cut() -> None:
    envs: Any = gym.make_vec("CoLA-Text-v0", num_envs=3, **SETTINGS).unwrapped
    rollout = collect(envs.episodes, InitialPolicy(), seeds=range(8))
    expected = failing(range(8))
    assert 0 < sum(expected) < 8
    assert ["error" in info for info in rollout.infos] == expected
    assert rollout.terminated.tolist() == [not fails for fails in expected]
    assert rollout.episode_rewards.tolist() == [float(not fails) for fails in expected]


def test_an_agent_learns_on_and_counts_the_failures() -> None:
    agent = GRPO("CoLA-Text-v0", num_envs=4, seed=0, env_kwargs=SETTINGS)
    agent.learn(200)
    assert sum(record.get("failed_episodes", 0) for record in agent.history) > 0
    heard = GRPO("CoLA-Text-v0", num_envs=4, seed=0, env_kwargs={**SETTINGS, "on_task_error": "raise"})
    with pytest.raises(RuntimeError, match="the grader is gone"):
        heard.learn(200)


@pytest.fixture
def no_grades(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arithmetic that cannot be graded."""

    def step(self: ArithmeticTask, text: str) -> Turn:
        raise OSError("full")

    monkeypatch.setattr(ArithmeticTask, "step", step)


def test_recorded_episodes_keep_the_cause(no_grades: None, tmp_path: Path) -> None:
    path = tmp_path / "tries.jsonl"
    figures = generate("CoLA-Arithmetic-v0", path, problems=3, n=1, num_envs=2, env_kwargs={"max_tokens": 2})
    assert figures["failed_episodes"] == 3
    assert {episode["info"]["error"] for episode in read(path).episodes} == {"OSError: full"}


def test_an_evaluation_counts_them(no_grades: None) -> None:
    report = evaluate("CoLA-Arithmetic-v0", episodes=3, num_envs=3, env_kwargs={"max_tokens": 2})
    assert (report["failed_episodes"], report["success"]) == (3, 0.0)
    assert "3 episodes were cut by a failing engine or task" in table({"task": "", "split": "", **report})


def test_a_vote_leaves_failed_tries_out() -> None:
    infos: list[dict[str, Any]] = [
        {"success": True, "given": "3", "num_tokens": 1},
        {"success": False, "error": "OSError: full", "num_tokens": 1},
    ]
    report = summary([[Played(info, 0.0)] for info in infos])
    assert report["maj@2"] == 1.0


def test_a_search_goes_on() -> None:
    solver = MCTS("CoLA-Text-v0", SearchConfig(simulations=4), num_trees=2, env_kwargs=SETTINGS)
    found = solver.solve(range(4))
    assert [max(e.reward for e in endings) for endings in found.endings] == [
        float(not f) for f in failing(range(4))
    ]
    solver.close()


def test_whole_episodes_know_no_limit_of_steps(tmp_path: Path) -> None:
    limited: dict[str, Any] = {"max_episode_steps": 3}
    with pytest.raises(TypeError, match=r"max_episode_steps=3.*max_tokens="):
        GRPO("CoLA-Arithmetic-v0", num_envs=2, env_kwargs=limited)
    with pytest.raises(TypeError, match="max_episode_steps=3"):
        generate("CoLA-Arithmetic-v0", tmp_path / "a.jsonl", problems=1, n=1, env_kwargs=limited)
    with pytest.raises(TypeError, match="max_episode_steps=3"):
        evaluate("CoLA-Arithmetic-v0", episodes=1, env_kwargs=limited)
    with pytest.raises(TypeError, match="max_episode_steps=3"):
        MCTS("CoLA-Arithmetic-v0", SearchConfig(simulations=2), num_trees=2, env_kwargs=limited)
