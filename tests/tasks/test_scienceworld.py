"""ScienceWorld as a task: arguments, draws, whole episodes on the real engine, Java dying under them."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.registration import registry

from cola_envs import Episodes, register_task
from cola_envs.engines import EngineError
from cola_envs.engines.scienceworld import ScienceWorldEngine
from cola_envs.state import PROBLEM
from cola_envs.tasks.scienceworld import ScienceWorld, task_numbers
from cola_envs.testing import FakeBackbone, check_env
from tests.envs import tiny

pytest.importorskip("scienceworld", reason="needs pip install 'cola-rl[scienceworld]'")
pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")

CHEAP = ("lifespan-longest-lived", "power-component")


@pytest.fixture(scope="module", autouse=True)
def quick_java() -> Iterator[None]:
    """Java that compiles lightly starts faster; for the few commands of a test that is what counts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
        yield


@pytest.fixture(scope="module")
def task(quick_java: None) -> Iterator[ScienceWorld]:
    """Two rows on one worker; all tests that play use it."""
    made = ScienceWorld(2, tasks=CHEAP, variations=[0, 1], max_commands=60, num_workers=1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def gold_paths(quick_java: None) -> dict[str, list[str]]:
    """The engine's own way of winning variation 0."""
    paths = {}
    engine = ScienceWorldEngine()
    try:
        engine.reset(0, None)
        server = engine._rows[0].simulator.server
        for name in CHEAP:
            server.load(name, 0, "easy", True)
            paths[name] = list(server.getGoldActionSequence())
    finally:
        engine.close()
    return paths


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, PROBLEM])


def seed_of(task: ScienceWorld, task_type: str, variation: int) -> int:
    """A problem seed that draws this game, as Episodes uses seeds."""
    spec = (task_type, variation, "easy")
    return next(seed for seed in range(1000) if task._draw(rng(seed)).spec == spec)


class Kept:
    """The task, but for ``close``: Episodes close what they are given, and the fixture goes on with it."""

    def __init__(self, task: ScienceWorld) -> None:
        self.task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def close(self) -> None:
        pass


def java_of(worker: int) -> int:
    """The process id of a worker's Java machine."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().rpartition(")")
            except FileNotFoundError:
                continue
            if int(rest.split()[1]) == worker and "java" in name:
                return int(entry.name)
    raise AssertionError(f"worker {worker} has no Java machine")


# -------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"split": "valid"}, "'train' or 'dev' or 'test', got 'valid'"),
        ({"tasks": ["find-plnat"]}, "no task 'find-plnat'. Did you mean 'find-plant'"),
        ({"tasks": "find-plant"}, r"names such as \['find-plant'\], got 'find-plant'"),
        ({"tasks": []}, r"got \[\]"),
        ({"tasks": 5}, r"names such as \['find-plant'\], got 5"),
        ({"tasks": [["find-plant"]]}, r"no task \['find-plant'\]"),
        ({"simplifications": "easier"}, "unknown simplification 'easier'.* easy, teleportAction"),
        ({"simplifications": "openDoors, teleportAction"}, "' teleportAction'.* without spaces"),
        ({"simplifications": "easy,openDoors"}, "cannot be combined"),
        ({"simplifications": "noElectricalAction"}, "'power-component' needs electricity"),
        ({"heap": "512"}, "'512m' or '2g', got '512'"),
        ({"repeatable": False, "num_workers": 2}, "leave out num_workers=2"),
        ({"max_commands": 0}, "max_commands must be at least 1, got 0"),
        ({"invalid_penalty": -1}, "invalid_penalty"),
        ({"admissible": True}, "'none' or 'list', got True"),
    ],
)
def test_a_bad_argument_is_refused_before_any_process_is_started(monkeypatch, kwargs, message):
    monkeypatch.setattr("cola_envs.tasks.scienceworld.EnginePool", None)
    with pytest.raises(ValueError, match=message):
        ScienceWorld(4, **kwargs)


@pytest.mark.parametrize(
    ("variations", "message"),
    [
        ([9999], "variation 9999 of 'power-component' is not in split 'train', which has the 10 from 0 to 9"),
        ([-1], "variation -1 "),
        ([15], "variation 15 .*'train'"),
        ([], r"such as \[0, 1\], got \[\]"),
        (3, "got 3"),
        ([0.0], r"variations must be an integer, got 0\.0"),
        ([True], "variations must be an integer, got True"),
        (["0"], "variations must be an integer, got '0'"),
    ],
)
def test_a_variation_that_the_split_does_not_have_is_refused(task, variations, message):
    with pytest.raises(ValueError, match=message):
        ScienceWorld(1, tasks=["power-component"], variations=variations)


def test_variations_of_numpy_are_played(task):
    made = ScienceWorld(1, tasks=[CHEAP[0]], variations=np.array([1, 0]), sequential=True)  # type: ignore[arg-type]
    try:
        made.reset([0], [rng(0)])
        assert (made.num_problems, made.info(0)["variation"]) == (2, 0)
    finally:
        made.close()


def test_a_missing_package_is_an_error_with_the_cure(monkeypatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cola-rl\[scienceworld\]'"):
        ScienceWorld(1)


def test_missing_java_is_an_error_with_the_cure(monkeypatch, tmp_path):
    monkeypatch.setattr("cola_envs.tasks.scienceworld.EnginePool", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(FileNotFoundError, match="install a Java runtime"):
        ScienceWorld(1)


def test_importing_the_task_imports_neither_torch_nor_the_engine():
    script = (
        "import sys, cola_envs.tasks.scienceworld\n"
        "print([name for name in ('torch', 'py4j', 'scienceworld') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# -------------------------------------------------------------------- draws


def test_numbers_and_names_mean_the_same_tasks():
    numbers = task_numbers()
    assert len(numbers) == 30
    assert numbers["4-2"] == "find-non-living-thing"


def test_splits_share_no_game_and_give_all_of_them_together(task):
    games = {}
    for split in ScienceWorld.splits:
        made = ScienceWorld(1, split=split, tasks=["7-1", "power-component"], sequential=True)
        order = [made._draw(rng(0)).spec for _ in range(made.num_problems + 1)]
        assert order[-1] == order[0]
        assert len(set(order)) == made.num_problems
        games[split] = set(order)
        made.close()
    assert [len(games[split]) for split in ScienceWorld.splits] == [72, 36, 37]
    assert len(set.union(*games.values())) == 145
    assert {spec[0] for spec in games["dev"]} == set(CHEAP)


def test_a_task_is_drawn_as_often_as_another_however_few_variations_it_has(task):
    made = ScienceWorld(1, tasks=["identify-life-stages-2", "inclined-plane-friction-named-surfaces"])
    stream = rng(0)
    drawn = [made._draw(stream).spec for _ in range(400)]
    few = [variation for name, variation, _ in drawn if name == "identify-life-stages-2"]
    assert 160 < len(few) < 240
    assert set(few) == {0, 1, 2, 3}
    made.close()


def test_the_list_of_games_has_a_hash_that_depends_on_it_alone(task):
    hashes = []
    for kwargs in ({}, {"num_workers": 1, "max_commands": 3}, {"split": "test"}, {"variations": [0]}):
        made = ScienceWorld(1, tasks=["power-component"], **kwargs)
        hashes.append((made._info["games"], made._info["games_sha256"]))
        made.close()
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
    assert [count for count, _ in hashes] == [10, 10, 5, 1]


# -------------------------------------------------------------------- playing


def test_the_prompt_is_the_task_and_what_is_seen(task):
    prompts = task.reset([0, 1], [rng(3), rng(3)])
    assert prompts[0] == prompts[1]
    assert prompts[0].startswith("Your task is to ")
    assert prompts[0].endswith("\n>")
    info = task.info(0)
    assert info.pop("games_sha256") == task.info(1)["games_sha256"]
    assert info.pop("java")[:1].isdigit()
    game = task._draw(rng(3))
    assert info == {
        "task_type": game.spec[0],
        "variation": game.spec[1],
        "unique_id": f"{game.spec[0]}/{game.spec[1]}",
        "dataset": "scienceworld",
        "simplifications": "easy",
        "split": "train",
        "deterministic": True,
        "engine": f"scienceworld {metadata.version('scienceworld')}",
        "games": 4,
        "baseline": 0,
    }


@pytest.mark.parametrize("task_type", CHEAP)
def test_typing_the_gold_path_token_by_token_earns_one(task, gold_paths, task_type):
    commands = gold_paths[task_type]
    episodes = Episodes(FakeBackbone("token", max_length=60_000), Kept(task), num_rows=2, max_tokens=5_000)
    episodes.reset([1], [7], [seed_of(task, task_type, 0)])
    total, steps = 0.0, []
    for command in commands:
        steps += tiny.write(episodes, command + "\n", row=1)
        total += steps[-1][1]
        if steps[-1][2]:
            break
    _, _, terminated, truncated, info = steps[-1]
    assert (terminated, truncated, info["success"], info["score"]) == (True, False, True, 100)
    assert total == pytest.approx(1.0)
    assert info["task_type"] == task_type
    assert info["invalid"] == 0
    typed = [text for text in info["text"].split("\n") if text]
    assert typed == commands[: len(typed)]


def test_the_command_limit_truncates_and_what_is_not_understood_costs_the_penalty(task, monkeypatch):
    monkeypatch.setattr(task, "max_commands", 3)
    monkeypatch.setattr(task, "invalid_penalty", 0.25)
    task.reset([0], [rng(0)])
    turns = [task.step([0], [text])[0] for text in ("look around\n", "dance\n", "reset task\n")]
    assert [turn.reward for turn in turns] == [0.0, -0.25, -0.25]
    assert [(turn.done, turn.truncated) for turn in turns] == [(False, False), (False, False), (False, True)]
    assert turns[1].text == "No known action matches that input.\n>"
    assert turns[2].text == "That command is not available."
    assert turns[2].info["success"] is False
    assert turns[2].info["invalid"] == 2


def test_a_fatal_command_terminates_without_success(task):
    task.reset([0], [rng(seed_of(task, "lifespan-longest-lived", 0))])
    (turn,) = task.step([0], ["focus on agent\n"])
    assert (turn.done, turn.truncated, turn.info["success"], turn.reward) == (True, False, False, -1.0)


def test_a_restored_episode_says_and_pays_the_same(task):
    commands = ["open door\n", "teleport to outside\n", "look around\n", "wait\n", "focus on agent\n"]
    task.reset([0], [rng(seed_of(task, "lifespan-longest-lived", 1))])
    task.step([0], commands[:1])
    state = pickle.loads(pickle.dumps(task.snapshot(0)))
    first = [task.step([0], [command])[0] for command in commands[1:]]
    assert first[0].reward > 0, "some of it must be worth repeating"
    task.reset([1], [rng(seed_of(task, "power-component", 0))])
    task.step([1], ["wait\n"])
    for row in (1, 0):
        task.restore(row, state)
        assert task.info(row) == task.info(0)
        assert [task.step([row], [command])[0] for command in commands[1:]] == first


def test_what_cannot_be_repeated_is_marked_and_not_kept(task):
    made = ScienceWorld(2, tasks=["use-thermometer"], repeatable=False)
    try:
        assert made.pool.num_workers == 2, "a lost neighbour could not be replayed"
        assert made._info["deterministic"] is False
        state = (task.reset([0], [rng(0)]), task.snapshot(0))[1]
        with pytest.raises(RuntimeError, match="repeatable=True"):
            made.snapshot(0)
        with pytest.raises(RuntimeError, match="repeatable=True"):
            made.restore(0, state)
    finally:
        made.close()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_dead_java_machine_costs_the_row_it_was_busy_with_and_no_other(task):
    seeds = [rng(seed_of(task, name, 0)) for name in CHEAP]
    commands = ["open door\n", "teleport to outside\n", "look around\n"]
    task.reset([0, 1], seeds)
    expected = [task.step([1], [command])[0] for command in commands]
    task.reset([0, 1], [rng(seed_of(task, name, 0)) for name in CHEAP])
    task.step([0, 1], ["look around\n", commands[0]])
    (worker,) = task.pool.pids
    os.kill(java_of(worker), signal.SIGKILL)
    lost, kept = task.step([0, 1], ["look around\n", commands[1]])
    assert (lost.done, lost.truncated, lost.info["success"]) == (False, True, False)
    assert "the Java machine failed: it ended by signal 9" in lost.info["error"]
    assert [kept, task.step([1], [commands[2]])[0]] == expected[1:]
    (prompt,) = task.reset([0], [rng(seed_of(task, CHEAP[0], 0))])
    assert prompt.startswith("Your task")
    assert not task.step([0], ["look around\n"])[0].truncated


def test_java_that_does_not_start_is_an_error_that_quotes_it(monkeypatch, tmp_path):
    script = tmp_path / "java"
    script.write_text("#!/bin/sh\necho 'no room on the device' >&2; exit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("cola_envs.tasks.scienceworld._known_variations", None)
    with pytest.raises(EngineError, match="no room on the device"):
        ScienceWorld(1)


def test_the_environment_conforms():
    register_task("ScienceWorldTest", "cola_envs.tasks.scienceworld:ScienceWorld", 6)
    try:
        check_env(
            "CoLA-ScienceWorldTest-v0",
            num_envs=2,
            episodes=1,
            model=FakeBackbone(max_length=60_000),
            tasks=CHEAP[:1],
            num_workers=1,
        )
    finally:
        for name in ("CoLA-ScienceWorldTest-v0", "CoLA-ScienceWorldTest-Token-v0"):
            registry.pop(name, None)
