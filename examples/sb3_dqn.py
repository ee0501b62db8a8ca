"""Stable-Baselines3's DQN over 64 latent actions, with observations kept as float16 in its replay buffer.

DQN is not reliable here: three seeds of a near twin earned .00, .01, .34 (docs/libraries.md). See sb3_ppo.py.
"""

from typing import Any

import numpy as np
import stable_baselines3 as sb3
from gymnasium.spaces import Box
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnvWrapper

from cola_agents import SB3VecEnv


class Half(VecEnvWrapper):
    """Observations as float16: a replay buffer takes their space's type, and half the memory."""

    def __init__(self, venv: Any) -> None:
        space = Box(-np.inf, np.inf, venv.observation_space.shape, np.float16)
        super().__init__(venv, observation_space=space)

    def reset(self) -> np.ndarray:
        return self.venv.reset().astype(np.float16)

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations.astype(np.float16), rewards, dones, infos


def main(timesteps: int = 60_000, num_envs: int = 32, test_episodes: int = 128) -> float:
    venv = Half(SB3VecEnv("CoLA-Thinking-v0", num_envs=num_envs))
    agent = sb3.DQN(
        "MlpPolicy",
        venv,
        seed=0,
        gamma=0.99,
        learning_rate=1e-3,
        buffer_size=50_000,
        learning_starts=min(5_000, timesteps // 2),
        batch_size=256,
        train_freq=1,  # a step of all rows, then four gradient steps
        gradient_steps=4,
        target_update_interval=500,
        exploration_fraction=0.5,
        policy_kwargs={"net_arch": [256]},
    )
    agent.learn(timesteps)
    print(f"observations in the replay buffer: {agent.replay_buffer.observations.dtype}")
    test = Half(SB3VecEnv("CoLA-Thinking-v0", num_envs=num_envs, env_kwargs={"split": "test"}))
    test.seed(0)
    reward, _ = evaluate_policy(agent, test, n_eval_episodes=test_episodes)
    print(f"share of test problems answered in the form: {reward:.3f}")
    return float(reward)


if __name__ == "__main__":
    main()
