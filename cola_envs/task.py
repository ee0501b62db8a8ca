"""What a task is: text in, text and reward out.

A task never sees a token, an action or a tensor. It gives a prompt, is handed each finished
segment of the agent's text, and answers with a :class:`Turn`. Everything else (tokens, codes,
budgets, caches) belongs to :mod:`cola_envs.episodes`.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast, runtime_checkable

import numpy as np

from cola_envs.fields import Info


@dataclass(frozen=True)
class Turn:
    """A task's answer to one finished segment.

    Attributes:
        text: what the environment says next; appended to the context, never rewarded as the agent's own.
        reward: paid for the segment; a finite number.
        done: whether the episode is over by the task's own rules (Gymnasium's ``terminated``).
        truncated: the task cuts the episode for a reason outside its own rules (an engine that failed, a
            limit of commands): Gymnasium's ``truncated``, whatever ``done`` says.
        info: the task's own fields, by name. A field keeps one type over all episodes (say ``""`` and not
            None for what is missing): Gymnasium's vector environments make arrays of them. ``success`` (bool)
            is read by every logger of this project; it defaults to ``reward > 0`` at the end of an episode.

    Values of other types are refused when they reach an episode (:mod:`cola_envs.contract`).
    """

    text: str = ""
    reward: float = 0.0
    done: bool = True
    truncated: bool = False
    info: Info = field(default_factory=dict)


@runtime_checkable
class Task(Protocol):
    """One row of text: what a user writes to make a task of their own.

    ``stop`` holds the strings that end a segment besides the model's end-of-text tokens; a segment
    includes the stop string that ended it, and never an end-of-text token. Other special tokens (tags, chat
    markers) stand in it as the model wrote them.
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
    """A task that copies its state itself; any other is put back by playing it again."""

    def snapshot(self) -> object:
        """Return the task's state, picklable."""

    def restore(self, state: object) -> None:
        """Put the task back to what :meth:`snapshot` returned."""


class TaskBatch(Protocol):
    """Many rows of a task, driven together: what :class:`~cola_envs.episodes.Episodes` holds.

    Slow engines, graders and reward models implement this directly so that a vector step is one
    call. A plain :class:`Task` becomes one through :class:`EachRow`.

    What ``step`` raises is an error of all rows of the call, unless it says which rows failed: see
    :func:`answered`. ``on_task_error`` of Episodes says what follows.
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
        """Return the row's state, picklable, sharing nothing that a later step changes."""

    def restore(self, row: int, state: object) -> None:
        """Put a row back to what :meth:`snapshot` returned."""

    def close(self) -> None:
        """Release engines, processes and files. May be called more than once."""


def answered(answers: Sequence[Turn | Exception]) -> list[Turn]:
    """What a batch's ``step`` returns, of rows that may fail apart.

    Args:
        answers: per row of the call a turn, or what was raised in its place.

    Raises:
        Exception: the first among ``answers``, with all of them in its attribute ``row_answers``, so that the
            other rows can go on.
    """
    for answer in answers:
        if isinstance(answer, Exception):
            answer.row_answers = list(answers)  # type: ignore[attr-defined]
            raise answer
    return cast("list[Turn]", list(answers))


class EachRow:
    """A :class:`TaskBatch` made of one :class:`Task` object a row.

    Args:
        factory: called once per row; every row owns its task.
        num_rows: how many rows there are.

    A row's snapshot is the generator state its episode began with and the segments it has seen;
    restoring replays them, so that a task needs no code of its own for it; a replay that does not say
    what was said is refused. A task that can copy its state cheaply may define ``snapshot()`` and
    ``restore(state)`` and is then asked instead. A task's ``info`` attribute, where it has one, is a dict
    shown at reset and at the end of the episode.

    Raises:
        TypeError: if the factory returns something that is not a task, or ``stop`` is no tuple of strings.
        ValueError: if it returns one task for several rows, or the rows' stop strings differ.
    """

    def __init__(self, factory: Callable[[], Task], num_rows: int) -> None:
        self.tasks = [factory() for _ in range(num_rows)]
        for task in self.tasks:
            if not (callable(getattr(task, "reset", None)) and callable(getattr(task, "step", None))):
                raise TypeError(
                    f"task factory {factory!r} returned {task!r}, which has no reset(rng) and step(text); "
                    "pass a callable that returns a cola_envs.Task, e.g. the class itself"
                )
        if len({id(task) for task in self.tasks}) < num_rows:
            raise ValueError(f"task factory {factory!r} returned one task for several rows; make one a call")
        stop = getattr(self.tasks[0], "stop", ())
        if isinstance(stop, str) or not all(isinstance(s, str) and s for s in stop):
            raise TypeError(f"task.stop must be a tuple of non-empty strings, got {stop!r}")
        self.stop = tuple(stop)
        if any(tuple(getattr(task, "stop", ())) != self.stop for task in self.tasks):
            raise ValueError(f"every row's task must have the same stop strings, {self.stop!r}")
        self._origin: list[Mapping[str, object] | None] = [None] * num_rows
        self._segments: list[list[str]] = [[] for _ in range(num_rows)]
        #: Per row a digest of all that its task has said in this episode.
        self._said: list[int] = [0] * num_rows

    def reset(self, rows: Sequence[int], rngs: Sequence[np.random.Generator]) -> list[str]:
        prompts = []
        for row, rng in zip(rows, rngs, strict=True):
            self._origin[row] = dict(rng.bit_generator.state)
            prompts.append(self._begin(row, rng))
        return prompts

    def _begin(self, row: int, rng: np.random.Generator) -> str:
        self._segments[row] = []
        prompt = self.tasks[row].reset(rng)
        self._said[row] = zlib.crc32(str(prompt).encode())
        return prompt

    def _go_on(self, row: int, text: str) -> Turn:
        self._segments[row].append(text)
        turn = self.tasks[row].step(text)
        if isinstance(turn, Turn):  # what is none is refused by who asked for it
            said = (turn.text, turn.reward, turn.done, turn.truncated)
            self._said[row] = zlib.crc32(repr(said).encode(), self._said[row])
        return turn

    def step(self, rows: Sequence[int], texts: Sequence[str]) -> list[Turn]:
        answers: list[Turn | Exception] = []
        for row, text in zip(rows, texts, strict=True):
            try:
                answers.append(self._go_on(row, text))
            except Exception as error:
                self._segments[row].pop()  # a replay ends before what failed
                answers.append(error)
        return answered(answers)

    def info(self, row: int) -> Info:
        # A copy all the way down: users keep what they are given, and a task may write to its own.
        return copy.deepcopy(getattr(self.tasks[row], "info", {}))

    def snapshot(self, row: int) -> object:
        task = self.tasks[row]
        if isinstance(task, KeepsState):
            return ("own", copy.deepcopy(task.snapshot()))
        return ("replay", self._origin[row], tuple(self._segments[row]), self._said[row])

    def restore(self, row: int, state: object) -> None:
        if not isinstance(state, tuple):
            raise TypeError(f"restore takes what snapshot returned, got {state!r}")
        kind, *payload = state
        task = self.tasks[row]
        if kind == "own" and isinstance(task, KeepsState):
            # Several rows may be restored from one state, and a task may keep what it is given.
            task.restore(copy.deepcopy(payload[0]))
            return
        origin, segments, said = payload
        rng = np.random.default_rng()
        rng.bit_generator.state = origin
        self._origin[row] = origin
        self._begin(row, rng)
        for text in segments:
            self._go_on(row, text)
        if self._said[row] != said:
            raise RuntimeError(
                f"{type(task).__name__} cannot be put back: played again, it said something else. "
                "Draw from the generator that reset is given alone, or define snapshot() and restore(state)"
            )

    def close(self) -> None:
        for task in self.tasks:
            if hasattr(task, "close"):
                task.close()
