"""The mathematics task: its prompt, its grading, and where its problems come from."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from cola_envs import Episodes
from cola_envs.datasets import catalogue, fetch, problem_key
from cola_envs.tasks import math500
from cola_envs.tasks.math500 import Math500, SubstituteWarning
from cola_envs.testing import FakeBackbone
from tests.envs.tiny import end, write

REPO = Path(__file__).parents[2]
MATH500 = REPO.parent / "shared" / "data" / "math500_test.jsonl"
PROBLEM = {
    "problem": "What is $1 + 1$?",
    "solution": "\\boxed{2}",
    "answer": "2",
    "subject": "Prealgebra",
    "level": 1,
    "unique_id": "own/1",
}


@pytest.fixture(autouse=True)
def _empty_caches(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("COLA_DATA", str(tmp_path / "fetched"))
    monkeypatch.setattr(math500, "_warned", True)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# The task


def test_the_prompt_is_the_papers_to_the_letter():
    (prompt,) = Math500(1, problems=[PROBLEM]).reset([0], [_rng()])
    assert prompt == (
        "User: Please reason step by step, and put your final answer within \\boxed{}.\n\n"
        "What is $1 + 1$?\nAssistant: "
    )


def test_braces_in_a_problem_reach_the_prompt_unchanged():
    task = Math500(1, problems=[PROBLEM | {"problem": "Write $\\frac{1}{2}$ {as} {} {0}."}])
    assert "Write $\\frac{1}{2}$ {as} {} {0}.\n" in task.reset([0], [_rng()])[0]


def test_a_vector_step_is_graded_row_by_row_in_order():
    problems = [PROBLEM | {"answer": str(k), "unique_id": f"own/{k}"} for k in range(50)]
    task = Math500(4, problems=problems)
    task.reset([0, 1, 2, 3], [_rng(k) for k in range(4)])
    gold = [int(task.info(row)["unique_id"][4:]) for row in range(4)]
    texts = [f"so \\boxed{{{gold[3]}}}", "no answer", f"\\boxed{{{gold[1]}.0}}", f"\\boxed{{{gold[0] + 1}}}"]
    turns = task.step([3, 2, 1, 0], texts)
    assert [turn.reward for turn in turns] == [1.0, 0.0, 1.0, 0.0]
    assert all(turn.done and turn.text == "" for turn in turns)
    assert turns[0].info == {
        "success": True,
        "answer": str(gold[3]),
        "gold": str(gold[3]),
        "status": "ok",
        "subject": "Prealgebra",
        "level": 1,
        "unique_id": f"own/{gold[3]}",
        "split": "",
        "dataset": "problems",
        "dataset_sha256": "",
        "set_hash": task.set_hash,
        "set_size": 50,
    }
    assert (turns[1].info["status"], turns[1].info["answer"]) == ("no_box", "")


def test_the_problem_follows_from_the_rows_own_generator():
    task = Math500(3)
    prompts = task.reset([0, 1, 2], [_rng(5), _rng(6), _rng(5)])
    assert prompts[0] == prompts[2] != prompts[1]
    assert Math500(1).reset([0], [_rng(6)]) == [prompts[1]]


def test_a_generated_problem_is_made_once_an_episode(monkeypatch):
    made = []
    make = math500.substitute.train_item
    monkeypatch.setattr(math500.substitute, "train_item", lambda *where: made.append(where) or make(*where))
    task = Math500(2)
    made.clear()
    for seed in range(3):
        task.reset([0, 1], [_rng(seed), _rng(seed + 9)])
        task.info(0)
        task.step([0, 1], ["", ""])
        task.info(1)
    assert len(made) == 6


def test_a_restored_row_has_its_problem_again():
    task = Math500(2)
    task.reset([0], [_rng(1)])
    state, info = task.snapshot(0), task.info(0)
    task.reset([0], [_rng(2)])
    assert task.info(0) != info
    other = Math500(2)
    for where in (task, other):
        where.restore(1, pickle.loads(pickle.dumps(state)))
        assert where.info(1) == info
    with pytest.raises(TypeError, match="restore takes what snapshot of the same task returned"):
        task.restore(0, 10**9)


@pytest.mark.parametrize(
    "others",
    [
        [PROBLEM | {"problem": "What is $2 + 3$?", "answer": "5"}],
        [PROBLEM | {"answer": "5"}],
        [PROBLEM | {"problem": "What is $2 + 3$?"}, PROBLEM],
    ],
    ids=["other problem", "other answer", "other order"],
)
def test_a_state_of_another_set_of_problems_is_refused_and_the_episode_goes_on(others):
    there, here = (
        Episodes(FakeBackbone("token", max_length=512), Math500(1, problems=p), num_rows=1, max_tokens=30)
        for p in ([PROBLEM], others)
    )
    there.reset([0], [0])
    here.reset([0], [0])
    with pytest.raises(ValueError, match=r"the state is of the problem .*1 \+ 1.*here it is problem 0 of"):
        here.restore([0], [there.snapshot(0)])
    write(here, f"\\boxed{{{here.tasks.items[here.tasks.snapshot(0)[0]]['answer']}}}")
    assert end(here)[1] == 1.0


def test_a_state_goes_into_a_larger_set_that_begins_alike():
    there, here = Math500(1, problems=[PROBLEM]), Math500(1, problems=[PROBLEM, PROBLEM | {"answer": "3"}])
    there.reset([0], [_rng()])
    here.restore(0, there.snapshot(0))
    assert here.step([0], ["\\boxed{2}"])[0].reward == 1.0
    there, here = Math500(1, levels=[1]), Math500(1, levels=[5])  # generated: the set has no list to hash
    there.reset([0], [_rng()])
    with pytest.raises(ValueError, match="with the same task and arguments"):
        here.restore(0, there.snapshot(0))


@pytest.mark.parametrize("sequential", ["False", "yes", 0, 1, None])
def test_sequential_is_true_or_false(sequential):
    with pytest.raises(TypeError, match="sequential must be True or False, got"):
        Math500(1, problems=[PROBLEM], sequential=sequential)
    assert Math500(1, problems=[PROBLEM], sequential=np.True_).order is not None


def test_a_row_without_a_problem_says_so():
    with pytest.raises(RuntimeError, match="row 1 has no problem yet; reset it first"):
        Math500(2).step([1], ["\\boxed{2}"])


def test_the_gold_answer_is_not_shown_before_the_end():
    task = Math500(1, problems=[PROBLEM])
    task.reset([0], [_rng()])
    assert "gold" not in task.info(0)


# Where problems come from


def test_a_file_of_problems_is_read_and_its_hash_shown(tmp_path):
    text = "".join(json.dumps(PROBLEM | {"level": level}) + "\n" for level in (1, 2, 3))
    plain, packed = tmp_path / "own.jsonl", tmp_path / "own.jsonl.gz"
    plain.write_text(text)
    packed.write_bytes(gzip.compress(text.encode()))
    for path in (plain, str(packed)):
        task = Math500(1, problems=path)
        task.reset([0], [_rng()])
        assert task.num_problems == 3
        assert task.info(0)["dataset"] == Path(path).name
        assert task.info(0)["dataset_sha256"] == hashlib.sha256(text.encode()).hexdigest()
        assert not task.is_substitute


@pytest.mark.skipif(not MATH500.is_file(), reason="the conformance data is not beside the checkout")
def test_math500_is_known_by_its_bytes():
    task = Math500(1, problems=MATH500, split="test")
    assert (task.dataset, task.num_problems, task.is_substitute) == ("MATH-500", 500, False)
    assert Math500(1, problems=MATH500, subjects=["Geometry"]).num_problems == 41
    assert Math500(1, problems=MATH500, levels=[5]).num_problems == 134


@pytest.mark.skipif(not MATH500.is_file(), reason="the conformance data is not beside the checkout")
def test_math500_is_found_in_the_local_hub_cache(tmp_path):
    repo = tmp_path / "hub" / "datasets--HuggingFaceH4--MATH-500"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    (repo / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (repo / "snapshots" / ("0" * 40) / "test.jsonl").write_bytes(MATH500.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = Math500(1, split="test")
    assert (task.dataset, task.is_substitute, task.num_problems) == ("MATH-500", False, 500)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_substitute_is_never_named_math500(split, monkeypatch):
    monkeypatch.setattr(math500, "_warned", False)
    with pytest.warns(SubstituteWarning, match="results are not results on MATH"):
        task = Math500(1, split=split)
    task.reset([0], [_rng()])
    assert task.is_substitute
    assert task.dataset == task.info(0)["dataset"] == "cola-substitute-v2"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the warning comes once in a process
        Math500(1, split=split)


def test_subjects_and_levels_filter():
    for split in ("train", "test"):
        task = Math500(40, split=split, subjects=["Geometry", "Algebra"], levels=[2])
        task.reset(range(40), [_rng(k) for k in range(40)])
        assert {task.info(row)["subject"] for row in range(40)} == {"Geometry", "Algebra"}
        assert {task.info(row)["level"] for row in range(40)} == {2}
    assert Math500(1, split="test", subjects=["Geometry"]).num_problems in (71, 72)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subjects": ["Topology"]}, "'Topology'.*Algebra"),
        ({"levels": [6]}, "6.*1, 2, 3, 4, 5"),
        ({"levels": ["3"]}, "'3'"),
        ({"subjects": "Algebra"}, "must be a sequence"),
        ({"levels": 3}, "must be a sequence"),
        ({"levels": []}, "no problem|at least one value"),
    ],
)
def test_a_filter_that_fits_nothing_is_named(split, arguments, message):
    with pytest.raises(ValueError, match=message):
        Math500(1, split=split, **arguments)


def test_a_hub_id_must_be_fetched_first():
    with pytest.raises(FileNotFoundError, match=r"fetch it first.*hf download.*problems=path"):
        Math500(1, problems="HuggingFaceH4/MATH-500")
    with pytest.raises(FileNotFoundError, match="no file on this machine"):
        Math500(1, problems="data/own.jsonl")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "own.jsonl, line 3 is not JSON"),
        ("[1, 2]", "line 3: a problem must be an object"),
        (json.dumps({"problem": "?"}), "line 3: the field 'answer' is missing, and there is no solution"),
        (json.dumps({"problem": "?", "solution": "It is 3."}), "line 3: the field 'answer' is missing"),
        (json.dumps({"answer": "3"}), "line 3: the field 'problem' is missing"),
        (json.dumps({"problem": "?", "answer": " "}), "line 3: the answer is empty"),
        (json.dumps({"question": "?", "answer": "Three. ####"}), "line 3: the answer is empty"),
        (json.dumps(PROBLEM | {"subject": 7}), "line 3: the field 'subject' must be a string"),
        (json.dumps(PROBLEM | {"level": True}), "line 3: the field 'level' must be a whole number"),
        (json.dumps(PROBLEM | {"answer": 2}), "line 3: the field 'answer' must be a string"),
        (json.dumps(PROBLEM | {"level": "hard"}), "line 3: the field 'level' must be a whole number"),
        (b"\xff\xfe", "line 3 is not UTF-8 text"),
    ],
)
def test_a_line_that_is_no_problem_is_named_with_file_and_line(tmp_path, line, message):
    path = tmp_path / "own.jsonl"
    good = json.dumps(PROBLEM).encode()
    path.write_bytes(good + b"\n\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(ValueError, match=message):
        Math500(1, problems=path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_rows": 0}, "num_rows"),
        ({"split": "validation"}, "'train' or 'test'"),
        ({"problems": []}, "problems holds no problem"),
        ({"problems": [{"problem": " \n", "answer": "1"}]}, r"problems\[0\]: the problem is blank"),
        (
            {"problems": [PROBLEM | {"problem": "\ud800"}]},
            r"problems\[0\]: the field 'problem' is not Unicode",
        ),
        ({"problems": [PROBLEM | {"answer": "\ud800"}]}, r"problems\[0\]: the field 'answer' is not Unicode"),
        (
            {"problems": [PROBLEM | {"subject": "\ud800"}]},
            r"problems\[0\]: the field 'subject' is not Unicode",
        ),
        ({"subjects": 5.0}, r"subjects must be a sequence such as \['Algebra'\], got 5.0"),
        ({"levels": [True]}, "levels must be an integer, got True"),
        ({"levels": [1.0]}, "levels must be an integer, got 1.0"),
        ({"problems": 3}, "a path or an iterable"),
        ({"problems": [PROBLEM, {"problem": "?"}]}, r"problems\[1\]: the field 'answer' is missing"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Math500(**({"num_rows": 1} | arguments))


@pytest.mark.parametrize("content", [b"", b"\n\n", gzip.compress(b"")], ids=["empty", "blank", "packed"])
def test_a_file_without_problems_says_so(tmp_path, content):
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"own\.jsonl holds no problem"):
        Math500(1, problems=path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_byte_order_mark_is_no_part_of_a_problem(tmp_path, pack):
    path = tmp_path / "own.jsonl"
    path.write_bytes(pack(b"\xef\xbb\xbf" + json.dumps(PROBLEM).encode() + b"\n"))
    assert [item["problem"] for item in Math500(1, problems=path).items] == [PROBLEM["problem"]]


def test_importing_the_task_loads_neither_torch_nor_sympy():
    heavy = "{'torch', 'sympy', 'transformers'}"
    code = f"import sys, cola_envs.tasks.math500; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, timeout=60, check=False).returncode == 0


def test_sequential_problems_come_once_each_whichever_row_asks():
    problems = [PROBLEM | {"unique_id": f"own/{k}"} for k in range(5)]
    task = Math500(2, problems=problems, sequential=True)
    seen = []
    for rows in ([0, 1], [1], [0, 1]):
        task.reset(rows, [_rng() for _ in rows])
        seen += [task.info(row)["unique_id"] for row in rows]
    assert seen == [f"own/{k}" for k in range(5)]
    task.reset([0], [_rng()])
    assert task.info(0)["unique_id"] == "own/0"


def test_the_real_test_problems_are_known_by_their_bytes_and_never_trained_on_silently(shared_math500):
    with pytest.warns(UserWarning, match="split='test'"):
        assert Math500(1, problems=shared_math500).split == "test"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = Math500(1, problems=shared_math500, split="test")
    assert (task.dataset, task.split, task.num_problems) == ("MATH-500", "test", 500)


def test_real_test_problems_among_others_are_told_of_too(shared_math500):
    one = json.loads(shared_math500.read_text(encoding="utf-8").splitlines()[7])
    spaced = {"problem": one["problem"].replace(" ", "  "), "answer": one["answer"]}
    with pytest.warns(UserWarning, match="1 of these problems are MATH-500's"):
        Math500(1, problems=[PROBLEM, spaced])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Math500(1, problems=[PROBLEM])
        Math500(1, problems=[PROBLEM, spaced], split="test")


def test_a_problem_needs_a_text_and_an_answer_alone():
    items = [
        {"problem": "one", "answer": "1"},
        {"problem": "two", "solution": "First \\boxed{1}, no: \\boxed{2}.", "answer": None},
        {"question": "three thousand", "answer": "So it is <<3000=3000>>.\n#### 3,000"},
        {"problem": "four", "answer": "4", "level": "Level 5", "type": "Algebra", "unique_id": "mine"},
        {"problem": "five", "answer": "5", "level": "Level ?", "subject": None},
    ]
    task = Math500(5, problems=items, sequential=True)
    task.reset(range(5), [_rng()] * 5)
    turns = task.step(range(5), [f"\\boxed{{{k}}}" for k in (1, 2, 3000, 4, 5)])
    assert [turn.reward for turn in turns] == [1.0] * 5
    infos = [task.info(row) for row in range(5)]
    assert [info["level"] for info in infos] == [-1, -1, -1, 5, -1]
    assert [info["subject"] for info in infos] == ["", "", "", "Algebra", ""]
    assert [info["unique_id"] for info in infos][1:4] == ["problems/1", "problems/2", "mine"]


@pytest.mark.parametrize("gold", ["1" + "+x" * 210, "(" * 13 + "x" + ")" * 13], ids=["long", "deep"])
def test_an_answer_that_the_grader_does_not_read_is_warned_of_and_can_be_won(gold):
    with pytest.warns(UserWarning, match=r"problems\[1\]: the answer .* is more than the grader reads"):
        task = Math500(1, problems=[PROBLEM, PROBLEM | {"answer": gold}], sequential=True)
    task.reset([0], [_rng()])
    task.reset([0], [_rng()])
    assert task.step([0], [f"\\boxed{{{gold}}}"])[0].reward == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Math500(1, problems=[PROBLEM | {"answer": "x" * 400}])


def test_the_set_hash_is_of_problems_and_answers_and_of_nothing_else():
    def hash_of(*items):
        return Math500(1, problems=items).set_hash

    other = PROBLEM | {"problem": "What is $1 + 2$?", "answer": "3"}
    assert hash_of(PROBLEM, other) == hash_of(PROBLEM | {"unique_id": "?", "level": None}, other)
    distinct = [(PROBLEM, other), (other, PROBLEM), (PROBLEM,), (PROBLEM | {"answer": "3"},)]
    assert len({hash_of(*items) for items in distinct}) == 4
    assert Math500(1, split="test", levels=[1]).set_hash != Math500(1, split="test").set_hash
    assert Math500(1, levels=[1]).set_hash == Math500(1, levels=[1]).set_hash != Math500(1).set_hash


@pytest.fixture
def shared_math500():
    if not MATH500.is_file():
        pytest.skip("the real MATH-500 is not beside this checkout")
    return MATH500


# What has been fetched


def test_fetched_test_problems_are_the_real_ones(shared_math500):
    fetch("math500", shared_math500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = Math500(1, split="test", sequential=True)
        given = Math500(1, split="test", problems=shared_math500)
    task.reset([0], [_rng()])
    assert (task.dataset, task.split, task.num_problems, task.is_substitute) == (
        "MATH-500",
        "test",
        500,
        False,
    )
    assert task.info(0)["unique_id"] == "test/precalculus/807.json"
    assert task.set_hash == given.set_hash


def test_fetched_training_problems_are_maths_without_the_500(shared_math500):
    fetch("math", shared_math500.parent)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = Math500(1, sequential=True)
    test = {problem_key(item["problem"]) for item in map(json.loads, shared_math500.open(encoding="utf-8"))}
    assert (task.dataset, task.split, task.is_substitute) == ("MATH-train", "train", False)
    assert task.num_problems == 7_498  # of 7,500; two have no answer
    assert not any(problem_key(item["problem"]) in test for item in task.items)
    assert 0 < Math500(1, subjects=["Geometry"], levels=[5]).num_problems < 870


def test_a_test_problem_among_the_training_problems_is_left_out(monkeypatch, tmp_path):
    rows = [PROBLEM | {"problem": f"What is $1 + {k}$?"} for k in range(4)]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = _pretended("math", "train", text, monkeypatch)
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(text)
    monkeypatch.setattr(math500, "math500_keys", lambda: {problem_key("what is $1+2$?")})
    task = Math500(1)
    assert [item["problem"] for item in task.items] == [rows[k]["problem"] for k in (0, 1, 3)]


def _pretended(dataset, split, data, monkeypatch):
    """The published file of a set, with the pin of other bytes."""
    pin = catalogue.Pin(hashlib.sha256(data).hexdigest(), len(data), data.count(b"\n"))
    files = tuple(
        dataclasses.replace(file, pins=(pin,)) if (file.dataset, file.split) == (dataset, split) else file
        for file in catalogue.FILES
    )
    for module in ("catalogue", "fetch"):
        monkeypatch.setattr(f"cola_envs.datasets.{module}.FILES", files, raising=False)
    return next(file for file in files if (file.dataset, file.split) == (dataset, split))


def test_a_damaged_fetched_file_is_an_error_and_no_substitute(tmp_path):
    for split, dataset in (("test", "math500"), ("train", "math")):
        path = tmp_path / "fetched" / dataset / f"{split}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(PROBLEM) + "\n")
        with pytest.raises(ValueError, match=f"damaged or changed.*cola data fetch {dataset}"):
            Math500(1, split=split)


def test_other_bytes_in_the_hub_cache_are_an_error(tmp_path):
    folder = tmp_path / "hub" / "datasets--HuggingFaceH4--MATH-500"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (folder / "snapshots" / ("0" * 40) / "test.jsonl").write_text(json.dumps(PROBLEM) + "\n")
    with pytest.raises(ValueError, match=r"which is not MATH-500's.*cola data fetch math500"):
        Math500(1, split="test")


@pytest.mark.parametrize("split", ["train", "test"])
def test_worked_examples_of_the_substitute_are_of_its_train_split_and_earn_the_reward(split):
    task = Math500(1, split=split, levels=[1], subjects=["Algebra"])
    prompt, answer = task.worked_example(np.random.default_rng(0))
    problem = prompt.partition("\n\n")[2].removesuffix("\nAssistant: ")
    item = next(item for item in task.training_problems().items if item["problem"] == problem)
    assert (item["level"], item["subject"], item["solution"]) == (1, "Algebra", answer)
    played = Math500(1, problems=[{"problem": problem, "answer": item["answer"]}])
    assert played.reset([0], [np.random.default_rng(0)]) == [prompt]
    assert played.step([0], [answer])[0].reward == 1.0
