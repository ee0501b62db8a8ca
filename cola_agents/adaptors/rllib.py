"""RLlib: an env runner over the batched environment that refuses the autoreset mode it cannot learn from."""

from __future__ import annotations

from gymnasium.vector import AutoresetMode
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner


class BatchedEnvRunner(SingleAgentEnvRunner):
    """RLlib's env runner; one forward pass of the model steps all of its rows.

    Use it with ``config.env_runners(env_runner_cls=BatchedEnvRunner,
    gym_env_vectorize_mode="vector_entry_point")``. RLlib leaves out the step after an episode's end, whose
    action next-step autoreset ignores. Under same-step autoreset that step belongs to the next episode, and
    the observation of the end is another episode's first.

    Raises:
        ValueError: an environment without next-step autoreset.
    """

    def make_env(self) -> None:
        super().make_env()
        mode = self.env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.NEXT_STEP:
            raise ValueError(
                "RLlib needs autoreset_mode='next_step', the default of gym.make_vec; this environment has "
                f"{mode}"
            )
