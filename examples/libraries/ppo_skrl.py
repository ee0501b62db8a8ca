"""skrl's PPO over the batched environment."""

import gymnasium as gym
import numpy as np
from skrl.agents.torch.ppo import PPO
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from torch import nn

from cola_agents.adaptors.skrl import BatchedWrapper


def network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 256), nn.SiLU(), nn.Linear(256, outputs))


class Policy(CategoricalMixin, Model):
    def __init__(self, **spaces: object) -> None:
        Model.__init__(self, **spaces)
        CategoricalMixin.__init__(self)
        self.net = network(self.num_observations, self.num_actions)

    def compute(self, inputs: dict, role: str = "") -> tuple:
        return self.net(inputs["observations"]), {}


class Value(DeterministicMixin, Model):
    def __init__(self, **spaces: object) -> None:
        Model.__init__(self, **spaces)
        DeterministicMixin.__init__(self)
        self.net = network(self.num_observations, 1)

    def compute(self, inputs: dict, role: str = "") -> tuple:
        return self.net(inputs["observations"]), {}


def main(timesteps: int = 100_000, num_envs: int = 32, seed: int = 0, **settings: object) -> float:
    """Returns the mean reward of the last 100 episodes."""
    set_seed(seed)
    rows = gym.make_vec("CoLA-Thinking-v0", num_envs=num_envs, autoreset_mode="same_step", **settings)
    recorder = gym.wrappers.vector.RecordEpisodeStatistics(rows)
    env = BatchedWrapper(recorder)
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": "cpu"}
    agent = PPO(
        models={"policy": Policy(**spaces), "value": Value(**spaces)},
        memory=RandomMemory(memory_size=64, num_envs=num_envs, device="cpu"),
        cfg={
            "rollouts": 64,
            "learning_epochs": 4,
            "mini_batches": max(1, 64 * num_envs // 512),
            "discount_factor": 1.0,
            "gae_lambda": 1.0,
            "learning_rate": 1e-3,
            "entropy_loss_scale": 0.003,
            "value_loss_scale": 0.5,
            "time_limit_bootstrap": True,
            "experiment": {"write_interval": 0, "checkpoint_interval": 0},
        },
        **spaces,
    )
    env.give_final_observations(agent)  # of truncated episodes, which same-step autoreset has in info alone
    options = {"timesteps": timesteps // num_envs, "disable_progressbar": True}
    SequentialTrainer(env=env, agents=agent, cfg={**options, "close_environment_at_exit": False}).train()
    reward = float(np.mean(recorder.return_queue))
    print(f"mean reward of the last episodes: {reward:.3f}")
    return reward


if __name__ == "__main__":
    main()
