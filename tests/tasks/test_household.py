"""Generated household games: apart by split, in ALFWorld's words, and every one can be won."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from cola_envs import Episodes, register_task
from cola_envs.engines import EnginePool
from cola_envs.household import LEVELS, SPLITS, TASK_TYPES, generate, tables
from cola_envs.household.generator import HouseholdGame, Split
from cola_envs.household.naming import display_names
from cola_envs.tasks.household import ENGINE, Household
from cola_envs.testing import FakeBackbone, check_env
from tests.envs.tiny import write

ROOT = Path(__file__).parents[2]


def make(seed: int, split: Split = "train", level: int = 2, task_types: Any = TASK_TYPES) -> HouseholdGame:
    return generate(np.random.default_rng(seed), split, level, task_types)


def facts(game: HouseholdGame, predicate: str) -> list[list[str]]:
    start = game.pddl_problem.index("(:init")
    lines = game.pddl_problem[start : game.pddl_problem.index("(:goal")].splitlines()
    found = [line.strip().strip("()").split() for line in lines]
    return [words[1:] for words in found if words and words[0] == predicate]


def layout(game: HouseholdGame) -> tuple[str, ...]:
    return (game.room, *sorted(kind for _, kind in facts(game, "receptacleType")))


def content(game: HouseholdGame) -> tuple[Any, ...]:
    """The game without its ids: what is where, and what is wanted."""
    place = dict(facts(game, "receptacleType"))
    thing = dict(facts(game, "objectType"))
    lying = sorted((thing[a], place[b]) for a, b in facts(game, "inReceptacle"))
    return (game.task_type, game.target, game.place, layout(game), *lying)


def solved(game: HouseholdGame) -> bool:
    """Play the walkthrough by the rules of the domain, written down once more, and look at the goal."""
    kind = {name.lower(): own.removesuffix("Type") for name, own in facts(game, "receptacleType")}
    kind |= {name.lower(): own.removesuffix("Type") for name, own in facts(game, "objectType")}
    names = {shown: name for name, shown in display_names(kind).items()}
    inside = {thing.lower(): place.lower() for thing, place in facts(game, "inReceptacle")}
    allowed = {(a.removesuffix("Type"), b.removesuffix("Type")) for a, b in facts(game, "canContain")}
    able = {
        verb: {name.lower() for (name,) in facts(game, predicate)}
        for verb, predicate in (("clean", "cleanable"), ("heat", "heatable"), ("cool", "coolable"))
    }
    closed = {name.lower() for (name,) in facts(game, "openable")}
    tools = {"clean": "SinkBasin", "heat": "Microwave", "cool": "Fridge"}
    here, held, done = "", "", set()
    for command in game.walkthrough:
        words = command.replace("go to", "goto").split()
        verb, first = words[0], names[" ".join(words[1:3])]
        second = names[" ".join(words[4:6])] if len(words) > 3 else ""
        if verb == "goto":
            here = first
        elif verb == "open" and first == here and first in closed:
            closed.remove(first)
        elif verb == "take" and not held and inside.get(first) == second == here not in closed:
            held = first
            del inside[first]
        elif (
            verb == "move"
            and held == first
            and here == second not in closed
            and (kind[second], kind[first]) in allowed
        ):
            inside[first], held = second, ""
        elif verb in tools and held == first in able[verb] and kind[here] == tools[verb] and here == second:
            done.add((verb, first))
        elif verb == "use" and inside[first] == here:
            done.add((verb, kind[first]))
        else:
            return False
    placed = [t for t, r in inside.items() if kind[t] == game.target and kind[r] == game.place]
    changes = {TASK_TYPES[2]: "clean", TASK_TYPES[3]: "heat", TASK_TYPES[4]: "cool"}
    if game.task_type == TASK_TYPES[1]:
        return ("use", game.place) in done and bool(held) and kind[held] == game.target
    if game.task_type == TASK_TYPES[5]:
        return len(placed) >= 2 and len({inside[thing] for thing in placed}) < len(placed)
    if game.task_type in changes:
        return any((changes[game.task_type], thing) in done for thing in placed)
    return bool(placed)


# ---------------------------------------------------------------- the generator, without an engine


@pytest.mark.parametrize("task_type", TASK_TYPES)
@pytest.mark.parametrize("split", SPLITS)
def test_every_game_can_be_won_by_the_rules_and_is_not_won_at_the_start(split: Split, task_type: str) -> None:
    for level in LEVELS:
        for seed in range(12):
            game = make(seed, split, level, [task_type])
            assert (game.task_type, game.split, game.level) == (task_type, split, level)
            assert solved(game), game
            places = dict(facts(game, "receptacleType"))
            things = dict(facts(game, "objectType"))
            there = [
                thing
                for thing, place in facts(game, "inReceptacle")
                if (things[thing], places[place]) == (f"{game.target}Type", f"{game.place}Type")
            ]
            assert there == []


def test_the_same_seed_is_the_same_game_and_others_differ() -> None:
    assert make(7) == make(7)
    assert len({make(seed).game_id for seed in range(100)}) == 100


def test_splits_share_neither_layouts_nor_games() -> None:
    games = {split: [make(seed, split, 1) for seed in range(250)] for split in SPLITS}
    unseen = set(map(layout, games["valid_unseen"]))
    for split in ("train", "valid_seen"):
        assert not unseen & set(map(layout, games[split]))
    assert set(map(layout, games["train"])) & set(map(layout, games["valid_seen"]))
    assert not set(map(content, games["train"])) & set(map(content, games["valid_seen"]))


def test_every_split_has_every_task_type_room_and_level() -> None:
    for split in SPLITS:
        for level, (receptacles, objects) in LEVELS.items():
            games = [make(seed, split, level) for seed in range(80)]
            assert {game.task_type for game in games} == set(TASK_TYPES)
            assert {game.room for game in games} == set(tables.ROOMS)
            for game in games:
                assert receptacles[0] <= len(facts(game, "receptacleType")) <= receptacles[1]
                things = len([1 for _, kind in facts(game, "objectType") if kind != "DeskLampType"])
                assert things <= objects[1]
                assert things >= min(objects[0], 15)  # a bathroom has nine kinds of things, three of each


def test_task_types_are_drawn_evenly() -> None:
    counts = Counter(make(seed, level=2).task_type for seed in range(600))
    assert set(counts) == set(TASK_TYPES)
    assert min(counts.values()) > 60


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "test"}, "split must be 'train' or 'valid_seen' or 'valid_unseen', got 'test'"),
        ({"level": 5}, "level must be 1 or 2 or 3 or 4, got 5"),
        ({"level": 2.0}, r"level must be 1 or 2 or 3 or 4, got 2\.0"),
        ({"task_types": ["pick"]}, "unknown task type 'pick'; the six are pick_and_place_simple"),
        ({"task_types": "pick_two_obj_and_place"}, "task_types must be a sequence"),
        ({"task_types": []}, "at least one"),
        ({"task_types": 5}, "task_types must be a sequence of at least one task type, got 5"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(0, **settings)


def test_a_level_and_task_types_of_numpy_give_the_same_games() -> None:
    for seed in range(20):
        assert make(seed, level=np.int64(1), task_types=np.array(TASK_TYPES)) == make(seed, level=1)


def test_names_are_numbered_down_in_the_order_of_ids() -> None:
    assert display_names(["mug_bar_2", "mug_bar_1", "sink_bar_1_bar_sinkbasin", "agent1", "loc_minus_1"]) == {
        "mug_bar_1": "mug 2",
        "mug_bar_2": "mug 1",
        "sink_bar_1_bar_sinkbasin": "sinkbasin 1",
        "agent1": "agent1 ",
        "loc_minus_1": "loc-1 ",
    }


def test_generating_imports_no_engine() -> None:
    code = (
        "import sys, numpy, cola_envs.household as h, cola_envs.tasks.household as t\n"
        "h.generate(numpy.random.default_rng(0))\n"
        "print([name for name in ('alfworld', 'textworld', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------- on the engine

needs_engine = pytest.mark.skipif(
    find_spec("alfworld") is None,
    reason="needs the engine: pip install 'cola-rl[alfworld]'",
)


@pytest.fixture(scope="module")
def pool() -> Iterator[EnginePool]:
    shared = EnginePool(ENGINE, num_rows=1)
    yield shared
    shared.close()


@needs_engine
@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_games_are_won_on_the_engine_by_walkthrough_and_planner(pool: EnginePool, task_type: str) -> None:
    for number, split in enumerate(SPLITS):
        for seed in range(2):
            game = make(seed, split, 1 + (number + seed) % 2, [task_type])
            opening = pool.reset([0], [game.spec()])[0]
            assert opening.text.startswith(
                "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room."
            )
            assert opening.text.endswith(f"\n\nYour task is to: {game.goal}.")
            plan = pool.query(0, "plan")
            for commands in (game.walkthrough, plan):
                pool.reset([0], [game.spec()])
                answers: list[Any] = [pool.step([0], [command])[0] for command in commands]
                assert all(answer.valid for answer in answers)
                assert [answer.success for answer in answers] == [False] * (len(answers) - 1) + [True]
                assert answers[-1].reward == 1.0


@needs_engine
def test_the_tables_hold_only_what_alfworld_allows() -> None:
    code = (
        "import os, sys, tempfile\n"
        "os.environ['ALFWORLD_DATA'] = tempfile.mkdtemp()\n"
        "from alfworld.gen import constants\n"
        "from cola_envs.household import tables\n"
        "for kind, things in tables.CONTAINS.items():\n"
        "    assert things <= constants.VAL_RECEPTACLE_OBJECTS[kind], kind\n"
        "actions = constants.VAL_ACTION_OBJECTS\n"
        "named = set().union(*tables.CONTAINS.values()) | {'Box'}\n"
        "for name in ('Cleanable', 'Heatable', 'Coolable', 'Sliceable'):\n"
        "    mine = getattr(tables, name.upper())\n"
        "    assert mine == actions[name] & named - {n for n in named if 'Sliced' in n}, name\n"
        "assert tables.OPENABLE == set(constants.OPENABLE_CLASS_LIST) - {'Box'}\n"
        "os.rmdir(os.environ['ALFWORLD_DATA'])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


@needs_engine
def test_an_agent_that_writes_the_walkthrough_wins_token_by_token() -> None:
    tasks = Household(2, level=1, task_types=[TASK_TYPES[3]], num_workers=1)
    episodes = Episodes(FakeBackbone("token", max_length=4000), tasks, num_rows=2, max_tokens=400)
    try:
        episodes.reset([0, 1], [0, 1])
        prompt = episodes.reset_infos([0])[0]
        assert prompt["prompt"].endswith(".\n>")
        assert prompt["task_type"] == TASK_TYPES[3]
        assert "alfworld 0." in prompt["engine"]
        state = episodes.snapshot(0)
        write(episodes, "look\n", row=1)
        for _ in range(2):
            for command in tasks.query(0, "walkthrough"):
                steps = write(episodes, command + "\n")
            _, reward, terminated, truncated, info = steps[-1]
            assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
            assert info["unique_id"] == prompt["unique_id"]
            episodes.restore([0], [state])
        assert tasks.pool.pids
    finally:
        episodes.close()
    assert tasks.pool.pids == ()


@needs_engine
def test_worked_examples_are_put_in_front_of_the_game() -> None:
    backbone = FakeBackbone("token", max_length=8000)
    env = gym.make("CoLA-Household-Token-v0", model=backbone, split="valid_unseen", level=1, shots=1)
    try:
        env.reset(seed=0)
        text = backbone.tokenizer.decode(env.unwrapped.episodes.tokens(0))
        assert text.count("Your task is to: ") == 2
        assert "You arrive at" in text
    finally:
        env.close()


@needs_engine
def test_one_problem_seed_is_one_game_whatever_the_row() -> None:
    tasks = Household(3, level=1, num_workers=1)
    try:
        prompts = tasks.reset([0, 1, 2], [np.random.default_rng(seed) for seed in (5, 6, 5)])
        assert prompts[0] == prompts[2] != prompts[1]
        assert tasks.info(0) == tasks.info(2)
    finally:
        tasks.close()


@needs_engine
def test_the_environment_conforms() -> None:
    register_task("HouseholdTest", "cola_envs.tasks.household:Household", 16, level=1, num_workers=1)
    try:
        backbone = FakeBackbone(max_length=1000)
        check_env("CoLA-HouseholdTest-v0", model=backbone, max_tokens=10, num_envs=2, episodes=1)
    finally:
        for middle in ("", "-Token"):
            gym.registry.pop(f"CoLA-HouseholdTest{middle}-v0")


def test_without_the_engine_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(
        ModuleNotFoundError, match=r"alfworld is not installed.*pip install 'cola-rl\[alfworld\]'"
    ):
        Household(1)
