"""A trained agent in Gymnasium's own loop, and what the loop can be filmed with."""

import copy
import pickle
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.wrappers import RenderCollection

from cola_agents import GRPO, SB3VecEnv, collect
from cola_agents.rl.ppo import PPOOptions

TASK = "CoLA-Arithmetic-v0"


@pytest.mark.parametrize("task", [TASK, "CoLA-Arithmetic-Token-v0"])
def test_an_agent_plays_the_loop_of_gym_make_as_it_plays_its_own_rows(task):
    agent = GRPO(task, num_envs=4, prompts=2, group_size=2, lr=1e-2, env_kwargs={"max_tokens": 6})
    agent.learn(1)
    rollout = agent.evaluate(3, greedy=True, seed=5)
    env = gym.make(task, max_tokens=6, split="test")
    policy = agent.policy_for(env)
    for number in range(3):
        observation, _ = env.reset(seed=5 + number)
        done = False
        while not done:
            action = policy(observation, deterministic=True)
            assert isinstance(action, int)
            observation, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        assert info["text"] == rollout.infos[number]["text"]
    agent.learn(1)  # under other weights nothing that was kept holds
    env.reset(seed=5)
    fresh = agent.policy_for(env)(None, deterministic=True)
    assert policy(None, deterministic=True) == fresh


def test_a_vector_environment_gets_an_action_a_row_and_strangers_are_refused():
    agent = GRPO(TASK, num_envs=2)
    envs = gym.make_vec(TASK, num_envs=3, max_tokens=4)
    policy = agent.policy_for(envs)
    observations, _ = envs.reset(seed=0)
    for _ in range(8):
        actions = policy(observations)
        assert actions.shape == (3,)
        observations = envs.step(actions)[0]
    with pytest.raises(TypeError, match="cola_envs"):
        agent.policy_for(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="another model"):
        agent.policy_for(gym.make("CoLA-Arithmetic-Token-v0"))


def test_a_frame_shows_what_is_written_in_colours_and_wrappers_take_it():
    env = RenderCollection(gym.make(TASK, render_mode="rgb_array", max_tokens=8))
    env.reset(seed=0)
    for _ in range(4):
        env.step(7)
    frames = env.render()
    assert len(frames) == 5
    assert {(f.shape, str(f.dtype)) for f in frames} == {((480, 640, 3), "uint8")}
    grey = [(np.ptp(frame.astype(int), axis=-1) > 30).sum() for frame in frames]
    assert grey[0] == 0
    assert grey[4] > 0
    venv = SB3VecEnv(TASK, num_envs=2, env_kwargs={"render_mode": "rgb_array"})
    venv.reset()
    assert [image.shape for image in venv.get_images()] == [(480, 640, 3)] * 2
    assert venv.render().shape[-1] == 3


def test_a_policy_over_the_agents_own_tokens_keeps_no_states_of_earlier_weights():
    task = "CoLA-Arithmetic-Token-v0"
    agent = GRPO(task, num_envs=4, prompts=2, group_size=2, lr=1e-2, env_kwargs={"max_tokens": 6})
    env = gym.make(task, max_tokens=6, model=agent.backbone)
    env.reset(seed=5)
    policy = agent.policy_for(env)
    policy()
    before = policy._logits([0]).clone()
    agent.learn(1)
    with torch.no_grad():
        for weight in agent.actor.trained().values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    for reset in (False, True):
        if reset:
            env.reset(seed=5)
        policy()
        other = gym.make(task, max_tokens=6, model=agent.backbone)
        other.reset(seed=5)
        fresh = agent.policy_for(other)._logits([0])
        np.testing.assert_allclose(policy._logits([0]).detach(), fresh.detach(), atol=1e-4)
        assert abs(before - fresh).max() > 1e-2, "the weights changed"


def test_a_policy_asks_for_a_reset_before_it_acts():
    agent = GRPO(TASK, num_envs=2)
    env = gym.make(TASK, max_tokens=4)
    policy = agent.policy_for(env)
    with pytest.raises(ResetNeeded, match=r"row 0 .* call env.reset\(\) first"):
        policy(None)
    env.reset(seed=0)
    assert 0 <= policy() < 64
    for nothing in (None, "CoLA-Arithmetic-v0"):
        with pytest.raises(TypeError, match="policy_for takes an environment of cola_envs"):
            agent.policy_for(nothing)


def test_an_agent_is_neither_pickled_nor_copied():
    agent = GRPO(TASK, num_envs=2)
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"a GRPO is neither pickled nor copied: save\(folder\)"):
            way(agent)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env_kwargs": [1]}, r"env_kwargs must be a dict of the environment's arguments, got \[1\]"),
        ({"env_kwargs": {1: 2}}, "env_kwargs must be a dict"),
        ({"verbose": "x"}, "verbose must be an integer, got 'x'"),
        ({"tensorboard_log": 3}, "tensorboard_log must be a folder's name or None, got 3"),
        ({"tokenizer": 3}, "tokenizer= takes a tokenizer of transformers, .* got 3"),
        ({"kl_coef": -1.0}, "^kl_coef must not be negative, got -1.0$"),
    ],
)
def test_arguments_that_an_agent_cannot_use_are_named_with_what_came(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        GRPO(TASK, num_envs=2, **arguments)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("gamma", 1.5, "gamma must be at most 1, got 1.5"),
        ("gamma", 0.0, "gamma must be positive, got 0.0"),
        ("lam", -0.1, "lam must be from 0 to 1, got -0.1"),
        ("episodes", 0, "episodes must be at least 1, got 0"),
    ],
)
def test_an_option_of_ppo_out_of_range_is_named_alone(option, value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PPOOptions(**{option: value})


def test_seeds_beyond_64_bits_and_single_seeds_are_refused():
    agent = GRPO(TASK, num_envs=2, env_kwargs={"max_tokens": 2})
    with pytest.raises(ValueError, match="seed must be at most"):
        agent.evaluate(2, seed=2**64)
    for name in ("seeds", "problem_seeds"):
        with pytest.raises(TypeError, match=f"^{name} must be a list with a seed for each"):
            collect(agent.episodes, agent.actor, **{"seeds": [0], name: 5})
