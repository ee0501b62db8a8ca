"""An agent's policy for other libraries: a Stable-Baselines3 VecEnv, and a function of observations.

Shapes: N rows, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from cola_agents.common.threads import fitting_threads
from cola_agents.decoding.contract import PolicyBackbone, PolicySession
from cola_agents.decoding.session import copied
from cola_agents.model.sampling import Drawing, sample
from cola_agents.rl.actors import Actor
from cola_agents.rl.collecting import attach, policy_session
from cola_agents.sb3 import SB3VecEnv
from cola_envs.episodes import Episodes


class PolicyState(np.ndarray):
    """Observations [N, D] of an :class:`AgentVecEnv`.

    Attributes:
        actor: the actor that computed them; None for arrays computed from them (a slice, a normalised copy).
    """

    actor: Actor | None = None


class _TrainedFeatures:
    """A backbone whose sessions return the trained policy's hidden states as ``features``."""

    def __init__(self, backbone: PolicyBackbone, actor: Actor) -> None:
        self._backbone = backbone
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "initial_policy":  # the initial head does not fit these features
            raise AttributeError(name)
        return getattr(self._backbone, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> _TrainedFeatures:
        return self

    def session(self, num_rows: int, max_length: int | None = None) -> PolicySession:
        session = self._backbone.session(num_rows, max_length)
        follow = self._actor.follow(session)

        def features(rows: Sequence[int]) -> np.ndarray:
            return copied(follow(rows))

        def final(rows: Sequence[int], observation: str) -> Callable[[], np.ndarray]:
            observations = features(rows)
            return lambda: observations

        session.features = features  # type: ignore[method-assign]
        session.final = final  # type: ignore[attr-defined]
        return session


class AgentVecEnv(SB3VecEnv):
    """An agent's task as a Stable-Baselines3 VecEnv, for ``evaluate_policy`` and ``EvalCallback``.

    A policy over text depends on the whole episode, which one observation of the plain environment does not
    hold. Here an observation is the trained policy's last hidden state, under the actor's current weights, so
    that ``agent.predict`` on it is exact.

    Args:
        actor: the policy.
        backbone: the model that it acts over.
        version: returns a number that changes with the actor's weights: the number of updates.
        env_id: the environment.
        num_envs: N.
        kwargs: further arguments of the environment.
    """

    def __init__(
        self,
        actor: Actor,
        backbone: PolicyBackbone,
        version: Callable[[], int],
        env_id: str,
        num_envs: int,
        **kwargs: Any,
    ) -> None:
        self._actor = actor
        self._version = version
        self._weights = version()
        kwargs = {**kwargs, "observation": "features", "model": _TrainedFeatures(backbone, actor)}
        super().__init__(env_id, num_envs, env_kwargs=kwargs)

    def reset(self) -> np.ndarray:
        self._session.forget()
        self._weights = self._version()
        return self._marked(super().reset())

    def step_wait(self) -> VecEnvStepReturn:
        if self._weights != self._version():
            # The weights changed during the episodes: all states and caches are computed again.
            _compute_again(self._session)
            self._weights = self._version()
        observations, rewards, dones, infos = super().step_wait()
        assert isinstance(observations, np.ndarray)
        return self._marked(observations), rewards, dones, infos

    @property
    def _session(self) -> PolicySession:
        return policy_session(self.env.unwrapped.episodes)  # type: ignore[attr-defined]

    def _marked(self, observations: np.ndarray) -> PolicyState:
        state = observations.view(PolicyState)
        state.actor = self._actor
        return state


def _compute_again(session: PolicySession) -> None:
    """Drop the states and caches of all rows, which are of earlier weights, and keep the tokens."""
    tokens = {row: list(ids) for row, ids in enumerate(session.tokens) if ids}
    session.forget()
    if tokens:
        session.load(list(tokens), list(tokens.values()))


def actions_for(
    actor: Actor, observations: np.ndarray, generator: np.random.Generator, drawing: Drawing
) -> np.ndarray:
    """Actions [N] for observations of an :class:`AgentVecEnv` over this actor.

    Raises:
        ValueError: for observations of another environment, which do not encode the whole episode.
    """
    if not isinstance(observations, PolicyState) or observations.actor is not actor:
        raise ValueError(
            "predict reads the observations of this agent's own vec_env(), unchanged: the policy depends on "
            "the whole episode, which an observation of a plain environment does not hold; to play "
            "elsewhere use agent.policy_for(env), or cola_agents.collect(episodes, agent.actor)"
        )
    weight = actor.head.weight
    with torch.no_grad():
        logits = actor.logits(torch.from_numpy(np.array(observations)).to(weight))
        u = torch.from_numpy(generator.random(len(logits))).to(weight.device)
        actions, _ = sample(logits, u, **drawing)
    return actions.cpu().numpy()


class PolicyFor:
    """An agent's policy as a function for a Gymnasium environment: ``action = policy(observation)``.

    The policy reads the episodes from the environment itself; the observation is not used.

    Args:
        actor: the policy.
        version: returns a number that changes with the actor's weights.
        episodes: the environment's.
        single: whether an action is an int, for one row, or an array [N].
        drawing: the sampling options.
        generator: the source of the draws.
    """

    def __init__(
        self,
        actor: Actor,
        version: Callable[[], int],
        episodes: Episodes,
        single: bool,
        drawing: Drawing,
        generator: np.random.Generator,
    ) -> None:
        self._actor, self._version, self._episodes = actor, version, episodes
        self._single, self._drawing, self._generator = single, drawing, generator
        self._threads = fitting_threads(episodes.backbone, actor)
        self._rows = list(range(episodes.num_rows))
        self._attach()

    def _attach(self) -> None:
        self._logits, self._weights = attach(self._actor, self._episodes), self._version()

    @torch.no_grad()
    def __call__(self, observation: object = None, deterministic: bool = False) -> int | np.ndarray:
        """The action for the environment's current state, or of a vector environment one for each row, [N].

        Args:
            observation: not used.
            deterministic: take the likeliest action in place of a draw.

        Raises:
            gymnasium.error.ResetNeeded: before the environment's first reset.
        """
        for row in self._rows:
            if self._episodes.seed(row) is None:
                raise ResetNeeded(f"row {row} of the environment has not been reset: call env.reset() first")
        if self._weights != self._version():
            _compute_again(policy_session(self._episodes))
            self._attach()
        drawing: Drawing = {"temperature": 0.0} if deterministic else self._drawing
        with self._threads:
            logits = self._logits(self._rows)
            u = torch.from_numpy(self._generator.random(len(logits))).to(logits.device)
            actions: np.ndarray = sample(logits, u, **drawing)[0].cpu().numpy()
        return int(actions[0]) if self._single else actions
