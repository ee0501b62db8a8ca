"""ScienceWorld, primary school experiments as a text game: the task of ``CoLA-ScienceWorld-v0``."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from cola_envs.engines import EnginePool, EngineTask, Game
from cola_envs.engines.scienceworld import check_heap, find_java
from cola_envs.engines.task import check_game_settings
from cola_envs.engines.versions import engine_versions
from cola_envs.fields import Field

#: Changes that make the game easier, as the engine names them; ``easy`` stands for a set of them.
SIMPLIFICATIONS = (
    "easy",
    "teleportAction",
    "selfWateringFlowerPots",
    "openContainers",
    "openDoors",
    "noElectricalAction",
)
_ENGINE = "cola_envs.engines.scienceworld:ScienceWorldEngine"

#: By task and split.
Variations = dict[str, dict[str, list[int]]]

_VARIATIONS = Field("variations", dict)
_known_variations: Variations | None = None


class ScienceWorld(EngineTask):
    r"""The thirty tasks of ScienceWorld (Wang et al. 2022) on the real engine.

    **Prompt.** The task's description, a blank line, what ``look around`` shows, as the engine writes them
    (with its tabs and line breaks); with ``admissible="list"`` then a line ``Commands:`` with the commands
    that make sense, separated by commas (there are hundreds); a newline and ``>``.

    **Actions.** Each line is a command, such as ``open door to kitchen`` or ``focus on seed``; a newline
    sends it. ``help``, ``task`` and ``objects`` list things and cost no time. A command that fits several
    objects is answered with a numbered list: a number of the list, as the next command, chooses, and any
    other command cancels the request and is then carried out as usual. ``reset task`` is refused.

    **Observation.** The engine's answer, the ``Commands:`` line where asked for, a newline and ``>``; after
    the last command the answer alone. See :class:`~cola_envs.engines.EngineTask`.

    **Reward.** The change of the engine's score (0 to 100) divided by 100, so that an episode's rewards sum
    to (last score - ``baseline``) / 100. ``baseline`` is the score at the start, above 0 in some tasks with
    ``"easy"``. A fatal command (``focus on`` the wrong thing) puts the score to -100: the reward is
    -1 - score / 100. ``invalid_penalty`` is subtracted for a command that the engine does not understand.

    **End.** At score 100 (``success``), at a score below 0, and wherever else the engine says that the task
    is over; truncated after ``max_commands`` commands (the engine's own limit is not used), and where the
    engine fails, with the cause in ``info["error"]``.

    **Problems.** Each task has variations (other substances, places, objects), which the engine divides into
    train, dev and test. An episode draws a task, then one of its variations in the split, both evenly.

    **Fields.** ``info(row)``: ``task_type`` (the task's name), ``variation``, ``unique_id`` (both),
    ``simplifications``, ``split``, ``baseline``, ``deterministic``, ``dataset`` (``"scienceworld"``),
    ``engine`` and ``java`` (versions), ``games`` (pairs of task and variation that may be drawn) and
    ``games_sha256`` (of their list). At each command ``command``, ``valid``, ``commands`` and ``invalid``
    (counts), ``score``, ``moves`` (the engine's clock: ``wait`` takes ten and more) and ``ambiguous``; at the
    end ``success``. ``query(row, "commands")`` gives the commands that make sense now.

    **Determinism.** Left to itself the engine orders things by random numbers (Java's identity hash codes),
    so that texts, and in thermal tasks the course of an experiment, change from play to play. By
    default the Java machine is started so that they are fixed: the same commands then have the same effects,
    those of one of the orders that the engine might have taken (a pot of water over a lighter, which boils in
    some plays, stays water in it; the engine's own solutions of the thirty tasks win in it).
    With ``repeatable=False`` the engine runs as it is shipped: ``info["deterministic"]`` is False, snapshots
    are refused, and every row has a Java machine of its own, for a lost neighbour could not be replayed.

    **Data and licence.** Everything is part of the Python package ``scienceworld`` (Apache-2.0), which needs
    Java 8 or later. Upstream's ``openContainers`` has no effect in version 1.2.3.

    **Versions.** v0: first version.

    Args:
        num_rows: how many rows there are.
        split: ``"train"``, ``"dev"`` or ``"test"``: the engine's own lists of variations.
        tasks: keep these tasks alone, by name (``"find-plant"``) or number (``"4-2"``).
        variations: keep these variations alone; each must be one of every kept task's, in the split.
        simplifications: ``""``, ``"easy"``, or names from :data:`SIMPLIFICATIONS` joined by commas.
        max_commands: commands before the episode is cut.
        invalid_penalty: subtracted for each command that the engine does not understand.
        admissible: ``"list"`` writes the commands that make sense into the text; some 50 ms a command.
        sequential: play the variations in order, each once before any comes again, whichever row asks.
        heap: Java heap of one worker, as for ``java -Xmx``. Its rows share it: 512 MB do for some 25 of them.
        num_workers: worker processes, each with a Java machine; by default one a core, at most one a row.
        deadline: seconds that the engine may take over one command.
        repeatable: see above.

    Attributes:
        num_problems: how many pairs of task and variation an episode may draw from.

    Raises:
        ModuleNotFoundError: without the package ``scienceworld``.
        FileNotFoundError: without Java.
        EngineError: where the engine does not start.
        TypeError, ValueError: an argument outside what is written above.
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
        if split not in self.splits:
            raise ValueError(f"split must be {' or '.join(map(repr, self.splits))}, got {split!r}")
        check_game_settings(max_commands=max_commands, invalid_penalty=invalid_penalty, admissible=admissible)
        _check_simplifications(simplifications)
        check_heap(heap)
        if not repeatable and num_workers not in (None, num_rows):
            raise ValueError(
                f"repeatable=False gives every row a worker of its own: leave out num_workers={num_workers!r}"
            )
        versions = engine_versions("scienceworld", "scienceworld", "py4j")
        names = _chosen_tasks(tasks)
        _check_electricity(names, simplifications)
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
        """Put a row back; the engine follows when the row is next stepped.

        Raises:
            RuntimeError: with ``repeatable=False``.
        """
        self._check_repeatable()
        super().restore(row, state)

    def _check_repeatable(self) -> None:
        if not self.repeatable:
            raise RuntimeError(
                "with repeatable=False ScienceWorld may answer the same commands differently, so an episode "
                "cannot be kept and replayed: make the environment with repeatable=True"
            )


def task_numbers() -> dict[str, str]:
    """The engine's tasks: by their numbers in the paper (``"4-2"``) their names (``"find-plant"``).

    Raises:
        ModuleNotFoundError: without the package ``scienceworld``.
    """
    engine_versions("scienceworld", "scienceworld")
    spec = importlib.util.find_spec("scienceworld")  # not imported: it belongs in the workers
    assert spec is not None
    assert spec.origin is not None
    listed = json.loads(Path(spec.origin).with_name("tasks.json").read_text(encoding="utf-8"))
    return {task["task_id"]: task["task_name"] for task in listed}


def _check_simplifications(simplifications: str) -> None:
    known = ", ".join(SIMPLIFICATIONS)
    if not isinstance(simplifications, str):
        raise TypeError(f"simplifications must be a string such as 'easy', got {simplifications!r}")
    names = simplifications.split(",") if simplifications else []
    for name in names:
        if name not in SIMPLIFICATIONS:
            raise ValueError(
                f"unknown simplification {name!r} in {simplifications!r}; known are {known}, "
                "joined by commas without spaces"
            )
    if "easy" in names and len(names) > 1:
        raise ValueError(
            f"'easy' stands for a set of simplifications and goes alone, got {simplifications!r}"
        )


def _check_electricity(names: Sequence[str], simplifications: str) -> None:
    for name in names:
        if "noElectricalAction" in simplifications and ("power-component" in name or "conductivity" in name):
            raise ValueError(f"the task {name!r} needs electricity: leave out 'noElectricalAction'")


def _chosen_tasks(tasks: Sequence[str] | None) -> list[str]:
    numbers = task_numbers()
    known = list(numbers.values())
    if tasks is None:
        return known
    if isinstance(tasks, str) or not len(tasks):
        raise ValueError(f"tasks must be names such as ['find-plant'], got {tasks!r}")
    names = [numbers.get(task, task) for task in tasks]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            meant = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"ScienceWorld has no task {name!r}.{meant} Its tasks are {', '.join(known)}")
    return [name for name in known if name in names]


def _chosen_variations(
    lists: Variations, names: Sequence[str], split: str, wanted: Sequence[int] | None
) -> dict[str, list[int]]:
    if wanted is None:
        return {name: lists[name][split] for name in names}
    if isinstance(wanted, int | str) or not len(wanted):
        raise ValueError(f"variations must be a sequence of integers such as [0, 1], got {wanted!r}")
    for name in names:
        there = lists[name][split]
        for variation in wanted:
            if variation not in there:
                raise ValueError(
                    f"variation {variation!r} of {name!r} is not in split {split!r}, which has the "
                    f"{len(there)} from {there[0]} to {there[-1]}"
                )
    return {name: sorted(set(wanted)) for name in names}


def _variations(pool: EnginePool) -> Variations:
    """The engine's own lists of variations, asked for once in a process."""
    global _known_variations
    if _known_variations is None:
        _known_variations = _VARIATIONS.of(pool.reset([0], [None])[0].info)
    return _known_variations
