"""ALFWorld's data folder: which games are played, in what order, and what is said of a broken one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.speed.stock import complete
from cola_envs.engines import GameError
from cola_envs.household import SPLITS, TASK_TYPES, generate
from cola_envs.household.generator import Split
from cola_envs.tasks.alfworld import FOLDER, ALFWorld, list_games

pytestmark = pytest.mark.skipif(
    find_spec("alfworld") is None, reason="needs the engine: pip install 'cola-rl[alfworld]'"
)


def write_game(split_folder: Path, seed: int, task_type: str, split: Split) -> str:
    """A generated game in the layout of the published data; returns its id."""
    game = generate(np.random.default_rng(seed), split, 1, [task_type])
    toggle = game.place if task_type == TASK_TYPES[1] else ""
    place = toggle or game.place
    name = f"{task_type}-{game.target}-None-{place}-{seed + 1}/trial_T2026_{seed:06d}"
    folder = split_folder / name
    folder.mkdir(parents=True)
    wanted = {
        "object_target": game.target,
        "parent_target": "" if toggle else game.place,
        "toggle_target": toggle,
        "mrecep_target": "",
        "object_sliced": False,
    }
    (folder / "traj_data.json").write_text(json.dumps({"task_type": task_type, "pddl_params": wanted}))
    (folder / "initial_state.pddl").write_text(game.pddl_problem)
    (folder / "game.tw-pddl").write_text(json.dumps(complete(game.spec())))
    return name


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training games, one a task type, and three in each of the other splits."""
    data = tmp_path_factory.mktemp("alfworld")
    for split in SPLITS:
        types = TASK_TYPES if split == "train" else TASK_TYPES[:3]
        for seed, task_type in enumerate(types):
            write_game(data / FOLDER / split, seed, task_type, split)
    return data


@pytest.fixture
def data(template: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    shutil.copytree(template, tmp_path / "data")
    return tmp_path / "data"


def games_of(data: Path, split: str = "train", **settings: Any) -> ALFWorld:
    return ALFWorld(2, split=split, data=data, num_workers=1, **settings)  # type: ignore[arg-type]


def change(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **fields}))


def test_an_evaluation_plays_each_game_of_a_split_once(template: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("ALFWORLD_DATA", str(template))
    tasks = ALFWorld(2, split="valid_seen", sequential=True, num_workers=1)
    try:
        assert tasks.num_problems == 3
        ids = []
        rngs = [np.random.default_rng(0), np.random.default_rng(1)]
        for rows in ([0, 1], [1]):
            prompts = tasks.reset(rows, rngs[: len(rows)])
            for row, prompt in zip(rows, prompts, strict=True):
                info = tasks.info(row)
                ids.append(info["unique_id"])
                assert prompt.endswith(f"Your task is to: {info['goal']}.\n>")
                assert info["task_type"] == info["unique_id"].split("-")[0]
                assert (info["games"], info["split"], info["dataset"]) == (
                    3,
                    "valid_seen",
                    "alfworld-json_2.1.1",
                )
                assert "alfworld 0." in info["engine"]
        assert ids == sorted(ids)
        assert len(set(ids)) == 3
        for command in tasks.query(1, "walkthrough"):
            turn = tasks.step([1], [command + "\n"])[0]
        assert (turn.reward, turn.done, turn.info["success"]) == (1.0, True, True)
    finally:
        tasks.close()


def test_a_worked_example_is_a_train_game_won_by_its_walkthrough(data: Path) -> None:
    tasks = games_of(data, "valid_seen", task_types=TASK_TYPES[:2], admissible="list")
    train = ALFWorld(1, data=data, task_types=TASK_TYPES[:2], admissible="list", num_workers=1)
    try:
        example = tasks.worked_example(np.random.default_rng(1))
        assert tasks.pool.pids == ()
        (text,) = train.reset([0], [np.random.default_rng(1)])
        for n, (shown, answer) in enumerate(example, start=1):
            assert shown == text
            turn = train.step([0], [answer])[0]
            assert turn.done is (n == len(example))
            text = turn.text
        assert turn.info["success"]
        for file in data.rglob("train/**/game.tw-pddl"):
            change(file, walkthrough=None)
        with pytest.raises(ValueError, match=r"the game '.*trial_T2026.*' has no walkthrough"):
            tasks.worked_example(np.random.default_rng(1))
        shutil.rmtree(data / FOLDER / "train")
        with pytest.raises(FileNotFoundError, match="alfworld-download"):
            tasks.worked_example(np.random.default_rng(1))
    finally:
        tasks.close()
        train.close()


def test_games_are_drawn_by_the_rows_generators(template: Path) -> None:
    tasks = games_of(template)
    try:
        first = [tasks._draw(np.random.default_rng(seed)).info["unique_id"] for seed in range(60)]
        again = [tasks._draw(np.random.default_rng(seed)).info["unique_id"] for seed in range(60)]
        assert first == again
        assert len(set(first)) == 6
    finally:
        tasks.close()


def test_the_rules_of_which_games_are_skipped(data: Path) -> None:
    train = data / FOLDER / "train"
    folders = sorted(path.parent for path in train.rglob("traj_data.json"))
    change(folders[0] / "game.tw-pddl", solvable=False)
    content = json.loads((folders[1] / "game.tw-pddl").read_text())
    del content["solvable"]
    (folders[1] / "game.tw-pddl").write_text(json.dumps(content))
    (folders[2] / "game.tw-pddl").unlink()
    folders[3].rename(folders[3].parent / "trial_movable_1")
    sliced = folders[4].parent.parent / "pick_and_place_simple-AppleSliced-None-Fridge-9"
    folders[4].parent.rename(sliced)
    tasks = games_of(data)
    assert tasks.num_problems == 1
    assert tasks.skipped == {"not known to be solvable": 2, "no game file": 1, "movable or sliced": 2}
    folders[5].joinpath("game.tw-pddl").unlink()
    with pytest.raises(ValueError, match=r"no game of .* can be played"):
        games_of(data)


def test_the_games_are_those_that_alfworld_itself_finds(data: Path) -> None:
    train = data / FOLDER / "train"
    folders = sorted(path.parent for path in train.rglob("traj_data.json"))
    change(folders[0] / "game.tw-pddl", solvable=False)
    (folders[2] / "game.tw-pddl").unlink()
    folders[3].rename(folders[3].parent / "trial_movable_1")
    code = (
        "import json, sys\n"
        "from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv\n"
        "config = {'dataset': {'data_path': sys.argv[1], 'num_train_games': -1},\n"
        "          'env': {'goal_desc_human_anns_prob': 0, 'task_types': [1, 2, 3, 4, 5]}}\n"
        "print(json.dumps(AlfredTWEnv(config).game_files))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(train)],
        env={**os.environ, "ALFWORLD_DATA": str(data)},
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = json.loads(done.stdout.splitlines()[-1])
    mine = [game.spec for game in list_games(train, TASK_TYPES[:5]).games]
    assert mine == sorted(theirs)
    assert len(mine) == 2


def test_task_types_and_ids_can_be_chosen(template: Path) -> None:
    tasks = games_of(template, task_types=TASK_TYPES[3:5])
    assert tasks.num_problems == 2
    assert tasks.skipped == {"other task type": 4}
    ids = [game.info["unique_id"] for game in list_games(template / FOLDER / "train", TASK_TYPES).games]
    kept = list_games(template / FOLDER / "train", TASK_TYPES, [ids[4], ids[0], ids[4]])
    # One set of games has one order, and so one hash, however it was named.
    assert [game.info["unique_id"] for game in kept.games] == [ids[0], ids[4]]
    with pytest.raises(ValueError, match="there is no game 'chess/trial_1'"):
        games_of(template, games=["chess/trial_1"])
    with pytest.raises(ValueError, match="unknown task type 'heat'"):
        games_of(template, task_types=["heat"])


def test_the_hash_is_of_the_ids_and_files_that_are_played(data: Path) -> None:
    folder = data / FOLDER / "valid_seen"
    found = list_games(folder, TASK_TYPES)
    expected = hashlib.sha256()
    for game in found.games:
        file = hashlib.sha256(Path(game.spec).read_bytes()).hexdigest()
        expected.update(f"{game.info['unique_id']}\0{file}\n".encode())
    assert found.sha256 == expected.hexdigest()
    change(Path(found.games[0].spec), walkthrough=None)
    assert list_games(folder, TASK_TYPES).sha256 != found.sha256


def test_without_data_the_error_names_the_variable_and_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"ALFWORLD_DATA is not set.*alfworld-download"):
        ALFWorld(1)
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"no games of ALFWorld at .*json_2.1.1/train.*alfworld-download"
    ):
        ALFWorld(1)
    with pytest.raises(
        ValueError, match="split must be 'train' or 'valid_seen' or 'valid_unseen', got 'test'"
    ):
        ALFWorld(1, split="test")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"games": []}, "games is empty"),
        ({"games": [5]}, "games must hold ids, two folders each, got 5"),
        ({"games": 5}, "games must be a sequence of ids, got 5"),
        ({"task_types": 5}, "task_types must be a sequence"),
    ],
)
def test_a_wrong_choice_of_games_is_named(data: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        games_of(data, **arguments)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("game.tw-pddl", "{", "not a readable game file"),
        ("game.tw-pddl", "[]", "must hold an object"),
        ("game.tw-pddl", '{"solvable": true, "grammar": "x"}', "'pddl_domain' is missing"),
        ("traj_data.json", "{}", "'task_type' is missing"),
        ("traj_data.json", "\x00", "not a readable game file"),
    ],
)
def test_a_broken_file_is_named(data: Path, file: str, content: str, message: str) -> None:
    broken = min((data / FOLDER / "train").rglob(file))
    broken.write_text(content)
    with pytest.raises(GameError, match=message) as caught:
        games_of(data)
    assert str(broken) in str(caught.value)


def test_a_file_that_breaks_after_it_was_listed_is_named_at_reset(data: Path) -> None:
    tasks = games_of(data, "valid_seen", sequential=True)
    try:
        game = tasks._games[0]  # type: ignore[index]
        change(Path(game.spec), pddl_problem="(define (problem")
        with pytest.raises(GameError, match="the engine refuses it") as caught:
            tasks.reset([0], [np.random.default_rng(0)])
        assert game.spec in str(caught.value)
        assert tasks.reset([0], [np.random.default_rng(0)])[0].endswith("\n>")  # the next one
    finally:
        tasks.close()


def test_no_path_leads_out_of_the_data(data: Path) -> None:
    folder = data / FOLDER / "train"
    outside = min((data / FOLDER / "valid_seen").rglob("game.tw-pddl"))
    name = f"../valid_seen/{outside.parent.relative_to(data / FOLDER / 'valid_seen')}"
    for climbing in (name, str(outside.parent)):
        with pytest.raises(GameError, match="leads out of the data's folder"):
            games_of(data, games=[climbing])
    link = min(folder.rglob("game.tw-pddl"))
    link.unlink()
    link.symlink_to(outside)
    with pytest.raises(GameError, match="leads out of the data's folder"):
        games_of(data)


def test_the_folder_itself_may_be_a_link(template: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(template)
    assert games_of(tmp_path / "data").num_problems == 6
