"""Device, dtype and prompt format on the command line: the same options for all commands that play."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from cola_agents.cli import main, make_parser
from cola_agents.decoding.loading import make_backbone
from cola_agents.evaluation.run import evaluate, load_agent
from cola_agents.rl.generate import read
from cola_agents.rl.grpo import GRPO

TASK = "CoLA-Arithmetic-v0"
OPTIONS = ("--device", "--dtype", "--prompt-format", "--system", "--shots")
TRAIN = [
    *("train", "--task", TASK, "--algo", "grpo", "--timesteps", "4", "--num-envs", "2", "--episodes", "2"),
    *("--set", "prompts=1", "--set", "group_size=2", "--env", "max_tokens=4", "--quiet"),
]


def examples(folder: Path) -> Path:
    path = folder / "shots.jsonl"
    path.write_text('{"prompt": "Q: 1+1=?\\nA:", "answer": " 2"}\n')
    return path


def test_every_command_that_plays_has_the_same_options() -> None:
    parser = make_parser()
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    helps: dict[str, set[Any]] = {option: set() for option in OPTIONS}
    for name in ("train", "eval", "generate", "play", "demo", "look"):
        for option in OPTIONS:
            action = commands.choices[name]._option_string_actions[option]
            words = action.help
            for of_agents in ("the saved agent's, or ", ", and a saved agent keeps its own"):
                words = words.replace(of_agents, "")  # a demo has none
            helps[option].add((words, action.default))
    assert {option: len(seen) for option, seen in helps.items()} == dict.fromkeys(OPTIONS, 1)


def test_a_run_its_agent_and_its_report_name_the_prompts(tmp_path, capsys) -> None:
    run, shots = tmp_path / "run", examples(tmp_path)
    prompts = ["--prompt-format", "plain", "--system", "Be brief.", "--shots", str(shots)]
    assert main([*TRAIN, "--out", str(run), *prompts, "--dtype", "bfloat16", "--device", "cpu"]) == 0
    described = json.loads((run / "agent.json").read_text())
    assert (described["prompt_format"], described["dtype"], described["device"]) == (
        "plain",
        "bfloat16",
        "cpu",
    )
    shots.unlink()
    assert load_agent(run).env_kwargs == {
        "max_tokens": 4,
        "prompt_format": "plain",
        "system": "Be brief.",
        "shots": [["Q: 1+1=?\nA:", " 2"]],
    }
    capsys.readouterr()
    assert main(["eval", "--agent", str(run), "--episodes", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    names = ("prompt_format", "system", "shots", "device", "dtype")
    assert [report[name] for name in names] == ["plain", "Be brief.", 1, "cpu", "bfloat16"]
    assert main(["eval", "--agent", str(run), "--episodes", "2", "--json", "--shots", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["shots"] == 0


def test_recorded_and_typed_episodes_have_the_prompts_too(tmp_path, monkeypatch) -> None:
    out = tmp_path / "episodes.jsonl"
    counts = ["--problems", "1", "--n", "1", "--env", "max_tokens=2"]
    assert main(["generate", "--task", TASK, "--out", str(out), *counts, "--shots", "2"]) == 0
    recorded = read(out)
    assert (recorded.about["prompt_format"], recorded.about["env_kwargs"]["shots"]) == ("plain", 2)
    made, contexts = [], []

    def make(*ids: Any, make: Any = gym.make, **kwargs: Any) -> Any:
        made.append(make(*ids, **kwargs))
        return made[0]

    def leave(prompt: str) -> str:
        contexts.append(made[0].unwrapped.episodes.tokens(0))
        return ":quit"

    monkeypatch.setattr(gym, "make", make)
    monkeypatch.setattr("builtins.input", leave)
    assert main(["play", TASK, "--system", "Be brief.", "--dtype", "bfloat16"]) == 0
    backbone = made[0].unwrapped.episodes.backbone
    assert backbone.tokenizer.decode(contexts[0]).startswith("Be brief.\n\nQ: ")
    assert backbone.model.dtype == torch.bfloat16


def test_an_agents_prompts_are_saved_as_they_were_read(tmp_path) -> None:
    settings = {"prompts": 1, "group_size": 2, "num_envs": 2}
    agent = GRPO(TASK, env_kwargs={"shots": examples(tmp_path), "max_tokens": 4}, **settings)
    agent.save(tmp_path / "agent")
    assert GRPO.load(tmp_path / "agent").env_kwargs["shots"] == [["Q: 1+1=?\nA:", " 2"]]
    report = evaluate("CoLA-Countdown-v0", agent=tmp_path / "agent", episodes=1, device="cpu")
    assert report["shots"] == 0  # another task gets none of this one's examples
    with pytest.raises(ValueError, match="cannot change it"):
        evaluate(TASK, agent=agent, episodes=1, device="cpu")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--device", "cuda:77"], "device 'cuda:77' cannot be used here: "),
        (["--device", "toaster"], "use one of cpu"),
        (["--device", "vulkan"], "' backend; use one of cpu"),
        (["--device", "meta"], "tensors there have shapes and no numbers; use one of cpu"),
        (["--dtype", "float33"], "dtype 'float33' is no floating type of a model's weights; use one of"),
        (["--prompt-format", "chat"], "needs a tokenizer with a chat template, and this model's has none"),
        (["--shots", "60"], "use a shorter prompt, fewer worked examples (shots=)"),
        (["--system", "a", "--env", "system=b"], "--system and --env system=... give it twice"),
        (["--device", "cpu", "--env", "device=cpu"], "--device and --env device=... give it twice"),
    ],
)
def test_what_cannot_be_had_ends_with_one_clear_line(more, message, capsys) -> None:
    assert main(["eval", "--task", TASK, "--episodes", "1", *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_float16_on_a_cpu_is_said_to_be_slow():
    with pytest.warns(UserWarning, match="float16 is slow on a CPU: use float32"):
        make_backbone(level="token", dtype="float16")


def test_a_demo_trains_its_own_agents_and_names_no_saved_ones(capsys):
    keeps = "by default float32, and a saved agent keeps its own"
    own = [("eval", "by default the saved agent's, or cpu"), ("eval", keeps)]
    for command, words in [("demo", "by default cpu"), *own]:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert words in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("shots", ["nowhere.jsonl", "-1", "2.5"])
def test_shots_are_a_number_or_a_file(shots, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["eval", "--task", TASK, f"--shots={shots}"])
    assert (
        "is neither a whole number from 0 on nor a JSONL file of worked examples" in capsys.readouterr().err
    )


def test_an_agent_in_another_dtype_is_refused_with_the_one_it_has(tmp_path, capsys) -> None:
    GRPO(TASK, prompts=1, group_size=2, num_envs=2).save(tmp_path / "agent")
    assert main(["eval", "--agent", str(tmp_path / "agent"), "--dtype", "bfloat16", "--episodes", "1"]) == 2
    assert "and dtype='float32' or none" in capsys.readouterr().err
