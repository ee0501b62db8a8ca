"""The cached engine beside ALFWorld's own: the same games, word for word."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.speed.stock import complete
from cola_envs.engines import EnginePool, GameError
from cola_envs.household import TASK_TYPES, generate

# Not importorskip: importing alfworld makes a folder in the user's cache and sets a variable.
pytestmark = pytest.mark.skipif(
    find_spec("alfworld") is None, reason="needs the engine: pip install 'cola-rl[alfworld]'"
)
ENGINE = "cola_envs.engines.pddl:PddlEngine"


def game(seed: int = 0, level: int = 1, task_type: str = TASK_TYPES[0]) -> dict[str, Any]:
    return generate(np.random.default_rng(seed), level=level, task_types=[task_type]).spec()


@pytest.fixture(scope="module")
def cached() -> Iterator[EnginePool]:
    """One that forgets whatever it can at every game."""
    pool = EnginePool(ENGINE, {"keep": 1, "most_remembered": 0}, num_rows=2, num_workers=1)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnginePool]:
    data = str(tmp_path_factory.mktemp("alfworld"))
    pool = EnginePool("benchmarks.speed.stock:StockEngine", {"data": data}, num_rows=1)
    yield pool
    pool.close()


@pytest.mark.parametrize(("task_type", "level"), [(kind, 1) for kind in TASK_TYPES] + [(TASK_TYPES[3], 2)])
def test_a_random_walk_is_the_same_as_on_the_stock_engine(
    cached: EnginePool, stock: EnginePool, task_type: str, level: int
) -> None:
    spec = game(level, level, task_type)
    mine, theirs = (pool.reset([0], [spec])[0] for pool in (cached, stock))
    assert (mine.text, mine.admissible) == (theirs.text, theirs.admissible)
    assert mine.info["goal"] == spec["goal"]
    assert cached.query(0, "plan") == stock.query(0, "plan")
    rng = np.random.default_rng(level)
    # Up to the last but one of the commands that win, then anywhere, so that hands are full as well.
    commands = [*spec["walkthrough"][:-1], *[None] * 20, "fly to the moon", "", " look "]
    admissible = mine.admissible
    for number, chosen in enumerate(commands):
        if number % 5 == 0:
            cached.reset([1], [game(number % 2)])  # a neighbour in the same process
        command = str(rng.choice(admissible)) if chosen is None else chosen
        answer, expected = (pool.step([0], [command])[0] for pool in (cached, stock))
        assert (answer.text, answer.admissible, answer.done, answer.success, answer.reward) == (
            expected.text,
            expected.admissible,
            expected.done,
            expected.success,
            expected.reward,
        ), command
        cached.step([1], ["look"])
        admissible = answer.admissible
        if answer.done:
            break
    assert cached.query(0, "plan") == stock.query(0, "plan")


def test_validity_is_whether_the_command_is_admissible(cached: EnginePool) -> None:
    opening = cached.reset([0], [game(3)])[0]
    assert [cached.step([0], [text])[0].valid for text in (opening.admissible[0], "help me", "")] == [
        True,
        False,
        False,
    ]
    answer = cached.step([0], ["open sesame"])[0]
    assert (answer.text, answer.reward, answer.done) == ("Nothing happens.", 0.0, False)


def test_a_file_and_the_dict_it_holds_are_one_game(cached: EnginePool, tmp_path: Path) -> None:
    spec = game(4)
    path = tmp_path / "game.tw-pddl"
    path.write_text(json.dumps(complete(spec)))
    openings = cached.reset([0, 1], [str(path), spec])
    assert openings[0] == openings[1]
    assert cached.query(0, "walkthrough") == tuple(spec["walkthrough"])
    for command in spec["walkthrough"]:
        first, second = cached.step([0, 1], [command] * 2)
        assert first == second
    assert first.success


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("no/such/file", "no/such/file: not a readable game file"),
        (7, "a game must be an object with pddl_domain, grammar, pddl_problem, got 7"),
        ({"grammar": "", "pddl_domain": ""}, "the field 'pddl_problem' must be a string"),
        ({"goal": "x", "pddl_problem": "(define"}, "the engine refuses it"),
        ({"goal": "x", "pddl_problem": ""}, "the engine refuses it"),
    ],
)
def test_a_broken_game_is_named_and_the_engine_goes_on(cached: EnginePool, broken: Any, message: str) -> None:
    cached.reset([0], [game(5)])
    with pytest.raises(GameError, match=message):
        cached.reset([1], [broken])
    restarts = cached.usage.restarts
    assert cached.step([0], ["look"])[0].valid
    assert cached.usage.restarts == restarts


def test_a_game_file_runs_no_code(cached: EnginePool, tmp_path: Path) -> None:
    spec = complete(game(6))
    target = tmp_path / "written"
    attack = f"{{__import__('pathlib').Path('{target}').touch()}}"
    spec["grammar"] = spec["grammar"].replace("Your task is to: ", attack)
    with pytest.raises(GameError, match="is not allowed: use names, attributes"):
        cached.reset([0], [spec])
    assert not target.exists()


@pytest.mark.parametrize(
    ("shipped_template", "other"),
    [
        ('"examine {r}"', '"examine [{r.name | openable(r:receptacle) & opened(r:receptacle)}]{r}"'),
        ('"close {r}"', '"open {r}"'),
        ('"inventory"', '"look"'),
        ('"look"', '"inventory"'),
    ],
)
def test_other_grammars_are_read_as_the_stock_engine_reads_them(
    cached: EnginePool, stock: EnginePool, shipped_template: str, other: str
) -> None:
    """Templates that depend on the state, and two commands of one text, of which one is taken."""
    spec = complete(game(8, task_type=TASK_TYPES[4]))
    assert shipped_template in spec["grammar"]
    spec["grammar"] = spec["grammar"].replace(shipped_template, other)
    answers = [pool.reset([0], [spec])[0] for pool in (cached, stock)]
    seen = []
    for command in ("look", "inventory", "go to fridge 1", "open fridge 1", "look", "open fridge 1", "look"):
        seen.append(answers[0].admissible)
        answers = [pool.step([0], [command])[0] for pool in (cached, stock)]
        first, second = answers
        assert (first.text, first.admissible, first.valid) == (second.text, second.admissible, second.valid)
    assert len(set(seen)) > 2


def test_many_games_load_one_library_a_row_and_remember_no_more_than_allowed() -> None:
    pool = EnginePool("tests.engines.counting:CountingEngine", {"most_remembered": 500}, num_rows=2)
    counts, libraries = [], set()
    try:
        for seed in range(20):
            pool.reset([0], [game(seed)])
            counts.append(pool.query(0, "count"))
            maps = Path(f"/proc/{pool.pids[0]}/maps").read_text()
            libraries.add(len({line.split()[4] for line in maps.splitlines() if "libdownward.so" in line}))
    finally:
        pool.close()
    assert libraries == {1}
    assert max(counts) < 1000
    assert sum(later < earlier for earlier, later in pairwise(counts)) >= 2
