"""Stable-Baselines3's PPO, from random weights, on the base model's hidden states and 64 latent actions."""

from typing import Any

import stable_baselines3 as sb3
from stable_baselines3.common.evaluation import evaluate_policy

from cola_agents import SB3VecEnv, sb3_defaults


def main(timesteps: int = 100_000, num_envs: int = 32, test_episodes: int = 128, **settings: Any) -> Any:
    venv = SB3VecEnv("CoLA-Thinking-v0", num_envs=num_envs, env_kwargs=settings)
    agent = sb3.PPO("MlpPolicy", venv, seed=0, verbose=1, **sb3_defaults("ppo", venv))
    agent.learn(timesteps)
    venv.close()

    test = SB3VecEnv("CoLA-Thinking-v0", num_envs=num_envs, env_kwargs={"split": "test", **settings})
    test.seed(0)
    reward, _ = evaluate_policy(agent, test, n_eval_episodes=test_episodes, deterministic=False)
    test.close()
    print(f"format reward on test problems: {reward:.3f}")
    return reward


if __name__ == "__main__":
    main()
