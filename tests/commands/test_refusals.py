"""What a command can refuse it refuses before it loads a model, in one line, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cola_agents import GRPO
from cola_agents.cli import main
from cola_agents.decoding import loading

TASK = ["--task", "CoLA-Arithmetic-v0"]
PUCT = ["eval", *TASK, "--search", "puct"]
MCTS_Q = ["eval", *TASK, "--search", "mcts-q"]
TRAIN = ["train", *TASK, "--algo", "grpo", "--timesteps", "100", "--out", "run"]
GREEDY = ["--greedy", "--samples", "2"]
Q = ["pretrain", "q", "--data", "t.jsonl", "--out", "q"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a saved agent, ``ag``, and a recording of two problems, ``t.jsonl``."""
    folder = tmp_path_factory.mktemp("made")
    small = {"max_tokens": 2}
    with_agent = GRPO(TASK[1], num_envs=2, prompts=1, group_size=2, env_kwargs=small)
    with_agent.save(folder / "ag")
    with_agent.close()
    words = ["generate", *TASK, "--out", str(folder / "t.jsonl"), "--problems", "2", "--n", "2"]
    assert main([*words, "--env", "max_tokens=2"]) == 0
    return folder


@pytest.fixture
def no_weights(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what was made, where no weights are loaded."""

    def load(*_: Any, **__: Any) -> None:
        pytest.fail("a model was loaded first")

    for name in ("ag", "t.jsonl"):
        (tmp_path / name).symlink_to(made / name)
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "_load", load)
    monkeypatch.setattr(loading, "_bundled_backbone", load)
    return tmp_path


#: Commands that write a folder, without its name, which comes last.
FOLDERS = [
    ["pretrain", "world", "--model", "x", "--out"],
    ["pretrain", "base", "--out"],
    ["pretrain", "q", "--data", "t.jsonl", "--out"],
    ["inspect", "--out"],
    ["demo", "--out"],
    ["train-reward", "--pairs", "p.jsonl", "--model", "x", "--out"],
    ["convert", "x"],
]


@pytest.mark.parametrize("argv", FOLDERS, ids=lambda argv: " ".join(argv[:2]))
def test_a_folder_that_cannot_be_written_is_refused_in_the_same_words(
    argv: list[str], no_weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = "target" if argv[0] == "convert" else "--out"
    above = no_weights / "file"
    (no_weights / "here").mkdir()
    for out, said in (
        ("file", f"{flag} file is a file: name a folder"),
        ("file/new", f"{flag} file/new: {above} is a file, not a folder: name another place"),
    ):
        assert main([*argv, out]) == 2
        assert capsys.readouterr().err == f"cola: {said}\n"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in (no_weights, no_weights / "here"))
    for out, above in (("new/run", no_weights), ("here", no_weights / "here")):
        assert main([*argv, out]) == 2
        said = f"{flag} {out}: nothing can be written in {above}: name another place"
        assert capsys.readouterr().err == f"cola: {said}\n"
    assert not (no_weights / "new").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        # what values a search
        (PUCT, "needs q= (--q)"),
        ([*MCTS_Q, "--judge", "policy"], "MCTS-Q needs q= (--q)"),
        ([*PUCT, "--q", "F", "--judge", "policy"], "or by judge= (--judge), not both"),
        ([*PUCT, "--q", "nofolder"], "nofolder holds no Q-function"),
        ([*PUCT, "--judge", "nofolder"], "nofolder holds no outcome model"),
        ([*PUCT, "--judge", "policy", "--search-set", "c_init=abc"], "c_init must be a number, got 'abc'"),
        ([*MCTS_Q, "--q", "x", "--search-set", "gamma=abc"], "gamma must be a number, got 'abc'"),
        (["eval", "--agent", "ag", "--simulations", "5"], "need a search"),
        (["eval", "--agent", "ag", "--search", "mcts-q", "--judge", "policy"], "MCTS-Q needs q="),
        # what is played, and what is read around it
        (["eval", *TASK, "--shots", "file"], "holds no worked examples"),
        (["eval", "--task", "CoLA-Math500-v0", "--episodes", "100000"], "problems of this set"),
        (["eval", *TASK, "--tokenizer", "nofolder"], "no tokenizer found at 'nofolder'"),
        (["eval", "--agent", "ag", "--env", "nonsense=1"], "unknown keyword argument 'nonsense'"),
        (["generate", "--agent", "ag", "--out", "s.jsonl", "--env", "nonsense=1"], "'nonsense'"),
        (["play", "--agent", "ag", "--env", "nonsense=1"], "'nonsense'"),
        ([*TRAIN, "--env", "nonsense=1"], "'nonsense'"),
        ([*TRAIN, "--env", "max_tokens=0"], "max_tokens must be at least 1"),
        (["look", "--env", "nonsense=1"], "'nonsense'"),
        (["demo", "--env", "nonsense=3"], "'nonsense'"),
        (["demo", "--env", "seed=3"], "leave seed out"),
        (["demo", "--env", "model=x"], "leave model out"),
        # the type of the weights
        (["eval", *TASK, "--dtype", "int8"], "'int8' is no floating type of a model's weights"),
        (["eval", "--agent", "ag", "--dtype", "int8"], "'int8' is no floating type of a model's weights"),
        (["inspect", "--dtype", "int8"], "'int8' is no floating type of a model's weights"),
        # counts and seeds
        (["eval", "--agent", "ag", *GREEDY], "greedy tries are all alike"),
        (["eval", "--agent", "ag", "--samples", "0"], "samples must be at least 1"),
        (["eval", "--agent", "ag", "--env", "episodes=3"], "give --episodes"),
        (["generate", "--agent", "ag", "--n", "0", "--out", "s.jsonl"], "n must be at least 1"),
        (["generate", "--agent", "ag", "--seed", "-1", "--out", "s.jsonl"], "seed must be at least 0"),
        (["generate", "--agent", "ag", "--temperature", "-1", "--out", "s.jsonl"], "temperature must be"),
        (
            ["generate", *TASK, "--seed", str(2**64), "--out", "s.jsonl"],
            "seed must be at most 46116860184",
        ),
        (["eval", *TASK, "--seed", str(2**63 - 1)], "seed must be at most 46116860184"),
        (["play", "--agent", "ag", "--seed", "-1"], "seed must be at least 0"),
        (["play", TASK[1], "--browser", "--seed", "-1"], "seed must be at least 0"),
        (["look", "--seed", "-1"], "seed must be at least 0"),
        (["inspect", "--tokens", "0"], "tokens must be at least 1"),
        (["inspect", "--states", "0"], "states must be at least 1"),
        (["inspect", "--data", "nofile"], "nofile"),
        # what is given twice, or means nothing beside another
        (["eval", "--agent", "ag", "--model", "x"], "model='x' is no folder here"),
        (["eval", "--agent", "ag", "--tokenizer", "x"], "an agent knows its own"),
        (["generate", *TASK, "--out", "s.jsonl", "--split", "test", "--env", "split=train"], "give it twice"),
        (["generate", *TASK, "--out", "s.jsonl", "--model", "x", "--env", "model=y"], "give it twice"),
        (["play", TASK[1], "--split", "test", "--env", "split=bogus"], "give it twice"),
        (["play", "--agent", "ag", "--env", "model=x"], "model='x' is no folder here"),
        (["look", "--text", "nofile"], "there is no file nofile"),
        (["look", "--text", "file", "--tokens", "0"], "leave one of them out"),
        (["look", "--env", "seed=3"], "give --seed"),
        (["look", "--env", "model=x"], "give --model"),
        (["look", "--env", "wanted=3"], "unknown keyword argument 'wanted'"),
        (["look", "--algo", "grpo"], "--algo means nothing to a model"),
        (["look", "t.jsonl", "--seed", "3"], "--seed means nothing to a recording"),
        (["look", "ag", "--seed", "3"], "--seed means nothing to a run"),
        # where the result goes
        (["eval", *TASK, "--out", "file/r.json"], "is a file, not a folder"),
        (["look", "--out", "new/x.html", "--env", "nonsense=1"], "'nonsense'"),
        (["eval", *TASK, "--out", "new/r.json", "--samples", "0"], "samples must be at least 1"),
        # stages over recorded tries
        ([*Q, "--steps", "0"], "steps must be at least 1"),
        ([*Q, "--lr", "-1"], "lr must be"),
        ([*Q, "--rows", "0"], "batch_size must be at least 1"),
        ([*Q, "--seed", "-1"], "seed must be at least 0"),
        ([*Q, "--gamma", "5"], "gamma must be in [0, 1], got 5"),
        ([*Q, "--gamma", "nan"], "gamma must be a finite number"),
        ([*Q, "--held-out-problems", "9"], "of 2 recorded problems 1 to 1 can be held out, got 9"),
        (["pretrain", "outcome", "--data", "t.jsonl", "--out", "q"], "0 of 4 recorded answers"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_it_is_refused_before_a_model_is_loaded(
    argv: list[str], said: str, no_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    left = {path.name for path in no_weights.iterdir() if "lock" not in path.name}
    assert left == {"ag", "t.jsonl", "file"}
