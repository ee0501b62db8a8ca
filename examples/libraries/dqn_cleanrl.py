"""DQN in one file, in CleanRL's style, over the batched environment."""

import copy

import gymnasium as gym
import numpy as np
import torch
from torch import nn

import cola_envs  # noqa: F401 (registers the ids)


def main(timesteps: int = 100_000, num_envs: int = 32, seed: int = 0, **settings: object) -> float:
    """Returns the mean reward of the last 100 episodes."""
    torch.manual_seed(seed)
    env = gym.make_vec("CoLA-Thinking-v0", num_envs=num_envs, autoreset_mode="same_step", **settings)
    env = gym.wrappers.vector.RecordEpisodeStatistics(env)
    size, actions = env.single_observation_space.shape[0], int(env.single_action_space.n)
    q = nn.Sequential(nn.Linear(size, 256), nn.SiLU(), nn.Linear(256, actions))
    target = copy.deepcopy(q)
    optimiser = torch.optim.Adam(q.parameters(), lr=1e-3)
    capacity = 50_000 // num_envs  # steps of all rows; the oldest are overwritten
    states, following = torch.zeros(2, capacity, num_envs, size)
    codes = torch.zeros(capacity, num_envs, dtype=torch.int64)
    rewards, ended = torch.zeros(2, capacity, num_envs)
    now = torch.from_numpy(env.reset(seed=seed)[0])
    steps = timesteps // num_envs
    for step in range(steps):
        epsilon = max(0.05, 1 - step / (0.5 * steps))
        with torch.no_grad():
            code = torch.where(
                torch.rand(num_envs) < epsilon, torch.randint(actions, (num_envs,)), q(now).argmax(-1)
            )
        seen, reward, terminated, truncated, info = env.step(code.numpy())
        real = seen.copy()  # the state that the action led to, also where the row has begun anew
        for row in np.flatnonzero(terminated | truncated):
            real[row] = info["final_obs"][row]
        at = step % capacity
        states[at], codes[at], following[at] = now, code, torch.from_numpy(real)
        rewards[at], ended[at] = torch.from_numpy(reward), torch.from_numpy(terminated)
        now = torch.from_numpy(seen)
        if step < min(64, steps // 2):
            continue
        for _ in range(4):
            when, row = torch.randint(min(step + 1, capacity), (256,)), torch.randint(num_envs, (256,))
            with torch.no_grad():
                best = target(following[when, row]).max(-1).values
                wanted = rewards[when, row] + 0.99 * (1 - ended[when, row]) * best
            value = q(states[when, row]).gather(-1, codes[when, row, None]).squeeze(-1)
            loss = nn.functional.smooth_l1_loss(value, wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if step % 16 == 0:
            target.load_state_dict(q.state_dict())
    reward = float(np.mean(env.return_queue))
    print(f"mean reward of the last episodes: {reward:.3f}")
    return reward


if __name__ == "__main__":
    main()
