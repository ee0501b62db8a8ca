"""ScienceWorld, science experiments as a text game: the task of ``CoLA-ScienceWorld-v0``."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from cola_envs.checks import check_choice, check_count, check_game_settings, check_list
from cola_envs.engines import EnginePool, EngineTask, Game
from cola_envs.engines.scienceworld import check_heap, find_java
from cola_envs.engines.versions import engine_versions
from cola_envs.fields import Field

#: The engine's names of changes that make the game easier; ``easy`` is a set of them.
SIMPLIFICATIONS = (
    "easy",
    "teleportAction",
    "selfWateringFlowerPots",
    "openContainers",
    "openDoors",
    "noElectricalAction",
)
_ENGINE = "cola_envs.engines.scienceworld:ScienceWorldEngine"

#: Lists of variations by task and split.
Variations = dict[str, dict[str, list[int]]]

_VARIATIONS = Field("variations", dict)
_known_variations: Variations | None = None


class ScienceWorld(EngineTask):
    r"""The thirty tasks of ScienceWorld (Wang et al. 2022) on its own engine.

    **Prompt.** The task's description, a blank line and the result of ``look around``, as the engine writes
    them (with its tabs and line breaks); with ``admissible="list"`` a line ``Commands:`` with the sensible
    commands, separated by commas (there are hundreds); a newline and ``>``.

    **Prompt formats.** Plain text: ``"...\n\nThis room is called the hallway. ...\n>"``. In a chat, the
    user's message: ``"...\n\nThis room is called the hallway. ..."``. Each later text of the game is a
    user's message too.

    **Actions.** A command, ended by a newline, such as ``open door to kitchen`` or ``focus on seed``.
    ``help``, ``task`` and ``objects`` list things and take no time. If a command fits several objects, the
    response is a numbered list: a number of the list as the next command chooses, and any other command
    cancels the choice and is executed as usual. ``reset task`` is not available.

    **Observation.** The engine's response, with ``admissible="list"`` the line ``Commands:``, a newline and
    ``>``; after the last command only the response. See :class:`cola_envs.engines.EngineTask`.

    **Reward.** The change of the engine's score (0 to 100) divided by 100, so that an episode's rewards sum
    to (last score - ``baseline``) / 100. ``baseline`` is the score at the start, above 0 in some tasks with
    ``"easy"``. A fatal command (``focus on`` the wrong thing) sets the score to -100: its reward is
    -1 - score / 100. ``invalid_penalty`` is subtracted for a command that the engine does not understand.

    **Episode end.** Terminated at score 100 (``success``), at a score below 0, and when the engine ends the
    task for another reason; truncated after ``max_commands`` commands (the engine's own limit is not used),
    or if the engine fails, with the cause in ``info["error"]``, besides the token budget and the context.

    **Problems.** Each task has variations (other substances, places, objects), which the engine divides into
    train, dev and test. An episode draws a task, then one of its variations in the split, both uniformly.

    **Info.** At reset and at the end ``task_type`` (the task's name), ``variation``, ``unique_id`` (both),
    ``simplifications``, ``split``, ``baseline``, ``deterministic``, ``dataset`` (``"scienceworld"``),
    ``engine`` and ``java`` (versions), ``games`` (number of pairs of task and variation) and ``games_sha256``
    (of their list). After each command ``command``, ``valid``, ``commands`` and ``invalid`` (counts so far),
    ``score``, ``moves`` (the engine's clock, on which ``wait`` takes ten or more) and ``ambiguous``; at the
    end ``success``. ``query(row, "commands")`` returns the commands that are sensible now.

    **Determinism.** As it is shipped, the engine orders objects by random numbers (Java's identity hash
    codes), so that texts, and in thermal tasks the results of an experiment, differ between plays. By default
    the Java machine is started with fixed numbers: the same commands then always have the same effects, those
    of one of the engine's possible orders (a pot of water over a lighter, which boils in some plays, does not
    boil in this one; the engine's own solutions of the thirty tasks win). With ``repeatable=False`` the
    engine runs as it is shipped: ``info["deterministic"]`` is False, snapshots raise an error, and every row
    has its own Java machine, because other rows could not be replayed after a failure.

    **Data and licence.** The Python package ``scienceworld`` (Apache-2.0) contains everything and needs Java
    8 or later. Its ``openContainers`` has no effect in version 1.2.3.

    **Versions.** v0: first version.

    Args:
        num_rows: number of rows.
        split: ``"train"``, ``"dev"`` or ``"test"``, the engine's lists of variations.
        tasks: use only these tasks, by name (``"find-plant"``) or number (``"4-2"``).
        variations: use only these variations; each must exist for every task, in the split.
        simplifications: ``""``, ``"easy"``, or some of ``teleportAction``, ``selfWateringFlowerPots``,
            ``openContainers``, ``openDoors`` and ``noElectricalAction``, joined by commas without spaces.
        max_commands: commands before the episode is truncated.
        invalid_penalty: subtracted for each command that the engine does not understand.
        admissible: ``"list"`` adds the sensible commands to every observation, which takes about 50 ms for
            each command; ``"none"`` does not.
        sequential: play the variations in order, each once before any is repeated.
        heap: Java heap of one worker, as for ``java -Xmx``, shared by its rows; 512 MB suffice for about 25.
        num_workers: worker processes, each with a Java machine; by default one for each core, at most one for
            each row.
        deadline: time limit of one call of the engine, in seconds.
        repeatable: see Determinism.

    Attributes:
        num_problems: number of pairs of task and variation.

    Raises:
        ModuleNotFoundError: without the package ``scienceworld``.
        FileNotFoundError: without Java.
        EngineError: if the engine does not start.
        TypeError, ValueError: for an invalid argument.
    """

    splits = ("train", "dev", "test")

    def __init__(
        self,
        num_rows: int,
        *,
        split: Literal["train", "dev", "test"] = "train",
        tasks: Sequence[str] | None = None,
        variations: Sequence[int] | None = None,
        simplifications: str = "easy",
        max_commands: int = 100,
        invalid_penalty: float = 0.0,
        admissible: Literal["none", "list"] = "none",
        sequential: bool = False,
        heap: str = "512m",
        num_workers: int | None = None,
        deadline: float = 60.0,
        repeatable: bool = True,
    ) -> None:
        check_choice("split", split, self.splits)
        check_game_settings(max_commands=max_commands, invalid_penalty=invalid_penalty, admissible=admissible)
        _check_simplifications(simplifications)
        check_heap(heap)
        num_rows = check_count("num_rows", num_rows)
        if not repeatable and num_workers not in (None, num_rows):
            raise ValueError(
                f"repeatable=False gives every row its own worker: leave out num_workers={num_workers!r}"
            )
        versions = engine_versions("scienceworld", "scienceworld", "py4j")
        names = _chosen_tasks(tasks)
        _check_simplifications(simplifications, names)
        find_java()
        pool = EnginePool(
            _ENGINE,
            {"heap": heap, "admissible": admissible == "list", "repeatable": repeatable},
            num_rows=num_rows,
            num_workers=num_workers if repeatable else num_rows,
            deadline=deadline,
        )
        try:
            chosen = _chosen_variations(_variations(pool), names, split, variations)
            pairs = [(name, variation) for name in names for variation in chosen[name]]
            games = {
                (name, variation): Game(
                    (name, variation, simplifications),
                    {"task_type": name, "variation": variation, "unique_id": f"{name}/{variation}"},
                )
                for name, variation in pairs
            }

            def draw(rng: np.random.Generator) -> Game:
                name = names[int(rng.integers(len(names)))]
                return games[name, chosen[name][int(rng.integers(len(chosen[name])))]]

            super().__init__(
                num_rows,
                pool=pool,
                games=list(games.values()) if sequential else draw,
                max_commands=max_commands,
                invalid_penalty=invalid_penalty,
                admissible=admissible,
                sequential=sequential,
                info={
                    "dataset": "scienceworld",
                    "simplifications": simplifications,
                    "split": split,
                    "deterministic": repeatable,
                    "engine": f"scienceworld {versions['scienceworld']}",
                    "games": len(pairs),
                    "games_sha256": hashlib.sha256(json.dumps(pairs).encode()).hexdigest(),
                },
            )
        except BaseException:
            pool.close()
            raise
        self.num_problems = len(pairs)
        self.repeatable = repeatable

    def snapshot(self, row: int) -> object:
        """The row's game and its commands so far.

        Raises:
            RuntimeError: with ``repeatable=False``.
        """
        self._check_repeatable()
        return super().snapshot(row)

    def restore(self, row: int, state: object) -> None:
        """Restore a row; the engine replays its commands at the row's next step.

        Raises:
            RuntimeError: with ``repeatable=False``.
        """
        self._check_repeatable()
        super().restore(row, state)

    def _check_repeatable(self) -> None:
        if not self.repeatable:
            raise RuntimeError(
                "with repeatable=False ScienceWorld may answer the same commands differently, so an episode "
                "cannot be saved and replayed: make the environment with repeatable=True"
            )


def task_numbers() -> dict[str, str]:
    """The names of the engine's tasks (``"find-plant"``) by their numbers in the paper (``"4-2"``).

    Raises:
        ModuleNotFoundError: without the package ``scienceworld``.
    """
    engine_versions("scienceworld", "scienceworld")
    spec = importlib.util.find_spec("scienceworld")  # only the workers import it
    assert spec is not None
    assert spec.origin is not None
    tasks = json.loads(Path(spec.origin).with_name("tasks.json").read_text(encoding="utf-8"))
    return {task["task_id"]: task["task_name"] for task in tasks}


def _check_simplifications(simplifications: str, tasks: Sequence[str] = ()) -> None:
    if not isinstance(simplifications, str):
        raise TypeError(f"simplifications must be a string such as 'easy', got {simplifications!r}")
    names = simplifications.split(",") if simplifications else []
    for name in names:
        if name not in SIMPLIFICATIONS:
            raise ValueError(
                f"unknown simplification {name!r} in {simplifications!r}; use {', '.join(SIMPLIFICATIONS)}, "
                "joined by commas without spaces"
            )
    if "easy" in names and len(names) > 1:
        raise ValueError(f"'easy' cannot be combined with other simplifications, got {simplifications!r}")
    for task in tasks:
        if "noElectricalAction" in names and ("power-component" in task or "conductivity" in task):
            raise ValueError(f"the task {task!r} needs electricity: leave out 'noElectricalAction'")


def _chosen_tasks(tasks: Sequence[str] | None) -> list[str]:
    numbers = task_numbers()
    known = list(numbers.values())
    if tasks is None:
        return known
    form = "names such as ['find-plant']"
    listed = check_list("tasks", tasks, form)
    if not listed:
        raise ValueError(f"tasks must be {form}, got {tasks!r}")
    names = [numbers.get(task, task) if isinstance(task, str) else task for task in listed]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"ScienceWorld has no task {name!r}.{hint} Its tasks are {', '.join(known)}")
    return [name for name in known if name in names]


def _chosen_variations(
    lists: Variations, names: Sequence[str], split: str, variations: Sequence[int] | None
) -> dict[str, list[int]]:
    if variations is None:
        return {name: lists[name][split] for name in names}
    form = "a sequence of integers such as [0, 1]"
    listed = check_list("variations", variations, form)
    if not listed:
        raise ValueError(f"variations must be {form}, got {variations!r}")
    chosen = sorted({check_count("variations", variation, None) for variation in listed})
    for name in names:
        available = lists[name][split]
        for variation in chosen:
            if variation not in available:
                raise ValueError(
                    f"variation {variation!r} of {name!r} is not in split {split!r}, which has the "
                    f"{len(available)} from {available[0]} to {available[-1]}"
                )
    return dict.fromkeys(names, chosen)


def _variations(pool: EnginePool) -> Variations:
    """The engine's lists of variations, cached in the process."""
    global _known_variations
    if _known_variations is None:
        _known_variations = _VARIATIONS.of(pool.reset([0], [None])[0].info)
    return _known_variations
