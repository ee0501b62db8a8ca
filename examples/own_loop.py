"""Your own training loop in plain torch: REINFORCE with a mean baseline on ``collect``."""

import copy

import gymnasium as gym
import torch

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents import collect


class MyPolicy(torch.nn.Module):
    """Anything with ``attach(session) -> (rows -> logits)`` is a policy."""

    def __init__(self, model):
        super().__init__()
        self.trunk = copy.deepcopy(model.policy_trunk).requires_grad_(True)
        self.head = copy.deepcopy(model.policy_head).requires_grad_(True)

    def attach(self, session):
        follower = session.follow(self.trunk)  # keeps a cache of its own, catches up when asked
        return lambda rows: self.head(follower.features(rows))

    def log_probs(self, rollout):
        """Of the actions taken, [N, T], from hidden states kept while playing: the base LM is not run."""
        features = self.trunk(inputs_embeds=rollout.hidden, use_cache=False).last_hidden_state
        return self.head(features).log_softmax(-1).gather(-1, rollout.actions[..., None]).squeeze(-1)


def main(updates: int = 30, rollouts: int = 128) -> tuple[float, float]:
    envs = gym.make_vec("CoLA-Thinking-v0", num_envs=rollouts)
    episodes = envs.unwrapped.episodes
    policy = MyPolicy(episodes.backbone.model)
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-3)
    rewards = []
    for update in range(updates):
        rollout = collect(episodes, policy, seeds=range(update * rollouts, (update + 1) * rollouts))
        reward = rollout.episode_rewards
        advantage = (reward - reward.mean())[:, None]
        loss = -(policy.log_probs(rollout) * advantage)[rollout.mask].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rewards.append(reward.mean().item())
    print(f"mean reward {rewards[0]:.3f} -> {rewards[-1]:.3f} in {updates * rollouts} rollouts")
    return rewards[0], rewards[-1]


if __name__ == "__main__":
    main()
