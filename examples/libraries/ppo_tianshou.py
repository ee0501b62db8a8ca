"""Tianshou's PPO over the batched environment: every step of all rows is one forward pass of the model."""

import numpy as np
import torch
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

from cola_agents.adaptors.tianshou import TianshouVectorEnv


def main(timesteps: int = 100_000, num_envs: int = 32, seed: int = 0, **settings: object) -> float:
    """Returns the mean reward of the last 100 episodes."""
    torch.manual_seed(seed)
    env = TianshouVectorEnv("CoLA-Thinking-v0", num_envs, **settings)
    env.seed(seed)
    space, (actions, *_) = env.observation_space[0], env.action_space
    bodies = [Net(state_shape=space.shape, hidden_sizes=[256]) for _ in range(2)]
    actor = DiscreteActor(preprocess_net=bodies[0], action_shape=actions.n, softmax_output=False)
    algorithm = PPO(
        policy=ProbabilisticActorPolicy(
            actor=actor,
            dist_fn=lambda logits: torch.distributions.Categorical(logits=logits),
            action_space=actions,
            action_scaling=False,
        ),
        critic=DiscreteCritic(preprocess_net=bodies[1]),
        optim=AdamOptimizerFactory(lr=1e-3),
        gamma=1.0,
        gae_lambda=1.0,
        ent_coef=0.003,
        advantage_normalization=True,
    )
    returns: list[float] = []
    size = 64 * num_envs
    collector = Collector(
        algorithm,
        env,
        VectorReplayBuffer(size, num_envs),
        on_episode_done_hook=lambda episode: returns.append(episode.rew.sum()),
    )
    algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=timesteps,
            collection_step_num_env_steps=size,
            batch_size=512,
            update_step_num_repetitions=4,
            show_progress=False,
            verbose=False,
        )
    )
    env.close()
    reward = float(np.mean(returns[-100:]))
    print(f"mean reward of the last episodes: {reward:.3f}")
    return reward


if __name__ == "__main__":
    main()
