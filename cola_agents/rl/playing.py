"""The methods of an agent that play its policy outside of training; N rows, D hidden."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from cola_agents.common.arguments import check_env_kwargs, environment_arguments
from cola_agents.decoding.contract import PolicyBackbone
from cola_agents.model.sampling import Drawing
from cola_agents.rl.acting import AgentVecEnv, PolicyFor, actions_for
from cola_agents.rl.actors import Actor
from cola_agents.rl.collecting import collect
from cola_agents.rl.options import AgentOptions
from cola_agents.rl.policy import TrainedPolicy
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.rows import make_rows
from cola_envs.backbone import Level
from cola_envs.build import evaluation_split, spec_of
from cola_envs.checks import check_count
from cola_envs.env import CoLAEnv
from cola_envs.episodes import Episodes
from cola_envs.seeds import HIGHEST_SEED
from cola_envs.vector import CoLAVectorEnv


class PlayingMixin:
    """Adds :meth:`predict`, :meth:`policy_for`, :meth:`vec_env` and :meth:`evaluate` to an agent."""

    actor: Actor
    backbone: PolicyBackbone
    env_id: str
    env_kwargs: dict[str, Any]
    num_envs: int
    num_updates: int
    options: AgentOptions
    policy: TrainedPolicy
    seed: int
    _env: AgentVecEnv | None
    _frozen: PolicyBackbone
    _predictions: np.random.Generator

    def get_env(self) -> AgentVecEnv:
        """The agent's task in a VecEnv of its own, so that stepping it does not affect training."""
        if self._env is None:
            self._env = self._vec_env(self.env_id, self.num_envs, self.env_kwargs)
        return self._env

    def get_vec_normalize_env(self) -> None:
        """None: observations are not normalised."""
        return None

    def vec_env(
        self,
        num_envs: int | None = None,
        *,
        env_id: str | None = None,
        split: str | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        **direct: Any,
    ) -> AgentVecEnv:
        """A new VecEnv for ``evaluate_policy``, ``EvalCallback`` and :meth:`predict`.

        Args:
            num_envs: its number of rows; None for the agent's.
            env_id: another task of the same level; None for the agent's own.
            split: a split of the task; None for ``"test"`` if there is one, else the last.
            env_kwargs: further arguments of the environment; on the agent's own task they override the
                agent's.
            direct: arguments of the environment, deprecated: give them in ``env_kwargs``.

        Raises:
            TypeError: for an argument or option of the agent in ``env_kwargs``.
            ValueError: for an id of the other action level or of another package, or an unknown split.
        """
        num_envs = check_count("num_envs", self.num_envs if num_envs is None else num_envs)
        arguments = environment_arguments(env_kwargs, direct, "vec_env")
        chosen, kwargs = self._evaluation(env_id, split, arguments)
        return self._vec_env(chosen, num_envs, kwargs)

    def _vec_env(self, env_id: str, num_envs: int, kwargs: dict[str, Any]) -> AgentVecEnv:
        return AgentVecEnv(self.actor, self.backbone, lambda: self.num_updates, env_id, num_envs, **kwargs)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Actions for the observations of this agent's :meth:`vec_env`.

        Args:
            observation: [N, D], as ``reset`` or ``step`` returned them.
            state, episode_start: for Stable-Baselines3's interface; not used, since an observation already
                encodes its whole episode.
            deterministic: take the likeliest action in place of a draw.

        Returns:
            actions [N], and ``state`` unchanged.

        Raises:
            ValueError: for observations of another environment, which do not encode the whole episode.
        """
        drawing: Drawing = {"temperature": 0.0} if deterministic else self.options.drawing
        with self.policy.threads:
            return actions_for(self.actor, observation, self._predictions, drawing), state

    def policy_for(self, env: Any) -> PolicyFor:
        """The policy as a function for an environment of ``gym.make`` or ``gym.make_vec``.

        ``action = policy(observation)`` is an int, or an array [N] for a vector environment. It reads the
        episodes from the environment itself, and not the observation, which may be left out. Actions are
        drawn with the agent's sampling options; ``policy(observation, deterministic=True)`` takes the
        likeliest.

        Args:
            env: the environment, wrapped or not.

        Raises:
            TypeError: for an environment of another package.
            ValueError: for an environment over another model, or of the other action level.
        """
        inner = getattr(env, "unwrapped", None)
        if not isinstance(inner, (CoLAEnv, CoLAVectorEnv)):
            raise TypeError(f"policy_for takes an environment of cola_envs, got {env!r}")
        own, given = self._frozen, inner.episodes.backbone
        # Over its own tokens an agent trains the very model that it is given.
        if given is not self.backbone and given.fingerprint != own.fingerprint:
            raise ValueError(
                f"this agent acts over another model than {env!r}, or at the other level: make the "
                "environment with the same model= as the agent"
            )
        return PolicyFor(
            self.actor,
            lambda: self.num_updates,
            inner.episodes,
            single=isinstance(inner, CoLAEnv),
            drawing=self.options.drawing,
            generator=np.random.default_rng([self.seed, 6]),
        )

    def evaluate(
        self,
        num_episodes: int = 256,
        *,
        env_id: str | None = None,
        split: str | None = None,
        greedy: bool = False,
        seed: int = 10_000,
        env_kwargs: Mapping[str, Any] | None = None,
        **direct: Any,
    ) -> Rollout:
        """Play whole episodes with the current policy.

        Args:
            num_episodes: N.
            env_id: another task of the same level; None for the agent's own.
            split: one of the task's; None for ``"test"``, or else the last it has.
            greedy: take the likeliest action in place of a draw.
            seed: problem ``i`` has seed ``seed + i``, so that all agents get the same problems; of a task
                whose problems come in order the first ones are played.
            env_kwargs: further arguments of the environment; on the agent's own task they override the
                agent's.
            direct: arguments of the environment, deprecated: give them in ``env_kwargs``.

        Returns:
            a :class:`~cola_agents.rl.rollout.Rollout` of N episodes, in the order of their seeds.

        Raises:
            TypeError: for an argument or option of the agent in ``env_kwargs``.
            ValueError: for an id of the other action level or of another package, an unknown split, or fewer
                than one episode.
            FloatingPointError: for policy logits that are not finite.
        """
        num_episodes, seed = (
            check_count("num_episodes", num_episodes),
            check_count("seed", seed, 0, HIGHEST_SEED),
        )
        arguments = environment_arguments(env_kwargs, direct, "evaluate")
        chosen, kwargs = self._evaluation(env_id, split, arguments)
        episodes = self._episodes(chosen, min(num_episodes, max(64, self.num_envs)), kwargs)
        try:
            drawing: Drawing = {"temperature": 0.0} if greedy else self.options.drawing
            seeds = range(seed, seed + num_episodes)
            return collect(episodes, self.actor, seeds=seeds, **drawing)
        finally:
            episodes.close()

    def kwargs_on(self, env_id: str) -> dict[str, Any]:
        """The environment arguments for a task: the agent's; for another task those that are not its own."""
        return kwargs_on(env_id, self.env_id, self.env_kwargs)

    def _evaluation(
        self, env_id: str | None, split: str | None, env_kwargs: dict[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        """The id of the environment to evaluate on, and its arguments.

        Raises:
            TypeError: for an argument or option of the agent among those of the environment.
            ValueError: for an id of another package, or of the other action level.
        """
        chosen = env_id or self.env_id
        taker = type(self).__name__
        level, own = level_of(chosen, taker), level_of(self.env_id, taker)
        if level != own:
            raise ValueError(
                f"{chosen} acts at {level} level and this agent, of {self.env_id}, at {own} level: give the "
                f"id {'with' if own == 'token' else 'without'} -Token"
            )
        check_env_kwargs(
            env_kwargs, [field.name for field in dataclasses.fields(self.options)], taker, chosen
        )
        kwargs = {**self.kwargs_on(chosen), **env_kwargs}
        split = split or env_kwargs.get("split") or evaluation_split(spec_of(chosen).kwargs["builder"])
        return chosen, {**kwargs, "split": split}

    def _episodes(self, env_id: str, num_rows: int, kwargs: dict[str, Any]) -> Episodes:
        return make_rows(env_id, num_rows, model=self.backbone, **kwargs).episodes


def kwargs_on(env_id: str, own_id: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """The environment arguments for a task of an agent that was trained on ``own_id`` with ``own``."""
    return dict(own) if env_id == own_id else carried(own)


def carried(own: Mapping[str, Any]) -> dict[str, Any]:
    """Of the environment arguments of an agent those that belong to its policy and not to its task."""
    kept = ("world_temperature", "prompt_format", "chat_template_kwargs")
    return {name: own[name] for name in kept if name in own}


def level_of(env_id: str, taker: str) -> Level:
    """The action level of an environment id.

    Args:
        env_id: the id.
        taker: the name of the agent's class, for the error messages.

    Raises:
        TypeError: for something other than an id.
        ValueError: for an id of another package.
    """
    if not isinstance(env_id, str):
        raise TypeError(
            f"{taker} takes the id of an environment, got {env_id!r}; a task of yours is an argument of it: "
            f'{taker}("CoLA-Text-v0", env_kwargs={{"task": MyTask}})'
        )
    level: Level | None = spec_of(env_id).kwargs.get("actions")
    if level is None:
        raise ValueError(f"{env_id} is not one of the CoLA environments: it has no action level")
    return level
