"""skrl: the batched environment under skrl's own wrapper, after a check of how it resets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from skrl.agents.torch import Agent
from skrl.envs.wrappers.torch.gymnasium_envs import GymnasiumWrapper
from skrl.utils.spaces.torch import flatten_tensorized_space, tensorize_space


class BatchedWrapper(GymnasiumWrapper):
    """skrl's wrapper of a Gymnasium vector environment, for its trainers, which learn from every step.

    skrl asks no environment for its autoreset mode. Under next-step autoreset it would learn from steps whose
    action is ignored. Under same-step autoreset the observation after a truncated episode is the next
    episode's first, and skrl would bootstrap from its value: where rows may be truncated (``budget_end=
    "truncate"``, ``max_episode_steps``, a task that fails), call :meth:`give_final_observations`.

    Args:
        env: a Gymnasium vector environment with same-step autoreset, wrapped or not, of two rows or more.

    Raises:
        ValueError: another autoreset mode, or one row (skrl's trainers reset that themselves).
    """

    def __init__(self, env: VectorEnv) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise ValueError(f"skrl needs autoreset_mode='same_step', and this environment has {mode}")
        if env.num_envs < 2:
            raise ValueError(
                "skrl resets an environment of one row by itself: give it gym.make(...), or more rows"
            )
        super().__init__(env)
        self._learns_from_final = False

    def step(
        self, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Any]:
        """Step every row: observations [B, D]; rewards and both ends [B, 1]; info.

        Raises:
            RuntimeError: a row was truncated and no agent learns from the observation that it ended with.
        """
        result = super().step(actions)
        if result[3].any() and not self._learns_from_final:
            raise RuntimeError(
                "an episode was truncated, and skrl's agents would bootstrap from the next episode's first "
                "observation: call env.give_final_observations(agent) before training, or let episodes end "
                'with budget_end="terminate"'
            )
        return result

    def give_final_observations(self, agent: Agent) -> None:
        """Have the agent learn from the observation that the last action of each episode led to.

        It changes what ``agent.record_transition`` gets; evaluation needs no agent to be given here.

        Args:
            agent: off-policy, or on-policy with ``time_limit_bootstrap=True`` in its configuration.

        Raises:
            ValueError: an on-policy agent without it, or with a recurrent network: skrl then lets the returns
                of the next episode flow into the truncated one.
        """
        bootstraps = getattr(agent.cfg, "time_limit_bootstrap", True)
        recurrent = any(cls.__name__.endswith("_RNN") for cls in type(agent).__mro__)
        if not bootstraps or (recurrent and hasattr(agent.cfg, "time_limit_bootstrap")):
            raise ValueError(
                f"{type(agent).__name__} with time_limit_bootstrap={bootstraps} does not end a return where "
                "an episode is truncated: set time_limit_bootstrap=True on an agent without a recurrent "
                'network, or let episodes end with budget_end="terminate"'
            )
        learner: Any = agent
        record = learner.record_transition

        def record_with_final(*, next_observations: torch.Tensor, infos: Any, **transition: Any) -> None:
            ended = np.flatnonzero(infos.get("_final_obs", ()))
            if len(ended):
                final = tensorize_space(
                    self.observation_space, np.stack(infos["final_obs"][ended]), device=self.device
                )
                next_observations = next_observations.clone()
                next_observations[ended] = flatten_tensorized_space(final)
            record(next_observations=next_observations, infos=infos, **transition)

        learner.record_transition = record_with_final
        self._learns_from_final = True

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """What the environment renders; nothing without a ``render_mode`` (trainers ask at each step)."""
        return None if self._env.render_mode is None else self._env.render()
