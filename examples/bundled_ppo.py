"""The bundled PPO learns the thinking format over 64 latent actions, is saved and loaded again."""

import tempfile

from cola_agents import PPO


def main(timesteps: int = 40_000, test_episodes: int = 256) -> float:
    agent = PPO("CoLA-Thinking-v0", num_envs=64, seed=0)
    before = agent.evaluate(test_episodes).episode_rewards.mean().item()
    agent.learn(timesteps, progress_bar=True)

    with tempfile.TemporaryDirectory() as folder:
        agent.save(f"{folder}/run")
        agent = PPO.load(f"{folder}/run")

    rollout = agent.evaluate(test_episodes)
    after = rollout.episode_rewards.mean().item()
    print(f"test reward {before:.3f} -> {after:.3f} in {agent.num_episodes} rollouts")
    print("for example:", rollout.infos[0]["text"])
    return after


if __name__ == "__main__":
    main()
