"""Text games as a task: commands one line at a time, feedback as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cola_envs.engines.pool import EnginePool, Transcript
from cola_envs.engines.protocol import Failure, Opening, Reply
from cola_envs.fields import Info
from cola_envs.order import Order, draw
from cola_envs.task import Turn

#: No space behind it: most tokenizers put a space at the front of a word, so that text which ends in one is
#: other tokens than the same text in a whole transcript.
PROMPT = "\n>"


@dataclass(frozen=True)
class Game:
    """A game that a row may play.

    Attributes:
        spec: what the engine's ``reset`` is given, picklable.
        info: fields of the episode: the game's id, its type.
    """

    spec: object
    info: Mapping[str, object] = field(default_factory=dict)


@dataclass
class _Row:
    game: Game
    info: Info
    commands: int = 0
    invalid: int = 0
    over: bool = False


@dataclass(frozen=True)
class _Saved:
    """A row's snapshot."""

    game: Game
    info: Info
    commands: int
    invalid: int
    over: bool
    transcript: Transcript | None


class EngineTask:
    """A :class:`~cola_envs.task.TaskBatch` of text games on an :class:`EnginePool`.

    **Prompt.** The engine's opening (goal and first observation), then, with ``admissible="list"``, a
    line ``Commands: `` with the admissible commands joined by ``, ``; then a newline and ``>``.

    **Actions.** The agent writes a command; a newline sends it: all before the first newline, stripped of
    spaces. A segment that ends without one (end of sequence, token budget) sends what was written.

    **Observation.** The feedback, again the ``Commands:`` line with ``admissible="list"``, a newline and
    ``>``. A newline is put before it where the agent wrote none, so that the text reads the same. After the
    last command there is only the feedback.

    **Reward.** The engine's reward for the command, less ``invalid_penalty`` for one that it did not
    understand.

    **Episode end.** When the engine says so; truncated after ``max_commands`` commands, and where the
    engine failed, with the cause in ``info["error"]``.

    **Fields.** At each command ``command``, ``valid``, ``commands`` and ``invalid`` (counts so far) and
    the reply's own; when the game is over ``success``. ``info(row)`` has the game's fields and those of the
    data set.

    A row's snapshot is its game and the commands so far; it is replayed when the row is next stepped.

    Args:
        num_rows: number of rows.
        pool: plays the games; closed with this task.
        games: a sequence of :class:`Game` (also a lazy one), or a callable that draws one from a row's
            generator.
        max_commands: commands before the episode is truncated.
        invalid_penalty: subtracted for each command that the engine does not understand.
        admissible: ``"list"`` writes the admissible commands into the text, ``"none"`` does not; the
            engine must be configured to return them.
        sequential: play the games of a sequence in order, each once before any is repeated (a problem seed is
            then a place in that order: :class:`~cola_envs.order.Order`); otherwise each game is drawn from
            the row's generator.
        info: fields of every episode: the data set's name, versions.

    Attributes:
        num_problems: how many games an episode may draw from; only where ``games`` is a sequence.
        order: where they come in order.

    Raises:
        TypeError, ValueError: an argument outside what is written above, or no games.
    """

    stop: tuple[str, ...] = ("\n",)

    def __init__(
        self,
        num_rows: int,
        *,
        pool: EnginePool,
        games: Sequence[Game] | Callable[[np.random.Generator], Game],
        max_commands: int = 50,
        invalid_penalty: float = 0.0,
        admissible: Literal["none", "list"] = "none",
        sequential: bool = False,
        info: Mapping[str, object] | None = None,
    ) -> None:
        check_game_settings(max_commands=max_commands, invalid_penalty=invalid_penalty, admissible=admissible)
        if pool.num_rows < num_rows:
            raise ValueError(f"the pool has {pool.num_rows} rows and the task {num_rows}")
        if callable(games) and sequential:
            raise ValueError(
                "sequential=True needs a list of games; these are drawn from each row's generator"
            )
        if not callable(games):
            if not len(games):
                raise ValueError("there is no game to play")
            self.num_problems = len(games)
        self.pool = pool
        self.max_commands = max_commands
        self.invalid_penalty = float(invalid_penalty)
        self.admissible = admissible
        self._games = games
        self.order = Order(len(games)) if sequential and not callable(games) else None
        self._info = dict(info or {})
        self._rows: list[_Row | None] = [None] * num_rows

    def reset(
        self,
        rows: Sequence[int],
        rngs: Sequence[np.random.Generator],
        problem_seeds: Sequence[int] | None = None,
    ) -> list[str]:
        """Begin a game in each of ``rows``, of its seed where they come in order, and return the prompts.

        Raises:
            GameError, EngineError: see :meth:`EnginePool.reset`.
        """
        seeds: Sequence[int | None] = problem_seeds or [None] * len(rows)
        games = [self._draw(rng, seed) for rng, seed in zip(rngs, seeds, strict=True)]
        for row in rows:
            self._rows[row] = None
        openings = self.pool.reset(rows, [game.spec for game in games])
        for row, game, opening in zip(rows, games, openings, strict=True):
            self._rows[row] = _Row(game, dict(opening.info))
        return [self._with_prompt(opening) for opening in openings]

    def step(self, rows: Sequence[int], texts: Sequence[str]) -> list[Turn]:
        """Send a command in each of ``rows``, in parallel."""
        for row in rows:
            if self._row(row).over:
                raise RuntimeError(f"the game in row {row} is over; reset it first")
        commands = [text.partition("\n")[0].strip() for text in texts]
        replies = self.pool.step(rows, commands)
        return [self._turn(*each) for each in zip(rows, texts, commands, replies, strict=True)]

    def info(self, row: int) -> Info:
        """Fields of the row's game and of the data set."""
        state = self._row(row)
        return {**self._info, **state.game.info, **state.info}

    def snapshot(self, row: int) -> object:
        """The row's game, its counts and its commands so far."""
        state = self._row(row)
        transcript = None if state.over else self.pool.transcript(row)
        return _Saved(state.game, dict(state.info), state.commands, state.invalid, state.over, transcript)

    def restore(self, row: int, state: object) -> None:
        """Put a row back; the engine follows when the row is next stepped."""
        if not isinstance(state, _Saved):
            raise TypeError(f"restore takes what snapshot returned, got {state!r}")
        self._rows[row] = _Row(state.game, dict(state.info), state.commands, state.invalid, state.over)
        if state.transcript is not None:
            self.pool.restore(row, state.transcript)

    def query(self, row: int, name: str, *arguments: object) -> object:
        """Ask the engine something about the row's game as it stands; see :meth:`EnginePool.query`."""
        return self.pool.query(row, name, *arguments)

    def close(self) -> None:
        """End the engines' processes; a reset starts them anew."""
        self.pool.close()

    # ---------------------------------------------------------------- turns

    def _turn(self, row: int, text: str, command: str, reply: Reply | Failure) -> Turn:
        state = self._row(row)
        state.commands += 1
        counts = {"command": command, "commands": state.commands}
        if isinstance(reply, Failure):
            state.over = True
            fields = {**counts, "invalid": state.invalid, "success": False, "error": reply.cause}
            return Turn(done=False, truncated=True, info=fields)
        state.invalid += not reply.valid
        cut = not reply.done and state.commands >= self.max_commands
        state.over = reply.done or cut
        feedback = reply.text if state.over else self._with_prompt(reply)
        fields = {**reply.info, **counts, "valid": reply.valid, "invalid": state.invalid}
        if state.over:
            fields["success"] = reply.success
        return Turn(
            text=feedback if "\n" in text else "\n" + feedback,
            reward=reply.reward - (0.0 if reply.valid else self.invalid_penalty),
            done=reply.done,
            truncated=cut,
            info=fields,
        )

    def _with_prompt(self, reply: Opening | Reply) -> str:
        commands = "\nCommands: " + ", ".join(reply.admissible) if self.admissible == "list" else ""
        return reply.text + commands + PROMPT

    def _draw(self, rng: np.random.Generator, problem_seed: int | None = None) -> Game:
        if callable(self._games):
            return self._games(rng)
        return self._games[draw(len(self._games), self.order, rng, problem_seed)]

    def _row(self, row: int) -> _Row:
        state = self._rows[row]
        if state is None:
            raise RuntimeError(f"row {row} has no game yet; reset it first")
        return state


def check_game_settings(*, max_commands: int, invalid_penalty: float, admissible: str) -> None:
    """Check what every task of text games takes.

    Raises:
        ValueError: a value outside what :class:`EngineTask` allows.
    """
    if not isinstance(max_commands, int) or isinstance(max_commands, bool) or max_commands < 1:
        raise ValueError(f"max_commands must be an integer of at least 1, got {max_commands!r}")
    if not (math.isfinite(invalid_penalty) and invalid_penalty >= 0):
        raise ValueError(f"invalid_penalty must be a number of at least 0, got {invalid_penalty!r}")
    if admissible not in ("none", "list"):
        raise ValueError(f"admissible must be 'none' or 'list', got {admissible!r}")
