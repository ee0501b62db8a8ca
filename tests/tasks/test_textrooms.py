"""TextRooms: every game can be won, in as few commands as it says; turns, ends and splits are as written."""

from __future__ import annotations

import itertools
import pickle
import random
from collections import deque

import numpy as np
import pytest

from cola_envs import EachRow, Turn
from cola_envs.build import build_episodes
from cola_envs.tasks.arithmetic import Split
from cola_envs.tasks.textrooms import (
    CONTAINERS,
    DIRECTIONS,
    ITEMS,
    KEY,
    LOCKED,
    NOTHING,
    OVER,
    SHAPES,
    TASK_TYPES,
    WON,
    Game,
    State,
    TextRooms,
    generate,
)
from cola_envs.testing import ByteTokenizer, FakeBackbone, check_env, check_task

SPLITS: tuple[Split, ...] = ("train", "test")
EVERY_COMMAND = (
    "look",
    *(f"go {direction}" for direction in DIRECTIONS),
    *(f"take {item}" for item in (*ITEMS, KEY)),
    *(f"open {container}" for container in CONTAINERS),
    *(f"put {item} in {container}" for item in (*ITEMS, KEY) for container in CONTAINERS),
)

#: A hall with a coin and, to the east, a study with a closed box (a ring in it) and a locked chest.
HOUSE = Game(
    rooms=("hall", "study"),
    exits=((("east", 1),), (("west", 0),)),
    items=("coin", "ring", KEY),
    containers=("box", "chest"),
    container_rooms=(1, 1),
    locked=(False, True),
    task_type="put",
    goal="put coin in chest",
    start=State(0, (0, 2, 2), (False, False)),
)
PLAN = ("take coin", "go east", "open box", "take key", "open chest", "put coin in chest")


def begun(game: Game = HOUSE, **kwargs) -> TextRooms:
    task = TextRooms(**kwargs)
    task.begin(game)
    return task


def played(task: TextRooms, *commands: str) -> list[Turn]:
    return [task.step(f" {command}\n") for command in commands]


def shortest(game: Game) -> int:
    """Commands of a shortest solution over everything that could be typed: the slow, plain road."""
    queue, seen = deque([(game.start, 0)]), {game.start}
    while queue:
        state, steps = queue.popleft()
        if game.won(state):
            return steps
        for command in EVERY_COMMAND:
            done = game.act(state, command)
            if done is not None and done[0] not in seen:
                seen.add(done[0])
                queue.append((done[0], steps + 1))
    raise AssertionError(f"{game} cannot be won")


# ------------------------------------------------------------------ games


@pytest.mark.parametrize("difficulty", SHAPES)
@pytest.mark.parametrize("split", SPLITS)
def test_every_game_is_won_by_its_plan_within_half_the_limit(difficulty, split):
    shape, kinds = SHAPES[difficulty], set()
    for seed in range(120):
        game = generate(seed, difficulty=difficulty, split=split)
        kinds.add(game.task_type)
        assert shape.rooms[0] <= len(game.rooms) <= shape.rooms[1]
        assert (len(game.items), len(game.containers)) == (shape.items, shape.containers)
        task = begun(game, difficulty=difficulty, split=split)
        plan = game.plan(game.start)
        assert plan is not None
        assert 2 <= len(plan) <= shape.commands / 2
        assert task.info["plan_length"] == len(plan)
        *before, last = played(task, *plan)
        assert not any(turn.done or turn.reward for turn in before)
        assert (last.text, last.reward, last.done, last.truncated) == (WON, 1.0, True, False)
        assert last.info["success"] is True
        assert last.info["invalid"] == 0
        assert plan[-1] == game.goal
    assert kinds == set(TASK_TYPES)


def test_no_shorter_way_is_found_by_trying_everything():
    for seed in range(60):
        game = generate(seed, difficulty=1)
        assert len(game.plan(game.start) or ()) == shortest(game)
    for seed in range(8):
        game = generate(seed, difficulty=2)
        assert len(game.plan(game.start) or ()) == shortest(game)
    assert len(PLAN) == shortest(HOUSE)


def test_admissible_commands_are_those_that_do_something():
    rng = random.Random(0)
    for seed in range(60):
        game = generate(seed, difficulty=1 + seed % 3)
        state = game.start
        for _ in range(12):
            admissible = game.admissible(state)
            assert len(set(admissible)) == len(admissible)
            assert {c for c in EVERY_COMMAND if game.act(state, c) is not None} == set(admissible)
            done = game.act(state, rng.choice(admissible))
            assert done is not None
            state = done[0]


def test_a_way_back_leads_back():
    for seed in range(40):
        game = generate(seed, difficulty=3)
        for room, (name, there) in ((r, e) for r, exits in enumerate(game.exits) for e in exits):
            opposite = dict(zip(DIRECTIONS, ("south", "west", "north", "east"), strict=True))[name]
            assert dict(game.exits[there])[opposite] == room
        assert len(game.rooms) - 1 == sum(map(len, game.exits)) / 2, "a tree: no room is cut off"


def test_splits_share_no_opening():
    train, test = ({generate(seed, split=split).opening for seed in range(1200)} for split in SPLITS)
    assert len(train) > 800
    assert len(test) > 500
    assert not train & test


@pytest.mark.parametrize("difficulty", SHAPES)
def test_games_with_one_id_are_one_game(difficulty):
    ids: dict[str, Game] = {}
    for seed in range(300):
        task = begun(generate(seed, difficulty=difficulty), difficulty=difficulty)
        game = ids.setdefault(task.info["unique_id"], task.game)
        assert game == task.game
    openings = {game.opening for game in ids.values()}
    assert len(openings) < len(ids), "no two games begin alike: this proves nothing"


def test_a_difficulty_of_numpy_is_pythons():
    task = TextRooms(np.int64(2))  # type: ignore[arg-type]
    assert task.reset(np.random.default_rng(3)) == TextRooms(2).reset(np.random.default_rng(3))
    assert type(task.info["difficulty"]) is int


def test_a_seed_gives_one_game_for_ever():
    assert generate(3) == generate(3)
    game = generate(0)
    assert game.opening == "Goal: take cup.\nStudy. Exits: north. Here: lamp."
    assert game.plan(game.start) == ("go north", "take cup")


@pytest.mark.parametrize("difficulty", SHAPES)
def test_a_drawn_game_begins_as_it_does_when_it_is_given(difficulty):
    for seed in range(20):
        drawn, given = TextRooms(difficulty), TextRooms(difficulty)
        assert drawn.reset(np.random.default_rng(seed)) == given.begin(drawn.game)
        assert drawn.info == given.info


# ------------------------------------------------------------------ turns


def test_a_game_reads_as_written():
    task = TextRooms()
    assert task.begin(HOUSE) == "Goal: put coin in chest.\nHall. Exits: east. Here: coin.\n>"
    turns = played(task, "open chest", "take coin", "go east", "open chest", "put coin in box", "open box")
    assert [turn.text for turn in turns] == [
        f"{NOTHING}\n>",
        "Taken.\n>",
        "Study. Exits: west. Here: closed box, closed chest.\n>",
        f"{LOCKED}\n>",
        f"{NOTHING}\n>",
        "Opened: ring, key.\n>",
    ]
    assert [turn.info["valid"] for turn in turns] == [False, True, True, True, False, True]
    assert turns[-1].info == {
        "command": "open box",
        "valid": True,
        "commands": 6,
        "invalid": 2,
        "success": False,
    }
    task = begun()
    for turn in played(task, "take coin", "go east", "open box", "put coin in box", "take ring")[:-1]:
        assert not turn.done
    assert played(task, "look")[0].text == "Study. Exits: west. Here: coin, key, open box, closed chest.\n>"
    assert played(begun(), "look")[0].text == "Hall. Exits: east. Here: coin.\n>"


def test_an_empty_container_says_so():
    task = begun(max_commands=20)
    played(task, "take coin", "go east", "open box", "take key", "take ring", "go west", "go east")
    assert played(task, "look")[0].text == "Study. Exits: west. Here: open box, closed chest.\n>"
    game = HOUSE.__class__(
        **{**HOUSE.__dict__, "goal": "take coin", "start": State(1, (0, 0, 0), (False, False))}
    )
    assert played(begun(game), "open box")[0].text == "Opened: empty.\n>"


@pytest.mark.parametrize(
    "text",
    [" take coin\n", "take coin\n", "TAKE COIN\n", "  take   the\tcoin \n", "Take a coin", "take coin"],
)
def test_case_spaces_and_articles_do_not_matter(text):
    task = begun()
    turn = task.step(text)
    assert turn.info["valid"]
    assert turn.text == ("" if text.endswith("\n") else "\n") + "Taken.\n>"


@pytest.mark.parametrize(
    "text", ["take coin\n>", "take coin\ngo east\n", "\n\ntake coin", "\n take coin\n\n"]
)
def test_the_command_is_the_first_line_whatever_the_last_token_holds(text):
    turn = begun(invalid_penalty=0.25).step(text)
    assert (turn.info["command"], turn.info["valid"], turn.reward) == ("take coin", True, 0.0)
    assert turn.text == ("" if text.endswith("\n") else "\n") + "Taken.\n>"


def test_a_container_that_stays_locked_costs_no_penalty():
    turns = played(begun(invalid_penalty=0.5), "go east", "open chest", "look", "take coin")
    assert [turn.reward for turn in turns] == [0.0, 0.0, 0.0, -0.5]


@pytest.mark.parametrize(
    "text", ["\n", "", " ", "take\n", "take coin now\n", " \ntake coin\n", "the\n", "é" * 1000, "> \n"]
)
def test_anything_else_does_nothing(text):
    task = begun(invalid_penalty=0.25)
    turn = task.step(text)
    assert turn.text.strip() == f"{NOTHING}\n>"
    assert (turn.reward, turn.done, turn.info["invalid"], turn.info["valid"]) == (-0.25, False, 1, False)
    assert task.state == HOUSE.start


def test_the_limit_of_commands_cuts_the_episode():
    task = begun(max_commands=6)
    *before, last = played(task, *PLAN[:-1], "look")
    assert not any(turn.done for turn in before)
    assert last.text == f"{HOUSE.describe(task.state)} {OVER}"
    assert (last.reward, last.truncated, last.info["success"], last.info["commands"]) == (0.0, True, False, 6)
    won = played(begun(max_commands=6), *PLAN)[-1]
    assert (won.reward, won.done, won.truncated) == (1.0, True, False), "the last command may win"


def test_admissible_commands_are_listed_on_request():
    task = TextRooms(admissible="list")
    assert task.begin(HOUSE).endswith("Here: coin.\nYou can: go east, take coin, look.\n>")
    assert played(task, "take coin")[0].text == "Taken.\nYou can: go east, look.\n>"


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"difficulty": 4}, "difficulty must be 1 or 2 or 3, got 4"),
        ({"difficulty": 1.0}, r"difficulty must be 1 or 2 or 3, got 1\.0"),
        ({"difficulty": True}, "difficulty must be 1 or 2 or 3, got True"),
        ({"split": "dev"}, "split must be 'train' or 'test', got 'dev'"),
        ({"admissible": True}, "admissible must be 'none' or 'list', got True"),
        ({"invalid_penalty": -1.0}, "invalid_penalty must be"),
        ({"invalid_penalty": float("nan")}, "invalid_penalty must be"),
        ({"invalid_penalty": "0.1"}, "invalid_penalty must be a number, got '0.1'"),
        ({"invalid_penalty": None}, "invalid_penalty must be a number, got None"),
        ({"max_commands": 0}, "max_commands must be at least 1, got 0"),
        ({"max_commands": 2.5}, "max_commands must be an integer"),
    ],
)
def test_bad_arguments_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        TextRooms(**kwargs)


def test_a_game_that_cannot_be_won_is_refused():
    no_key = HOUSE.__class__(**{**HOUSE.__dict__, "start": State(0, (0, 2, 3), (False, False))})
    with pytest.raises(ValueError, match="plan None"):
        TextRooms().begin(no_key)
    won = HOUSE.__class__(
        **{**HOUSE.__dict__, "goal": "take coin", "start": State(0, (-1, 2, 2), (False, False))}
    )
    with pytest.raises(ValueError, match=r"plan \(\)"):
        TextRooms().begin(won)


# ------------------------------------------------------------------ as an environment


def test_the_task_conforms():
    game = "go north", "go east", "go south", "go west", "open box", "take coin", "look", "nonsense", ""
    check_task(TextRooms, texts=[f" {command}\n" for command in game])
    check_task(lambda: TextRooms(3, "test", "list", 0.1), texts=[f" {command}\n" for command in game])
    check_env("CoLA-Text-v0", task=TextRooms, model=FakeBackbone(), max_tokens=12)


@pytest.mark.parametrize("admissible", ["none", "list"])
@pytest.mark.parametrize("difficulty", SHAPES)
def test_a_worked_example_is_a_train_game_as_it_is_played_until_it_is_won(difficulty, admissible):
    for seed in range(10):
        own = TextRooms(difficulty, "test", admissible, max_commands=1)
        example = own.worked_example(np.random.default_rng(seed))
        game = TextRooms(difficulty, "train", admissible)
        text = game.reset(np.random.default_rng(seed))
        for n, (shown, answer) in enumerate(example, start=1):
            assert shown == text
            turn = game.step(answer)
            assert turn.done is (n == len(example))
            text = turn.text
        assert turn.info["success"]
        assert turn.info["commands"] == game.info["plan_length"]


def test_its_own_snapshot_is_what_replaying_the_commands_gives():
    class Replayed:
        """The same game without snapshots of its own."""

        stop = TextRooms.stop

        def __init__(self) -> None:
            self.inner = TextRooms(2)
            self.reset, self.step = self.inner.reset, self.inner.step

    own, replayed = EachRow(lambda: TextRooms(2), 2), EachRow(Replayed, 2)
    texts = [" go north\n", " go east\n", " open box\n", " take key\n", " look\n"]
    for tasks in (own, replayed):
        tasks.reset([0], [np.random.default_rng(5)])
        for text in texts[:3]:
            tasks.step([0], [text])
        tasks.restore(1, pickle.loads(pickle.dumps(tasks.snapshot(0))))
    for text in texts[3:]:
        rows = [tasks.step([row], [text]) for tasks, row in itertools.product((own, replayed), (0, 1))]
        assert rows.count(rows[0]) == 4
    assert own.info(0) == own.info(1)
    assert own.info(0)["difficulty"] == 2


def test_a_won_game_over_a_language_model_is_the_transcript():
    """A backbone that says what it is told: the text of the episode is prompt, commands and answers."""
    backbone = FakeBackbone("token")
    episodes = build_episodes(1, builder=TextRooms, actions="token", model=backbone, max_tokens=200)
    episodes.reset([0], [0], [0])
    task = episodes.tasks.tasks[0]  # type: ignore[attr-defined]
    prompt = f"{task.game.opening}\n>"
    expected, plan = prompt, task.game.plan(task.game.start)
    twin = begun(task.game)
    for command in plan:
        for token in ByteTokenizer().encode(f" {command}\n"):
            _, rewards, terminated, truncated, infos = episodes.step([0], [token])
        expected += f" {command}\n{twin.step(f' {command}').text.lstrip()}"
    assert (rewards[0], bool(terminated[0]), bool(truncated[0])) == (1.0, True, False)
    assert ByteTokenizer().decode(episodes.tokens(0)) == expected
    assert expected.endswith(WON)
    assert infos[0]["success"] is True
    assert infos[0]["plan_length"] == infos[0]["commands"] == len(plan)
    assert infos[0]["text"] == "".join(f" {command}\n" for command in plan)
