"""TorchRL's PPO over the batched environment, which its GymWrapper takes as it is with autoreset disabled."""

import gymnasium as gym
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper, RewardSum, TransformedEnv
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import cola_envs  # noqa: F401 (registers the ids)


def network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 256), nn.SiLU(), nn.Linear(256, outputs))


def main(timesteps: int = 100_000, num_envs: int = 32, seed: int = 0, **settings: object) -> float:
    """Returns the mean reward of the last 100 episodes."""
    torch.manual_seed(seed)
    rows = gym.make_vec("CoLA-Thinking-v0", num_envs=num_envs, autoreset_mode="disabled", **settings)
    size, actions = rows.single_observation_space.shape[0], rows.single_action_space.n
    env = TransformedEnv(GymWrapper(rows, categorical_action_encoding=True), RewardSum())
    env.set_seed(seed)
    actor = ProbabilisticActor(
        TensorDictModule(network(size, actions), in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        spec=env.action_spec,
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )
    critic = ValueOperator(network(size, 1), in_keys=["observation"])
    advantages = GAE(gamma=1.0, lmbda=1.0, value_network=critic)
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.003, normalize_advantage=True)
    optimiser = torch.optim.Adam(loss.parameters(), lr=1e-3)
    returns: list[float] = []
    frames = 64 * num_envs
    for batch in Collector(env, actor, frames_per_batch=frames, total_frames=timesteps):
        done = batch["next", "done"].squeeze(-1)
        returns += batch["next", "episode_reward"][done].flatten().tolist()
        for _ in range(4):
            with torch.no_grad():
                advantages(batch)  # along time: the batch is [rows, steps]
            flat = batch.reshape(-1)
            for part in torch.randperm(len(flat)).split(512):
                losses = loss(flat[part])
                total = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
                optimiser.zero_grad()
                total.backward()
                nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
                optimiser.step()
    last = returns[-100:]
    reward = sum(last) / max(1, len(last))
    print(f"mean reward of the last episodes: {reward:.3f}")
    return reward


if __name__ == "__main__":
    main()
