"""The interface of an engine, and the types that a worker sends to its pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from cola_envs.fields import Info

#: An engine's type of games, picklable: a path, a dict.
G = TypeVar("G", contravariant=True)


@dataclass(frozen=True)
class Opening:
    """The beginning of a game.

    Attributes:
        text: goal and first observation, without a trailing newline.
        admissible: the admissible commands, sorted; empty if they were not requested.
        info: fields about the game, picklable.
    """

    text: str
    admissible: tuple[str, ...] = ()
    info: Info = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """An engine's reply to one command.

    Attributes:
        text: the feedback, without a trailing newline.
        reward: of this command, not a running total.
        done: whether the game is over.
        success: whether it is won.
        valid: whether the command was understood.
        admissible: the next admissible commands, sorted; empty if they were not requested.
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
        cause: a sentence.
    """

    cause: str


class GameError(ValueError):
    """A game that cannot be played, or a query that the engine does not have; other rows continue."""


class EngineError(RuntimeError):
    """An engine that does not start, or that fails repeatedly on one game."""


class Engine(Protocol[G]):
    """A game package that plays any number of rows in one worker process.

    An engine is passed as ``"module:callable"`` with picklable keyword arguments, so that only the worker
    imports its package. One thread calls it. What it prints is dropped.

    Equal games and commands must give equal states and replies, because a row whose worker died, or that is
    restored, is replayed from its commands.

    An exception other than :class:`GameError` ends the row's episode and the worker; the pool starts another
    worker and replays the other rows.

    :meth:`EnginePool.query` can call further public methods whose first argument is ``row``.
    """

    def reset(self, row: int, game: G) -> Opening:
        """Begin ``game`` in ``row``, in place of its earlier game.

        Raises:
            GameError: if the game cannot be played.
        """

    def step(self, row: int, command: str) -> Reply:
        """Execute a command, the agent's text without the newline."""

    def close(self) -> None:
        """Release all resources; the worker then ends."""
