"""``cola train`` and ``cola resume``: logs, exact continuation, a last line, and what is refused."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from cola_agents.commands import resume, train
from cola_agents.commands.settings import settings
from cola_agents.common.files import LOCK, InUseError, one_writer
from cola_agents.evaluation.run import load_agent
from cola_agents.rl.agent import Agent

SMALL = {
    "grpo": ["prompts=2", "group_size=2"],
    "ppo": ["episodes=4", "minibatch=null", "epochs=1"],
    "remax": ["episodes=4"],
    "rloo": ["prompts=2", "group_size=2"],
}


def cola(*words: Any) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for module in (train, resume):
        module.add(commands)
    arguments = parser.parse_args([str(word) for word in words])
    return arguments.run(arguments)


def start(
    out: Path, algo: str = "grpo", *more: Any, timesteps: int = 60, task: str = "CoLA-Arithmetic-v0"
) -> int:
    options = [word for option in SMALL[algo] for word in ("--set", option)]
    what = ["--task", task, "--algo", algo, "--timesteps", timesteps, "--out", out, "--env", "max_tokens=5"]
    sizes = ["--num-envs", 4, "--episodes", 8, "--save-every", 20, "--log-interval", 1]
    return cola("train", *what, *sizes, *options, *more)


def weights_of(folder: Path) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in load_agent(folder).actor.parameters()])


@pytest.mark.parametrize("algo", list(SMALL))
def test_train_learns_logs_and_says_how_it_ended(algo, tmp_path, capsys):
    out = tmp_path / "run"
    assert start(out, algo, "--set", "lr=1e-2", "--env", "level=2") == 0
    agent = load_agent(out)
    assert type(agent).__name__.lower() == algo
    assert (agent.num_timesteps >= 60, agent.options.lr) == (True, 0.01)
    assert agent.env_kwargs == {"max_tokens": 5, "level": 2}
    lines = (out / "logs" / "progress.json").read_text().splitlines()
    assert len(lines) == agent.num_updates
    captured = capsys.readouterr()
    last = captured.out.splitlines()[-2]
    assert last.startswith("CoLA-Arithmetic-v0, split test, 8 episodes: success ")
    assert f"after {agent.num_timesteps} timesteps" in last
    assert "ep_rew_mean" in captured.out
    assert "tok/s" in captured.err


@pytest.mark.parametrize("task", ["CoLA-Arithmetic-v0", "CoLA-Arithmetic-Token-v0"])
def test_resume_goes_on_as_if_it_had_never_stopped(task, tmp_path, capsys, monkeypatch):
    assert start(tmp_path / "through", task=task, timesteps=90) == 0
    update = Agent.update

    def interrupted(self: Any) -> Any:
        if self.num_updates == 3:
            raise KeyboardInterrupt
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(Agent, "update", interrupted)
        assert start(tmp_path / "run", task=task, timesteps=90) == 130
    err = capsys.readouterr().err
    assert f"continue with `cola resume {tmp_path / 'run'}`" in err
    assert load_agent(tmp_path / "run").num_updates == 3
    assert cola("resume", tmp_path / "run", "--quiet") == 0
    assert torch.equal(weights_of(tmp_path / "run"), weights_of(tmp_path / "through"))
    captured = capsys.readouterr()
    assert "split test" in captured.out
    assert "tok/s" not in captured.err
    assert {path.name for path in (tmp_path / "run" / "logs").glob("*.csv")} == {
        "progress.csv",
        "progress-1.csv",
    }


def test_resume_keeps_the_environment_of_the_run(tmp_path):
    assert start(tmp_path / "run", "grpo") == 0
    with pytest.raises(ValueError, match="a run keeps its environment"):
        cola("resume", tmp_path / "run", "--task", "CoLA-Countdown-v0")


def test_resume_to_a_larger_total(tmp_path):
    out = tmp_path / "run"
    start(out)
    with pytest.raises(ValueError, match=r"of 30 timesteps: give --timesteps a larger total"):
        cola("resume", out, "--timesteps", 30)
    assert json.loads((out / "run.json").read_text())["timesteps"] == 60
    assert cola("resume", out, "--timesteps", 100) == 0
    assert cola("resume", out) == 0  # the new total was written, and can be read
    assert load_agent(out).num_timesteps >= 100
    assert json.loads((out / "run.json").read_text())["timesteps"] == 100
    start(tmp_path / "through", timesteps=100)
    assert torch.equal(weights_of(out), weights_of(tmp_path / "through"))


def test_resume_after_an_interrupted_evaluation_only_evaluates(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"

    evaluate = Agent.evaluate

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.num_updates:  # the answer that is shown from before learning
            raise KeyboardInterrupt
        return evaluate(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Agent, "evaluate", interrupted)
        assert start(out) == 130
    before, logs = weights_of(out), sorted((out / "logs").iterdir())
    capsys.readouterr()
    monkeypatch.setattr(Agent, "update", lambda self: pytest.fail("learned"))
    assert cola("resume", out, "--quiet") == 0
    assert "split test, 8 episodes: success" in capsys.readouterr().out
    assert torch.equal(weights_of(out), before)
    assert sorted((out / "logs").iterdir()) == logs, "no log of an evaluation, which logs nothing"


def test_values_are_json_or_pythons_words_or_text():
    told = settings(
        ["whiten=True", "b=false", "c=None", "lr=1e-2", "levels=[4,5]", "kinds=sum", "t=a=b"], "--set"
    )
    assert told == {
        "whiten": True,
        "b": False,
        "c": None,
        "lr": 0.01,
        "levels": [4, 5],
        "kinds": "sum",
        "t": "a=b",
    }
    for pairs, message in ((["level"], "no KEY=VALUE"), (["=2"], "no KEY=VALUE"), (["a=1", "a=2"], "twice")):
        with pytest.raises(ValueError, match=f"--env .*{message}"):
            settings(pairs, "--env")


def test_a_folder_that_holds_something_is_not_written_to(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not empty: give another --out"):
        start(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(FileNotFoundError, match=r"no run\.json in it"):
        cola("resume", tmp_path)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--set", "learning_rate=1"], TypeError, "unknown option 'learning_rate': GRPO takes lr"),
        (["--set", "clip"], ValueError, "--set 'clip' is no KEY=VALUE"),
        (["--set", "seed=3"], ValueError, "seed is no option of an algorithm: give --seed"),
        (["--set", "num_envs=3"], ValueError, "num_envs is no option of an algorithm: give --num-envs"),
        (["--set", "verbose=1"], ValueError, "verbose is no option of an algorithm$"),
        (["--set", "clip=1", "--set", "clip=2"], ValueError, "--set clip=... comes twice"),
        (["--save-every", "-5"], ValueError, "--save-every must be at least 1, got -5"),
        (["--save-every", "0"], ValueError, "--save-every must be at least 1, got 0"),
        (["--set", "kl_in=both"], ValueError, "kl_in must be 'loss' or 'reward', got 'both'"),
        (["--env", "sizzle=1"], TypeError, "unknown keyword argument 'sizzle'"),
        (["--log", "xml"], ValueError, "no log format 'xml'"),
    ],
)
def test_bad_words_are_refused_before_anything_is_played(words, error, message, tmp_path, monkeypatch):
    monkeypatch.setattr(Agent, "update", lambda self: pytest.fail("played"))
    with pytest.raises(error, match=message):
        start(tmp_path / "run", "grpo", *words)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_with_the_last_agent_named(tmp_path, capsys, monkeypatch):
    def fail(self: Any) -> Any:
        raise FloatingPointError("the loss is nan in update 0")

    monkeypatch.setattr(Agent, "update", fail)
    assert start(tmp_path / "run") == 1
    assert "the loss is nan in update 0; the last whole agent is in" in capsys.readouterr().err
    assert load_agent(tmp_path / "run").num_updates == 0


def test_sigterm_ends_a_run_as_ctrl_c_does(tmp_path, capsys, monkeypatch):
    assert start(tmp_path / "through", timesteps=90) == 0
    update = Agent.update

    def terminated(self: Any) -> Any:
        if self.num_updates == 3:
            signal.raise_signal(signal.SIGTERM)
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(Agent, "update", terminated)
        assert start(tmp_path / "run", timesteps=90) == 128 + signal.SIGTERM
    assert "`cola resume" in capsys.readouterr().err
    assert load_agent(tmp_path / "run").num_updates == 3
    assert cola("resume", tmp_path / "run", "--quiet") == 0
    assert torch.equal(weights_of(tmp_path / "run"), weights_of(tmp_path / "through"))


@pytest.mark.parametrize("command", ["train", "resume"])
def test_a_run_that_goes_on_elsewhere_is_refused_before_anything_changes(command, tmp_path, monkeypatch):
    out = tmp_path / "run"
    start(out)
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with one_writer(out):
            os.write(told, b"1")
            time.sleep(60)
    os.read(ready, 1)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(Agent, "update", lambda self: pytest.fail("played"))
    try:
        with pytest.raises(InUseError, match=f"is being written by process {child} on "):
            start(out) if command == "train" else cola("resume", out, "--timesteps", 999)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_run_that_was_killed_before_its_agent_was_saved_begins_anew(tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Agent, "save", lambda *_: os._exit(9))
        child = os.fork()
        if child == 0:
            start(out)
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert {path.name for path in out.iterdir()} == {"run.json", LOCK}
    assert start(out) == 0


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"timesteps": "60"}', '{"log": ["csv"], "timesteps": true}']
)
def test_damaged_settings_are_named(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        cola("resume", tmp_path)


def test_a_flipped_bit_in_the_settings_is_seen(tmp_path):
    start(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.write_bytes(path.read_bytes().replace(b'"timesteps": 60', b'"timesteps": 70'))
    with pytest.raises(ValueError, match=r"run\.json is damaged: its sha256 is not what was written"):
        cola("resume", tmp_path / "run")
