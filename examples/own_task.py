"""A task of your own is three names: ``stop``, ``reset(rng)`` and ``step(text)``. It speaks text only."""

import gymnasium as gym
import numpy as np

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents import GRPO
from cola_envs import Turn
from cola_envs.testing import check_task


class ManyAnimals:
    """Continue a story; each sentence that names a cat, a dog or a fox pays one tenth."""

    stop = (".",)  # a full stop sends the sentence

    def reset(self, rng: np.random.Generator) -> str:
        self.sentences = 0
        return "Story:"

    def step(self, text: str) -> Turn:
        self.sentences += 1
        named = any(animal in text for animal in ("cat", "dog", "fox"))
        done = self.sentences == 3
        return Turn(reward=0.1 * named, done=done, info={"success": named})


def main(updates: int = 20) -> tuple[float, float]:
    check_task(ManyAnimals)

    env = gym.make("CoLA-Text-v0", task=ManyAnimals, render_mode="ansi")
    env.reset(seed=0)
    over = False
    while not over:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        over = terminated or truncated
    print(env.render(), "\n")

    agent = GRPO("CoLA-Text-v0", num_envs=128, seed=0, env_kwargs={"task": ManyAnimals})
    rewards = [agent.update()["reward"] for _ in range(updates)]
    print(f"mean reward {rewards[0]:.3f} -> {rewards[-1]:.3f} in {agent.num_episodes} rollouts")
    return rewards[0], rewards[-1]


if __name__ == "__main__":
    main()
