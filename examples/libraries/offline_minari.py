"""Episodes become a Minari data set; a policy is cloned from the better ones."""

import os
import tempfile
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import torch
from torch import nn

from cola_agents import PPO
from cola_agents.adaptors.minari import episode_buffers

ENV_ID = "CoLA-Thinking-v0"


def play(name: str, timesteps: int, agent: PPO) -> None:
    """Episodes of an agent that learns meanwhile, all rows in one forward pass."""
    buffers: list[Any] = []
    while agent.num_timesteps < timesteps:
        rollout = agent.play(*agent.draw_seeds(num_problems=agent.episodes.num_rows))
        buffers += episode_buffers(rollout, first_id=len(buffers))
        agent.learn(1)  # one update
    minari.create_dataset_from_buffers(name, buffers, env=ENV_ID, algorithm_name="PPO")


def record(name: str, episodes: int, **settings: Any) -> None:
    """The same by Minari's DataCollector, around one environment and under random codes."""
    env = minari.DataCollector(gym.make(ENV_ID, **settings))
    env.action_space.seed(0)
    for episode in range(episodes):
        env.reset(seed=episode)
        while not any(env.step(env.action_space.sample())[2:4]):
            pass
    env.create_dataset(name)
    env.close()


def clone(dataset: minari.MinariDataset) -> nn.Module:
    """A network [D] -> [A] that imitates the actions of the episodes of mean reward or more."""
    mean = np.mean([episode.rewards.sum() for episode in dataset])
    best = list(dataset.filter_episodes(lambda episode: episode.rewards.sum() >= mean))
    states = torch.cat([torch.from_numpy(episode.observations[:-1]) for episode in best])
    codes = torch.cat([torch.from_numpy(episode.actions) for episode in best]).long()
    actions = int(dataset.action_space.n)
    policy = nn.Sequential(nn.Linear(states.shape[-1], 256), nn.SiLU(), nn.Linear(256, actions))
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-3)
    for part in torch.cat([torch.randperm(len(states)) for _ in range(5)]).split(512):
        loss = nn.functional.cross_entropy(policy(states[part]), codes[part])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return policy


def main(timesteps: int = 100_000, num_envs: int = 32, seed: int = 0, **settings: Any) -> float:
    """Returns the mean reward of the cloned policy in 100 test episodes."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        play("cola/thinking-v0", timesteps, PPO(ENV_ID, num_envs=num_envs, seed=seed, env_kwargs=settings))
        policy = clone(minari.load_dataset("cola/thinking-v0"))
    test = gym.make_vec(ENV_ID, num_envs=100, split="test", **settings)
    states, _ = test.reset(seed=seed)
    rewards, live = np.zeros(100), np.ones(100, bool)
    while live.any():  # the first episode of each row
        with torch.no_grad():
            codes = torch.distributions.Categorical(logits=policy(torch.from_numpy(states))).sample().numpy()
        states, reward, terminated, truncated, _ = test.step(codes)
        rewards[live] += reward[live]
        live &= ~(terminated | truncated)
    print(f"mean reward of the cloned policy in test episodes: {rewards.mean():.3f}")
    return float(rewards.mean())


if __name__ == "__main__":
    main()
