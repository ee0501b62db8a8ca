"""Algorithms of Stable-Baselines3 and sb3-contrib over one ``SB3VecEnv``, by name."""

import sys
from typing import Any

import numpy as np
import sb3_contrib
import stable_baselines3 as sb3
import torch

from cola_agents import SB3VecEnv, sb3_defaults

NET = {"net_arch": [256], "activation_fn": torch.nn.SiLU}
#: TRPO fits its value network with few, large steps; the policy's step is found by a line search.
TRPO = {"n_steps": 64, "batch_size": 512, "gamma": 1.0, "gae_lambda": 1.0, "n_critic_updates": 10}
#: A step of all rows, then four gradient steps; the reward comes at an episode's end, so gamma is near 1.
OFF_POLICY = {
    "gamma": 0.99,
    "learning_rate": 1e-3,
    "buffer_size": 50_000,
    "batch_size": 256,
    "train_freq": 1,
    "gradient_steps": 4,
    "target_update_interval": 500,
    "exploration_fraction": 0.5,
}


def make(name: str, venv: SB3VecEnv, seed: int, timesteps: int) -> Any:
    """An algorithm that has not learned yet."""
    off_policy = {
        **OFF_POLICY,
        "learning_starts": min(2_000, timesteps // 2),
        "policy_kwargs": {"net_arch": [256]},
    }
    ppo = sb3_defaults("ppo", venv)
    classes: dict[str, tuple[Any, str, dict[str, Any]]] = {
        "ppo": (sb3.PPO, "MlpPolicy", ppo),
        "maskable_ppo": (sb3_contrib.MaskablePPO, "MlpPolicy", ppo),
        "recurrent_ppo": (
            sb3_contrib.RecurrentPPO,
            "MlpLstmPolicy",
            {**ppo, "policy_kwargs": {"net_arch": [256], "lstm_hidden_size": 128}},
        ),
        "trpo": (sb3_contrib.TRPO, "MlpPolicy", {**TRPO, "policy_kwargs": NET}),
        "dqn": (sb3.DQN, "MlpPolicy", off_policy),
        "qr_dqn": (
            sb3_contrib.QRDQN,
            "MlpPolicy",
            {**off_policy, "policy_kwargs": {"net_arch": [256], "n_quantiles": 25}},
        ),
    }
    kind, policy, settings = classes[name]
    return kind(policy, venv, seed=seed, **{"device": "cpu", **settings})


def main(
    timesteps: int = 100_000,
    num_envs: int = 32,
    seed: int = 0,
    algorithm: str = "maskable_ppo",
    **settings: Any,
) -> float:
    """Returns the mean reward of the last 100 episodes."""
    venv = SB3VecEnv("CoLA-Thinking-v0", num_envs, env_kwargs=settings)
    agent = make(algorithm, venv, seed, timesteps).learn(timesteps)
    reward = float(np.mean([episode["r"] for episode in agent.ep_info_buffer]))
    venv.close()
    print(f"{algorithm}: mean reward of the last episodes: {reward:.3f}")
    return reward


if __name__ == "__main__":
    for name in sys.argv[1:] or ["maskable_ppo"]:
        main(algorithm=name)
