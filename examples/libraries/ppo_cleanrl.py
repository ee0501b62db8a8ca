"""PPO in one file, in CleanRL's style, over the batched environment."""

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import cola_envs  # noqa: F401 (registers the ids)


def network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 256), nn.SiLU(), nn.Linear(256, outputs))


def main(timesteps: int = 100_000, num_envs: int = 32, seed: int = 0, **settings: object) -> float:
    """Returns the mean reward of the last 100 episodes."""
    torch.manual_seed(seed)
    # CleanRL's storage takes the next episode's first observation where one ends: same-step autoreset.
    env = gym.make_vec("CoLA-Thinking-v0", num_envs=num_envs, autoreset_mode="same_step", **settings)
    env = gym.wrappers.vector.RecordEpisodeStatistics(env)
    size, actions = env.single_observation_space.shape[0], env.single_action_space.n
    actor, critic = network(size, actions), network(size, 1)
    parameters = [*actor.parameters(), *critic.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=1e-3)
    steps = 64
    observations = torch.zeros(steps, num_envs, size)
    codes = torch.zeros(steps, num_envs, dtype=torch.int64)
    log_probs, rewards, dones, values = torch.zeros(4, steps, num_envs)
    now = torch.from_numpy(env.reset(seed=seed)[0])
    for _ in range(timesteps // (steps * num_envs)):
        for step in range(steps):
            with torch.no_grad():
                policy = Categorical(logits=actor(now))
                code = policy.sample()
                values[step] = critic(now).squeeze(-1)
            observations[step], codes[step], log_probs[step] = now, code, policy.log_prob(code)
            seen, reward, terminated, truncated, info = env.step(code.numpy())
            if (
                truncated.any()
            ):  # cut, not ended: what would have followed is worth the value of the last state
                last = torch.from_numpy(np.stack(info["final_obs"][truncated]))
                with torch.no_grad():
                    reward[truncated] += critic(last).squeeze(-1).numpy()
            now = torch.from_numpy(seen)
            rewards[step], dones[step] = torch.from_numpy(reward), torch.from_numpy(terminated | truncated)

        returns, following = torch.zeros(steps, num_envs), critic(now).squeeze(-1).detach()
        for step in reversed(range(steps)):  # gamma = lambda = 1: the reward comes at an episode's end
            following = rewards[step] + (1 - dones[step]) * following
            returns[step] = following
        flat = [x.flatten(0, 1) for x in (observations, codes, log_probs, returns - values, returns)]
        for _ in range(4):
            for part in torch.randperm(steps * num_envs).split(512):
                state, code, old, advantage, target = (x[part] for x in flat)
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                policy = Categorical(logits=actor(state))
                ratio = (policy.log_prob(code) - old).exp()
                gain = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
                error = (critic(state).squeeze(-1) - target).square().mean()
                loss = -gain - 0.003 * policy.entropy().mean() + 0.5 * error
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 0.5)
                optimiser.step()
    reward = float(np.mean(env.return_queue))
    print(f"mean reward of the last episodes: {reward:.3f}")
    return reward


if __name__ == "__main__":
    main()
