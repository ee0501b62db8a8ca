"""One text episode as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from cola_envs.build import (
    SINGLE_RENDER_MODES,
    build_episodes,
    check_render_mode,
    repeatable,
    resolved_spec,
    twin_id,
)
from cola_envs.checks import ArgumentError, Options, check_options
from cola_envs.episodes import Episodes
from cola_envs.fields import Info
from cola_envs.page.log import EpisodeLog, Words
from cola_envs.page.write import page
from cola_envs.pickling import recipe
from cola_envs.render import frame, transcript
from cola_envs.state import State, next_seed


class CoLAEnv(gym.Env[np.ndarray, np.int64]):
    """A language model writes text, a token or several for each action, and a task rewards it.

    ## Action space
    ``Discrete(A)``: the codes of a latent-action model, or at token level (``-Token-v0``) the vocabulary.
    :meth:`action_masks` returns the allowed actions; any other is an error.

    ## Observation space
    With ``observation="hidden"`` the language model's last normed hidden state at the last token, with
    ``"features"`` the last hidden state of the frozen cloned policy there: ``Box(-inf, inf, (D,), float32)``.
    Both are features of the context, not a Markov state. With ``"tokens"`` the whole history, the ids of
    prompt and text padded with -1: ``Box(-1, V - 1, (context length,), int32)``.

    ## Rewards
    The task's reward at the end of each segment, 0 at the other steps. ``prior_coef`` adds
    ``prior_coef * log pi0(action | state)`` to every step.

    ## Episode end
    Terminated: the task ends the episode, or the token budget is spent and ``budget_end="terminate"``.
    Truncated: the budget is spent and ``budget_end="truncate"``, the context is full, or the task failed and
    ``on_task_error="truncate"``.

    ## Info
    At reset: ``prompt`` and the task's fields. Every step: ``token``, ``action``. At the end: ``text``,
    ``success``, ``num_tokens`` and the task's fields; also ``error`` (the cause) if a failing task truncated
    the episode. A field has one type in every episode.

    ## Reset
    ``seed`` determines the problem and the sampling. Without it, the seed follows from the last episode's.
    ``options={"problem_seed": int}`` draws the problem from a seed of its own.

    With a task's ``sequential=True``, a reset without ``seed`` takes the next problem of the set, and one
    with ``seed`` the first: it starts the order again. A problem seed is then a problem's place in the set.
    Snapshots do not hold the place: after :meth:`restore` the next problem is the one that would have come
    without it.

    ## Arguments
    See :func:`cola_envs.build.build_episodes`. ``render_mode`` is None, ``"ansi"`` (:meth:`render` returns
    the text so far with the action behind each token), ``"human"`` (the same, printed as it is written, each
    character when it is whole), ``"rgb_array"`` (a frame, [480, 640, 3] uint8, with a text colour for each
    action) or ``"html"``
    (:meth:`render` returns an HTML page that also shows the tokens that the other actions would have given;
    every step then computes them all).

    ## Pickling
    A pickle holds the arguments and the spec. Loading it makes a new environment, loads a model that was
    passed by name, and needs a reset. To keep a running episode, use :meth:`snapshot`.

    ## Version history
    v0: first release.
    """

    metadata = {"render_modes": ["ansi", "human", "rgb_array", "html"], "render_fps": 30}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(self, *, render_mode: str | None = None, **settings: Any) -> None:
        self.render_mode = check_render_mode(render_mode, SINGLE_RENDER_MODES)
        try:
            self._settings = repeatable(settings)
            self.episodes: Episodes = build_episodes(1, **self._settings)
        except ArgumentError:
            raise
        except TypeError as error:
            raise ArgumentError(str(error)) from error
        self.action_space = self.episodes.action_space
        self.observation_space = self.episodes.observation_space
        self._spec: EnvSpec | None = None
        self._shown = ""
        self._log: EpisodeLog | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return recipe(self, self._settings, render_mode=self.render_mode)

    @property
    def spec(self) -> EnvSpec | None:
        """Gymnasium's spec to make this environment again, with the loaded model in its arguments."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = resolved_spec(spec, self.episodes, self._settings)
        if spec is not None:
            self.episodes.name_twin(twin_id(spec.id))

    def reset(self, *, seed: int | None = None, options: Options | None = None) -> tuple[np.ndarray, Info]:
        seed = int(seed) if isinstance(seed, np.integer) else seed
        super().reset(seed=seed)
        options = check_options(options, ("problem_seed",))
        last = self.episodes.seed(0)
        if seed is not None:
            self.episodes.restart_order()
        if seed is None:
            seed = int(self.np_random.integers(2**53)) if last is None else next_seed(last)
        observation = self.episodes.reset([0], [seed], [options.get("problem_seed")])[0]
        self._shown = ""
        if self.render_mode == "html":
            self._log = EpisodeLog(self.episodes, 0, Words())
        self._print_news()
        return observation, self.episodes.reset_infos([0])[0]

    def step(self, action: int | np.integer) -> tuple[np.ndarray, float, bool, bool, Info]:
        if self._log is not None and self.episodes.running(0):
            self._log.look(action)
        observations, rewards, terminated, truncated, infos = self.episodes.step([0], [action])
        if self._log is not None:
            self._log.paid(float(rewards[0]), bool(terminated[0]), bool(truncated[0]), infos[0])
        self._print_news()
        return observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), infos[0]

    def action_masks(self) -> np.ndarray:
        """The allowed actions, [A] bool."""
        return self.episodes.action_mask.copy()

    def snapshot(self) -> State:
        """The state of the episode, for :meth:`restore`."""
        return self.episodes.snapshot(0)

    def restore(self, state: State, reseed: int | None = None) -> np.ndarray:
        """Restore a snapshot and return its observation [D]; ``reseed`` starts a new sampling stream.

        Human mode goes on in a new line, and prints what is written after the snapshot.
        """
        running = self.episodes.running(0)
        observation: np.ndarray = self.episodes.restore([0], [state], None if reseed is None else [reseed])[0]
        if self.render_mode == "html":
            self._log = self._log or EpisodeLog(self.episodes, 0, Words())
            self._log.rewound()
        if self.render_mode == "human":
            print(end="\n" if running else "", flush=True)
            self._shown = transcript(self.episodes, 0, settled=True)
        return observation

    def render(self) -> str | np.ndarray | None:
        """The text so far with the action behind each token: as text, printed, as a frame or as a page.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset.
            ValueError: for a page that is too large; see :func:`cola_envs.page.write.page`.
            ImportError: for a frame without Pillow or Matplotlib.
        """
        if self.render_mode is None:
            modes = " or ".join(f'"{mode}"' for mode in SINGLE_RENDER_MODES)
            gym.logger.warn(f"render() needs gym.make(..., render_mode=...), {modes}")
            return None
        if self._log is not None:
            name = self._spec.id if self._spec is not None else type(self).__name__
            return page(
                {
                    "title": name,
                    "about": [["model", self.episodes.backbone.fingerprint[:12]]],
                    "words": self._log.words.texts,
                    "episodes": [self._log.as_dict(f"problem {self.episodes.problem_seed(0)}")],
                }
            )
        if self.render_mode == "rgb_array":
            return frame(self.episodes, 0)
        text = transcript(self.episodes, 0)
        if self.render_mode == "human":
            print(text)
            return None
        return text

    def close(self) -> None:
        self.episodes.close()

    def _print_news(self) -> None:
        """In human mode, print the text written since the last call."""
        if self.render_mode != "human":
            return
        text = transcript(self.episodes, 0, settled=True)
        news = text.removeprefix(self._shown)
        print(news, end="" if self.episodes.running(0) else "\n", flush=True)
        self._shown = text
