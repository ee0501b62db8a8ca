"""Text games as a task: one command for each line, and the engine's responses as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from cola_envs.checks import check_count, check_game_settings, check_truth
from cola_envs.engines.pool import EnginePool, Transcript
from cola_envs.engines.protocol import Failure, Opening, Reply
from cola_envs.fields import Info
from cola_envs.order import Order, draw
from cola_envs.segments import command_of, played
from cola_envs.task import Exchange, Turn, foreign_state

#: No space follows, because most tokenizers put a space at the front of the next word: a text that ends in a
#: space has other tokens than the same text within a transcript.
PROMPT = "\n>"


@dataclass(frozen=True)
class Game:
    """A game that a row may play.

    Attributes:
        spec: the argument of the engine's ``reset``, picklable.
        info: fields of the episode, such as the game's id and type.
    """

    spec: object
    info: Mapping[str, object] = field(default_factory=dict)


@dataclass
class _Row:
    """A row's game and counts.

    ``task`` (the name of the task's class) and ``transcript`` (of games that were not lost) are set only in
    snapshots.
    """

    game: Game
    info: Info
    commands: int = 0
    invalid: int = 0
    over: bool = False
    transcript: Transcript | None = None
    task: str = ""


class EngineTask:
    """A :class:`~cola_envs.task.TaskBatch` of text games on an :class:`EnginePool`.

    **Prompt.** The engine's opening (goal and first observation); with ``admissible="list"`` a line
    ``Commands:`` with the admissible commands, separated by commas; a newline and ``>``.

    **Actions.** A command, ended by a newline, without surrounding spaces. Newlines in front of it,
    in its first token, do not count, nor does what the token that ends it holds after the newline; a newline
    that is a token of its own is an empty command, which counts as any other. A segment that ends without a
    newline (end of text, token budget) is a command too.

    **Observation.** The engine's response, with ``admissible="list"`` the line ``Commands:``, a newline and
    ``>``. If the agent's text does not end in a newline, one is put before the response. After the last
    command there is only the response.

    **Reward.** The engine's reward for the command, less ``invalid_penalty`` for one that it did not
    understand.

    **Episode end.** Terminated when the engine ends the game; truncated after ``max_commands`` commands, or
    if the engine fails, with the cause in ``info["error"]``.

    **Info.** At reset and at the end the fields of the game and the data set; after each command ``command``,
    ``valid``, ``commands`` and ``invalid`` (counts so far) and the reply's fields; at the end ``success``.

    A row's snapshot is its game and the commands so far, which are replayed at the row's next step.

    Args:
        num_rows: number of rows.
        pool: plays the games; closed with this task.
        games: a sequence of :class:`Game` (also a lazy one), or a callable that draws one from a row's
            generator.
        max_commands: commands before the episode is truncated.
        invalid_penalty: subtracted for each command that the engine does not understand.
        admissible: ``"list"`` adds the admissible commands to every observation, ``"none"`` does not; the
            engine must be configured to return them.
        sequential: play the games of a sequence in order, each once before any is repeated (a problem seed is
            then a place in that order: :class:`~cola_envs.order.Order`); otherwise each game is drawn from
            the row's generator.
        info: fields of every episode, such as the data set's name and versions.
        examples: makes this task with one row that plays games of the train split, on an engine that has the
            query ``walkthrough`` (commands that win); None for a task without worked examples.

    Attributes:
        num_problems: number of games, if ``games`` is a sequence.
        order: the order of the games if ``sequential``, else None.

    Raises:
        ValueError: for an invalid argument, or no games.
    """

    stop: tuple[str, ...] = ("\n",)
    plain_frame = ("", "\n>")
    #: Its engines run in processes of their own, so that it is not made to check its arguments alone.
    starts_processes = True

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
        examples: Callable[[], EngineTask] | None = None,
    ) -> None:
        num_rows = check_count("num_rows", num_rows)
        self.max_commands, self.invalid_penalty = check_game_settings(
            max_commands=max_commands, invalid_penalty=invalid_penalty, admissible=admissible
        )
        if pool.num_rows < num_rows:
            raise ValueError(
                f"the pool has {pool.num_rows} rows and the task {num_rows}: make a pool with as many rows"
            )
        if check_truth("sequential", sequential) and callable(games):
            raise ValueError("sequential=True needs a sequence of games, got a function that draws them")
        if not callable(games):
            if not len(games):
                raise ValueError("games is empty: pass at least one game")
            self.num_problems = len(games)
        self.pool = pool
        self.admissible = admissible
        self._games = games
        self.order = Order(len(games)) if sequential and not callable(games) else None
        self._info = dict(info or {})
        self._examples = examples
        self._rows: list[_Row | None] = [None] * num_rows

    def reset(
        self,
        rows: Sequence[int],
        rngs: Sequence[np.random.Generator],
        problem_seeds: Sequence[int] | None = None,
    ) -> list[str]:
        """Begin a game in each of ``rows``, by its seed if they are played in order; return the prompts.

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
        commands = [command_of(text).strip() for text in texts]
        replies = self.pool.step(rows, commands)
        return [self._turn(*each) for each in zip(rows, texts, commands, replies, strict=True)]

    def info(self, row: int) -> Info:
        """The fields of the row's game and of the data set."""
        state = self._row(row)
        return {**self._info, **state.game.info, **state.info}

    def worked_example(self, rng: np.random.Generator) -> list[Exchange]:
        """A game of the train split, won by its walkthrough on an engine that is started for it.

        Raises:
            GameError, EngineError, FileNotFoundError: where the train split has no game that can be played.
            ValueError: for a task without worked examples, or a walkthrough that does not win.
        """
        if self._examples is None:
            raise ValueError(f"{type(self).__name__} has no worked examples")
        task = self._examples()
        try:
            (prompt,) = task.reset([0], [rng])
            commands = task.query(0, "walkthrough")
            game = f"the game {task.info(0).get('unique_id')!r}"
            if not (commands and isinstance(commands, tuple)):
                raise ValueError(f"{game} has no walkthrough")
            task.max_commands = max(task.max_commands, len(commands))
            try:
                return played(prompt, commands, lambda text: task.step([0], [text])[0])
            except ValueError as error:
                raise ValueError(f"the walkthrough of {game} is no example: {error}") from error
        finally:
            task.close()

    def snapshot(self, row: int) -> object:
        """The row's game, its counts and its commands so far."""
        state = self._row(row)
        transcript = None if state.over and self.pool.lost(row) else self.pool.transcript(row)
        return replace(state, info=dict(state.info), transcript=transcript, task=type(self).__name__)

    def check_state(self, state: object) -> None:
        """Refuse what is no snapshot (TypeError) and a snapshot of another task (ValueError)."""
        if not isinstance(state, _Row):
            raise TypeError(f"restore takes what snapshot of the same task returned, got {state!r:.80}")
        if state.task != type(self).__name__:
            raise foreign_state(state.task, type(self).__name__)

    def restore(self, row: int, state: object) -> None:
        """Restore a row; the engine replays its commands at the row's next step."""
        self.check_state(state)
        assert isinstance(state, _Row)
        self._rows[row] = replace(state, info=dict(state.info), transcript=None)
        self.pool.restore(row, state.transcript)

    def query(self, row: int, name: str, *arguments: object) -> object:
        """Call a method of the engine on the row's current game; see :meth:`EnginePool.query`.

        Raises:
            RuntimeError: for a game that was lost because its engine failed.
        """
        return self.pool.query(row, name, *arguments)

    def close(self) -> None:
        """End the engines' processes; a reset starts new ones."""
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
            text=feedback if text.endswith("\n") else "\n" + feedback,
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
