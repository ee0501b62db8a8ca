"""Text games as a task: the text, the rewards, the ends, on the toy engine."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from cola_envs import Episodes, register_task
from cola_envs.engines import EnginePool, EngineTask, Game, GameError
from cola_envs.testing import FakeBackbone, check_env
from tests.envs.tiny import end, write

TOY = "tests.engines.toy:ToyEngine"
GAMES = [Game(number, {"unique_id": f"game {number}"}) for number in (10, 20, 30)]


def make(num_rows: int) -> EngineTask:
    """What the conformance test registers: a builder of all rows."""
    pool = EnginePool(TOY, {"say": "Welcome. "}, num_rows=num_rows, num_workers=1)
    return EngineTask(num_rows, pool=pool, games=GAMES, info={"dataset": "toy"})


def rngs(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


@pytest.fixture(scope="module")
def pool() -> Iterator[EnginePool]:
    """Shared by the tests: their tasks are not closed."""
    shared = EnginePool(TOY, num_rows=3, num_workers=1, deadline=0.5)
    yield shared
    shared.close()


def task(pool: EnginePool, games: Any = GAMES, **settings: Any) -> EngineTask:
    return EngineTask(pool.num_rows, pool=pool, games=games, **settings)


def test_the_text_reads_like_a_session(pool: EnginePool) -> None:
    plain = task(pool, sequential=True)
    assert plain.stop == ("\n",)
    assert plain.reset([0], rngs(0)) == ["Begin at 10.\n>"]
    assert plain.step([0], [" add 1 \n"])[0].text == "Now 11.\n>"
    assert plain.step([0], ["add 1"])[0].text == "\nNow 12.\n>"  # the agent wrote no newline
    assert plain.step([0], ["win\n"])[0].text == "Won."


def test_admissible_commands_are_written_where_they_are_asked_for(pool: EnginePool) -> None:
    listing = task(pool, sequential=True, admissible="list")
    assert listing.reset([0], rngs(0)) == ["Begin at 10.\nCommands: add 1, win\n>"]
    assert listing.step([0], ["add 1\n"])[0].text == "Now 11.\nCommands: add 1, win\n>"


class Shown(EngineTask):
    """Its engine's games have this walkthrough."""

    walkthrough: tuple[str, ...] = ()

    def query(self, row: int, name: str, *arguments: object) -> object:
        return self.walkthrough if name == "walkthrough" else super().query(row, name, *arguments)


@pytest.mark.parametrize(
    ("walkthrough", "said"),
    [
        (("add 1", "win"), ""),
        (("add 1",) * 60 + ("win",), ""),
        (("add 1", "crash", "win"), "'crash', number 2, gave .*ended"),
        (("add 1", "add 1", "crash"), "'crash', number 3, gave .*ended"),
        (("win", "add 1"), "'win', number 1, gave 'Won.'"),
        (("add 1", "nonsense"), "'nonsense', number 2, gave 'What"),
        ((), "the game 'game 10' has no walkthrough"),
    ],
)
def test_a_worked_example_is_a_game_that_its_walkthrough_wins(walkthrough: Any, said: str) -> None:
    def shown() -> EngineTask:
        made = Shown(1, pool=EnginePool(TOY, num_rows=1, num_workers=1), games=GAMES[:1])
        made.walkthrough = walkthrough
        return made

    own = EngineTask(1, pool=EnginePool(TOY, num_rows=1, num_workers=1), games=GAMES, examples=shown)
    if said:
        with pytest.raises(ValueError, match=said):
            own.worked_example(rngs(0)[0])
        return
    example = own.worked_example(rngs(0)[0])
    assert [answer for _, answer in example] == [*(f" {command}\n" for command in walkthrough[:-1]), " win"]
    assert [text for text, _ in example[:2]] == ["Begin at 10.\n>", "Now 11.\n>"]


@pytest.mark.parametrize("text", ["add 1\nadd 2\n", "add 1\n>", "\nadd 1", "\n\n add 1 \n\n"])
def test_the_first_line_is_sent_and_the_response_begins_a_line(pool: EnginePool, text: str) -> None:
    turns = task(pool, sequential=True)
    turns.reset([0], rngs(0))
    turn = turns.step([0], [text])[0]
    assert turn.info["command"] == "add 1"
    assert turn.text == ("" if text.endswith("\n") else "\n") + "Now 11.\n>"


def test_rewards_penalties_and_counts(pool: EnginePool) -> None:
    strict = task(pool, sequential=True, invalid_penalty=0.25)
    strict.reset([0], rngs(0))
    first, second, third = (strict.step([0], [text])[0] for text in ("add 1\n", "dance\n", "win\n"))
    assert (first.reward, second.reward, third.reward) == (0.0, -0.25, 1.0)
    assert (first.done, second.done, third.done) == (False, False, True)
    assert second.info == {"command": "dance", "commands": 2, "invalid": 1, "valid": False}
    assert third.info == {"command": "win", "commands": 3, "invalid": 1, "valid": True, "success": True}
    with pytest.raises(RuntimeError, match="the game in row 0 is over"):
        strict.step([0], ["add 1\n"])


def test_the_last_command_allowed_cuts_the_episode_unless_it_wins(pool: EnginePool) -> None:
    short = task(pool, sequential=True, max_commands=2)
    short.reset([0, 1], rngs(0, 0))
    assert not any(turn.truncated or turn.done for turn in short.step([0, 1], ["add 1\n"] * 2))
    cut, won = short.step([0, 1], ["add 1\n", "win\n"])
    assert (cut.truncated, cut.done, cut.info["success"], cut.text) == (True, False, False, "Now 12.")
    assert (won.truncated, won.done, won.info["success"]) == (False, True, True)


def test_games_are_drawn_from_the_rows_own_generators_or_taken_in_order(pool: EnginePool) -> None:
    drawn = task(pool)
    ids = []
    for rows in ([0, 1, 2], [2, 1, 0]):
        drawn.reset(rows, rngs(*rows))
        ids.append([drawn.info(row)["unique_id"] for row in (0, 1, 2)])
    assert ids[0] == ids[1]
    ordered = task(pool, sequential=True)
    assert ordered.num_problems == 3
    ordered.reset([0, 1], rngs(0, 0))
    ordered.reset([2], rngs(0))
    assert [ordered.info(row)["unique_id"] for row in (0, 1, 2)] == ["game 10", "game 20", "game 30"]
    made = task(pool, games=lambda rng: Game(int(rng.integers(1000))))
    made.reset([0], rngs(5))
    assert made.info(0) == {"start": int(np.random.default_rng(5).integers(1000))}


def test_a_snapshot_goes_into_any_row_and_a_finished_one_stays_finished(pool: EnginePool) -> None:
    first = task(pool, sequential=True, max_commands=3)
    first.reset([0, 1], rngs(0, 0))
    first.step([0], ["dance\n"])
    first.step([0], ["add 1\n"])
    state = pickle.loads(pickle.dumps(first.snapshot(0)))
    other = task(pool, max_commands=3)
    other.restore(2, state)
    assert other.info(2) == {"unique_id": "game 10", "start": 10}
    turn = other.step([2], ["add 5\n"])[0]
    assert (turn.text, turn.info["commands"], turn.info["invalid"], turn.truncated) == ("Now 16.", 3, 1, True)
    other.restore(1, other.snapshot(2))
    with pytest.raises(RuntimeError, match="the game in row 1 is over"):
        other.step([1], ["add 1\n"])
    with pytest.raises(TypeError, match="restore takes what snapshot of the same task returned"):
        other.restore(0, ("game 10",))


def test_a_query_after_restore_is_about_the_restored_game(pool: EnginePool) -> None:
    tasks = task(pool, sequential=True)
    tasks.reset([0, 1], rngs(0, 0))
    tasks.step([0], ["add 5\n"])
    tasks.step([0], ["win\n"])
    over = pickle.loads(pickle.dumps(tasks.snapshot(0)))
    tasks.step([1], ["add 100\n"])
    tasks.restore(1, over)
    assert tasks.info(1)["unique_id"] == "game 10"
    assert tasks.query(1, "total") == 15


def test_a_lost_game_that_is_restored_has_no_query(pool: EnginePool) -> None:
    tasks = task(pool, sequential=True)
    tasks.reset([0, 1], rngs(0, 0))
    tasks.step([0], ["raise\n"])
    tasks.restore(1, tasks.snapshot(0))
    with pytest.raises(RuntimeError, match="row 1 has no game; reset it first"):
        tasks.query(1, "total")


def test_a_vector_environment_that_is_reset_after_close_ends_its_processes_again() -> None:
    env: Any = gym.make_vec("CoLA-Text-v0", num_envs=2, model=FakeBackbone(), task=make, max_tokens=8)
    pool = env.unwrapped.episodes.tasks.pool
    env.reset(seed=0)
    state = env.unwrapped.snapshot()
    for begin in (lambda: env.reset(seed=0), lambda: env.unwrapped.restore(state)):
        env.close()
        assert (env.closed, pool.pids) == (True, ())
        begin()
        pool.query(0, "total")
        assert not env.closed
        assert len(pool.pids) == 1
        env.close()
        assert pool.pids == ()


@pytest.mark.parametrize("command", ["crash", "hang", "raise"])
def test_an_engine_that_fails_truncates_its_row_and_leaves_the_others(pool: EnginePool, command: str) -> None:
    episodes = Episodes(
        FakeBackbone("token"), task(pool, sequential=True, invalid_penalty=1.0), num_rows=3, max_tokens=60
    )
    episodes.reset([0, 1, 2], [0, 1, 2])
    write(episodes, "add 7\n", row=1)
    _, reward, terminated, truncated, info = write(episodes, f"{command}\n", row=0)[-1]
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, False)
    assert "engine" in info["error"]
    assert write(episodes, "add 1\n", row=1)[-1][4]["commands"] == 2
    assert episodes.backbone.tokenizer.decode(episodes.tokens(1)).endswith("add 1\nNow 28.\n>")
    episodes.reset([0], [0])
    assert write(episodes, "win\n", row=0)[-1][1] == 1.0


def test_a_command_ended_by_the_end_of_sequence_is_sent(pool: EnginePool) -> None:
    episodes = Episodes(FakeBackbone("token"), task(pool, sequential=True), num_rows=3, max_tokens=60)
    episodes.reset([0], [0])
    write(episodes, "add 2")
    assert end(episodes)[4]["command"] == "add 2"
    assert episodes.backbone.tokenizer.decode(episodes.tokens(0)).endswith(">add 2\nNow 12.\n>")


def test_a_game_that_cannot_be_played_is_an_error_at_reset(pool: EnginePool) -> None:
    with pytest.raises(GameError, match="'chess' is no number"):
        task(pool, games=[Game("chess")]).reset([0], rngs(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_commands": 0}, "max_commands must be at least 1, got 0"),
        ({"invalid_penalty": -1.0}, "invalid_penalty must be a finite number, 0 or above, got -1.0"),
        ({"invalid_penalty": "0.1"}, "invalid_penalty must be a number, got '0.1'"),
        ({"admissible": "yes"}, "admissible must be 'none' or 'list', got 'yes'"),
        ({"games": []}, "games is empty: pass at least one game"),
        ({"games": lambda rng: GAMES[0], "sequential": True}, "sequential=True needs a sequence of games"),
    ],
)
def test_bad_settings_are_refused(pool: EnginePool, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(pool, **settings)


def test_a_task_of_an_engine_conforms() -> None:
    register_task("ToyEngine", "tests.engines.test_engine_task:make", 12)
    try:
        check_env("CoLA-ToyEngine-v0", model=FakeBackbone(), max_tokens=12, num_envs=2, episodes=2)
    finally:
        for middle in ("", "-Token"):
            gym.registry.pop(f"CoLA-ToyEngine{middle}-v0")
