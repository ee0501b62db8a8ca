"""Episodes become a Minari data set, and a policy is cloned from those of its episodes that were rewarded."""

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
    """Episodes of an agent that learns meanwhile, 32 rows in one forward pass."""
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
        done = False
        while not done:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            done = terminated or truncated
    env.create_dataset(name)
    env.close()


def clone(dataset: minari.MinariDataset, epochs: int) -> nn.Module:
    """A network [D] -> [A] that imitates the actions of the rewarded episodes."""
    best = list(dataset.filter_episodes(lambda episode: episode.rewards.sum() > 0))
    states = torch.cat([torch.from_numpy(episode.observations[:-1]) for episode in best])
    codes = torch.cat([torch.from_numpy(episode.actions) for episode in best])
    actions = int(dataset.action_space.n)
    policy = nn.Sequential(nn.Linear(states.shape[-1], 256), nn.SiLU(), nn.Linear(256, actions))
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(states)).split(512):
            loss = nn.functional.cross_entropy(policy(states[part]), codes[part].long())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return policy


def main(
    timesteps: int = 100_000, num_envs: int = 32, seed: int = 0, epochs: int = 5, **settings: Any
) -> float:
    """Returns the mean reward of the cloned policy in 100 test episodes."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        play("cola/thinking-v0", timesteps, PPO(ENV_ID, num_envs=num_envs, seed=seed, **settings))
        policy = clone(minari.load_dataset("cola/thinking-v0"), epochs)
    test = gym.make_vec(ENV_ID, num_envs=100, split="test", **settings)
    states, _ = test.reset(seed=seed)
    rewards, live = np.zeros(100), np.ones(100, dtype=bool)
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
