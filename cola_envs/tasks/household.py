"""Generated household games on ALFWorld's engine: the task of ``CoLA-Household-v0``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from cola_envs.engines import EnginePool, EngineTask, Game
from cola_envs.engines.task import check_game_settings
from cola_envs.engines.versions import engine_versions
from cola_envs.household import SPLITS, TASK_TYPES, generate
from cola_envs.household.generator import Split, check_generator_settings

ENGINE = "cola_envs.engines.pddl:PddlEngine"
NAME = "cola-household-v0"


class Household(EngineTask):
    r"""Household chores in ALFWorld's domain, grammar and vocabulary, on games of our own.

    **Prompt.** What ALFWorld says at the start: ``-= Welcome to TextWorld, ALFRED! =-``, a blank line, the
    room at a glance, a blank line, ``Your task is to:`` with the goal; then a newline and ``>``. With
    ``admissible="list"`` a line ``Commands:`` with the admissible commands, separated by commas, comes before
    the last newline.

    **Actions.** The agent writes a command (``go to desk 1``, ``take mug 2 from shelf 1``, ``open``,
    ``close``, ``move .. to ..``, ``clean``, ``heat``, ``cool .. with ..``, ``use``, ``examine``, ``look``,
    ``inventory``, ``help``); a newline sends it. A segment that ends without one (end of sequence, token
    budget) sends what was written.

    **Observation.** The engine's feedback, a newline and ``>``; ``Nothing happens.`` to what is not an
    admissible command. See :class:`~cola_envs.engines.EngineTask`.

    **Reward.** 1.0 for the command that reaches the goal, else 0.0, less ``invalid_penalty`` for each
    inadmissible command.

    **Episode end.** Terminated when the goal is reached; truncated after ``max_commands`` commands, or if the
    engine fails (the cause in ``info["error"]``), besides the token budget and the context.

    **Fields.** ``info(row)`` has ``task_type``, ``level``, ``room``, ``split``, ``goal``, ``unique_id`` (of
    the game), ``dataset`` and ``engine`` (names and versions); each turn ``command``, ``valid``, ``commands``
    and ``invalid`` (counts); the last one ``success``. ``query(row, "walkthrough")`` gives commands from the
    start that win, ``query(row, "plan")`` the planner's from here.

    **Data.** Games are generated from the row's generator alone: one problem seed is one game. Splits are
    disjoint by construction: ``valid_unseen`` has room layouts that the others never use, ``valid_seen``
    games that ``train`` never gives; see :func:`cola_envs.household.generate`. Every game can be won. They
    are not ALFWorld's games: results are not results on ALFWorld. The code is ours (Apache-2.0); ALFWorld
    (MIT) gives domain and grammar, its engine has GPL parts (fast-downward GPL-3.0, jericho
    GPL-2.0-or-later) and is installed by the extra ``alfworld`` alone.

    **Versions.** v0: first version.

    Args:
        num_rows: how many rows (games side by side) there are.
        split: ``"train"``, ``"valid_seen"`` or ``"valid_unseen"``.
        level: size of the room, 1 (5 to 7 receptacles, 4 to 6 objects) to 4 (19 to 26 and 26 to 40).
        task_types: keep these of :data:`cola_envs.household.TASK_TYPES`.
        max_commands: commands before the episode is cut.
        invalid_penalty: subtracted for each inadmissible command.
        admissible: ``"list"`` writes the admissible commands into the text, ``"none"`` does not.
        num_workers: engine processes; by default one a core, at most one a row.
        deadline: seconds that one call of the engine may take.

    Raises:
        ModuleNotFoundError: without the engine; says what installs it.
        ValueError: an argument outside what is written above.
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
        check_generator_settings(split=split, level=level, task_types=task_types)
        check_game_settings(max_commands=max_commands, invalid_penalty=invalid_penalty, admissible=admissible)
        versions = engine_versions("alfworld", "alfworld", "textworld")
        types = tuple(task_types)

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
        )


def described(versions: dict[str, str]) -> str:
    """Names and versions in one line, as results carry them."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())
