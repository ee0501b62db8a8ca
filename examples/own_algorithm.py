"""Your own algorithm with everything that the bundled ones have: it is two functions.

``batch`` plays episodes and says how good each action was; ``loss`` is what an update lowers. Logs,
callbacks, saves, resuming, KL, LoRA, minibatches and several processes come with the class.
``own_loop.py`` does without it.
"""

import torch

from cola_agents.rl.agent import Agent
from cola_agents.rl.losses import less_baseline
from cola_agents.rl.update import Batch, Record


class Reinforce(Agent):
    """REINFORCE with the mean reward of the batch as its baseline."""

    def batch(self) -> Batch:
        rollout = self.play(*self.draw_seeds(num_problems=64))
        rewards = rollout.episode_rewards
        advantages = less_baseline(rewards, rewards.mean().expand_as(rewards), rollout.reward_sizes)
        return self.same_for_all_actions(rollout, advantages, rollout.mask, {})

    def loss(self, part: Batch) -> tuple[torch.Tensor, Record]:
        now = self.policy.evaluate_actions(part.rollout)  # log-probabilities, entropies, KLs: [M] each
        gained = now.log_probs * part.advantages[part.decision_mask]
        return self.policy.regularised(-part.mean(gained), part, now, self.kl_coef)


def main(timesteps: int = 20_000) -> tuple[float, float]:
    agent = Reinforce("CoLA-Thinking-v0", kl_coef=0.01)
    agent.learn(timesteps)
    first, last = (agent.history[at]["reward"] for at in (0, -1))
    print(f"mean reward {first:.3f} -> {last:.3f} in {agent.num_episodes} episodes")
    return first, last


if __name__ == "__main__":
    main()
