"""RLlib's PPO (its new API stack) over the batched environment, on one machine.

RLlib pins gymnasium 1.2.2. On a Ray cluster: ``ray.init(address="auto")`` and ``num_env_runners=N``; each
runner is a process with a model and a batched environment of its own.
"""

from typing import Any

from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from cola_agents.adaptors.rllib import BatchedEnvRunner


def main(
    timesteps: int = 100_000, num_envs: int = 32, seed: int = 0, num_env_runners: int = 0, **settings: Any
) -> float:
    """Returns the mean reward of the last 100 episodes. No env runner means: play in this process."""
    config = (
        PPOConfig()
        .environment(
            "cola_envs:CoLA-Thinking-v0", env_config=settings
        )  # Ray's processes register the id by its module
        .env_runners(
            env_runner_cls=BatchedEnvRunner,
            gym_env_vectorize_mode="vector_entry_point",
            num_envs_per_env_runner=num_envs,
            num_env_runners=num_env_runners,
        )
        .training(
            train_batch_size_per_learner=64 * num_envs * max(1, num_env_runners),
            minibatch_size=min(512, 64 * num_envs),
            num_epochs=4,
            lr=1e-3,
            gamma=1.0,
            lambda_=1.0,
            entropy_coeff=0.003,
        )
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[256], fcnet_activation="silu"))
        .reporting(metrics_num_episodes_for_smoothing=100)
        .debugging(seed=seed)
    )
    algorithm = config.build_algo()
    result: dict[str, Any] = {}
    steps = 0
    while steps < timesteps:
        result = algorithm.train()
        steps = int(result["env_runners"]["num_env_steps_sampled_lifetime"])
    algorithm.stop()
    reward = float(result["env_runners"]["episode_return_mean"])
    print(f"mean reward of the last episodes: {reward:.3f}")
    return reward


if __name__ == "__main__":
    main()
