"""ALFWorld's games on its own engine: the task of ``CoLA-ALFWorld-v0``."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from cola_envs.checks import WrongType, check_choice, check_game_settings, check_list
from cola_envs.engines import EnginePool, EngineTask, Game, GameError
from cola_envs.engines.versions import engine_versions
from cola_envs.household import SPLITS, TASK_TYPES
from cola_envs.household.generator import check_task_types
from cola_envs.jsonl import parsed
from cola_envs.tasks.household import ENGINE, described

FOLDER = "json_2.1.1"  # in $ALFWORLD_DATA


@dataclass(frozen=True)
class GameList:
    """The playable games of a split.

    Attributes:
        games: in the order of their ids.
        sha256: of the ids and the game files.
        skipped: number of games left out, by reason.
    """

    games: tuple[Game, ...]
    sha256: str
    skipped: dict[str, int]


class ALFWorld(EngineTask):
    r"""Household chores: the text games of ALFWorld (Shridhar et al. 2021).

    **Prompt.** ALFWorld's first text: ``-= Welcome to TextWorld, ALFRED! =-``, a blank line, a description of
    the room, a blank line, ``Your task is to:`` with the goal; then a newline and ``>``. With
    ``admissible="list"`` a line ``Commands:`` with the admissible commands, separated by commas, comes before
    the last newline.

    **Prompt formats.** Plain text: ``"-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a
    room. ...\n\nYour task is to: ...\n>"``. In a chat, the user's message: ``"-= Welcome to TextWorld,
    ALFRED! =-\n\nYou are in the middle of a room. ...\n\nYour task is to: ..."``. Each later text of the
    game is a user's message too.

    **Actions.** A command, ended by a newline, as in ``CoLA-Household-v0``; each game
    file has its own copy of the domain and grammar.

    **Observation.** The engine's response, a newline and ``>``. The response to a command that is not
    admissible is ``Nothing happens.`` See :class:`cola_envs.engines.EngineTask`.

    **Reward.** 1.0 for the command that reaches the goal, else 0.0; less ``invalid_penalty`` for a command
    that is not admissible.

    **Episode end.** Terminated when the goal is reached; truncated after ``max_commands`` commands, or if the
    engine fails (the cause is in ``info["error"]``), besides the token budget and the context.

    **Info.** At reset and at the end ``task_type``, ``unique_id`` (the game's folders in the split's),
    ``split``, ``goal``, ``dataset`` (``"alfworld-json_2.1.1"``), ``engine`` (names and versions), ``games``
    (number of games loaded) and ``games_sha256`` (of their ids and files); after each command ``command``,
    ``valid``, ``commands`` and ``invalid`` (counts so far); at the end ``success``.

    **Worked examples.** ``shots=1`` puts a game of the train split in front, won by its walkthrough on an
    engine that is started for it.

    **Data and licence.** The files that ``alfworld-download`` writes to
    ``$ALFWORLD_DATA/json_2.1.1/{train,valid_seen,valid_unseen}`` (3,553, 140 and 134 games); this task
    downloads nothing. As in ALFWorld, a game is skipped if its folders' names contain ``movable`` or
    ``Sliced``, if it has no game file, or if the file does not say that it is solvable; ``skipped`` counts
    them. If ``games`` is smaller than the split, a result is not a result on the split. ALFWorld has the MIT
    licence, ALFRED's data its own; the engine has GPL parts and is installed only by the extra ``alfworld``.

    **Versions.** v0: first version.

    Args:
        num_rows: number of rows.
        split: ``"train"``, ``"valid_seen"`` or ``"valid_unseen"``.
        data: the folder with the data; by default ``$ALFWORLD_DATA``.
        task_types: use only these of :data:`cola_envs.household.TASK_TYPES`.
        games: use only these ids (``unique_id``).
        sequential: play the games in order, each once before any is repeated, for an evaluation of a whole
            split; by default each game is drawn from the row's generator.
        max_commands: commands before the episode is truncated.
        invalid_penalty: subtracted for each command that is not admissible.
        admissible: ``"list"`` adds the admissible commands to every observation, ``"none"`` does not.
        num_workers: engine processes; by default one for each core, at most one for each row.
        deadline: time limit of one call of the engine, in seconds.

    Attributes:
        num_problems: number of games.
        skipped: number of the split's games that were left out, by reason.

    Raises:
        ModuleNotFoundError: without the engine, with the command that installs it.
        FileNotFoundError: without the data, with the variable to set and the command that downloads it.
        GameError: for a file that cannot be read or is not a game, or one outside the data's folder.
        ValueError: for an invalid argument, or no games.
    """

    splits = SPLITS

    def __init__(
        self,
        num_rows: int,
        *,
        split: Literal["train", "valid_seen", "valid_unseen"] = "train",
        data: str | Path | None = None,
        task_types: Sequence[str] = TASK_TYPES,
        games: Sequence[str] | None = None,
        sequential: bool = False,
        max_commands: int = 50,
        invalid_penalty: float = 0.0,
        admissible: Literal["none", "list"] = "none",
        num_workers: int | None = None,
        deadline: float = 60.0,
    ) -> None:
        check_game_settings(max_commands=max_commands, invalid_penalty=invalid_penalty, admissible=admissible)
        versions = engine_versions("alfworld", "alfworld", "textworld")
        listed = list_games(split_folder(data, split), task_types, games)
        self.skipped = listed.skipped
        super().__init__(
            num_rows,
            pool=EnginePool(ENGINE, num_rows=num_rows, num_workers=num_workers, deadline=deadline),
            games=listed.games,
            max_commands=max_commands,
            invalid_penalty=invalid_penalty,
            admissible=admissible,
            sequential=sequential,
            info={
                "dataset": f"alfworld-{FOLDER}",
                "split": split,
                "engine": described(versions),
                "games": len(listed.games),
                "games_sha256": listed.sha256,
            },
            examples=partial(
                ALFWorld, 1, data=data, task_types=task_types, admissible=admissible, deadline=deadline
            ),
        )


def split_folder(data: str | Path | None, split: str) -> Path:
    """The folder of a split.

    Raises:
        FileNotFoundError: if there is none, with the variable to set and the command to run.
        ValueError: for an unknown split.
    """
    check_choice("split", split, SPLITS)
    root = data if data is not None else os.environ.get("ALFWORLD_DATA")
    cure = (
        "run `alfworld-download` (it comes with pip install 'cola-rl[alfworld]') and set the environment "
        "variable ALFWORLD_DATA to the folder that holds it, or pass data=folder; CoLA-Household-v0 needs "
        "no data"
    )
    if not root:
        raise FileNotFoundError(f"the variable ALFWORLD_DATA is not set, so there are no games: {cure}")
    folder = Path(root).expanduser() / FOLDER / split
    if not folder.is_dir():
        raise FileNotFoundError(f"there are no games of ALFWorld at {folder}: {cure}")
    return folder


def list_games(folder: Path, task_types: Sequence[str], keep: Sequence[str] | None = None) -> GameList:
    """Find the games below ``folder`` and check every file.

    Raises:
        GameError: for a file that cannot be read or is not a game, or one outside the folder.
        ValueError: for an unknown task type or id, or no games.
    """
    task_types = check_task_types(task_types)
    if keep is not None:
        keep = check_list("games", keep, "a sequence of ids")
        if not keep:
            raise ValueError("games is empty: pass at least one id, or None for all games of the split")
        for name in keep:
            if not isinstance(name, str):
                raise WrongType(f"games must hold ids, two folders each, got {name!r:.80}")
    if keep is None:
        ids = sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob("traj_data.json"))
    else:
        ids = [_known(folder, name) for name in sorted(set(keep))]
    skipped: Counter[str] = Counter()
    digest = hashlib.sha256()
    games = []
    for name in ids:
        if "movable" in name or "Sliced" in name:
            skipped["movable or sliced"] += 1
            continue
        path = _inside(folder, name, "traj_data.json")
        task_type = _string(path, _read(path)[1], "task_type")
        if task_type not in task_types:
            skipped["other task type"] += 1
            continue
        if not (folder / name / "game.tw-pddl").exists():
            skipped["no game file"] += 1
            continue
        path = _inside(folder, name, "game.tw-pddl")
        raw, game = _read(path)
        if not game.get("solvable"):
            skipped["not known to be solvable"] += 1
            continue
        for key in ("pddl_domain", "grammar", "pddl_problem"):
            _string(path, game, key)
        digest.update(f"{name}\0{hashlib.sha256(raw).hexdigest()}\n".encode())
        games.append(Game(str(path), {"task_type": task_type, "unique_id": name}))
    if not games:
        raise ValueError(
            f"no game of {folder} can be played with task_types={list(task_types)}: {dict(skipped)}"
        )
    return GameList(tuple(games), digest.hexdigest(), dict(skipped))


def _known(folder: Path, name: str) -> str:
    if not (_inside(folder, name, "traj_data.json")).is_file():
        raise ValueError(f"there is no game {name!r} in {folder}; an id is two folders, task and trial")
    return Path(name).as_posix()


def _inside(folder: Path, name: str, file: str) -> Path:
    """The path of a game's file; GameError if ``..`` or a link leads out of the folder."""
    path = folder / name / file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise GameError(f"the game {name!r} leads out of the data's folder {folder}; put its files there")
    return path


def _read(path: Path) -> tuple[bytes, dict[str, object]]:
    try:
        raw = path.read_bytes()
        content = parsed(raw, "it")
    except (OSError, ValueError) as error:
        raise GameError(f"{path}: not a readable game file: {error}; fetch it again") from error
    if not isinstance(content, dict):
        raise GameError(f"{path}: it must hold an object, got {content!r:.60}; fetch it again")
    return raw, content


def _string(path: Path, content: dict[str, object], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str):
        raise GameError(f"{path}: the field {name!r} is missing or not a string; fetch the file again")
    return value
