"""skrl: the batched environment under skrl's own wrapper, after a check of how it resets."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import AutoresetMode, VectorEnv
from skrl.envs.wrappers.torch.gymnasium_envs import GymnasiumWrapper


class BatchedWrapper(GymnasiumWrapper):
    """skrl's wrapper of a Gymnasium vector environment, for its trainers, which learn from every step.

    skrl asks no environment for its autoreset mode. Under next-step autoreset it would learn from steps whose
    action is ignored.

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

    def render(self, *args: Any, **kwargs: Any) -> Any:
        """What the environment renders; nothing without a ``render_mode`` (trainers ask at each step)."""
        return None if self._env.render_mode is None else self._env.render()
