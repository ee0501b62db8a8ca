"""Tianshou 2: the rows of one batched environment as the vector environment that its collectors play.

Tianshou's own vector environments hold one environment, and so one forward pass, a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from tianshou.env import BaseVectorEnv

from cola_envs import CoLAVectorEnv
from cola_envs.checks import check_seeds
from cola_envs.fields import Info
from cola_envs.vector import Seeds


class TianshouVectorEnv(BaseVectorEnv):
    """N rows of a CoLA environment for Tianshou's ``Collector``: a step of any rows is one forward pass.

    Tianshou resets the rows that ended and may step only some of them. Its replay buffers refuse fields of
    ``info`` that are absent at some steps, so they get those of every step (``token``, ``action``);
    :attr:`infos` has each row's last ``info`` whole, with ``text`` and ``success`` at an episode's end.

    Args:
        env: an id, made by ``gym.make_vec``, or such an environment, unwrapped, that was made with
            ``autoreset_mode="disabled"``.
        num_envs: N, with an id only; 32 if None.
        settings: further arguments of ``gym.make_vec``, with an id only.

    Raises:
        TypeError: another kind of environment, or settings beside an environment that is already made.
        ValueError: an environment that resets its rows itself, or one with ``max_episode_steps``.
    """

    def __init__(self, env: str | CoLAVectorEnv, num_envs: int | None = None, **settings: Any) -> None:
        if isinstance(env, str):
            settings.setdefault("autoreset_mode", "disabled")
            env = gym.make_vec(env, num_envs=32 if num_envs is None else num_envs, **settings)  # type: ignore[assignment]
        elif num_envs is not None or settings:
            raise TypeError(
                f"num_envs={num_envs} and {settings} belong to an id; the environment is made already"
            )
        if not isinstance(env, CoLAVectorEnv):
            raise TypeError(f"TianshouVectorEnv takes an id or an unwrapped CoLAVectorEnv, got {env!r}")
        if env.autoreset_mode is not AutoresetMode.DISABLED:
            raise ValueError(
                f"Tianshou resets rows itself, and this environment has {env.autoreset_mode}; make it with "
                'autoreset_mode="disabled"'
            )
        if env.max_episode_steps is not None:
            raise ValueError(
                f"max_episode_steps={env.max_episode_steps} does not hold where rows are stepped apart; use "
                'max_tokens= with budget_end="truncate"'
            )
        self.env, self.env_num, self.is_async, self.is_closed = env, env.num_envs, False, False
        self.infos: list[Info] = [{} for _ in range(self.env_num)]
        self._seeds: list[int | None] = [None] * self.env_num

    def get_env_attr(self, key: str, id: int | Sequence[int] | np.ndarray | None = None) -> list[Any]:
        """An attribute, once a row of ``id``; spaces are those of one row."""
        name = f"single_{key}" if key in ("action_space", "observation_space") else key
        return [getattr(self.env, name)] * len(self._wrap_id(id))

    def reset(
        self,
        env_id: int | Sequence[int] | np.ndarray | None = None,
        *,
        seed: Seeds = None,
        **kwargs: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Start an episode in the rows ``env_id`` (all, if None): observations [B, D], infos [B].

        ``seed`` is that of :meth:`seed`, for this reset only; raises as it does.
        """
        rows = [int(row) for row in self._wrap_id(env_id)]
        seeds = self._seeds if seed is None else self._checked_seeds(seed)
        self._seeds = [None if row in rows else own for row, own in enumerate(self._seeds)]
        mask = np.isin(np.arange(self.env_num), rows)
        options = {**(kwargs.pop("options", None) or {}), "reset_mask": mask}
        observations, _ = self.env.reset(seed=seeds, options=options, **kwargs)
        return observations[rows], self._kept(rows, self.env.episodes.reset_infos(rows))

    def step(
        self, action: Any, id: int | Sequence[int] | np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Step the rows ``id`` (all, if None): observations [B, D]; rewards, both ends and infos [B]."""
        rows = [int(row) for row in self._wrap_id(id)]
        *stepped, infos = self.env.episodes.step(rows, np.asarray(action))
        return (*stepped, self._kept(rows, infos))  # type: ignore[return-value]

    def seed(self, seed: Seeds = None) -> list[list[int] | None]:
        """Seed the next reset of every row; an int gives row i the seed ``seed + i``, a list one each.

        Raises:
            TypeError, ValueError: for anything else, or a list of another length than N.
        """
        self._seeds = self._checked_seeds(seed)
        return [None if one is None else [one] for one in self._seeds]

    def _checked_seeds(self, seed: Seeds) -> list[int | None]:
        given = self.env.row_seeds(seed)
        checked = check_seeds("seed", [0 if one is None else one for one in given], self.env_num)
        return [None if one is None else number for one, number in zip(given, checked, strict=True)]

    def set_env_attr(self, key: str, value: Any, id: int | Sequence[int] | np.ndarray | None = None) -> None:
        """Set an attribute of the environment; ValueError for some rows only, as all share one object."""
        if len(set(self._wrap_id(id))) < self.env_num:
            raise ValueError(f"the rows share one environment: {key!r} can only be set for all of them")
        setattr(self.env, key, value)

    def render(self, **kwargs: Any) -> list[Any]:
        return list(self.env.render() or [])

    def close(self) -> None:
        self.env.close()
        self.is_closed = True

    def _kept(self, rows: list[int], infos: Sequence[Info]) -> np.ndarray:
        """What a replay buffer can hold of ``infos``, a dict a row; :attr:`infos` holds the whole."""
        array = np.empty(len(rows), dtype=object)
        for i, (row, info) in enumerate(zip(rows, infos, strict=True)):
            self.infos[row] = info
            array[i] = {key: info[key] for key in ("token", "action") if key in info}
            array[i]["env_id"] = row
        return array
