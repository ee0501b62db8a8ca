"""The vector environment with torch tensors in place of arrays, on the model's device.

Shapes: N rows, D hidden, A actions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import InvalidAction
from torch import Tensor

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents.decoding.session import Rows
from cola_agents.decoding.transfer import to_device, to_host
from cola_envs.build import spec_of
from cola_envs.checks import Actions, Options
from cola_envs.episodes import Stepped
from cola_envs.infos import Batched
from cola_envs.state import State
from cola_envs.vector import CoLAVectorEnv, Seeds


class TensorVectorEnv(CoLAVectorEnv):
    """``num_envs`` episodes as a Gymnasium vector environment whose arrays are torch tensors.

    ``reset`` and ``step`` have Gymnasium's signatures. Observations [N, D] float32 do not leave the model's
    device. ``infos`` are as in :class:`~cola_envs.vector.CoLAVectorEnv`, apart from ``final_obs``, whose
    entries are tensors [D]. Texts end and are graded on the host: it reads the actions and their tokens in
    one copy a step on a GPU.

    It is made by :func:`make_tensor_vec`; arguments are those of ``CoLAVectorEnv``.

    Raises:
        TypeError: for a third party's backbone, or ``observation="tokens"``.
    """

    def __init__(self, num_envs: int = 1, **settings: Any) -> None:
        super().__init__(num_envs, **settings)
        session, observation = self.episodes.session, self.episodes.observation
        if not isinstance(session, Rows) or observation == "tokens":
            self.close()
            raise TypeError(
                f"tensors need a session of this package with hidden or features as observation, got a "
                f'{type(session).__name__} with observation="{observation}"; use gym.make_vec'
            )
        self._session = session
        self.device = session.device

    def reset(self, *, seed: Seeds = None, options: Options | None = None) -> tuple[Any, Batched]:
        """Start episodes: observations [N, D] float32 on the model's device, and infos.

        Arguments and errors are those of :meth:`.CoLAVectorEnv.reset`. ``reset_mask`` of the options may also
        be a tensor, [N] bool.
        """
        if isinstance(options, Mapping) and isinstance(mask := options.get("reset_mask"), Tensor):
            options = {**options, "reset_mask": mask.cpu().numpy()}
        return super().reset(seed=seed, options=options)

    def step(self, actions: Actions | Tensor) -> tuple[Any, Any, Any, Any, Batched]:
        """Take one action in each row; autoreset and errors are those of :meth:`.CoLAVectorEnv.step`.

        Args:
            actions: [N] integers, a tensor on any device; an array or a list is taken, too.

        Returns:
            observations [N, D] float32, rewards [N] float32, terminated and truncated [N] bool, all on the
            model's device, and infos.

        Raises:
            gymnasium.error.InvalidAction: also for a tensor of another shape, of floats or of bools.
        """
        taken = self._on_host(actions) if isinstance(actions, Tensor) else actions
        observations, rewards, terminated, truncated, infos = super().step(taken)
        paid = to_device(rewards.astype(np.float32), self.device)
        ends = to_device(np.stack([terminated, truncated]), self.device)
        return observations, paid, ends[0], ends[1], infos

    def _on_host(self, actions: Tensor) -> np.ndarray:
        """The actions as an array, and, where a step in fixed memory is possible, their tokens with them."""
        if actions.shape != (self.num_envs,) or actions.is_floating_point() or actions.dtype == torch.bool:
            raise InvalidAction(
                f"actions must be an integer tensor [{self.num_envs}], got {actions.dtype} "
                f"{list(actions.shape)}"
            )
        running = all(self.episodes.running(row) for row in self._all)
        if running and not self.episodes.world_temperature:
            ahead = self._session.step(self._all, actions.to(self.device, torch.long))
            if ahead is not None:
                return ahead.actions.astype(np.int64)
        return to_host(actions)

    def restore(
        self,
        states: Sequence[State],
        rows: Sequence[int] | None = None,
        reseed: Sequence[int] | None = None,
    ) -> Any:
        """As :meth:`.CoLAVectorEnv.restore`; returns [len(rows), D] float32 on the model's device."""
        return super().restore(states, rows, reseed)

    def action_masks(self) -> Any:
        """The allowed actions, [N, A] bool, on the model's device."""
        return to_device(super().action_masks(), self.device)

    def _stepped(self, rows: list[int], actions: Actions, *, observe: bool = True) -> Stepped:
        if not observe:
            return super()._stepped(rows, actions, observe=False)
        with self.episodes.deferred():
            _, *rest = super()._stepped(rows, actions, observe=False)
            return (self._observe(rows), *rest)

    def _observe(self, rows: list[int]) -> Any:
        states = self._session.observe(rows, self.episodes.observation)
        return states.to(torch.float32, copy=True)

    def _final(self, rows: list[int]) -> Callable[[], Iterable[Any]]:
        last = self._session.take_observations(rows, self.episodes.observation)
        return lambda: [state.float() for state in last]


def make_tensor_vec(env_id: str | EnvSpec, num_envs: int = 1, **kwargs: Any) -> TensorVectorEnv:
    """``gym.make_vec`` with tensors in place of arrays.

    Args:
        env_id: an id of this project, also one with its module (``module:ID``), or its spec.
        num_envs: N.
        kwargs: arguments of the environment; ``device=`` loads the model there.

    Raises:
        TypeError: for an id of another package, and as :class:`TensorVectorEnv`.
        gymnasium.error.NameNotFound: for an id that is not registered.
    """
    if not isinstance(env_id, (str, EnvSpec)):
        raise TypeError(f"make_tensor_vec takes an environment id or its spec, got {env_id!r:.80}")
    if "vectorization_mode" in kwargs:
        raise TypeError("vectorization_mode is none of make_tensor_vec's: all rows step in one batch")
    spec = copy.copy(env_id if isinstance(env_id, EnvSpec) else spec_of(env_id))
    if spec.vector_entry_point != "cola_envs.vector:CoLAVectorEnv":
        raise TypeError(f"{spec.id} is not one of the CoLA environments")
    spec.vector_entry_point = TensorVectorEnv
    made = gym.make_vec(spec, num_envs=num_envs, vectorization_mode="vector_entry_point", **kwargs)
    assert isinstance(made, TensorVectorEnv)
    return made
