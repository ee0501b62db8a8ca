"""The ScienceWorld engine on the real simulator: one Java machine for most of the file, a few short-lived."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cola_envs.engines import GameError, Reply
from cola_envs.engines.scienceworld import JavaMachine, ScienceWorldEngine, check_heap, find_java
from cola_envs.tasks.scienceworld import SIMPLIFICATIONS, task_numbers

pytest.importorskip("scienceworld", reason="needs pip install 'cola-rl[scienceworld]'")
pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")

LIFESPAN = ("lifespan-longest-lived", 0, "easy")
CIRCUIT = ("power-component", 1, "easy")
HALLWAY = ("find-plant", 0, "")  # all its doors are closed


@pytest.fixture(scope="module", autouse=True)
def quick_java() -> Iterator[None]:
    """Java that compiles lightly starts faster; for the few commands of a test that is what counts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
        yield


@pytest.fixture(scope="module")
def engine(quick_java: None) -> Iterator[ScienceWorldEngine]:
    made = ScienceWorldEngine()
    yield made
    made.close()


def play(engine: ScienceWorldEngine, row: int, game: Any, commands: list[str]) -> list[Any]:
    return [engine.reset(row, game), *(engine.step(row, command) for command in commands)]


def gold(engine: ScienceWorldEngine, row: int, game: tuple[str, int, str]) -> list[str]:
    """The engine's own way of winning; in some games it goes on for a while after that."""
    engine.reset(row, game)
    server = engine._rows[row].simulator.server
    server.load(*game, True)
    return list(server.getGoldActionSequence())


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive(pid)


# -------------------------------------------------------------------- rows of one Java machine


def test_games_that_take_turns_on_one_java_machine_play_as_if_alone(engine):
    # Bees and butterflies draw from the simulator's global random generator, each game has its own
    # simplifications, and loading a game sets the global counter of object ids back.
    garden, plain = ("find-animal", 3, "easy"), ("find-plant", 0, "noElectricalAction")
    strolls = ["teleport to outside", "look around", "wait1", "look around", "wait", "look around"]
    walks = ["open door", "0", "look around", "wait", "open door", "look around"]
    alone = [play(engine, 0, garden, strolls), play(engine, 0, plain, walks)]
    together: list[list[Any]] = [[engine.reset(0, garden)], [engine.reset(1, plain)]]
    for one, other in zip(strolls, walks, strict=True):
        together[0].append(engine.step(0, one))
        together[1].append(engine.step(1, other))
    assert together == alone
    engine.reset(0, HALLWAY)
    engine.reset(1, plain)
    connects = [any(command.startswith("connect") for command in engine.commands(row)) for row in (0, 1)]
    assert connects == [True, False], "a neighbour's simplifications"


def test_the_same_commands_have_the_same_effects_however_often_they_are_played(engine):
    commands = ["open door", "2", "look around", "wait", "open door", "0", "look around"]
    games = [play(engine, 0, HALLWAY, commands) for _ in range(3)]
    assert games[0][1].info["ambiguous"], "the order of the choices is what would change"
    assert games[1] == games[2] == games[0]
    fresh = ScienceWorldEngine()
    try:
        assert play(fresh, 5, HALLWAY, commands) == games[0]
    finally:
        fresh.close()


def test_an_experiment_with_heat_ends_the_same_each_time(engine):
    # Upstream's example: left to itself the engine boils the water in some plays and not in others.
    commands = ["teleport to kitchen", "open cupboard", "pick up metal pot", "pick up lighter"]
    commands += ["move metal pot to sink", "activate sink", "deactivate sink", "pick up metal pot"]
    commands += ["use lighter on water in metal pot", "look at water in metal pot"] * 15
    commands += ["use lighter on metal pot", "look at metal pot"] * 15
    first, second = (play(engine, row, ("boil", 0, "easy"), commands) for row in (0, 1))
    assert first[-2].text == "The lighter heats up the metal pot a small amount."
    assert second == first


def test_naming_the_commands_that_make_sense_changes_nothing(engine):
    commands = ["teleport to outside", "wait", "look around", "wait", "look around"]
    game = ("find-animal", 3, "easy")
    quiet = play(engine, 0, game, commands)
    asked = [engine.reset(0, game)]
    for command in commands:
        engine.commands(0)
        asked.append(engine.step(0, command))
    assert asked == quiet
    server = engine._rows[0].simulator.server
    engine.reset(0, game)
    drawn = [server.getRandomVariationTrain() for _ in range(4)]
    engine.reset(0, game)
    engine.commands(0)
    assert [server.getRandomVariationTrain() for _ in range(4)] == drawn, "it drew from the game's generator"


def test_episodes_equal_those_of_the_stock_environment(engine, monkeypatch):
    from scienceworld import ScienceWorldEnv

    flags = "-Xmx512m -XX:+UseSerialGC -XX:+UnlockExperimentalVMOptions -XX:hashCode=2"
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", flags)
    stock = ScienceWorldEnv(envStepLimit=10_000)
    try:
        for task, variation, simplifications in (LIFESPAN, CIRCUIT):
            stock.load(task, variation, simplifications, generateGoldPath=True)
            commands = stock.get_gold_action_sequence()
            observation, info = stock.reset()
            opening = engine.reset(0, (task, variation, simplifications))
            description = info["taskDesc"].removeprefix("Task Description:\n")
            assert opening.text == f"{description}\n\n{observation}".rstrip()
            assert opening.info["baseline"] == info["score"]
            named = stock._gateway.jvm.java.lang.Class.forName("scala.util.Random$").getField("MODULE$")
            named.get(None).setSeed(0)  # what is named alike is told apart at random
            stock_commands = set(stock.get_valid_action_object_combinations())
            assert engine.commands(0) == tuple(sorted(stock_commands - {"reset task"}))
            for command in commands:
                observation, reward, done, info = stock.step(command)
                reply = engine.step(0, command)
                assert reply.text == observation.rstrip()
                assert (reply.reward, reply.done) == (reward / 100, done)
                assert (reply.info["score"], reply.info["moves"]) == (info["score"], info["moves"])
                if done:
                    break
            assert reply.success
    finally:
        stock.close()


# -------------------------------------------------------------------- a game


@pytest.mark.parametrize("game", [LIFESPAN, CIRCUIT, ("find-plant", 0, "easy")])
def test_the_gold_path_wins_and_its_rewards_sum_to_what_was_left_to_win(engine, game):
    commands = gold(engine, 0, game)
    opening, replies = engine.reset(0, game), []
    while not (replies and replies[-1].done):
        replies.append(engine.step(0, commands[len(replies)]))
    assert sum(reply.reward for reply in replies) == pytest.approx(1 - opening.info["baseline"] / 100)
    assert replies[-1].success
    assert not any(reply.success for reply in replies[:-1])
    with pytest.raises(RuntimeError, match="over"):
        engine.step(0, "look around")


def test_a_fatal_command_ends_the_game_lost(engine):
    *_, reply = play(engine, 0, ("find-plant", 0, "easy"), ["focus on agent"])
    assert (reply.done, reply.success, reply.info["score"]) == (True, False, -100)
    assert reply.reward == pytest.approx(-1.08), "from a baseline of 8"


def test_an_ambiguous_command_is_answered_by_a_number(engine):
    _, asked, chosen = play(engine, 0, HALLWAY, ["open door", " 3 "])
    assert asked.text.startswith("Ambiguous request")
    assert asked.info == {"score": 0, "moves": 0, "ambiguous": True}
    assert asked.valid
    assert "\n3:\topen door" in asked.text
    assert chosen.text == "The door is now open."
    assert chosen.info["moves"] == 1
    engine.step(0, "open door")
    count = len(engine.commands(0))
    assert engine.commands(0) == tuple(map(str, range(count)))
    assert f"\n{count - 1}:" in asked.text
    assert f"\n{count}:" not in asked.text


@pytest.mark.parametrize("command", ["look around", "help", "99", "-1", "9" * 5000, "٣", "1.0"])
def test_any_other_command_cancels_the_request_and_is_carried_out(engine, command):
    *_, plain = play(engine, 0, HALLWAY, [command])
    *_, after = play(engine, 0, HALLWAY, ["open door", command])
    assert after == plain
    assert after.info["moves"] == 0, "a cancelled request costs no time"
    assert engine.step(0, "0") == engine.step(0, "0"), "nothing is asked any more"


def test_a_blank_line_cancels_the_request(engine):
    *_, blank, inventory = play(engine, 0, HALLWAY, ["open door", "", "inventory"])
    assert (blank.valid, blank.info["moves"]) == (False, 0)
    assert inventory.text.startswith("In your inventory")


@pytest.mark.parametrize(
    "command", ["reset task", " Reset   TASK", "reset the task", "resettask", "reset\ttask"]
)
def test_resetting_the_task_is_refused(engine, command):
    _, door, refused, number = play(engine, 0, HALLWAY, ["open door", command, "0"])
    assert door.info["ambiguous"]
    assert refused.text == "That command is not available."
    assert (refused.valid, refused.reward, refused.info["moves"]) == (False, 0.0, 0)
    assert number.text == "No known action matches that input.", "it cancelled the request too"


def test_the_commands_that_make_sense_are_sorted_and_leave_out_what_is_refused(engine, monkeypatch):
    assert engine.reset(0, LIFESPAN).admissible == engine.step(0, "look around").admissible == ()
    monkeypatch.setattr(engine, "_admissible", True)
    opening, reply, lost = play(engine, 0, LIFESPAN, ["look around", "focus on agent"])
    for listed in (opening.admissible, reply.admissible):
        assert list(listed) == sorted(set(listed))
        assert {"look around", "inventory"} <= set(listed)
        assert "reset task" not in listed
    assert lost.admissible == engine.commands(0) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "xyzzy",
        "é 😀",
        "\ud83d",
        "look\x00around",
        "a" * 100_000,
        "open " * 20_000,
        "look\raround !",
        "e\nx\ny",
    ],
    ids=lambda text: repr(text)[:20],
)
def test_hostile_text_is_a_command_that_is_not_understood(engine, text):
    engine.reset(0, HALLWAY)
    start = time.monotonic()
    reply = engine.step(0, text)
    assert isinstance(reply, Reply)
    assert (reply.valid, reply.reward, reply.info["moves"]) == (False, 0.0, 0)
    assert time.monotonic() - start < 5.0
    assert engine.step(0, "look around").valid


@pytest.mark.parametrize(
    ("game", "message"),
    [
        (("find-plant", 9999, "easy"), "9999"),
        (("find-plant", -1, "easy"), "-1"),
        (("find-a-plant", 0, "easy"), "find-a-plant"),
        (("find-plant", 0, "easier"), "easier"),
    ],
)
def test_a_game_that_does_not_exist_is_refused_and_the_row_lives_on(engine, game, message):
    with pytest.raises(GameError, match=message):
        engine.reset(0, game)
    with pytest.raises(RuntimeError, match="over"):
        engine.step(0, "look around")
    assert play(engine, 0, LIFESPAN, ["look around"])[1].valid


def test_an_exception_inside_the_simulator_is_no_lost_game(engine):
    engine.reset(0, LIFESPAN)
    engine._rows[0].game.setErrorState("scala.MatchError")
    with pytest.raises(RuntimeError, match=r"failed at 'look around': scala\.MatchError"):
        engine.step(0, "look around")


def test_the_lists_of_variations_are_the_engines_own(engine):
    lists = engine.reset(0, None).info["variations"]
    assert sorted(lists) == sorted(task_numbers().values())
    assert len(lists) == 30
    for task in (LIFESPAN[0], CIRCUIT[0], "identify-life-stages-1"):
        engine.reset(0, (task, 0, "easy"))
        server = engine._rows[0].simulator.server
        own = {
            "train": list(server.getVariationsTrain()),
            "dev": list(server.getVariationsDev()),
            "test": list(server.getVariationsTest()),
        }
        assert lists[task] == own
        together = sorted(own["train"] + own["dev"] + own["test"])
        assert together == list(range(server.getTaskMaxVariations(task)))


def test_the_simplifications_are_the_engines_own(engine):
    engine.reset(0, LIFESPAN)
    named = engine._rows[0].simulator.server.getPossibleSimplifications().split(", ")
    assert sorted(SIMPLIFICATIONS) == sorted(["easy", *named])


# -------------------------------------------------------------------- Java


def test_java_ends_when_the_engine_is_closed_and_closing_twice_is_harmless():
    engine = ScienceWorldEngine()
    java = engine._machine.process
    assert java.poll() is None
    engine.close()
    engine.close()
    assert java.poll() is not None


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("end", ["kill", "exit"])
def test_java_ends_with_the_process_that_started_it(end):
    script = (
        "import sys\n"
        "from cola_envs.engines.scienceworld import ScienceWorldEngine\n"
        "engine = ScienceWorldEngine()\n"
        "print(engine.java_pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    if end == "kill":
        os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    assert gone(pid)


def test_a_java_machine_that_dies_is_named_as_the_cause():
    engine = ScienceWorldEngine()
    os.kill(engine.java_pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="Java machine failed: it ended by signal 9"):
        engine.reset(0, LIFESPAN)
    engine.close()


def test_a_full_heap_is_named_as_the_cause():
    engine = ScienceWorldEngine(heap="12m")
    try:
        with pytest.raises(RuntimeError, match="its heap of 12m is full: pass a larger heap="):
            engine.reset(0, CIRCUIT)
    finally:
        engine.close()


def java_that(folder: Path, what: str) -> None:
    """Put a ``java`` of our own into ``folder``."""
    script = folder / "java"
    script.write_text(f"#!/bin/sh\n{what}\n")
    script.chmod(0o755)


def test_a_java_that_does_not_start_is_quoted(tmp_path, monkeypatch):
    java_that(tmp_path, "echo 'no room on the device' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(RuntimeError, match=r"Java does not start: .*-Xmx512m.*no room on the device"):
        ScienceWorldEngine()


def test_a_java_that_does_not_fix_hash_codes_is_refused(tmp_path, monkeypatch):
    real = find_java()
    leave_out = 'for a; do shift; case $a in *hashCode*) ;; *) set -- "$@" "$a";; esac; done'
    java_that(tmp_path, f'{leave_out}; exec {real} "$@"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(RuntimeError, match="repeatable=False"):
        JavaMachine("512m", repeatable=True)
    machine = JavaMachine("512m", repeatable=False)
    machine.close()
    assert machine.process.poll() is not None


def test_java_is_found_on_the_path_or_in_its_home_and_missed_with_a_cure(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(FileNotFoundError, match=r"Java 8 or later.*default-jre-headless"):
        find_java()
    (tmp_path / "bin").mkdir()
    java_that(tmp_path / "bin", "exit 0")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert find_java() == str(tmp_path / "bin" / "java")


@pytest.mark.parametrize("heap", ["", "512", "0m", "512mb", "-1g", "1g -version", 512, None])
def test_a_heap_that_java_would_not_take_is_refused(heap):
    with pytest.raises(ValueError, match="512m"):
        check_heap(heap)
