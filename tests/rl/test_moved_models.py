"""A saved agent finds the folder of its model from anywhere, and after a move if it is told where it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cola_agents import GRPO
from cola_agents.cli import main
from cola_agents.common.sealed import sealed, unsealed
from cola_agents.decoding.loading import BUNDLED
from cola_agents.evaluation.run import evaluate, load_agent
from cola_agents.rl.saving import DESCRIPTION

TASK = "CoLA-Arithmetic-v0"


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and an agent over it, which was given the model by a relative path."""
    shutil.copytree(BUNDLED / "cola", tmp_path / "all" / "model")
    monkeypatch.chdir(tmp_path / "all")
    GRPO(TASK, num_envs=2, model="model", env_kwargs={"max_tokens": 4}).save("agent")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "all"


def is_over(agent: Any, model: Path) -> bool:
    return Path(agent.source["model"]).samefile(model)


def test_it_is_loaded_from_another_working_directory(saved: Path, capsys: Any) -> None:
    assert is_over(GRPO.load(saved / "agent"), saved / "model")
    assert main(["eval", "--agent", str(saved / "agent"), "--episodes", "2"]) == 0
    out = saved / "tries.jsonl"
    assert main(["generate", "--agent", str(saved / "agent"), "--problems", "1", "--out", str(out)]) == 0


def test_both_may_be_moved_together(saved: Path) -> None:
    moved = saved.rename(saved.with_name("elsewhere"))
    assert is_over(GRPO.load(moved / "agent"), moved / "model")
    shutil.copytree(moved, saved)  # the copy beside the agent comes first
    assert is_over(GRPO.load(moved / "agent"), moved / "model")


def test_a_model_that_was_moved_alone_is_named(saved: Path, capsys: Any) -> None:
    moved = (saved / "model").rename(saved / "other")
    with pytest.raises(FileNotFoundError, match=r"no such folder any more: pass model= .* --model\)"):
        GRPO.load(saved / "agent")
    assert is_over(GRPO.load(saved / "agent", model=moved), moved)
    report = evaluate(TASK, agent=saved / "agent", model=moved, episodes=2)
    assert report["fingerprint"] == load_agent(saved / "agent", model=moved).fingerprint
    given = ["--agent", str(saved / "agent"), "--model", str(moved)]
    assert main(["eval", *given, "--episodes", "2"]) == 0
    out = saved / "tries.jsonl"
    assert main(["generate", *given, "--problems", "1", "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["eval", "--agent", str(saved / "agent"), "--episodes", "2"]) == 2
    assert "on the command line --model" in capsys.readouterr().err


def test_another_model_in_its_place_is_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match="was trained over a model with fingerprint"):
        GRPO.load(saved / "agent", model=_other(saved))


def _other(saved: Path) -> Path:
    """The model with one weight changed."""
    from cola_agents import CoLAForCausalLM

    model = CoLAForCausalLM.from_pretrained(saved / "model")
    model.codebook.weight.data[0, 0] += 1.0
    shutil.copytree(saved / "model", saved / "changed")
    model.save_pretrained(saved / "changed")
    return saved / "changed"


def test_a_run_is_resumed_where_its_model_was_moved(saved: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(saved)
    argv = ["train", "--task", TASK, "--algo", "grpo", "--model", "model", "--num-envs", "2", "--quiet"]
    argv += ["--env", "max_tokens=4", "--set", "prompts=1", "--set", "group_size=2", "--episodes", "2"]
    assert main([*argv, "--timesteps", "8", "--out", "run"]) == 0
    (saved / "model").rename(saved / "other")
    more = ["resume", "run", "--timesteps", "16", "--quiet"]
    assert main(more) == 2
    assert main([*more, "--model", "other"]) == 0
    assert is_over(load_agent("run"), saved / "other")


def test_an_agent_of_an_earlier_version_names_its_model_as_it_did(saved: Path, monkeypatch: Any) -> None:
    description = unsealed(saved / "agent" / DESCRIPTION)
    del description["beside"]
    description["model"] = "model"
    (saved / "agent" / DESCRIPTION).write_bytes(sealed(description))
    monkeypatch.chdir(saved)
    assert is_over(GRPO.load("agent"), saved / "model")
