"""Nothing seeds the process or draws from its generators: a caller's random numbers go on as they would."""

from __future__ import annotations

import pickle
import random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from cola_agents import GRPO, PPO, RLOO, ReMax, SB3VecEnv
from cola_agents.decoding.loading import BUNDLED
from cola_agents.evaluation.run import evaluate
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.rl.agent import Agent
from cola_agents.rl.collecting import InitialPolicy, collect
from cola_agents.rl.generate import generate, read
from cola_agents.search import MCTS, MCTSQConfig, SearchConfig
from cola_agents.search.q import QFunction, train_q
from cola_agents.train.adapters import LoRA, load_adapters
from cola_agents.train.bundled import recipe
from cola_agents.train.bundled.settings import Recipe
from cola_agents.train.options import QConfig, StageConfig
from cola_agents.train.reward import Pair, RewardConfig, RewardModel, train_reward
from cola_agents.train.runs import Run
from cola_agents.train.specs import DataSpec
from cola_agents.train.training import train

DRAWN = ["Arithmetic", "Thinking", "Countdown", "TextRooms", "Math500"]
SHORT = {"steps": 2, "rows": 2, "length": 64, "warmup": 1, "tensorboard": False}


def states() -> bytes:
    return pickle.dumps((random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()))


@pytest.fixture(autouse=True)
def untouched():
    """States that no seed gives, before a test and behind it."""
    random.random(), np.random.random(), torch.rand(3)
    before = states()
    yield
    assert states() == before


@pytest.mark.parametrize("task", DRAWN)
@pytest.mark.parametrize("level", ["", "-Token"])
def test_environments(task, level):
    envs = gym.make_vec(f"CoLA-{task}{level}-v0", num_envs=2, max_tokens=4, world_temperature=0.5)
    envs.reset(seed=0)
    for _ in range(8):
        envs.step(np.zeros(2, dtype=int) + 5)
    envs.close()


@pytest.mark.parametrize(
    ("cls", "level", "options"),
    [
        (PPO, "", {"episodes": 4}),
        (PPO, "-Token", {"episodes": 4, "lora_rank": 2}),
        (GRPO, "", {"prompts": 2, "group_size": 2, "lora_rank": 2}),
        (RLOO, "-Token", {"prompts": 2, "group_size": 2}),
        (ReMax, "", {"episodes": 4}),
    ],
)
def test_agents(cls: type[Agent], level, options, tmp_path):
    kwargs = {"level": 2, "max_tokens": 4}
    agent = cls(f"CoLA-Arithmetic{level}-v0", num_envs=4, env_kwargs=kwargs, **options)
    agent.learn(1)
    agent.evaluate(4)
    agent.vec_env(2).reset()
    agent.save(tmp_path / "run")
    cls.load(tmp_path / "run").update()


def test_collecting_recording_evaluating_and_stepping(tmp_path):
    envs: Any = gym.make_vec("CoLA-Arithmetic-v0", num_envs=2, level=2, max_tokens=6).unwrapped
    collect(envs.episodes, InitialPolicy())
    generate("CoLA-Arithmetic-v0", tmp_path / "tries.jsonl", problems=2, n=2, env_kwargs={"max_tokens": 6})
    evaluate("CoLA-Arithmetic-v0", episodes=4, samples=2, env_kwargs={"max_tokens": 6})
    venv = SB3VecEnv("CoLA-Arithmetic-v0", num_envs=2, env_kwargs={"max_tokens": 6})
    venv.reset()
    venv.step(np.zeros(2, dtype=int))


def test_searching_and_the_q_function(tmp_path):
    path = tmp_path / "tries.jsonl"
    generate("CoLA-Arithmetic-v0", path, problems=2, n=2, env_kwargs={"level": 2, "max_tokens": 6})
    solver = MCTS(
        "CoLA-Arithmetic-v0", SearchConfig(simulations=2, noise=0.3), num_trees=2, env_kwargs={"level": 2}
    )
    solver.solve([0, 1])
    backbone: Any = solver.episodes.backbone
    q = QFunction.over(backbone)
    train_q(q, read(path).rollout(backbone), QConfig(steps=1, batch_size=2))
    q.save(tmp_path / "q")
    MCTS(
        "CoLA-Arithmetic-v0", MCTSQConfig(rounds=1), q=tmp_path / "q", num_trees=2, env_kwargs={"level": 2}
    ).solve([0])


def test_the_stages_of_the_bundled_models(tmp_path):
    short = StageConfig(**SHORT)
    small = Recipe(base=short, world=short, policy=short, vocab_size=300)
    recipe.train_base(small, tmp_path / "base")
    recipe.train_world(small, tmp_path / "base", tmp_path / "world")


@pytest.mark.parametrize(("stage", "lora"), [("world", None), ("policy", None), ("fta", LoRA(2))])
def test_training_commands(stage, lora, tmp_path, tiny_cola, tiny_base, tiny_tokenizer):
    for part in (tiny_base if stage == "world" else tiny_cola, tiny_tokenizer):
        part.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("A small cat sees a red ball.\n" * 60)
    data = (DataSpec(str(tmp_path / "text.txt")),)
    named = str(tmp_path / "model"), tmp_path / "out", data
    train(Run(stage, *named, steps=1, config={"rows": 2, "length": 48}, lora=lora, keep_adapters=bool(lora)))
    if lora:
        load_adapters(CoLAForCausalLM.from_pretrained(tmp_path / "out"), tmp_path / "out" / "adapters")


def test_reward_models(tmp_path):
    pairs = [Pair("Say", f" yes {i}", f" no {i}") for i in range(4)]
    train_reward(BUNDLED / "base", pairs, tmp_path / "reward", RewardConfig(batch_size=2))
    RewardModel(tmp_path / "reward")(["Say"], [" yes"])
