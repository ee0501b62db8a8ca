"""GSM8K through the problem-set task: gold answers, grading, names, and what happens without the data."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from cola_envs.build import build_tasks, splits_of
from cola_envs.datasets import fetch
from cola_envs.tasks.gsm8k import GSM8K
from cola_envs.tasks.math500 import Math500

DATA = Path(__file__).parents[2].parent / "shared" / "data"
OWN = [
    {
        "question": "Ada has 3 boxes of 400 pins. How many pins is that?",
        "answer": "3*400=<<3*400=1200>>1200\n#### 1,200",
    },
    {"question": "Ben had 2 pears and ate both. How many are left?", "answer": "2-2=0\n#### 0"},
]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("COLA_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def real(cache) -> None:
    if not DATA.is_dir():
        pytest.skip("the real GSM8K is not beside this checkout")
    fetch("gsm8k", DATA)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_answer_behind_the_last_marks_is_the_gold_one():
    task = GSM8K(2, problems=OWN, sequential=True)
    prompts = task.reset([0, 1], [_rng(), _rng()])
    assert prompts[0].endswith(
        "within \\boxed{}.\n\nAda has 3 boxes of 400 pins. How many pins is that?\nAssistant: "
    )
    for answer, reward in (
        ("1200", 1.0),
        ("1,200", 1.0),
        ("1200 \\text{ pins}", 1.0),
        ("3", 0.0),
        ("400", 0.0),
    ):
        assert task.step([0], [f"So \\boxed{{{answer}}}."])[0].reward == reward, answer
    assert task.step([0], ["#### 1200"])[0].info["status"] == "no_box"
    assert task.step([1], ["\\boxed{0}"])[0].info["gold"] == "0"


@pytest.mark.parametrize(
    ("published", "gold"),
    [
        ("1,200", "1200"),
        ("-1,234,567.5", "-1234567.5"),
        ("$1,200", "$1200"),
        ("12,000 dollars", "12000 dollars"),
        ("1,200 m^2", "1200 m^2"),
        ("(1,2)", "(1,2)"),
        ("(1,200)", "(1,200)"),
        ("1, 2", "1, 2"),
        ("1,2", "1,2"),
        ("1,000, 2,000", "1,000, 2,000"),
        ("[0,1)", "[0,1)"),
        ("\\{1,2\\}", "\\{1,2\\}"),
        ("1,23", "1,23"),
    ],
)
def test_only_the_thousands_separators_of_one_number_are_removed(published, gold):
    problem = {"question": "?", "answer": f"So.\n#### {published}"}
    for task in (GSM8K(1, problems=[problem]), Math500(1, problems=[problem])):
        assert task.items[0]["answer"] == gold
        task.reset([0], [_rng()])
        assert task.step([0], [f"\\boxed{{{published}}}"])[0].reward == 1.0


def test_without_the_data_the_cure_is_named_and_nothing_stands_in():
    for split in ("train", "test"):
        with pytest.raises(
            FileNotFoundError, match=rf"GSM8K's {split} problems.*cola data fetch gsm8k.*problems="
        ):
            GSM8K(1, split=split)


def test_fetched_problems_are_found_split_by_split(real):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, test = GSM8K(1, sequential=True), GSM8K(1, split="test", sequential=True)
    assert (train.num_problems, test.num_problems) == (7_473, 1_319)
    for task, split in ((train, "train"), (test, "test")):
        task.reset([0], [_rng()])
        info = task.info(0)
        assert (info["dataset"], info["split"], info["set_size"]) == ("GSM8K", split, task.num_problems)
        assert info["unique_id"] == f"GSM8K/{split}/0"
    assert train.set_hash != test.set_hash


def test_every_published_answer_is_a_whole_number_and_right_in_its_own_box(real):
    task = GSM8K(1, split="test")
    golds = [item["answer"] for item in task.items]
    assert all(re.fullmatch(r"-?\d+", gold) for gold in golds)
    rows = list(range(len(golds)))
    whole = GSM8K(len(golds), split="test", sequential=True)
    whole.reset(rows, [_rng()] * len(rows))
    assert all(turn.reward == 1.0 for turn in whole.step(rows, [f"\\boxed{{{gold}}}" for gold in golds]))


def test_the_published_test_file_given_by_path_is_never_trained_on_silently(real):
    with pytest.warns(UserWarning, match="GSM8K's test problems"):
        task = GSM8K(1, problems=DATA / "gsm8k_test.jsonl")
    assert (task.dataset, task.split) == ("GSM8K", "test")


def test_a_damaged_file_is_an_error(cache):
    (cache / "gsm8k").mkdir()
    (cache / "gsm8k" / "test.jsonl").write_text('{"question": "?", "answer": "#### 1"}\n')
    with pytest.raises(ValueError, match=r"damaged or changed.*cola data fetch gsm8k"):
        GSM8K(1, split="test")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, "'train' or 'test', got 'valid'"),
        ({"problems": []}, "holds no problem"),
        ({"num_rows": 0, "problems": OWN}, "num_rows must be at least 1"),
        ({"problems": [{"question": "?", "answer": "no marks", "level": "x"}]}, "'level'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GSM8K(**({"num_rows": 1} | arguments))


def test_a_builder_like_any_other():
    assert splits_of("cola_envs.tasks.gsm8k:GSM8K") == ("train", "test")
    task = build_tasks(3, GSM8K, split="test", problems=OWN)
    prompts = task.reset([0, 1, 2], [_rng(1), _rng(2), _rng(1)])
    assert prompts[0] == prompts[2]
    with pytest.raises(TypeError, match="unknown keyword argument 'subjects'"):
        build_tasks(1, GSM8K, subjects=["Algebra"])


def test_a_worked_example_ends_in_the_boxed_answer_without_calculator_marks():
    task = GSM8K(1, problems=OWN)
    examples = {task.worked_example(_rng(seed)) for seed in range(20)}
    assert examples == {
        (
            f"User: Please reason step by step, and put your final answer within \\boxed{{}}.\n\n{question}\n"
            "Assistant: ",
            answer,
        )
        for question, answer in (
            (OWN[0]["question"], "3*400=1200 The answer is $\\boxed{1200}$."),
            (OWN[1]["question"], "2-2=0 The answer is $\\boxed{0}$."),
        )
    }


def test_problems_to_be_tested_on_are_no_worked_examples():
    with pytest.raises(
        ValueError, match=r"with split='test' there is no train split beside the problems that were passed"
    ):
        GSM8K(1, problems=OWN, split="test").worked_example(_rng())
    with pytest.raises(ValueError, match="no problem of the problems that were passed has a worked solution"):
        GSM8K(1, problems=[{"problem": "2+2?", "answer": "4"}]).worked_example(_rng())


def test_worked_examples_of_the_published_test_set_are_of_its_train_set(real):
    path = DATA / "gsm8k_test.jsonl"
    train = {item["problem"]: item for item in GSM8K(1).items}
    for task in (GSM8K(1, split="test"), GSM8K(1, problems=str(path), split="test")):
        prompt, answer = task.worked_example(_rng(1))
        question = prompt.partition("\n\n")[2].removesuffix("\nAssistant: ")
        gold = train[question]["answer"]
        assert answer.endswith(f" The answer is $\\boxed{{{gold}}}$.")
        assert "<<" not in answer


def test_worked_examples_without_the_train_set_say_how_to_get_it(real, cache):
    (cache / "gsm8k" / "train.jsonl").unlink()
    with pytest.raises(ValueError, match=r"drawn from the train split, and .* run `cola data fetch gsm8k`"):
        GSM8K(1, split="test").worked_example(_rng())
