"""Many text episodes as a Gymnasium vector environment, with one batched forward pass for each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from cola_envs.build import build_episodes, check_render_mode, repeatable, resolved_spec, twin_id
from cola_envs.checks import Actions, Options, check_count, check_list, check_options, check_rows
from cola_envs.episodes import Episodes, Stepped
from cola_envs.fields import Info
from cola_envs.infos import Batched, StepInfos, batch_infos
from cola_envs.pickling import recipe
from cola_envs.render import frame, transcript
from cola_envs.state import State, next_seed

Seeds = int | Sequence[int | None] | None


@dataclass
class RowStep:
    """A step of N rows with an info for each row; see :meth:`CoLAVectorEnv.step_rows`.

    Attributes:
        observations: [N, ...].
        rewards: [N] float64.
        terminated, truncated: [N] bool.
        infos: one a row, some made anew whenever they are read; with same-step autoreset, of an ended row
            that of its next episode's start.
        final_infos, final_observations: by ended row, with same-step autoreset.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: Sequence[Info]
    final_infos: dict[int, Info] = field(default_factory=dict)
    final_observations: dict[int, Any] = field(default_factory=dict)

    @property
    def batched_infos(self) -> Batched:
        """All infos in Gymnasium's format for vector environments."""
        count = len(self.infos)
        infos = self.infos
        batched = infos.batched() if isinstance(infos, StepInfos) else batch_infos(count, range(count), infos)
        if self.final_infos:
            ended = list(self.final_infos)
            final = np.full(count, None, dtype=object)
            for row, observation in self.final_observations.items():
                final[row] = observation
            mask = np.zeros(count, dtype=bool)
            mask[ended] = True
            final_info = batch_infos(count, ended, list(self.final_infos.values()))
            batched.update(final_obs=final, _final_obs=mask, final_info=final_info, _final_info=mask.copy())
        return batched


class CoLAVectorEnv(gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """``num_envs`` rows of :class:`~cola_envs.env.CoLAEnv`, with the same spaces, rewards and ends.

    A row's trajectory depends only on its seed and actions, and equals that of ``CoLAEnv``.

    Args:
        num_envs: number of rows.
        autoreset_mode: ``"next_step"``, Gymnasium's default (the step after the end ignores the row's action
            and resets it), ``"same_step"`` (the step that ends an episode returns the next one's first
            observation; the last one is in ``info["final_obs"]``, the end's fields in
            ``info["final_info"]``) or ``"disabled"`` (reset ended rows with ``options={"reset_mask": ...}``).
            In every mode rows that an error of a task stopped must be reset.
        render_mode: None, ``"ansi"``, ``"human"`` (episodes are printed when they end) or ``"rgb_array"``.
        max_episode_steps: truncates an episode after this number of steps, as Gymnasium's TimeLimit does for
            a single environment: the unfinished segment is not graded, and ``info`` is that of the step.
            None or -1 for no limit. (``max_tokens`` with ``budget_end="truncate"`` also truncates, and adds
            the fields of an episode's end.)
        settings: as in ``CoLAEnv``.

    Pickling works as for ``CoLAEnv``. ``close`` ends the task's processes; ``reset`` and
    ``restore`` start them again.
    """

    metadata = {  # noqa: RUF012 (Gymnasium's own form)
        "render_modes": ["ansi", "human", "rgb_array"],
        "render_fps": 30,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **settings: Any,
    ) -> None:
        self.render_mode = check_render_mode(render_mode)
        self.max_episode_steps = _step_limit(max_episode_steps)
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self._settings = repeatable(settings)
        self.episodes: Episodes = build_episodes(check_count("num_envs", num_envs), **self._settings)
        self.num_envs = self.episodes.num_rows
        self.single_action_space = self.episodes.action_space
        self.single_observation_space = self.episodes.observation_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._all = list(range(self.num_envs))
        #: Rows whose end a step has told, which the next one resets (next-step autoreset).
        self._over: set[int] = set()
        self._spec: EnvSpec | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return recipe(
            self,
            self._settings,
            num_envs=self.num_envs,
            autoreset_mode=self.autoreset_mode,
            render_mode=self.render_mode,
            max_episode_steps=self.max_episode_steps,
        )

    @property
    def spec(self) -> EnvSpec | None:
        """Gymnasium's spec to make this environment again, with the loaded model in its arguments."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = resolved_spec(spec, self.episodes, self._settings)
        if spec is not None:
            self.episodes.name_twin(twin_id(spec.id))

    def reset(self, *, seed: Seeds = None, options: Options | None = None) -> tuple[np.ndarray, Batched]:
        """Start an episode in every row, or in those of ``reset_mask``; those that run there are dropped.

        With a task's ``sequential=True`` the rows of a reset take the next problems of the set, in their
        order; a reset that gives each of its rows a seed starts the order again, so that its first row has
        the set's first problem.

        Args:
            seed: an int s gives row i the seed s + i; a list gives one seed (an integer >= 0, or None) for
                each row. None continues from the row's last episode; before the first it is random.
            options: ``problem_seed``, one int for all rows, which gives all the same problem, or a list;
                ``reset_mask`` ([N] bool), the rows to reset.

        Returns:
            the observations of all rows ([N, D] float32, or [N, context length] int32 with
            ``observation="tokens"``), and ``infos`` of those that were reset: Gymnasium's dict of arrays
            [N], each with a mask ``_name`` [N] bool.

        Raises:
            gymnasium.error.ResetNeeded: for a mask that leaves out a row that was never reset.
            gymnasium.error.Error: for a single seed below 0.
            TypeError, ValueError: for other seeds or options, or a prompt that is no text, is empty or fills
                the context. An error of the task's ``reset`` is raised as it is.
        """
        options = check_options(options, ("problem_seed", "reset_mask"))
        rows = self._masked_rows(options.get("reset_mask"))
        if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
            super().reset(seed=int(seed))
        seeds = self.row_seeds(seed)
        problem = options.get("problem_seed")
        group = isinstance(problem, (int, np.integer))
        problems = self._each("problem_seed", [problem] * self.num_envs if group else problem)
        self.closed = False  # or the next close() would do nothing, and leave the task's processes
        chosen = [self._seed(row, seeds[row]) for row in rows]
        if all(seeds[row] is not None for row in rows):
            self.episodes.restart_order()
        self._over -= set(rows)  # also if the reset fails: such rows must be reset again
        self.episodes.reset(rows, chosen, [problems[row] for row in rows], observe=False)
        return self._observe(self._all), batch_infos(self.num_envs, rows, self.episodes.reset_infos(rows))

    def step(self, actions: Actions) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Batched]:
        """Take one action in each row, with autoreset as ``autoreset_mode`` says.

        Args:
            actions: [N] integers from 0 to A - 1. With ``autoreset_mode="next_step"`` that of a row whose
                episode has ended is ignored.

        Returns:
            the observations of all rows, as from :meth:`reset`, rewards [N] float64, terminated and
            truncated [N] bool, and ``infos``.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset; with ``autoreset_mode="disabled"`` also for
                a row whose episode has ended.
            gymnasium.error.InvalidAction: for an action of the wrong type, out of range or not allowed, or
                another number of them. After either error nothing has changed.
            FloatingPointError: if the model gives NaN or infinite values.
            TypeError, ValueError: with ``on_task_error="raise"``, for an invalid turn. Then an error of the
                task's ``step`` is raised, too.
        """
        step = self.step_rows(actions)
        return step.observations, step.rewards, step.terminated, step.truncated, step.batched_infos

    def step_rows(self, actions: Actions) -> RowStep:
        """:meth:`step` with an info for each row, without joining them and taking them apart again.

        Gymnasium's wrappers around this environment do not see it.
        """
        # Rows that are reset share the forward pass of those that step.
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            with self.episodes.deferred():
                return self._step_and_start(actions)
        # Other rows that do not run were stopped by an error: an end that no step has told.
        over = sorted(row for row in self._over if not self.episodes.running(row))
        if over:
            with self.episodes.deferred():
                step = self._step_some(actions, over)
        else:
            step = RowStep(*self._stepped(self._all, actions))
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            self._over = set(np.flatnonzero(step.terminated | step.truncated).tolist())
        return step

    def _step_and_start(self, actions: Actions) -> RowStep:
        """A step with same-step autoreset: rows that end are reset."""
        _, rewards, terminated, truncated, infos = self._stepped(self._all, actions, observe=False)
        ended = np.flatnonzero(terminated | truncated).tolist()
        if not ended:
            return RowStep(self._observe(self._all), rewards, terminated, truncated, infos)
        last = self._final(ended)
        final_infos = {row: infos[row] for row in ended}
        self._start(ended)
        observations = self._observe(self._all)
        infos.whole.update(zip(ended, self.episodes.reset_infos(ended), strict=True))
        final_observations = dict(zip(ended, last(), strict=True))
        return RowStep(observations, rewards, terminated, truncated, infos, final_infos, final_observations)

    def _step_some(self, actions: Actions, over: list[int]) -> RowStep:
        """A step with next-step autoreset: rows in ``over`` are reset, the others take their action."""
        if not hasattr(actions, "__len__") or len(actions) != self.num_envs:
            self.episodes.check_actions(actions, self.num_envs)  # raises: there must be an action a row
        starting = set(over)
        live = [row for row in self._all if row not in starting]
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, dtype=bool)
        truncated = np.zeros(self.num_envs, dtype=bool)
        infos = StepInfos(*np.zeros((2, self.num_envs), dtype=np.int64))
        if live:
            taken = actions[live] if isinstance(actions, np.ndarray) else [actions[row] for row in live]
            stepped = self._stepped(live, taken, observe=False)
            rewards[live], terminated[live], truncated[live] = stepped[1:4]
            taken_infos = stepped[4]
            infos.tokens[live], infos.actions[live] = taken_infos.tokens, taken_infos.actions
            infos.whole.update((live[i], info) for i, info in taken_infos.whole.items())
        self._start(over)
        infos.whole.update(zip(over, self.episodes.reset_infos(over), strict=True))
        return RowStep(self._observe(self._all), rewards, terminated, truncated, infos)

    def _stepped(self, rows: list[int], actions: Actions, *, observe: bool = True) -> Stepped:
        """A step of Episodes that truncates rows at ``max_episode_steps``; human mode prints ended rows."""
        stepped = self.episodes.step(rows, actions, observe=observe)
        if self.max_episode_steps is not None:
            late = [i for i, row in enumerate(rows) if self.episodes.num_steps(row) >= self.max_episode_steps]
            if late:
                stepped[3][late] = True
                self.episodes.cut([rows[i] for i in late])
        if self.render_mode == "human":
            self._print([row for row in rows if not self.episodes.running(row)])
        return stepped

    def _observe(self, rows: list[int]) -> np.ndarray:
        """The rows' observations [B, ...]."""
        return self.episodes.observe(rows)

    def _final(self, rows: list[int]) -> Callable[[], Iterable[Any]]:
        """The observations of rows that are about to be reset; see :meth:`.Episodes.final`."""
        return self.episodes.final(rows)

    def action_masks(self) -> np.ndarray:
        """The allowed actions, [N, A] bool."""
        return np.tile(self.episodes.action_mask, (self.num_envs, 1))

    def snapshot(self, rows: Sequence[int] | None = None) -> list[State]:
        """The states of the episodes in ``rows`` (all, if None), for :meth:`restore`."""
        chosen = self._all
        if rows is not None:  # a row may be named more than once
            named = check_list("rows", rows, "a list of rows, or None for all")
            chosen = [check_rows([row], self.num_envs)[0] for row in named]
        return [self.episodes.snapshot(row) for row in chosen]

    def restore(
        self,
        states: Sequence[State],
        rows: Sequence[int] | None = None,
        reseed: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Restore snapshots into ``rows`` (all, if None) and return the observations of these rows.

        They are as from :meth:`reset`. ``reseed``, one seed for each row, starts new sampling streams.

        Raises:
            TypeError, ValueError, RuntimeError: as :meth:`.Episodes.restore`.
        """
        states = check_list("states", states, "a list with a state of snapshot() for each row")
        self.closed = False
        chosen = self._all if rows is None else check_rows(rows, self.num_envs)
        try:
            self.episodes.restore(chosen, states, reseed, observe=False)
        except RuntimeError:  # the rows must be reset again
            self._over -= set(chosen)
            raise
        self._over -= set(chosen)
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            self._over |= {row for row in chosen if not self.episodes.running(row)}
        return self._observe(chosen)

    def render(self) -> tuple[str | np.ndarray, ...] | None:
        """Each row's text with the action behind each token, or a frame of it; human mode prints it."""
        if self.render_mode is None:
            gym.logger.warn('render() needs gym.make_vec(..., render_mode="ansi") or render_mode="human"')
            return None
        if self.render_mode == "human":
            self._print(self._all)
            return None
        if self.render_mode == "rgb_array":
            return tuple(frame(self.episodes, row) for row in self._all)
        return tuple(transcript(self.episodes, row) for row in self._all)

    def close_extras(self, **kwargs: Any) -> None:
        self._over.clear()
        self.episodes.close()

    def _print(self, rows: Sequence[int]) -> None:
        for row in rows:
            print(f"[row {row}] {transcript(self.episodes, row)}", flush=True)

    def _start(self, rows: list[int]) -> None:
        """Start the next episodes in a step; an error stops the other rows too, whose step nobody is told."""
        try:
            self.episodes.reset(rows, [self._seed(row, None) for row in rows], observe=False)
        except BaseException:
            self.episodes.cut(self._all)
            raise

    def _seed(self, row: int, seed: int | None) -> int:
        """``seed``, or the one that follows the row's last; other rows have no influence on it."""
        if seed is not None:
            return seed
        last = self.episodes.seed(row)
        return int(self.np_random.integers(2**53)) if last is None else next_seed(last)

    def row_seeds(self, seed: Seeds) -> list[int | None]:
        """The seed of each row, N of them, as :meth:`reset` takes them: an int s gives row i the seed s + i.

        Raises:
            TypeError, ValueError: for anything but None, an integer, or a list with one value for each row.
        """
        if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
            seed = [int(seed) + row for row in self._all]
        return self._each("seed", seed)

    def _each(self, name: str, values: object) -> list[int | None]:
        """``values`` as a list with one entry for each row, None by default."""
        if values is None:
            return [None] * self.num_envs
        values = check_list(name, values, "an integer or a list with one value for each environment")
        if len(values) != self.num_envs:
            raise ValueError(
                f"{name} must hold one value for each environment: got {len(values)} for {self.num_envs}"
            )
        return values

    def _masked_rows(self, mask: object) -> list[int]:
        """The rows selected by ``reset_mask``, checked by Gymnasium's rules; all rows without a mask."""
        if mask is None:
            return self._all
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"options['reset_mask'] must be a numpy array of bool, got {mask!r}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must have shape ({self.num_envs},) and hold a True, got {mask!r}"
            )
        rows: list[int] = np.flatnonzero(mask).tolist()
        for row in self._all:
            if not mask[row] and self.episodes.seed(row) is None:
                raise ResetNeeded(f"row {row} has never been reset: the first reset must cover every row")
        return rows


def _step_limit(steps: int | None) -> int | None:
    if steps is None or steps == -1:
        return None
    if isinstance(steps, bool) or not isinstance(steps, (int, np.integer)):
        raise TypeError(f"max_episode_steps must be an integer, -1 or None (no limit), got {steps!r}")
    if steps < 1:
        raise ValueError(f"max_episode_steps must be at least 1, or -1 or None (no limit), got {steps}")
    return int(steps)


def _autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    if isinstance(mode, AutoresetMode):
        return mode
    for allowed in AutoresetMode:
        if mode in (allowed.value, allowed.name.lower()):
            return allowed
    names = ", ".join(repr(allowed.name.lower()) for allowed in AutoresetMode)
    raise ValueError(f"autoreset_mode must be one of {names}, got {mode!r}")
