"""The same task, the same loop, over tokens: every latent id has a ``-Token-v0`` twin."""

from cola_agents import GRPO


def main(updates: int = 40, test_episodes: int = 256) -> dict[str, float]:
    arms = {
        "latent": GRPO("CoLA-Thinking-v0", num_envs=128, seed=0, lr=3e-3, kl_coef=0.1),
        "token": GRPO("CoLA-Thinking-Token-v0", num_envs=128, seed=0, lr=3e-4, kl_coef=0.1),
    }
    rewards = {}
    for name, agent in arms.items():
        for _ in range(updates):
            agent.update()
        rewards[name] = agent.evaluate(test_episodes).episode_rewards.mean().item()
        actions = agent.episodes.action_space.n
        print(f"{name:>6}: {actions} actions, reward {rewards[name]:.3f} after {agent.num_episodes} rollouts")
    return rewards


if __name__ == "__main__":
    main()
