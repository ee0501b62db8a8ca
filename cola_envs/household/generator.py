"""Draw household games: a room, the objects in it, and a goal that can be reached."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from cola_envs.checks import check_choice, check_list
from cola_envs.household import problem, tables
from cola_envs.household.tables import CLEANABLE, CONTAINS, COOLABLE, HEATABLE, LAMP, ROOMS

T = TypeVar("T")
Split = Literal["train", "valid_seen", "valid_unseen"]
SPLITS: tuple[Split, ...] = ("train", "valid_seen", "valid_unseen")
#: ALFWorld's six task types; its number ``i + 1`` is entry ``i``.
TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
#: Level -> (fewest, most) receptacles and (fewest, most) objects.
LEVELS = {
    1: ((5, 7), (4, 6)),
    2: ((8, 12), (8, 14)),
    3: ((13, 18), (15, 25)),
    4: ((19, 26), (26, 40)),
}

_LIGHT, _TWO = TASK_TYPES[1], TASK_TYPES[5]
#: Task type -> the receptacle that the task needs as a tool, and the objects that it changes.
_TOOLS = {
    TASK_TYPES[2]: ("SinkBasin", CLEANABLE),
    TASK_TYPES[3]: ("Microwave", HEATABLE),
    TASK_TYPES[4]: ("Fridge", COOLABLE),
}
#: One layout in 4 belongs to valid_unseen, and of games in other layouts one in 8 to valid_seen.
_UNSEEN_OF, _SEEN_OF = 4, 8
_MOST_OF_A_KIND = 3  # objects of one kind in a room


@dataclass(frozen=True)
class HouseholdGame:
    """A generated game.

    Attributes:
        task_type: one of :data:`TASK_TYPES`.
        split: the only split with this game.
        level: one of :data:`LEVELS`.
        room: one of the rooms of :mod:`cola_envs.household.tables`.
        target: the kind of object in the goal.
        place: the kind of receptacle in the goal; the lamp for ``look_at_obj_in_light``.
        goal: the goal as a sentence.
        pddl_problem: the problem as PDDL, in ALFWorld's domain.
        walkthrough: commands that win.
        game_id: hash of the problem and the goal, 16 hexadecimal digits.
    """

    task_type: str
    split: Split
    level: int
    room: str
    target: str
    place: str
    goal: str
    pddl_problem: str
    walkthrough: tuple[str, ...]
    game_id: str

    def spec(self) -> dict[str, object]:
        """The game in the form that :class:`cola_envs.engines.pddl.PddlEngine` takes."""
        return {
            "pddl_problem": self.pddl_problem,
            "goal": self.goal,
            "walkthrough": list(self.walkthrough),
        }


def check_generator_settings(
    *, split: str, level: int, task_types: Sequence[str]
) -> tuple[int, tuple[str, ...]]:
    """Check the arguments of :func:`generate`.

    Returns:
        ``level`` as Python's integer, and ``task_types`` as a tuple.

    Raises:
        ValueError: for an unknown split, level or task type, or no task types.
    """
    check_choice("split", split, SPLITS)
    return check_choice("level", level, LEVELS), check_task_types(task_types)


def check_task_types(task_types: Sequence[str]) -> tuple[str, ...]:
    """``task_types`` as a tuple; ValueError for an unknown task type, or no task types."""
    form = "a sequence of at least one task type"
    names = check_list("task_types", task_types, form)
    if not names:
        raise ValueError(f"task_types must be {form}, got {task_types!r}")
    for name in names:
        if name not in TASK_TYPES:
            raise ValueError(f"unknown task type {name!r}; the six are {', '.join(TASK_TYPES)}")
    return tuple(str(name) for name in names)  # of NumPy's strings too: games are hashed by their repr


def generate(
    rng: np.random.Generator,
    split: Split = "train",
    level: int = 2,
    task_types: Sequence[str] = TASK_TYPES,
) -> HouseholdGame:
    """Draw a game, using only ``rng`` for randomness.

    The splits are disjoint. By a hash of the layout (the room and its numbers of receptacles of each kind),
    one layout in four is used only by ``valid_unseen``. By a hash of the game (layout, goal and the places of
    the objects), one game in eight of the other layouts is used only by ``valid_seen``, the rest by
    ``train``. A draw of another split is repeated.

    Every game can be won: the goal's object lies outside the goal's receptacle, which can hold it, nothing is
    locked or full, and the tool that the goal needs is there.

    Raises:
        ValueError: see :func:`check_generator_settings`.
    """
    level, task_types = check_generator_settings(split=split, level=level, task_types=task_types)
    while True:
        task_type = task_types[int(rng.integers(len(task_types)))]
        room = _pick(rng, _rooms_for(task_type))
        kinds = _layout(rng, room, level)
        if (_hashed(room, kinds) % _UNSEEN_OF == 0) != (split == "valid_unseen"):
            continue
        target, place = _pick(rng, _goals(task_type, room, kinds))
        placed = _placed(rng, task_type, room, level, kinds, target, place)
        places = tuple(sorted((thing, kinds[index]) for thing, index in placed))
        seen = _hashed(task_type, target, place, room, kinds, places) % _SEEN_OF == 0
        if split == "valid_unseen" or seen == (split == "valid_seen"):
            break
    tool = _TOOLS[task_type][0] if task_type in _TOOLS else None
    scene = problem.Scene.build(rng, kinds, placed, task_type, target, place, tool)
    goal = problem.goal_sentence(rng, task_type, target, place)
    text = problem.pddl(scene)
    return HouseholdGame(
        task_type=task_type,
        split=split,
        level=level,
        room=room,
        target=target,
        place=place,
        goal=goal,
        pddl_problem=text,
        walkthrough=problem.walkthrough(scene),
        game_id=hashlib.sha256(f"{goal}\n{text}".encode()).hexdigest()[:16],
    )


def _pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _hashed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


def _rooms_for(task_type: str) -> list[str]:
    """The rooms that always have the receptacles that a task type needs."""
    if task_type == _LIGHT:
        return [name for name, room in ROOMS.items() if set(room.always) & set(tables.LAMP_STANDS)]
    if task_type in _TOOLS:
        return [name for name, room in ROOMS.items() if _TOOLS[task_type][0] in room.always]
    return list(ROOMS)


def _layout(rng: np.random.Generator, room: str, level: int) -> tuple[str, ...]:
    """The kinds of the room's receptacles, sorted, one entry for each receptacle."""
    (fewest, most), _ = LEVELS[level]
    kinds = list(ROOMS[room].always)
    count = int(rng.integers(fewest, most + 1))
    while len(kinds) < count:
        candidates = [
            kind
            for kind in (*ROOMS[room].always, *ROOMS[room].often)
            if kinds.count(kind) < tables.MOST.get(kind, 1)
        ]
        kinds.append(_pick(rng, candidates))
    return tuple(sorted(kinds))


def _goals(task_type: str, room: str, kinds: Sequence[str]) -> list[tuple[str, str]]:
    """The (object, receptacle) pairs that a goal of this task type can name."""
    things = ROOMS[room].things
    if task_type == _LIGHT:
        return [(thing, LAMP) for thing in things if any(thing in CONTAINS[kind] for kind in kinds)]
    tool, changed = _TOOLS.get(task_type, (None, things))
    return [
        (thing, place)
        for thing in things
        if thing in changed
        for place in sorted(set(kinds))
        if place != tool and thing in CONTAINS[place] and _elsewhere(thing, place, kinds)
    ]


def _elsewhere(thing: str, place: str, kinds: Sequence[str]) -> list[int]:
    """Indices of the receptacles that can hold ``thing`` and are not of the kind ``place``."""
    return [index for index, kind in enumerate(kinds) if kind != place and thing in CONTAINS[kind]]


def _placed(
    rng: np.random.Generator,
    task_type: str,
    room: str,
    level: int,
    kinds: Sequence[str],
    target: str,
    place: str,
) -> list[tuple[str, int]]:
    """(object, index of its receptacle) pairs; the goal's objects come first and are not at its place."""
    _, (fewest, most) = LEVELS[level]
    count = int(rng.integers(fewest, most + 1))
    things = [target] * (2 if task_type == _TWO else 1)
    if task_type == _LIGHT:
        stands = [index for index, kind in enumerate(kinds) if kind in tables.LAMP_STANDS]
        placed = [(LAMP, _pick(rng, stands))]
    else:
        placed = []
    others = [thing for thing in ROOMS[room].things if _elsewhere(thing, "", kinds)]
    while len(things) < min(count, len(others) * _MOST_OF_A_KIND):
        thing = _pick(rng, others)
        if things.count(thing) < _MOST_OF_A_KIND:
            things.append(thing)
    for thing in things:
        spots = _elsewhere(thing, place if thing == target else "", kinds)
        placed.append((thing, _pick(rng, spots)))
    return placed
