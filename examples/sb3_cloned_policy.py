"""Stable-Baselines3's PPO from the cloned policy on: its head reads the frozen policy's own features."""

import tempfile
from typing import Any

import stable_baselines3 as sb3
from stable_baselines3.common.evaluation import evaluate_policy

from cola_agents import ClonedPolicy, SB3VecEnv, sb3_defaults

ENV_ID = "CoLA-Thinking-v0"


def main(
    timesteps: int = 60_000, num_envs: int = 32, test_episodes: int = 128, **settings: Any
) -> tuple[Any, Any]:
    settings = {"observation": "features", **settings}
    venv = SB3VecEnv(ENV_ID, num_envs, env_kwargs=settings)
    test = SB3VecEnv(ENV_ID, num_envs, env_kwargs={"split": "test", **settings})
    agent = sb3.PPO(ClonedPolicy, venv, seed=0, **sb3_defaults("ppo", venv))

    def score() -> Any:
        test.seed(0)
        return evaluate_policy(agent, test, n_eval_episodes=test_episodes, deterministic=False)[0]

    before = score()
    agent.learn(timesteps)

    with tempfile.TemporaryDirectory() as folder:
        agent.save(f"{folder}/agent")
        agent = sb3.PPO.load(f"{folder}/agent", device=agent.device)  # no environment is needed to predict

    after = score()
    print(f"format reward on test problems: {before:.3f} before, {after:.3f} after {timesteps} steps")

    observations: Any = test.reset()
    text = None
    while text is None:
        actions, _ = agent.predict(observations)
        observations, _, _, infos = test.step(actions)
        text = next((info["text"] for info in infos if "text" in info), None)
    print("for example:", text)
    venv.close()
    test.close()
    return before, after


if __name__ == "__main__":
    main()
