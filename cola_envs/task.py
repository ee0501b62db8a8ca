"""The interface of a task: text in, text and reward out.

A task never sees a token, an action or a tensor. It returns a prompt, receives each finished segment of the
agent's text, and returns a :class:`Turn`. Everything else (tokens, codes, budgets, caches) belongs to
:mod:`cola_envs.episodes`.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast, runtime_checkable

import numpy as np

from cola_envs.checks import check_count, check_stop
from cola_envs.fields import Info

#: A text of a task, and an answer to it.
Exchange = tuple[str, str]
#: A solved problem: the prompt and its answer, or all texts and answers of a task of several turns.
WorkedExample = Exchange | Sequence[Exchange]


@dataclass(frozen=True)
class Turn:
    """A task's response to one finished segment: text, reward, and whether the episode ends.

    Attributes:
        text: the environment's next text, appended to the context.
        reward: for the segment; a finite number.
        done: whether the episode is over by the task's rules (Gymnasium's ``terminated``). It is unless the
            task says ``done=False``, as one of several turns must.
        truncated: the episode is cut short for another reason (an engine that failed, a limit of commands):
            Gymnasium's ``truncated``, for either value of ``done``.
        info: the task's fields, by name. A field has one type in all episodes (for example ``""``, not None,
            where a text is missing), because Gymnasium's vector environments make arrays of them. All loggers
            read ``success`` (bool). If the last turn of an episode has none, it is True where that turn is
            ``done``, not ``truncated``, and has a reward above 0. The names that an episode writes itself
            (:data:`cola_envs.fields.EPISODES`, such as ``text``) are refused.

    :mod:`cola_envs.contract` checks these types when the turn reaches an episode.
    """

    text: str = ""
    reward: float = 0.0
    done: bool = True
    truncated: bool = False
    info: Info = field(default_factory=dict)


@runtime_checkable
class Task(Protocol):
    """A task for one row: the interface to implement for a new task.

    ``stop`` holds the strings that end a segment, besides the model's end-of-text tokens. A segment includes
    the stop string that ended it and special tokens such as tags and chat markers, but no end-of-text token.

    A task may also define:

    - ``info``: a dict of fields about the problem, typed as those of :class:`Turn`; a copy is shown at reset
      and at the end of an episode.
    - ``close()``: release engines, processes and files. It may be called more than once, and ``reset`` may
      follow it.
    - ``snapshot()`` and ``restore(state)`` (:class:`~cola_envs.task.KeepsState`): its state as a picklable
      object, and back. Without them a row is restored by a reset with the same ``rng`` and its segments so
      far.
    - ``worked_example(rng)`` (:class:`~cola_envs.task.HasExamples`): a solved problem as (prompt, answer), or
      a list of such pairs for a task of several turns. ``shots=N`` puts N of them in front of each prompt.
    - ``plain_frame``: the two strings before and behind its texts for a model that continues plain text, such
      as ``("User: ", "\\nAssistant: ")``. They are left out of the messages of a chat.
    """

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a segment; a plain class attribute will do."""

    def reset(self, rng: np.random.Generator) -> str:
        """Start an episode, drawing the problem from ``rng`` alone, and return the prompt."""

    def step(self, text: str) -> Turn:
        """Take one finished segment of the agent's text."""


@runtime_checkable
class KeepsState(Protocol):
    """A task that can copy its state; a task without these methods is restored by replaying its segments."""

    def snapshot(self) -> object:
        """Return the task's state as a picklable object."""

    def restore(self, state: object) -> None:
        """Restore a state that :meth:`snapshot` returned."""


@runtime_checkable
class HasExamples(Protocol):
    """A task that can show how it is solved: ``shots=2`` puts two of its examples in front of each prompt."""

    def worked_example(self, rng: np.random.Generator) -> WorkedExample:
        """A problem of the train split, drawn from ``rng``, with answers that earn the full reward.

        Returns:
            (prompt, answer); for a task of several turns a list of pairs: the prompt and the first answer,
            then each later text of the task and the answer to it.
        """


@runtime_checkable
class ChecksState(Protocol):
    """A :class:`TaskBatch` that refuses a state of another task before a row's episode is dropped for it."""

    def check_state(self, state: object) -> None:
        """Raise TypeError or ValueError for a state that ``restore`` cannot take; change nothing."""


class TaskBatch(Protocol):
    """A task for many rows, the interface that :class:`~cola_envs.episodes.Episodes` uses.

    Slow engines, graders and reward models implement it directly, so that a vector step is one call;
    :class:`EachRow` makes one of plain :class:`Task` objects.

    An exception in ``step`` counts as an error of all rows of the call, unless it is raised by
    :func:`answered`, which tells the failed rows from the others. ``on_task_error`` of Episodes determines
    how errors are handled.
    """

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a segment, the same for all rows; a plain attribute will do."""

    def reset(self, rows: Sequence[int], rngs: Sequence[np.random.Generator]) -> list[str]:
        """Start an episode in each of ``rows`` and return the prompts."""

    def step(self, rows: Sequence[int], texts: Sequence[str]) -> list[Turn]:
        """Take one finished segment for each of ``rows``."""

    def info(self, row: int) -> Info:
        """Fields about the row's problem and data set, shown in ``info`` at reset and at the end."""

    def snapshot(self, row: int) -> object:
        """Return the row's state, picklable and independent of later steps."""

    def restore(self, row: int, state: object) -> None:
        """Restore a row to a state that :meth:`snapshot` returned."""

    def close(self) -> None:
        """Release engines, processes and files. May be called more than once."""


#: Types whose values hold nothing that can change; a class derived from one of them may.
_UNCHANGING = frozenset({str, int, float, bool, type(None)})


def _unchanging(value: object) -> bool:
    """Whether ``value`` is a text, a number, a truth, None, or a tuple of such: its own deep copy."""
    if type(value) is tuple:
        return all(map(_unchanging, value))
    return type(value) in _UNCHANGING


def foreign_state(there: object, here: object) -> ValueError:
    """The error for a state that belongs to ``there``, where the rows play ``here``."""
    return ValueError(
        f"the state is of {there}, and here it is {here}: restore it into an environment with the same task "
        "and arguments"
    )


def answered(answers: Sequence[Turn | Exception]) -> list[Turn]:
    """Return the turns of a batch's ``step``, or raise the first error with all answers attached to it.

    Args:
        answers: for each row of the call its turn or its exception.

    Raises:
        Exception: the first one in ``answers``, with all answers in its attribute ``row_answers``, so that
            the other rows can continue.
    """
    for answer in answers:
        if isinstance(answer, Exception):
            answer.row_answers = list(answers)  # type: ignore[attr-defined]
            raise answer
    return cast("list[Turn]", list(answers))


class EachRow:
    """A :class:`TaskBatch` with one :class:`Task` object for each row.

    Args:
        factory: called once per row; every row has its own task.
        num_rows: number of rows.

    A row's snapshot is the initial generator state of its episode and its segments so far. Restoring it
    replays the segments, and raises RuntimeError if the replay gives other turns: the state of a task with
    other arguments, or a task whose randomness is its own. A task's own ``snapshot()`` and
    ``restore(state)`` are used instead, if it has them; its other optional members are in :class:`Task`.

    Raises:
        TypeError: if the factory returns something that is not a task, or ``stop`` is not a tuple of strings.
        ValueError: if the factory returns the same object for several rows, or their stop strings differ.
            Tasks that were made before an error are closed.
    """

    def __init__(self, factory: Callable[[], Task], num_rows: int) -> None:
        num_rows = check_count("num_rows", num_rows)
        self.tasks: list[Task] = []
        try:
            for _ in range(num_rows):
                self._add(factory)
        except BaseException as error:
            try:
                self.close()
            except Exception as other:
                error.add_note(f"closing the tasks made before raised {type(other).__name__}: {other}")
            raise
        self.plain_frame: tuple[str, str] = getattr(self.tasks[0], "plain_frame", ("", ""))
        self._origin: list[Mapping[str, object] | None] = [None] * num_rows
        self._segments: list[list[str]] = [[] for _ in range(num_rows)]
        self._prompts: list[str] = [""] * num_rows
        self._digests: list[int] = [0] * num_rows  # of the row's turns in this episode

    def _add(self, factory: Callable[[], Task]) -> None:
        """Make and check the task of the next row."""
        task = factory()
        if any(task is other for other in self.tasks):
            raise ValueError(
                f"task factory {factory!r} returned one task for several rows; return a new one at each call"
            )
        self.tasks.append(task)
        if not (callable(getattr(task, "reset", None)) and callable(getattr(task, "step", None))):
            raise TypeError(
                f"task factory {factory!r} returned {task!r}, which has no reset(rng) and step(text); "
                "pass a callable that returns a cola_envs.Task, e.g. the class itself"
            )
        stop = check_stop("task.stop", getattr(task, "stop", ()))
        if len(self.tasks) == 1:
            self.stop = stop
        elif stop != self.stop:
            raise ValueError(f"every row's task must have the same stop strings, {self.stop!r}")

    def worked_example(self, rng: np.random.Generator) -> WorkedExample:
        """An example of the rows' task.

        Raises:
            ValueError: for a task without worked examples.
        """
        task = self.tasks[0]
        if not isinstance(task, HasExamples):
            raise ValueError(f"{type(task).__name__} has no worked examples")
        return task.worked_example(rng)

    def reset(self, rows: Sequence[int], rngs: Sequence[np.random.Generator]) -> list[str]:
        """Start an episode of each row's task and return the prompts."""
        prompts = []
        for row, rng in zip(rows, rngs, strict=True):
            self._origin[row] = dict(rng.bit_generator.state)
            prompts.append(self._begin(row, rng))
        return prompts

    def _begin(self, row: int, rng: np.random.Generator) -> str:
        self._segments[row] = []
        self._digests[row] = 0
        self._prompts[row] = prompt = self.tasks[row].reset(rng)
        return prompt

    def _step(self, row: int, text: str) -> Turn:
        self._segments[row].append(text)
        turn = self.tasks[row].step(text)
        if isinstance(turn, Turn):  # the caller raises for anything else
            fields = (turn.text, turn.reward, turn.done, turn.truncated)
            self._digests[row] = zlib.crc32(repr(fields).encode(), self._digests[row])
        return turn

    def step(self, rows: Sequence[int], texts: Sequence[str]) -> list[Turn]:
        """Give each row's task its segment and return the turns.

        Raises:
            Exception: the first that a task raised, after all were asked; see :func:`answered`.
        """
        answers: list[Turn | Exception] = []
        for row, text in zip(rows, texts, strict=True):
            try:
                answers.append(self._step(row, text))
            except Exception as error:
                self._segments[row].pop()  # a replay ends before the segment that failed
                answers.append(error)
        return answered(answers)

    def info(self, row: int) -> Info:
        """A copy of the ``info`` of the row's task; empty for a task without it."""
        info = getattr(self.tasks[row], "info", {})
        # Deep, because users keep the dict and a task may change its own. Of fields that cannot change,
        # which is nearly always, a plain copy is the same at a small part of the time.
        if type(info) is dict and _unchanging((*info, *info.values())):
            return info.copy()
        return copy.deepcopy(info)

    def snapshot(self, row: int) -> object:
        """The task's own snapshot, or else what a replay of the row's episode needs."""
        task = self.tasks[row]
        name = type(task).__name__
        if isinstance(task, KeepsState):
            return ("own", name, copy.deepcopy(task.snapshot()))
        replay = (self._origin[row], self._prompts[row], tuple(self._segments[row]), self._digests[row])
        return ("replay", name, *replay)

    def check_state(self, state: object) -> None:
        """Refuse what is no snapshot (TypeError) and a snapshot of another task (ValueError)."""
        if not (isinstance(state, tuple) and len(state) > 1 and state[0] in ("own", "replay")):
            raise TypeError(f"restore takes what snapshot of the same task returned, got {state!r:.80}")
        name = type(self.tasks[0]).__name__
        if state[1] != name:
            raise foreign_state(state[1], name)

    def restore(self, row: int, state: object) -> None:
        """Restore a row to a state that :meth:`snapshot` returned.

        Raises:
            TypeError, ValueError: as :meth:`check_state`.
            RuntimeError: if the replay of a task without its own ``restore`` gives another prompt or turns.
        """
        self.check_state(state)
        assert isinstance(state, tuple)
        kind, _, *payload = state
        task = self.tasks[row]
        if kind == "own" and isinstance(task, KeepsState):
            # A copy, because several rows may be restored from one state, and a task may change it.
            task.restore(copy.deepcopy(payload[0]))
            return
        origin, prompt, segments, digest = payload
        rng = np.random.default_rng()
        rng.bit_generator.state = origin
        self._origin[row] = origin
        if self._begin(row, rng) != prompt:
            raise self._differs(f", the prompt {self._prompts[row]!r:.80} in place of {prompt!r:.80}")
        for text in segments:
            self._step(row, text)
        if self._digests[row] != digest:
            raise self._differs("")

    def _differs(self, how: str) -> RuntimeError:
        return RuntimeError(
            f"{type(self.tasks[0]).__name__} cannot be restored: its replay gave other turns{how}. Restore a "
            "state into an environment with the same task and arguments; if this is one, take all randomness "
            "of the task from the generator passed to reset, or define its snapshot() and restore(state)"
        )

    def close(self) -> None:
        """Close every row's task that has ``close()``; then raise the first error of them, if any."""
        failed: Exception | None = None
        for task in self.tasks:
            try:
                if hasattr(task, "close"):
                    task.close()
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed
