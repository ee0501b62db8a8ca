"""What an engine is, and what it says: the types that cross from a worker to its pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from cola_envs.fields import Info

#: A game as an engine is given it, picklable: a path, a dict.
G = TypeVar("G", contravariant=True)


@dataclass(frozen=True)
class Opening:
    """What an engine says when a game begins.

    Attributes:
        text: goal and first observation, without a trailing newline.
        admissible: commands that would be understood now, sorted; empty where the engine was not asked.
        info: fields about the game, picklable.
    """

    text: str
    admissible: tuple[str, ...] = ()
    info: Info = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """What an engine says to one command.

    Attributes:
        text: the feedback, without a trailing newline.
        reward: what this command earned, not a running total.
        done: whether the game is over.
        success: whether it is won.
        valid: whether the command was understood.
        admissible: commands that would be understood next, sorted; empty where the engine was not asked.
        info: further fields, picklable.
    """

    text: str
    reward: float = 0.0
    done: bool = False
    success: bool = False
    valid: bool = True
    admissible: tuple[str, ...] = ()
    info: Info = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A row's game was lost because its engine failed.

    Attributes:
        cause: what happened, in a sentence.
    """

    cause: str


class GameError(ValueError):
    """A game that cannot be played; the engine itself is in order and other rows go on with it."""


class EngineError(RuntimeError):
    """An engine that does not start, or that fails again and again on one game."""


class Engine(Protocol[G]):
    """A game package, hosting any number of rows in one worker process.

    An engine is named by ``"module:callable"`` and picklable keyword arguments, so that the package it
    wraps is imported in the worker alone. It is called by one thread. Whatever it prints is dropped.

    The same game and the same commands must lead to the same state and replies: a row whose worker died,
    or that was restored, is brought back by replaying its commands.

    An exception other than :class:`GameError` costs the row its episode and the worker its life: the
    pool starts another and replays the worker's other rows.

    Further methods whose first argument is ``row`` can be reached by :meth:`EnginePool.query`.
    """

    def reset(self, row: int, game: G) -> Opening:
        """Begin ``game`` in ``row``, dropping what the row played.

        Raises:
            GameError: if the game cannot be played.
        """

    def step(self, row: int, command: str) -> Reply:
        """Send one command, as it was written, without the newline."""

    def close(self) -> None:
        """Release everything; the worker ends afterwards."""
