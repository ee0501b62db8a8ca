"""CoLA-Preference: scored in one call, whitened, clamped, and watched by a second scorer."""

from __future__ import annotations

import gzip
import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from cola_envs import build
from cola_envs.tasks.preference import Preference
from cola_envs.testing import FakeBackbone, check_env

PROMPTS = tuple(f"Tell me of {number}." for number in range(40))


def length(prompts: Any, responses: Any) -> list[float]:
    return [float(len(response)) for response in responses]


def task(num_rows: int = 3, **settings: Any) -> Preference:
    return Preference(num_rows, **{"prompts": PROMPTS, "scorer": length, **settings})


def start(tasks: Preference, num_rows: int = 3) -> list[str]:
    return tasks.reset(range(num_rows), [np.random.default_rng(row) for row in range(num_rows)])


def test_all_rows_of_a_step_are_scored_in_one_call_with_their_prompts() -> None:
    calls = []

    def scorer(prompts: Any, responses: Any) -> list[float]:
        calls.append((list(prompts), list(responses)))
        return [1.0, 2.0]

    tasks = task(scorer=scorer)
    prompts = start(tasks)
    turns = tasks.step([0, 2], ["one", "two"])
    assert calls == [([prompts[0], prompts[2]], ["one", "two"])]
    assert [(turn.reward, turn.done) for turn in turns] == [(1.0, True), (2.0, True)]


def test_reward_is_the_score_whitened_then_clamped_and_the_raw_score_is_kept() -> None:
    tasks = task(whiten=(10.0, 5.0), clamp=(-1.0, 1.0))
    start(tasks)
    turns = tasks.step([0, 1, 2], ["x" * 10, "x" * 12, "x" * 90])
    assert [turn.reward for turn in turns] == [0.0, pytest.approx(0.4), 1.0]
    assert [turn.info["score"] for turn in turns] == [10.0, 12.0, 90.0]
    assert [turn.info["success"] for turn in turns] == [False, True, True]


def test_whiten_true_takes_the_moments_of_the_scorer() -> None:
    class Scorer:
        mean, std = 3.0, 2.0

        def __call__(self, prompts: Any, responses: Any) -> list[float]:
            return length(prompts, responses)

    tasks = task(scorer=Scorer(), whiten=True)
    start(tasks)
    assert tasks.step([0], ["1234567"])[0].reward == 2.0
    tasks = task(whiten=True)
    start(tasks)
    with pytest.raises(ValueError, match="pass whiten="):
        tasks.step([0], ["x"])


def test_the_held_out_score_is_reported_and_never_rewarded() -> None:
    tasks = task(held_out=lambda prompts, responses: [-7.0] * len(responses))
    start(tasks)
    turn = tasks.step([1], ["abc"])[0]
    assert (turn.reward, turn.info["held_out_score"]) == (3.0, -7.0)


def test_a_plain_list_is_split_by_the_text_of_its_prompts() -> None:
    train, test = task(split="train").prompts, task(split="test").prompts
    assert train
    assert test
    assert sorted((*train, *test)) == sorted(PROMPTS)
    assert set(task(prompts=PROMPTS[::-1], split="test").prompts) == set(test)
    named = {"train": ["a"], "test": ["b"]}
    assert task(prompts=named, split="test").prompts == ["b"]


def test_prompts_are_read_from_a_file_and_a_broken_line_is_named(tmp_path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    assert task(prompts=path).prompts == task().prompts
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes()))
    assert task(prompts=path).prompts == task().prompts
    path.write_text('{"prompt": "a"}\n{"prompt": "\\ud800"}\n')
    with pytest.raises(ValueError, match="line 2: the prompt is not Unicode text"):
        task(prompts=str(path))
    path.write_text('{"prompt": "a"}\n{"text": "b"}\n')
    with pytest.raises(ValueError, match="line 2"):
        task(prompts=str(path))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"scorer": None}, TypeError, "needs scorer="),
        ({"prompts": None}, TypeError, "needs prompts="),
        ({"scorer": 3}, TypeError, "callable"),
        ({"prompts": "nowhere.jsonl"}, FileNotFoundError, "no file"),
        ({"prompts": ["a", ""]}, TypeError, r"prompts\[1\]"),
        ({"prompts": {"train": ["a"]}, "split": "test"}, ValueError, "has the splits train"),
        ({"clamp": (1.0, -1.0)}, ValueError, "low < high"),
        ({"whiten": (0.0, 0.0)}, ValueError, "std > 0"),
        ({"stop": "\n"}, TypeError, "tuple"),
        ({"stop": None}, TypeError, "stop must be a tuple of non-empty strings, got None"),
        ({"clamp": 5}, TypeError, r"clamp must be None or \(low, high\), got 5"),
        ({"clamp": (1,)}, ValueError, r"clamp must be None or \(low, high\), got \(1,\)"),
        ({"clamp": "ab"}, TypeError, r"clamp must be None or \(low, high\), got 'ab'"),
        ({"clamp": ("a", 1)}, TypeError, "clamp must be a number, got 'a'"),
        ({"clamp": (float("nan"), 1)}, ValueError, "clamp must be a finite number, got nan"),
        ({"whiten": None}, TypeError, r"whiten must be True, False or \(mean, std\), got None"),
        ({"whiten": "11"}, TypeError, "got '11'"),
        ({"prompts": []}, ValueError, "prompts is empty: pass at least one prompt"),
        ({"num_rows": 0}, ValueError, "num_rows must be at least 1, got 0"),
        ({"split": "dev"}, ValueError, "split must be 'train' or 'test', got 'dev'"),
        ({"prompts": ["a", "b\ud800"]}, ValueError, r"prompts\[1\] is not Unicode text"),
        ({"prompts": {"train": ["\ud800"]}}, ValueError, r"prompts\[0\] is not Unicode text"),
    ],
)
def test_bad_settings_are_refused_when_made(settings, error, message) -> None:
    with pytest.raises(error, match=message):
        task(**settings)


def test_a_mapping_names_its_own_splits_and_a_clamp_may_be_open() -> None:
    made = task(prompts={"train": ["a"], "valid": ["b"]}, split="valid", clamp=(float("-inf"), 2))
    assert made.prompts == ["b"]
    made.reset([0], [np.random.default_rng(0)])
    assert [made.step([0], [text])[0].reward for text in ("a", "abcd")] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ([1.0], ValueError, r"scorer= returns for rows 0, 1 .* got 1 for 2"),
        (None, TypeError, r"scorer= returns for rows 0, 1 .*got None"),
        (1.0, TypeError, "got 1.0 "),
        (np.float32(1), TypeError, "list with one entry a row"),
        ({1.0, 2.0}, TypeError, "list with one entry a row"),
        ("12", TypeError, "list with one entry a row"),
        ([1.0, float("nan")], ValueError, r"scorer= gives in row 1 to 'b' after the prompt .* got nan"),
        ([None, 1.0], TypeError, r"in row 0 to 'a' .* got None"),
        ([1.0, "2"], TypeError, "in row 1 .* got '2'"),
        ([1.0, [2.0]], TypeError, "in row 1 "),
        ([1.0, 1j], TypeError, "in row 1 "),
    ],
)
def test_scores_that_are_not_one_finite_number_each_are_refused(scores, error, message) -> None:
    tasks = task(scorer=lambda prompts, responses: scores)
    start(tasks)
    with pytest.raises(error, match=message):
        tasks.step([0, 1], ["a", "b"])


@pytest.mark.parametrize(
    "scores", [[1, True], np.array([1.0, 1.0]), (np.float16(1), np.int8(1)), iter([1, 1])]
)
def test_numbers_of_any_kind_are_scores(scores) -> None:
    tasks = task(scorer=lambda prompts, responses: scores)
    start(tasks)
    assert [turn.reward for turn in tasks.step([0, 1], ["a", "b"])] == [1.0, 1.0]


def test_a_bad_score_cuts_its_row_alone_where_it_is_not_raised() -> None:
    settings = {"prompts": PROMPTS, "scorer": lambda p, r: [None, 1.0, 2.0], "max_tokens": 1}
    envs = gym.make_vec(
        "CoLA-Preference-v0",
        num_envs=3,
        model=FakeBackbone(),
        on_task_error="truncate",
        autoreset_mode="same_step",
        **settings,
    )
    envs.reset(seed=0)
    _, rewards, terminated, truncated, infos = envs.step([0, 0, 0])
    assert rewards.tolist() == [0.0, 1.0, 2.0]
    assert (terminated.tolist(), truncated.tolist()) == ([False, True, True], [True, False, False])
    assert "got None" in infos["final_info"]["error"][0]


def test_it_plays_in_an_environment_and_conforms() -> None:
    settings = {"prompts": PROMPTS, "scorer": length, "stop": (".",)}
    check_env("CoLA-Preference-v0", model=FakeBackbone(), max_tokens=12, **settings)
    episodes = build.build_episodes(
        2,
        builder="cola_envs.tasks.preference:Preference",
        actions="token",
        model=FakeBackbone("token"),
        **settings,
    )
    episodes.reset([0, 1], [1, 2])
    for token in episodes.backbone.tokenizer.encode("ab."):
        _, rewards, terminated, _, infos = episodes.step([0, 1], [token, token])
    assert rewards.tolist() == [3.0, 3.0]
    assert terminated.all()
    assert infos[0]["prompt"] in PROMPTS
    assert infos[0]["num_prompts"] == len(task().prompts)


def test_training_and_evaluation_show_the_held_out_score_beside_the_rewarded_one() -> None:
    from cola_agents import GRPO
    from cola_agents.evaluation.run import evaluate

    settings: dict[str, Any] = {
        "prompts": PROMPTS,
        "scorer": length,
        "held_out": lambda prompts, responses: [-1.5] * len(responses),
        "max_tokens": 4,
    }
    record = GRPO("CoLA-Preference-v0", num_envs=4, env_kwargs=settings, prompts=2, group_size=2).update()
    assert record["held_out_score"] == -1.5
    assert record["score"] > 0
    report = evaluate("CoLA-Preference-v0", episodes=4, env_kwargs=settings)
    assert report["held_out_score"] == -1.5
    assert report["distinct_problems"] <= 4


def test_a_state_of_other_prompts_is_refused() -> None:
    there, here = task(), task(prompts={"train": ["Story:", "Poem:"]})
    start(there)
    with pytest.raises(ValueError, match=r"the state is of the problem .*'Tell me of .*: restore it into"):
        here.restore(0, there.snapshot(0))
    here.restore(0, task(prompts={"train": ["Story:", "Poem:"]}).snapshot(0))
