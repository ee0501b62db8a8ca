"""What a save leaves out: trained weights that are still the model's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cola_agents.cli import main
from cola_agents.rl.grpo import GRPO
from cola_agents.rl.ppo import PPO
from cola_agents.rl.saving import read_description

SMALL = {"prompts": 2, "group_size": 2, "num_envs": 4, "env_kwargs": {"max_tokens": 4}}
LEVELS = ("CoLA-Arithmetic-v0", "CoLA-Arithmetic-Token-v0")


def written(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / read_description(folder)["files"]["actor"])


def weights(agent: GRPO) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in agent.actor.trained().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("env_id", LEVELS)
def test_no_weight_is_written_before_the_first_update(env_id, tmp_path) -> None:
    agent = GRPO(env_id, seed=3, **SMALL)
    agent.save(tmp_path)
    assert written(tmp_path) == {}
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 20_000
    again = GRPO.load(tmp_path)
    assert same(weights(again), weights(agent))
    for one in (agent, again):
        one.update()
    assert same(weights(again), weights(agent))


def test_weights_that_stay_frozen_are_not_written(tmp_path) -> None:
    agent = GRPO(LEVELS[1], **SMALL)
    with torch.no_grad():
        agent.actor.head.weight[0] += 1
    agent.save(tmp_path)
    (name,) = written(tmp_path)
    assert agent.actor.trained()[name] is agent.actor.head.weight, "a tied head goes by the embedding's name"
    assert same(weights(GRPO.load(tmp_path)), weights(agent))


def test_weights_that_changed_before_any_update_are_not_lost(tmp_path) -> None:
    agent = PPO(LEVELS[0], episodes=2, num_envs=2, env_kwargs={"max_tokens": 4})
    with torch.no_grad():
        agent.actor.value_head.weight.fill_(0.5)
    agent.save(tmp_path)
    assert written(tmp_path).keys() == {"value_head.weight"}
    assert PPO.load(tmp_path).actor.value_head.weight.unique().tolist() == [0.5]


def test_a_save_without_a_weight_that_the_model_has_not_either_is_refused(tmp_path) -> None:
    agent = GRPO(LEVELS[0], **SMALL)
    agent.save(tmp_path)
    description = json.loads((tmp_path / "agent.json").read_text())
    assert "trunk.layers.0.mlp.up_proj.weight" in description["unchanged"]
    with pytest.raises(ValueError, match="holds other weights than this agent trains"):
        GRPO.load(tmp_path, lora_rank=2)


def test_the_default_of_save_every_bounds_what_a_run_writes(tmp_path, monkeypatch) -> None:
    argv = ["train", "--task", LEVELS[1], "--algo", "grpo", "--timesteps", "40", "--num-envs", "2"]
    argv += [
        "--episodes",
        "1",
        "--env",
        "max_tokens=2",
        "--set",
        "prompts=1",
        "--set",
        "group_size=2",
        "--quiet",
    ]
    size = GRPO(LEVELS[1], **SMALL).save_bytes()
    for most, every in ((size * 100, 2), (size * 5, 8), (size // 2, 20)):
        monkeypatch.setattr("cola_agents.commands.train.MOST_BYTES", most)
        out = tmp_path / str(every)
        assert main([*argv, "--out", str(out)]) == 0
        assert json.loads((out / "run.json").read_text())["save_every"] == every


def test_the_size_of_a_save_is_that_of_weights_and_averages(tmp_path) -> None:
    for dtype in ("float32", "bfloat16"):
        agent = GRPO(LEVELS[0], dtype=dtype, lr=1e-2, **SMALL)
        agent.optimiser.begin()
        with torch.no_grad():
            for parameter in agent.actor.trained().values():
                parameter.add_(1)
        agent.save(tmp_path / dtype)
        files = read_description(tmp_path / dtype)["files"].values()
        size = sum((tmp_path / dtype / name).stat().st_size for name in files)
        assert size == pytest.approx(agent.save_bytes(), rel=0.05)
