"""ALFWorld's own games on its own engine: the task of ``CoLA-ALFWorld-v0``."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cola_envs.engines import EnginePool, EngineTask, Game, GameError
from cola_envs.engines.task import check_game_settings
from cola_envs.engines.versions import engine_versions
from cola_envs.household import SPLITS, TASK_TYPES
from cola_envs.jsonl import parsed
from cola_envs.tasks.household import ENGINE, described

#: Below ``$ALFWORLD_DATA``.
FOLDER = "json_2.1.1"


@dataclass(frozen=True)
class GameList:
    """The games of a split that can be played.

    Attributes:
        games: in the order of their ids.
        sha256: of the ids and of each game file's bytes.
        skipped: how many were left out, by reason.
    """

    games: tuple[Game, ...]
    sha256: str
    skipped: dict[str, int]


class ALFWorld(EngineTask):
    r"""Household chores (Shridhar et al. 2021): the text games of ALFWorld.

    **Prompt, actions, observation, reward, episode end.** As in
    :class:`cola_envs.tasks.household.Household`: the engine, the domain and the grammar are the same, and a
    game file brings its own copies of the latter two.

    **Fields.** ``info(row)`` has ``task_type``, ``unique_id`` (the game's folders below the split's),
    ``split``, ``goal``, ``dataset`` (``"alfworld-json_2.1.1"``), ``engine`` (names and versions), ``games``
    (how many were really loaded) and ``games_sha256`` (of their list: ids and files); each turn ``command``,
    ``valid``, ``commands`` and ``invalid`` (counts); the last one ``success``.

    **Data.** ``$ALFWORLD_DATA/json_2.1.1/{train,valid_seen,valid_unseen}``, as ``alfworld-download`` lays
    them out (3,553, 140 and 134 games); nothing is downloaded here. As upstream, a game is skipped if its
    folders' names hold ``movable`` or ``Sliced``, if it has no game file, or if that does not say that it is
    solvable; ``skipped`` counts them. Where games are missing, ``games`` says so: a share of fewer games is
    no result on the split. ALFWorld is under the MIT licence, ALFRED's data under its own; the engine has GPL
    parts and is installed by the extra ``alfworld`` alone.

    **Versions.** v0: first version.

    Args:
        num_rows: how many rows (games side by side) there are.
        split: ``"train"``, ``"valid_seen"`` or ``"valid_unseen"``.
        data: the data's folder; by default what ``$ALFWORLD_DATA`` names.
        task_types: keep these of :data:`cola_envs.household.TASK_TYPES`.
        games: keep these ids (``unique_id``).
        sequential: take the games in order, each once before any comes again, whichever row asks; an
            evaluation plays a whole split so. Otherwise each is drawn from the row's generator.
        max_commands, invalid_penalty, admissible, num_workers, deadline: as in Household.

    Attributes:
        num_problems: how many games an episode may draw from.
        skipped: how many games of the split were left out, by reason.

    Raises:
        ModuleNotFoundError: without the engine; says what installs it.
        FileNotFoundError: without the data; names the variable and the download.
        GameError: a file that cannot be read or is no game, or one outside the data's folder.
        ValueError: an argument outside what is written above, or no game left.
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
        found = list_games(split_folder(data, split), task_types, games)
        self.skipped = found.skipped
        super().__init__(
            num_rows,
            pool=EnginePool(ENGINE, num_rows=num_rows, num_workers=num_workers, deadline=deadline),
            games=found.games,
            max_commands=max_commands,
            invalid_penalty=invalid_penalty,
            admissible=admissible,
            sequential=sequential,
            info={
                "dataset": f"alfworld-{FOLDER}",
                "split": split,
                "engine": described(versions),
                "games": len(found.games),
                "games_sha256": found.sha256,
            },
        )


def split_folder(data: str | Path | None, split: str) -> Path:
    """The folder of a split.

    Raises:
        FileNotFoundError: if there is none; names what to set and what to run.
        ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(map(repr, SPLITS))}, got {split!r}")
    given = data if data is not None else os.environ.get("ALFWORLD_DATA")
    cure = (
        "run `alfworld-download` (it comes with pip install 'cola-rl[alfworld]') and set the environment "
        "variable ALFWORLD_DATA to the folder that holds it, or pass data=folder; CoLA-Household-v0 needs "
        "no data"
    )
    if not given:
        raise FileNotFoundError(f"the variable ALFWORLD_DATA is not set, so there are no games: {cure}")
    folder = Path(given).expanduser() / FOLDER / split
    if not folder.is_dir():
        raise FileNotFoundError(f"there are no games of ALFWorld at {folder}: {cure}")
    return folder


def list_games(folder: Path, task_types: Sequence[str], keep: Sequence[str] | None = None) -> GameList:
    """Find the games below ``folder`` and check every file.

    Raises:
        GameError: a file that cannot be read or is no game, or one outside the folder.
        ValueError: an unknown task type or id, or no game left.
    """
    if isinstance(task_types, str) or not task_types:
        raise ValueError(f"task_types must be a sequence of at least one task type, got {task_types!r}")
    for name in task_types:
        if name not in TASK_TYPES:
            raise ValueError(f"unknown task type {name!r}; the six are {', '.join(TASK_TYPES)}")
    if isinstance(keep, str):
        raise ValueError(f"games must be a sequence such as [{keep!r}], got {keep!r}")
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
        task_type = _field(_inside(folder, name, "traj_data.json"), "task_type")
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
            if not isinstance(game.get(key), str):
                raise GameError(f"{path}: the field {key!r} is missing or no string; fetch the file again")
        digest.update(f"{name}\0{hashlib.sha256(raw).hexdigest()}\n".encode())
        games.append(Game(str(path), {"task_type": task_type, "unique_id": name}))
    if not games:
        raise ValueError(
            f"no game of {folder} can be played with task_types={list(task_types)}: {dict(skipped)}"
        )
    return GameList(tuple(games), digest.hexdigest(), dict(skipped))


def _known(folder: Path, name: str) -> str:
    if not (_inside(folder, name, "traj_data.json")).is_file():
        raise ValueError(f"there is no game {name!r} at {folder}; an id is two folders, task and trial")
    return Path(name).as_posix()


def _inside(folder: Path, name: str, file: str) -> Path:
    """A file's path, which may not leave the folder, by ``..`` or by a link."""
    path = folder / name / file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise GameError(f"the game {name!r} leads out of the data's folder {folder}: it is not played")
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


def _field(path: Path, name: str) -> str:
    value = _read(path)[1].get(name)
    if not isinstance(value, str):
        raise GameError(f"{path}: the field {name!r} is missing or no string; fetch the file again")
    return value
