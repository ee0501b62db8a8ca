"""The bundled models keep what their card promises, and every id runs on them."""

import warnings
from itertools import islice
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import cola_envs
from cola_agents import CoLAForCausalLM, collect, load_bundled
from cola_agents.decoding.loading import BUNDLED, make_backbone
from cola_agents.rl.collecting import InitialPolicy
from cola_agents.train.bundled.corpus import HELD_OUT, documents
from cola_agents.train.data.packing import packed_batches
from cola_agents.train.metrics import measure
from cola_envs.tasks.math500 import SubstituteWarning
from cola_envs.testing import check_env

TASKS = ("Arithmetic", "Thinking", "Countdown", "TextRooms", "Math500", "Text")
IDS = [f"CoLA-{task}{twin}-v0" for task in TASKS for twin in ("", "-Token")]


class Echo:
    """A task that ends with the first segment."""

    stop = ("\n",)

    def reset(self, rng):
        return f"Story: {rng.integers(100)}"

    def step(self, text):
        return cola_envs.Turn(reward=float(len(text) > 3))


@pytest.fixture(autouse=True)
def no_substitute_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SubstituteWarning)
        yield


def kwargs_of(env_id):
    small = {"max_tokens": 12}
    return {**small, "task": Echo} if env_id.startswith("CoLA-Text-") else small


def play(env_id, count, num_envs, **kwargs):
    envs = gym.make_vec(env_id, num_envs=num_envs, **kwargs)
    rollout = collect(envs.unwrapped.episodes, InitialPolicy(), seeds=range(count))
    envs.close()
    return rollout


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_check_env_passes(env_id):
    env = gym.make(env_id, **kwargs_of(env_id))
    gymnasium_check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize("env_id", IDS)
def test_sb3_check_env_passes(env_id):
    sb3_check_env(gym.make(env_id, **kwargs_of(env_id)).unwrapped)


@pytest.mark.parametrize("env_id", IDS)
def test_own_check_env_passes(env_id):
    check_env(env_id, **kwargs_of(env_id))


def test_bundled_models_are_small_and_know_two_thousand_tokens():
    files = [path for path in BUNDLED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8 * 2**20
    for name in ("cola", "base"):
        assert load_bundled(name).config.get_text_config().max_position_embeddings >= 2048


def test_tokenizer_is_small_with_single_digits_and_whole_tags():
    tokenizer = make_backbone(level="latent").tokenizer
    assert len(tokenizer) <= 1024
    assert len(tokenizer.encode("2026")) == 4
    for tag in ("<think>", "</think>", "<answer>", "</answer>"):
        assert len(tokenizer.encode(tag)) == 1
    text = "Grüße, 世界! \x00 \\boxed{42}"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_load_bundled_gives_a_model_of_ones_own():
    first, second = load_bundled(), load_bundled("cola")
    assert isinstance(first, CoLAForCausalLM)
    with torch.no_grad():
        first.policy_head.weight.zero_()
    assert second.policy_head.weight.abs().sum() > 0
    with pytest.raises(ValueError, match="'cola' and 'base'"):
        load_bundled("llama")


def test_both_arms_stand_on_one_base():
    cola, base = load_bundled("cola"), load_bundled("base")
    inside, alone = cola.base.state_dict(), base.model.state_dict()
    assert inside.keys() == alone.keys()
    assert all(inside[name].equal(alone[name]) for name in alone)
    assert cola.lm_head.weight.equal(base.lm_head.weight)


@pytest.mark.parametrize("twin", ["", "-Token"])
def test_before_rl_every_task_leaves_room_to_learn(twin):
    def success(task, **kwargs):
        return play(f"CoLA-{task}{twin}-v0", 256, 128, split="test", **kwargs)

    # The card's aims, wider by twice the standard error of 256 episodes.
    assert 0.24 <= success("Arithmetic", level=2).episode_rewards.mean() <= 0.76
    assert 0.24 <= success("TextRooms").episode_rewards.mean() <= 0.76
    assert 0.02 <= np.mean([info["correct"] for info in success("Countdown").infos]) <= 0.25
    assert success("Thinking").episode_rewards.mean() <= 0.08


def test_policy_and_world_together_cost_no_likelihood():
    batches = packed_batches(documents(HELD_OUT), make_backbone(level="latent").tokenizer, rows=8, length=256)
    metrics = measure(load_bundled(), islice(batches, 2))
    assert abs(metrics.composed_ce - metrics.base_ce) < 0.02
    assert metrics.codes_used > 32


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_gives_the_same_tokens_in_a_batch_of_1_8_and_32(temperature):
    played = [
        play("CoLA-Arithmetic-v0", 32, num_envs, world_temperature=temperature) for num_envs in (1, 8, 32)
    ]
    for other in played[1:]:
        assert torch.equal(played[0].ids, other.ids)
        assert torch.allclose(played[0].hidden, other.hidden, atol=1e-4)


def test_model_card_is_beside_the_weights():
    card = (Path(BUNDLED) / "README.md").read_text()
    assert "seed" in card
    assert "composed" in card
