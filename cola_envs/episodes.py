"""Step, save and restore many text episodes; no other code advances an episode.

Shapes: B rows of one call, T tokens of a row, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded

from cola_envs import prompts
from cola_envs.answers import Answers, OnTaskError
from cola_envs.backbone import Backbone, DeferringSession, Session
from cola_envs.checks import ActionCheck, Actions, check_rows, check_seeds, check_settings
from cola_envs.fields import Info
from cola_envs.infos import StepInfos
from cola_envs.order import order_of
from cola_envs.prompts import FormatName
from cola_envs.segments import StopStrings
from cola_envs.shots import Shots, read_shots
from cola_envs.spaces import masked
from cola_envs.state import Row, State
from cola_envs.task import ChecksState, TaskBatch, Turn
from cola_envs.text import largest_id, with_start_ids

Stepped = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, StepInfos]


class Episodes:
    """Text episodes in several rows over one language model, stepped together.

    A *segment* is what the agent writes until an id that ends a text (of the tokenizer or the model's
    configuration), a stop string of the task (part of the segment) or the end of its token budget. The
    finished segments of all rows, without the id that ended them, go to ``tasks.step`` in one call, and the
    tasks' texts are appended to the contexts.

    Episode end: ``Turn.done`` terminates. When the budget is spent, ``budget_end="terminate"`` grades the
    unfinished segment and terminates; ``"truncate"`` does not grade it and truncates. A full context
    truncates without grading, unless the same token ended the segment or the budget.

    Turns are checked (:mod:`cola_envs.contract`). If ``step`` of a task raises or returns an invalid turn,
    ``on_task_error="raise"`` raises the error, and ``"truncate"`` truncates the row's episode with reward 0,
    ``success`` False and the cause in ``info["error"]``; the other rows continue. An error of a TaskBatch's
    call counts for all rows of the call. Errors in ``reset`` are always raised.

    Args:
        backbone: the language model and its action space.
        tasks: the rows' tasks; this object closes them.
        num_rows: number of rows.
        max_tokens: the agent's tokens in a whole episode, end-of-sequence tokens included.
        budget_end: ``"terminate"`` or ``"truncate"``.
        world_temperature: 0 takes the world model's most probable token; above 0 the token is sampled from
            the row's own stream.
        observation: ``"hidden"`` or ``"features"`` (of Session's method of that name, [D] float32) or
            ``"tokens"`` (the row's ids, padded with -1, [context length] int32).
        prior_coef: adds ``prior_coef * log pi0(action | state)`` to every reward; pi0 is the frozen initial
            policy.
        on_task_error: ``"raise"`` or ``"truncate"``.
        prompt_format: ``"plain"``, ``"chat"``, or None for the model's default
            (:func:`cola_envs.prompts.prompt_format`).
        system: text in front of the conversation: the system message in the chat format.
        shots: worked examples in front of the prompt, or how many of the task's own
            (:func:`~cola_envs.shots.read_shots`).
        chat_template_kwargs: variables of the chat template, such as ``enable_thinking``.

    Raises:
        TypeError, ValueError: for an invalid argument.
    """

    def __init__(
        self,
        backbone: Backbone,
        tasks: TaskBatch,
        *,
        num_rows: int,
        max_tokens: int,
        budget_end: Literal["terminate", "truncate"] = "terminate",
        world_temperature: float = 0.0,
        observation: Literal["hidden", "features", "tokens"] = "hidden",
        prior_coef: float = 0.0,
        on_task_error: OnTaskError = "raise",
        prompt_format: FormatName | None = None,
        system: str | None = None,
        shots: Shots = (),
        chat_template_kwargs: Mapping[str, object] | None = None,
    ) -> None:
        check_settings(
            num_rows=num_rows,
            max_tokens=max_tokens,
            budget_end=budget_end,
            world_temperature=world_temperature,
            observation=observation,
            prior_coef=prior_coef,
            on_task_error=on_task_error,
        )
        self.backbone = backbone
        self.tasks = tasks
        self.num_rows = int(num_rows)
        self.max_tokens = int(max_tokens)
        self.budget_end = budget_end
        self.world_temperature = float(world_temperature)
        self.observation = observation
        self.prior_coef = float(prior_coef)
        self.on_task_error = on_task_error
        self._answers = Answers(tasks, on_task_error)
        self.session: Session = backbone.session(self.num_rows)
        self._draws = int(getattr(self.session, "draws", 1))
        if self._draws > self.max_tokens:
            raise ValueError(
                f"an action of this model writes up to {self._draws} tokens (its span), and an episode has "
                f"max_tokens={self.max_tokens}: raise max_tokens, or use a model with a shorter span"
            )
        self._deferring = self.session if isinstance(self.session, DeferringSession) else None
        self.action_mask = np.array(backbone.action_mask(), dtype=bool)
        self.action_space: gym.spaces.Discrete = masked(backbone.action_space, self.action_mask)
        self.check_actions = ActionCheck(self.action_space, self.action_mask)
        self.name_twin("the -Token-v0 id")
        self._observe: Callable[[Sequence[int]], np.ndarray] = (
            self._ids if observation == "tokens" else getattr(self.session, observation)
        )
        self.observation_space: gym.spaces.Box[Any]
        if observation == "tokens":
            last = largest_id(backbone.tokenizer)
            self.observation_space = gym.spaces.Box(-1, last, (self.session.max_length,), np.int32)
        else:
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, (backbone.hidden_size,), np.float32)
        self._stops = StopStrings(backbone.tokenizer, tasks.stop)
        self.format = prompts.prompt_format(
            backbone.tokenizer,
            prompt_format,
            system=system,
            shots=read_shots(shots, tasks),
            frame=getattr(tasks, "plain_frame", ("", "")),
            chat_template_kwargs=chat_template_kwargs,
        )
        self._rows: list[Row | None] = [None] * self.num_rows

    # ---------------------------------------------------------------- reading a row

    def tokens(self, row: int) -> list[int]:
        """Ids of the prompt and everything since, T of them."""
        return list(self._row(row).tokens)

    def origins(self, row: int) -> list[int]:
        """Per token the index of the step that produced it, or -1 for the prompt and task text."""
        return list(self._row(row).origins)

    def actions(self, row: int) -> list[int]:
        """The actions of the episode so far, one a step."""
        return list(self._row(row).actions)

    def num_steps(self, row: int) -> int:
        """The number of steps of the episode so far."""
        return len(self._row(row).actions)

    def tokens_left(self, row: int) -> int:
        """The number of tokens until the row's budget or context is full."""
        return self._row(row).left

    def prompt(self, row: int) -> str:
        """The row's prompt, the text that the task returned."""
        return self._row(row).prompt

    def prompt_length(self, row: int) -> int:
        """The number of the prompt's tokens, including those that every context begins with."""
        return self._row(row).prompt_length

    def seed(self, row: int) -> int | None:
        """The row seed of the episode; None before the row's first reset."""
        state = self._rows[row]
        return None if state is None else state.seed

    def problem_seed(self, row: int) -> int:
        """The seed of the row's problem; for problems played in order, the problem's place."""
        return self._row(row).problem_seed

    def running(self, row: int) -> bool:
        """Whether the row has been reset and its episode has not ended."""
        state = self._rows[row]
        return state is not None and state.running

    def observe(self, rows: Sequence[int]) -> np.ndarray:
        """The rows' current observations [B, ...], each in ``observation_space``, in a new array."""
        rows = self._check_rows(rows)
        for row in rows:
            self._row(row)
        return self._observed(rows)

    def final(self, rows: Sequence[int]) -> Callable[[], np.ndarray]:
        """Take the current observations of rows that are about to be reset.

        Returns:
            a function that returns them, [B, ...], to be called after a :meth:`deferred` block.
        """
        rows = self._check_rows(rows)
        if self._deferring is not None and self.observation != "tokens":
            return self._deferring.final(rows, self.observation)
        observations = self._observed(rows)
        return lambda: observations

    def _observed(self, rows: list[int], wanted: bool = True) -> np.ndarray:
        if not wanted:
            return np.empty((0, *self.observation_space.shape), self.observation_space.dtype)
        return np.asarray(self._observe(rows), dtype=self.observation_space.dtype)

    def _ids(self, rows: Sequence[int]) -> np.ndarray:
        """The rows' token ids, padded with -1, [B, context length] int32."""
        ids = np.full((len(rows), self.session.max_length), -1, dtype=np.int32)
        for i, row in enumerate(rows):
            tokens = self._row(row).tokens
            ids[i, : len(tokens)] = tokens
        return ids

    def reset_infos(self, rows: Sequence[int]) -> list[Info]:
        """The rows' ``info`` at the start of an episode: the task's, ``prompt`` and ``prompt_format``."""
        return [
            {
                **self._answers.fields(row, self._row(row).problem_seed),
                "prompt": self.prompt(row),
                "prompt_format": self.format.name,
            }
            for row in self._check_rows(rows)
        ]

    # ---------------------------------------------------------------- starting, saving, restoring

    def reset(
        self,
        rows: Sequence[int],
        seeds: Sequence[int],
        problem_seeds: Sequence[int | None] | None = None,
        *,
        observe: bool = True,
    ) -> np.ndarray:
        """Start an episode in each of ``rows``; a running episode there is dropped.

        Args:
            rows: B different row indices.
            seeds: B row seeds (integers >= 0), one for each row's sampling stream.
            problem_seeds: B seeds of the problems. None, for all or in the list, means the row seed, or the
                next problem if they are played in order (:class:`~cola_envs.order.Order`). Rows with equal
                problem seeds get the same problem.
            observe: False for no observations, [0, ...].

        Returns:
            Observations [B, D] float32, or [B, context length] int32 with ``observation="tokens"``.

        Raises:
            TypeError: for a prompt that is not a string.
            ValueError: for an invalid row or seed, a prompt that is empty or fills the context, or two
                prompts for one problem seed. ``rows`` must then be reset again; other rows are unchanged.
        """
        rows = self._check_rows(rows)
        seeds = check_seeds("seeds", seeds, len(rows))
        chosen = [None] * len(rows) if problem_seeds is None else list(problem_seeds)
        check_seeds("problem_seeds", [0 if seed is None else seed for seed in chosen], len(rows))
        self._halt(rows)
        prompts, problems = self._answers.begin(rows, seeds, chosen)
        fresh = [
            Row(self._encode_prompt(row, prompt), prompt, seed, problem)
            for row, prompt, seed, problem in zip(rows, prompts, seeds, problems, strict=True)
        ]
        return self._load(rows, fresh, observe)

    def restart_order(self) -> None:
        """Where problems are played in order, start again with the first; else do nothing."""
        order = order_of(self.tasks)
        if order is not None:
            order.restart()

    def snapshot(self, row: int) -> State:
        """The row's state, for :meth:`restore` into any row."""
        return self._row(row).to_state(self.tasks.snapshot(row), self.backbone.level)

    def restore(
        self,
        rows: Sequence[int],
        states: Sequence[State],
        reseed: Sequence[int] | None = None,
        *,
        observe: bool = True,
    ) -> np.ndarray:
        """Restore a state into each row; one state may be restored into several rows.

        Args:
            rows: B different row indices.
            states: B states from :meth:`snapshot` of any Episodes over the same model and task.
            reseed: B new row seeds: the rows keep their problem and text, and sample from new streams.
            observe: False for no observations, [0, ...].

        Returns:
            Observations, as from :meth:`reset`.

        Raises:
            TypeError: for something other than a :class:`State`.
            ValueError: for lengths that differ, or a state that does not fit this context, budget or task.
            RuntimeError: for a task that cannot be restored; if its replay gave other turns, all of ``rows``
                must be reset.
        """
        rows = self._check_rows(rows)
        if len(states) != len(rows):
            raise ValueError(f"restore got {len(rows)} rows and {len(states)} states; give one state a row")
        seeds = [None] * len(rows) if reseed is None else check_seeds("reseed", reseed, len(rows))
        for state in states:
            self._check_fits(state)
        self._halt(rows)
        for row, state in zip(rows, states, strict=True):
            self.tasks.restore(row, state.task)
        fresh = [Row.from_state(state, seed) for state, seed in zip(states, seeds, strict=True)]
        return self._load(rows, fresh, observe)

    def cut(self, rows: Sequence[int]) -> None:
        """End the rows' episodes without grading; they must be reset before the next step."""
        self._halt(self._check_rows(rows))

    def close(self) -> None:
        """Drop the rows and close the tasks. May be called more than once; ``reset`` still works after it."""
        self._rows = [None] * self.num_rows
        self.tasks.close()

    # ---------------------------------------------------------------- advancing

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block in which steps and resets of different rows share one forward pass.

        Step and reset with ``observe=False`` and call :meth:`observe` after them, in the block. A session
        that cannot defer its passes runs them as usual. A value that is not finite raises FloatingPointError
        in :meth:`observe` or at the end of the block; the rows of that pass must then be reset.
        """
        if self._deferring is None:
            yield
            return
        try:
            with self._deferring.deferred():
                yield
        except BaseException as error:
            rows = [row for row, state in enumerate(self._rows) if state is not None]
            self._halt([row for row in rows if self._deferring.tokens[row] != self._row(row).tokens])
            if isinstance(error, FloatingPointError) and hasattr(error, "row"):
                raise self._located(error, rows, ahead=0) from error
            raise

    def step(self, rows: Sequence[int], actions: Actions, *, observe: bool = True) -> Stepped:
        """Take one action in each of ``rows``.

        Args:
            rows: B different row indices, all running.
            actions: B integers.
            observe: False for no observations, [0, ...].

        Returns:
            Observations, as from :meth:`reset`, rewards [B] float64, terminated [B] bool, truncated [B] bool
            and B infos: ``token`` (the first id), ``tokens`` (a tuple, if the action gave several) and
            ``action``; after a finished segment also ``Turn.info``; at an episode's end also ``text`` (all of
            the agent's text), ``success``, ``num_tokens`` and ``tasks.info(row)``.

        Raises:
            gymnasium.error.ResetNeeded: for a row that is not running.
            gymnasium.error.InvalidAction: for an action of the wrong type, out of range, or not allowed.
                Both are raised before anything changes.
            FloatingPointError: if the model gives NaN or infinite values, with row, token and step.
            TypeError, ValueError: with ``on_task_error="raise"``, for an invalid turn, with row, problem,
                field and value.
        """
        rows = self._check_rows(rows)
        states = [self._row(row) for row in rows]
        for row, state in zip(rows, states, strict=True):
            if not state.running:
                raise ResetNeeded(f"the episode in row {row} is over; call reset() to start the next one")
        codes = self.check_actions(actions, len(rows))
        taken = np.array(codes, dtype=np.int64)
        try:
            prior = self.session.prior(rows)[np.arange(len(rows)), taken] if self.prior_coef else None
            u = None if self.world_temperature == 0.0 else self._uniforms(states)
            decoded = self.session.decode(rows, taken, u, self.world_temperature)
        except FloatingPointError as error:
            raise self._located(error, rows, ahead=1) from error
        try:
            ids = decoded.tokens
            chunks = ids.tolist() if isinstance(ids, np.ndarray) else [chunk.tolist() for chunk in ids]
            result = self._advance(rows, states, codes, chunks, observe)
        except BaseException as error:
            self._halt(rows)  # task, tokens and cache may now disagree
            if isinstance(error, FloatingPointError):
                raise self._located(error, rows, ahead=0) from error
            raise
        if prior is not None:
            np.add(result[1], self.prior_coef * prior, out=result[1])
        return result

    def are_plain(self, rows: Sequence[int], tokens: np.ndarray) -> np.ndarray:
        """Which of the rows' next tokens are known to end no segment, no budget and no context.

        Args:
            rows: B different row indices, all running.
            tokens: the ids of the next K steps of each row, one a step, [K, B].

        Returns:
            [K, B] bool.
        """
        left = np.array([self._row(row).left for row in rows])
        known: np.ndarray = self._stops.are_plain(tokens)
        return known & (np.arange(len(tokens))[:, None] < left - 1)

    def follow(self, rows: Sequence[int], actions: Sequence[list[int]], tokens: Sequence[list[int]]) -> None:
        """Take steps that were decoded already and are plain (:meth:`are_plain`), several in each row.

        They are those that :meth:`step` would take one by one. Their rewards are 0.

        Args:
            rows: B different row indices, all running.
            actions, tokens: of each row the actions of its next steps, and their ids, one a step.
        """
        for row, codes, ids in zip(rows, actions, tokens, strict=True):
            state = self._row(row)
            state.origins += range(len(state.actions), len(state.actions) + len(codes))
            state.tokens += ids
            state.actions += codes
            state.left -= len(ids)
        self.session.extend(rows, tokens)

    def _uniforms(self, states: list[Row]) -> np.ndarray:
        """A number from each row's stream, [B]; of actions that give up to k tokens k numbers, [B, k]."""
        if self._draws == 1:
            return np.array([state.draw() for state in states])
        return np.array([[state.draw() for _ in range(self._draws)] for state in states])

    def _advance(
        self, rows: list[int], states: list[Row], codes: list[int], chunks: list[list[int]], observe: bool
    ) -> Stepped:
        rewards = np.zeros(len(rows))
        terminated = np.zeros(len(rows), dtype=bool)
        truncated = np.zeros(len(rows), dtype=bool)
        for row, ids in zip(rows, chunks, strict=True):
            if not ids:
                raise ValueError(f"the session decoded the action of row {row} into no token")
        infos = StepInfos(np.array([ids[0] for ids in chunks]), np.array(codes))
        whole = infos.whole
        graded: list[int] = []
        texts: list[str] = []
        plain = self._stops.plain
        for i, (state, code, ids) in enumerate(zip(states, codes, chunks, strict=True)):
            if len(ids) == 1 and state.left > 1 and ids[0] in plain:
                state.tokens.append(ids[0])
                state.origins.append(len(state.actions))
                state.left -= 1
            else:
                chunks[i], ended, text = self._append(state, ids)
                if len(chunks[i]) > 1 or ended:
                    whole[i] = {"token": chunks[i][0], "action": code}
                if len(chunks[i]) > 1:
                    whole[i]["tokens"] = tuple(chunks[i])
                if ended and text is None:
                    truncated[i] = True
                    self._finish(rows[i], state, whole[i], self._segment(state), None)
                elif text is not None:
                    graded.append(i)
                    texts.append(text)
            state.actions.append(code)
        if graded:
            problems = [states[i].problem_seed for i in graded]
            turns = self._answers.turns([rows[i] for i in graded], problems, texts)
            for i, text, turn in zip(graded, texts, turns, strict=True):
                rewards[i], terminated[i], truncated[i] = self._answer(
                    rows[i], states[i], whole[i], chunks[i], text, turn
                )
        self.session.extend(rows, chunks)
        return self._observed(rows, observe), rewards, terminated, truncated, infos

    def _append(self, state: Row, ids: list[int]) -> tuple[list[int], bool, str | None]:
        """Append ids up to the one that ends the segment, the budget or the context.

        Returns the ids that were kept, whether anything ended, and the segment's text if it is graded.
        """
        for count, token in enumerate(ids, 1):
            text = self._segment(state) if token in self.format.end_ids else None  # without the token itself
            state.tokens.append(token)
            state.origins.append(len(state.actions))
            state.left -= 1
            if text is None:
                text = self._stops.ended(token, state.tokens, state.segment_start)
            if text is None and state.left == 0 and self._spent(state) and self.budget_end == "terminate":
                text = self._segment(state)
            if text is not None or state.left == 0:
                return ids[:count], True, text
        return ids, False, None

    def _answer(
        self, row: int, state: Row, info: Info, chunk: list[int], text: str, turn: Turn
    ) -> tuple[float, bool, bool]:
        """Append a turn's text to ``chunk`` and the row; return reward, terminated and truncated."""
        ids = self.format.next(turn.text, state.tokens, turn.done or turn.truncated)
        fits = len(state.tokens) + len(ids) <= self.session.max_length
        if fits:
            chunk.extend(ids)
            state.tokens.extend(ids)
            state.origins.extend([-1] * len(ids))
        self._count_left(state)
        spent = self._spent(state)
        terminated = not turn.truncated and (turn.done or (spent and self.budget_end == "terminate"))
        truncated = not terminated and (turn.truncated or spent or not fits or state.left == 0)
        for key, value in turn.info.items():
            info.setdefault(key, value)
        if terminated or truncated:
            self._finish(row, state, info, text, turn)
        else:
            state.segments.append(text)
            state.segment_start = len(state.tokens)
        return turn.reward, terminated, truncated

    def _finish(self, row: int, state: Row, info: Info, text: str, turn: Turn | None) -> None:
        """End the row's episode and add the fields of its end to ``info``."""
        state.segments.append(text)
        state.running = False
        paid = turn is not None and turn.done and not turn.truncated and turn.reward > 0
        won = turn is not None and turn.info.get("success", paid)
        info.update(text="".join(state.segments), success=won, num_tokens=state.num_tokens)
        for key, value in self._answers.last_fields(row, state.problem_seed).items():
            info.setdefault(key, value)

    # ---------------------------------------------------------------- helpers

    def name_twin(self, token_id: str) -> None:
        """Set the environment id that takes token ids, for the error about a latent action out of range."""
        if self.backbone.level == "latent":
            self.check_actions.hint = f"; is this a token id? Use {token_id}."

    def _segment(self, state: Row) -> str:
        return self.backbone.tokenizer.decode(state.tokens[state.segment_start :])

    def _spent(self, state: Row) -> bool:
        return state.num_tokens >= self.max_tokens

    def _count_left(self, state: Row) -> None:
        state.left = min(self.max_tokens - state.num_tokens, self.session.max_length - len(state.tokens))

    def _load(self, rows: list[int], fresh: list[Row], observe: bool = True) -> np.ndarray:
        self.session.load(rows, [tuple(state.tokens) for state in fresh])
        for row, state in zip(rows, fresh, strict=True):
            self._count_left(state)
            self._rows[row] = state
        return self._observed(rows, observe)

    def _halt(self, rows: list[int]) -> None:
        """Mark rows as not running, so that they cannot be stepped until they are loaded again."""
        for row in rows:
            state = self._rows[row]
            if state is not None:
                state.running = False

    def _row(self, row: int) -> Row:
        state = self._rows[row]
        if state is None:
            raise ResetNeeded(f"row {row} has not been reset yet; call reset() first")
        return state

    def _check_rows(self, rows: Sequence[int]) -> list[int]:
        return check_rows(list(rows), self.num_rows)

    def _located(self, error: FloatingPointError, rows: list[int], ahead: int) -> FloatingPointError:
        """``error`` with the step number (from 1) of the row that it names, or of all rows.

        One about a text that the row does not hold any more (attribute ``left``) names no step.
        """
        if getattr(error, "left", False):
            return FloatingPointError(str(error))
        error_row = getattr(error, "row", None)
        steps = {row: len(self.actions(row)) + ahead for row in rows if error_row in (None, row)}
        where = ", ".join(f"step {step} of row {row}" for row, step in steps.items())
        return FloatingPointError(f"{error} (at {where})")

    def _encode_prompt(self, row: int, prompt: str) -> list[int]:
        ids = self.format.first(prompt)
        limit = self.session.max_length
        if not ids:
            raise ValueError(f"the prompt of row {row} has no tokens; a task must return a non-empty text")
        ids = with_start_ids(self.backbone.tokenizer, ids)
        if len(ids) >= limit:
            raise ValueError(
                f"the prompt of row {row} has {len(ids)} tokens and the context holds {limit}, which leaves "
                "none for the agent; use a shorter prompt, fewer worked examples (shots=), a shorter system "
                "text, or a model with a longer context"
            )
        return ids

    def _check_fits(self, state: State) -> None:
        if not isinstance(state, State):
            raise TypeError(f"restore takes what snapshot returned, got {state!r}")
        if state.level not in ("", self.backbone.level):
            raise ValueError(
                f"the state's actions are of the {state.level} level, and this environment's of the "
                f"{self.backbone.level} level: restore it into an environment of the same id"
            )
        limit = self.session.max_length
        if len(state.tokens) + state.running > limit:
            raise ValueError(f"the state has {len(state.tokens)} tokens and the context holds {limit}")
        if state.running and state.num_tokens >= self.max_tokens:
            raise ValueError(
                f"the state has spent {state.num_tokens} tokens and max_tokens is {self.max_tokens} here"
            )
        if isinstance(self.tasks, ChecksState):
            self.tasks.check_state(state.task)
