"""Write a generated room as a PDDL problem, with its goal as a sentence and commands that win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cola_envs.household import tables
from cola_envs.household.naming import display_names

#: Types that must be declared even if the room has none, because the domain's rules or the planner use them.
_NAMED_OBJECT_TYPES = ("KnifeType", "ButterKnifeType")
_NAMED_RECEPTACLE_TYPES = ("SinkBasinType", "MicrowaveType", "FridgeType")
_RECEPTACLE_OBJECTS = frozenset({"Bowl", "Box", "Cup", "Mug", "Pan", "Plate", "Pot"})
_START = "loc_bar_0_bar_0_bar_0_bar_30"

_LIGHT, _TWO = "look_at_obj_in_light", "pick_two_obj_and_place"
#: Task type -> (the predicate that allows the change, the predicate after the change, the command).
_CHANGES = {
    "pick_clean_then_place_in_recep": ("cleanable", "isClean", "clean"),
    "pick_heat_then_place_in_recep": ("heatable", "isHot", "heat"),
    "pick_cool_then_place_in_recep": ("coolable", "isCool", "cool"),
}
#: ALFWorld's sentences, two for each task type.
_SENTENCES = {
    "pick_and_place_simple": ("put a {obj} in {recep}", "put some {obj} on {recep}"),
    _LIGHT: ("look at {obj} under the {recep}", "examine the {obj} with the {recep}"),
    "pick_clean_then_place_in_recep": (
        "put a clean {obj} in {recep}",
        "clean some {obj} and put it in {recep}",
    ),
    "pick_heat_then_place_in_recep": ("put a hot {obj} in {recep}", "heat some {obj} and put it in {recep}"),
    "pick_cool_then_place_in_recep": ("put a cool {obj} in {recep}", "cool some {obj} and put it in {recep}"),
    _TWO: ("put two {obj} in {recep}", "find two {obj} and put them in {recep}"),
}


@dataclass(frozen=True)
class Scene:
    """A room whose objects have ids.

    Attributes:
        receptacles: (id, kind, id of its location), in the layout's order.
        objects: (id, kind, index of its receptacle).
        task_type, target, place: of the goal.
        tool: the kind of receptacle that changes the goal's object, or None.
    """

    receptacles: tuple[tuple[str, str, str], ...]
    objects: tuple[tuple[str, str, int], ...]
    task_type: str
    target: str
    place: str
    tool: str | None

    @classmethod
    def build(
        cls,
        rng: np.random.Generator,
        kinds: Sequence[str],
        placed: Sequence[tuple[str, int]],
        task_type: str,
        target: str,
        place: str,
        tool: str | None,
    ) -> Scene:
        """Give every receptacle and object an id; the ids are drawn, so that names are numbered at random."""
        spots = iter(rng.permutation(40_000)[: len(kinds) + len(placed)].tolist())
        receptacles = []
        for index, kind in enumerate(kinds):
            parent = tables.PART_OF.get(kind)
            name = _id(parent, next(spots)) + f"_bar_{kind}" if parent else _id(kind, next(spots))
            receptacles.append((name, kind, f"loc_bar_{index + 1}_bar_{index % 7}_bar_{index % 4}_bar_30"))
        objects = [(_id(kind, next(spots)), kind, index) for kind, index in placed]
        return cls(tuple(receptacles), tuple(objects), task_type, target, place, tool)


def goal_sentence(rng: np.random.Generator, task_type: str, target: str, place: str) -> str:
    """One of ALFWorld's two sentences for the task type, in lower case, without a full stop."""
    sentence = _SENTENCES[task_type][int(rng.integers(2))]
    return sentence.format(obj=target.lower(), recep=place.lower())


def pddl(scene: Scene) -> str:
    """The scene as a PDDL problem in ALFWorld's domain."""
    otypes = sorted({f"{kind}Type" for _, kind, _ in scene.objects} | set(_NAMED_OBJECT_TYPES))
    rtypes = sorted({f"{kind}Type" for _, kind, _ in scene.receptacles} | set(_NAMED_RECEPTACLE_TYPES))
    declared = [
        ("agent", ["agent1"]),
        ("location", [_START, *(place for *_, place in scene.receptacles)]),
        ("receptacle", [name for name, *_ in scene.receptacles]),
        ("object", [name for name, *_ in scene.objects]),
        ("rtype", rtypes),
        ("otype", otypes),
    ]
    lines = ["(define (problem household)", " (:domain alfred)", " (:objects"]
    lines += [f"  {name} - {kind}" for kind, names in declared for name in names]
    lines += [" )", " (:init", f"  (atLocation agent1 {_START})", "  (= (total-cost) 0)"]
    for name, kind, location in scene.receptacles:
        lines.append(f"  (receptacleType {name} {kind}Type)")
        lines.append(f"  (receptacleAtLocation {name} {location})")
        if kind in tables.OPENABLE:
            lines.append(f"  (openable {name})")
    present = {kind for _, kind, _ in scene.objects}
    for kind in sorted({kind for _, kind, _ in scene.receptacles}):
        lines += [
            f"  (canContain {kind}Type {thing}Type)" for thing in sorted(tables.CONTAINS[kind] & present)
        ]
    for name, kind, index in scene.objects:
        receptacle, _, location = scene.receptacles[index]
        lines.append(f"  (objectType {name} {kind}Type)")
        lines += [f"  ({predicate} {name})" for predicate in _affordances(kind)]
        lines.append(f"  (inReceptacle {name} {receptacle})")
        lines.append(f"  (objectAtLocation {name} {location})")
    lines += [" )", f" (:goal {_goal(scene)})", " (:metric minimize (total-cost))", ")", ""]
    return "\n".join(lines)


def walkthrough(scene: Scene) -> tuple[str, ...]:
    """Commands that win directly, without searching."""
    names = display_names(
        [name.lower() for name, *_ in scene.receptacles] + [name.lower() for name, *_ in scene.objects]
    )
    closed = {name for name, kind, _ in scene.receptacles if kind in tables.OPENABLE}
    commands: list[str] = []
    here = ""

    def go(receptacle: str, reach_in: bool = True) -> str:
        nonlocal here
        name = names[receptacle.lower()]
        if receptacle != here:
            commands.append(f"go to {name}")
            here = receptacle
        if reach_in and receptacle in closed:
            closed.remove(receptacle)
            commands.append(f"open {name}")
        return name

    def first(kind: str) -> str:
        return next(name for name, own, _ in scene.receptacles if own == kind)

    taken = [item for item in scene.objects if item[1] == scene.target]
    for item, _, index in taken[: 2 if scene.task_type == _TWO else 1]:
        source = go(scene.receptacles[index][0])
        commands.append(f"take {names[item.lower()]} from {source}")
        if scene.tool is not None:
            verb = _CHANGES[scene.task_type][2]
            commands.append(f"{verb} {names[item.lower()]} with {go(first(scene.tool), reach_in=False)}")
        if scene.task_type == _LIGHT:
            lamp, _, stand = next(entry for entry in scene.objects if entry[1] == scene.place)
            go(scene.receptacles[stand][0], reach_in=False)
            commands.append(f"use {names[lamp.lower()]}")
        else:
            commands.append(f"move {names[item.lower()]} to {go(first(scene.place))}")
    return tuple(commands)


def _id(kind: str, spot: int) -> str:
    """An id in ALFRED's form, of a kind and one of 200 by 200 positions, 5 cm apart."""
    return f"{kind}_bar_{_metres(spot // 200 - 100)}_bar__plus_00_dot_90_bar_{_metres(spot % 200 - 100)}"


def _metres(twentieths: int) -> str:
    sign = "minus" if twentieths < 0 else "plus"
    metres, centimetres = divmod(abs(twentieths) * 5, 100)
    return f"_{sign}_{metres:02d}_dot_{centimetres:02d}"


def _affordances(kind: str) -> list[str]:
    """The predicates of a kind of object."""
    if kind == tables.LAMP:
        return ["toggleable"]
    groups = (
        ("cleanable", tables.CLEANABLE),
        ("heatable", tables.HEATABLE),
        ("coolable", tables.COOLABLE),
        ("sliceable", tables.SLICEABLE),
        ("isReceptacleObject", _RECEPTACLE_OBJECTS),
    )
    return ["pickupable", *(predicate for predicate, kinds in groups if kind in kinds)]


def _goal(scene: Scene) -> str:
    """The scene's goal as PDDL."""
    if scene.task_type == _LIGHT:
        return (
            "(and (exists (?t - object ?r - receptacle ?a - agent ?l - location) (and "
            f"(objectType ?t {scene.place}Type) (toggleable ?t) (isToggled ?t) "
            "(receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?t ?r))) "
            f"(exists (?o - object ?a - agent) (and (objectType ?o {scene.target}Type) (holds ?a ?o))))"
        )

    def placed(name: str) -> str:
        changed = ""
        if scene.task_type in _CHANGES:
            able, become, _ = _CHANGES[scene.task_type]
            changed = f"({able} {name}) ({become} {name}) "
        return f"(objectType {name} {scene.target}Type) {changed}(inReceptacle {name} ?r)"

    one = f"(receptacleType ?r {scene.place}Type) {placed('?o')}"
    if scene.task_type == _TWO:
        one += f" (exists (?p - object) (and (not (= ?o ?p)) {placed('?p')}))"
    return f"(and (exists (?r - receptacle) (exists (?o - object) (and {one}))))"
