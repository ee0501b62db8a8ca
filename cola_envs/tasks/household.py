"""Generated household games on ALFWorld's engine: the task of ``CoLA-Household-v0``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from cola_envs.checks import check_game_settings
from cola_envs.engines import EnginePool, EngineTask, Game
from cola_envs.engines.versions import engine_versions
from cola_envs.household import SPLITS, TASK_TYPES, generate
from cola_envs.household.generator import Split, check_generator_settings

ENGINE = "cola_envs.engines.pddl:PddlEngine"
NAME = "cola-household-v0"


class Household(EngineTask):
    r"""Household chores on generated games, with ALFWorld's domain, grammar, vocabulary and engine.

    **Prompt.** ALFWorld's first text: ``-= Welcome to TextWorld, ALFRED! =-``, a blank line, a description of
    the room, a blank line, ``Your task is to:`` with the goal; then a newline and ``>``. With
    ``admissible="list"`` a line ``Commands:`` with the admissible commands, separated by commas, comes before
    the last newline.

    **Prompt formats.** Plain text: ``"-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a
    room. ...\n\nYour task is to: ...\n>"``. In a chat, the user's message: ``"-= Welcome to TextWorld,
    ALFRED! =-\n\nYou are in the middle of a room. ...\n\nYour task is to: ..."``. Each later text of the
    game is a user's message too.

    **Actions.** A command, ended by a newline: ``go to desk 1``, ``take mug 2 from shelf 1``, ``open``,
    ``close``, ``move .. to ..``, ``clean``, ``heat``, ``cool .. with ..``, ``use``, ``examine``, ``look``,
    ``inventory`` or ``help``. A segment that ends without a newline (end of text, token budget) is a command
    too.

    **Observation.** The engine's response, a newline and ``>``. The response to a command that is not
    admissible is ``Nothing happens.`` See :class:`cola_envs.engines.EngineTask`.

    **Reward.** 1.0 for the command that reaches the goal, else 0.0; less ``invalid_penalty`` for a command
    that is not admissible.

    **Episode end.** Terminated when the goal is reached; truncated after ``max_commands`` commands, or if the
    engine fails (the cause is in ``info["error"]``), besides the token budget and the context.

    **Info.** At reset and at the end ``task_type``, ``level``, ``room``, ``split``, ``goal``, ``unique_id``
    (of the game), ``dataset`` and ``engine`` (names and versions); after each command ``command``, ``valid``,
    ``commands`` and ``invalid`` (counts so far); at the end ``success``. ``query(row, "walkthrough")``
    returns commands that win from the start, ``query(row, "plan")`` the planner's commands from the current
    state.

    **Worked examples.** ``shots=1`` puts a game of the train split in front, won by its walkthrough on an
    engine that is started for it.

    **Data and licence.** A game is generated from the row's generator only, so that a problem seed determines
    it. ``valid_unseen`` uses room layouts that the other splits never use, and ``valid_seen`` games that
    ``train`` never uses; see :func:`cola_envs.household.generate`. Every game can be won. They are not
    ALFWorld's games: results are not results on ALFWorld. The games' code is ours (Apache-2.0); domain and
    grammar are ALFWorld's (MIT); the engine has GPL parts (fast-downward GPL-3.0, jericho GPL-2.0-or-later)
    and is installed only by the extra ``alfworld``.

    **Versions.** v0: first version.

    Args:
        num_rows: number of rows.
        split: ``"train"``, ``"valid_seen"`` or ``"valid_unseen"``.
        level: size of the room, 1 (5 to 7 receptacles, 4 to 6 objects) to 4 (19 to 26 and 26 to 40).
        task_types: use only these of :data:`cola_envs.household.TASK_TYPES`.
        max_commands: commands before the episode is truncated.
        invalid_penalty: subtracted for each command that is not admissible.
        admissible: ``"list"`` adds the admissible commands to every observation, ``"none"`` does not.
        num_workers: engine processes; by default one for each core, at most one for each row.
        deadline: time limit of one call of the engine, in seconds.

    Raises:
        ModuleNotFoundError: without the engine, with the command that installs it.
        ValueError: for an invalid argument.
    """

    splits = SPLITS

    def __init__(
        self,
        num_rows: int,
        *,
        split: Split = "train",
        level: int = 2,
        task_types: Sequence[str] = TASK_TYPES,
        max_commands: int = 50,
        invalid_penalty: float = 0.0,
        admissible: Literal["none", "list"] = "none",
        num_workers: int | None = None,
        deadline: float = 60.0,
    ) -> None:
        level, types = check_generator_settings(split=split, level=level, task_types=task_types)
        check_game_settings(max_commands=max_commands, invalid_penalty=invalid_penalty, admissible=admissible)
        versions = engine_versions("alfworld", "alfworld", "textworld")

        def draw(rng: np.random.Generator) -> Game:
            game = generate(rng, split, level, types)
            return Game(
                game.spec(),
                {
                    "task_type": game.task_type,
                    "level": game.level,
                    "room": game.room,
                    "split": game.split,
                    "unique_id": game.game_id,
                },
            )

        super().__init__(
            num_rows,
            pool=EnginePool(ENGINE, num_rows=num_rows, num_workers=num_workers, deadline=deadline),
            games=draw,
            max_commands=max_commands,
            invalid_penalty=invalid_penalty,
            admissible=admissible,
            info={"dataset": NAME, "engine": described(versions)},
            examples=partial(
                Household, 1, level=level, task_types=types, admissible=admissible, deadline=deadline
            ),
        )


def described(versions: dict[str, str]) -> str:
    """Names and versions as one line for ``info``."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())
