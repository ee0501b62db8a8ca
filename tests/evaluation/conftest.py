"""A small run of `cola train`, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from cola_agents.cli import main


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a PPO run of three updates, each of them logged."""
    out = tmp_path_factory.mktemp("trained") / "run"
    options = [
        "--set",
        "episodes=8",
        "--set",
        "minibatch=8",
        "--log-interval",
        "1",
        "--episodes",
        "2",
        "--quiet",
    ]
    made = ["train", "--task", "CoLA-Thinking-v0", "--algo", "ppo", "--timesteps", "300", "--num-envs", "8"]
    assert main([*made, "--out", str(out), "--log", "csv,json", "--episodes", "2", *options]) == 0
    return out
