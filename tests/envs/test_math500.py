"""The mathematics task and the embedded set that stands in for MATH."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import pickle
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from cola_envs.grading import extract_boxed, grade_answers
from cola_envs.tasks import math500, substitute
from cola_envs.tasks.math500 import Math500, SubstituteWarning

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
def _an_empty_hub_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
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
        "split": None,
        "dataset": "problems",
        "dataset_sha256": None,
    }
    assert (turns[1].info["status"], turns[1].info["answer"]) == ("no_box", None)


def test_the_problem_follows_from_the_rows_own_generator():
    task = Math500(3)
    prompts = task.reset([0, 1, 2], [_rng(5), _rng(6), _rng(5)])
    assert prompts[0] == prompts[2] != prompts[1]
    assert Math500(1).reset([0], [_rng(6)]) == [prompts[1]]


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
    with pytest.raises(ValueError, match="names none"):
        task.restore(0, 10**9)


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
    assert task.dataset == task.info(0)["dataset"] == "cola-substitute-v1"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the warning comes once in a process
        Math500(1, split=split)


def test_subjects_and_levels_filter():
    for split in ("train", "test"):
        task = Math500(40, split=split, subjects=["Geometry", "Algebra"], levels=[2])
        task.reset(range(40), [_rng(k) for k in range(40)])
        assert {task.info(row)["subject"] for row in range(40)} == {"Geometry", "Algebra"}
        assert {task.info(row)["level"] for row in range(40)} == {2}
    assert Math500(1, split="test", subjects=["Geometry"]).num_problems == 20


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subjects": ["Topology"]}, "'Topology'.*Algebra"),
        ({"levels": [6]}, "6.*1, 2, 3, 4, 5"),
        ({"levels": ["3"]}, "'3'"),
        ({"subjects": "Algebra"}, "must be a sequence"),
        ({"levels": 3}, "must be a sequence"),
        ({"levels": []}, "no "),
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
        ("not json", "own.jsonl, line 3: not a line of JSON"),
        ("[1, 2]", "line 3: a problem must be an object"),
        (
            json.dumps({k: v for k, v in PROBLEM.items() if k != "answer"}),
            "line 3: the field 'answer' is missing",
        ),
        (json.dumps(PROBLEM | {"answer": 2}), "line 3: the field 'answer' must be a string"),
        (json.dumps(PROBLEM | {"level": "hard"}), "line 3: the field 'level' must be a whole number"),
        (b"\xff\xfe", "line 3: not a line of JSON"),
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
        ({"problems": []}, "no problem of problems is left"),
        ({"problems": 3}, "a path or an iterable"),
        ({"problems": [PROBLEM, {"problem": "?"}]}, r"problems\[1\]: the field 'solution' is missing"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Math500(**({"num_rows": 1} | arguments))


def test_importing_the_task_loads_neither_torch_nor_sympy():
    heavy = "{'torch', 'sympy', 'transformers'}"
    code = f"import sys, cola_envs.tasks.math500; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, timeout=60, check=False).returncode == 0


# The substitute


def _checked_value(check: str):
    """Evaluate a check of our own test file in sympy's and itertools' names."""
    import sympy
    from sympy.calculus.util import maximum, minimum

    x, y, k = sympy.symbols("x y k")

    def based(number: int, base: int) -> str:
        digits = sympy.ntheory.digits(number, base)[1:]
        assert sum(d * base**k for k, d in enumerate(reversed(digits))) == number
        return "".join(map(str, digits)) + f"_{base}"

    def paths_avoiding(m: int, n: int, i: int, j: int) -> int:
        ways = {(0, 0): 1}
        for a, b in itertools.product(range(m + 1), range(n + 1)):
            if (a, b) != (0, 0):
                ways[a, b] = 0 if (a, b) == (i, j) else ways.get((a - 1, b), 0) + ways.get((a, b - 1), 0)
        return ways[m, n]

    def highest(a: int, b: int, c: int):
        return maximum(a * sympy.sin(x) + b * sympy.cos(x) + c, x, sympy.Interval(0, 2 * sympy.pi))

    names = {name: getattr(sympy, name) for name in sympy.__all__}
    names |= {name: getattr(itertools, name) for name in ("product", "permutations", "combinations")}
    names |= {"x": x, "y": y, "k": k, "based": based, "paths_avoiding": paths_avoiding, "highest": highest}
    names |= {"minimum": minimum, "maximum": maximum}
    return eval(check, names)  # a file of this repository, never a model's answer


def _as_latex(value) -> str:
    import sympy

    if isinstance(value, str):
        return value
    if isinstance(value, sympy.Interval):
        return f"{'(' if value.left_open else '['}{value.start},{value.end}{')' if value.right_open else ']'}"
    if isinstance(value, sympy.MatrixBase):
        return "\\begin{pmatrix}" + "\\\\".join(str(entry) for entry in value) + "\\end{pmatrix}"
    return sympy.latex(sympy.sympify(value))


def test_every_test_answer_is_recomputed_by_another_road():
    rows = [json.loads(line) for line in substitute.TEST_FILE.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 140
    values = [_as_latex(_checked_value(row["check"])) for row in rows]
    verdicts = grade_answers([row["answer"] for row in rows], values, deadline=20)
    assert [(r["problem"], v.answer) for r, v in zip(rows, verdicts, strict=True) if not v.correct] == []


def test_generated_answers_are_recomputed_by_another_road():
    from random import Random

    checks = {}
    for (subject, level), templates in substitute.TEMPLATES.items():
        for k, template in enumerate(templates):
            problem, _, answer, check = template(Random(f"{subject}{level}{k}"))
            checks[problem] = (answer, _as_latex(_checked_value(check)))
    verdicts = grade_answers([a for a, _ in checks.values()], [v for _, v in checks.values()], deadline=20)
    wrong = [(p, v.answer) for p, v in zip(checks, verdicts, strict=True) if not v.correct]
    assert wrong == []


def test_the_test_set_covers_every_subject_and_level_without_repetition():
    items = substitute.test_items()
    cells = [(item["subject"], item["level"]) for item in items]
    assert all(cells.count(cell) == 4 for cell in itertools.product(substitute.SUBJECTS, substitute.LEVELS))
    assert len({substitute.canonical_question(item["problem"]) for item in items}) == 140
    assert len({item["unique_id"] for item in items}) == 140


def test_solutions_end_in_the_boxed_answer():
    for item in [*substitute.test_items(), *substitute.train_items(3, 2000)]:
        assert extract_boxed(item["solution"]) == item["answer"]


def test_no_training_item_asks_a_test_question():
    test = {substitute.canonical_question(item["problem"]) for item in substitute.test_items()}
    for levels in ([1], None):
        train = [item["problem"] for item in substitute.train_items(0, 30_000, levels=levels)]
        assert test.isdisjoint(map(substitute.canonical_question, train))


def test_canonical_questions_ignore_order_and_names():
    canonical = substitute.canonical_question
    assert canonical("What is $8 + 6$?") == canonical("What is $6 + 8$?") != canonical("What is $8 + 7$?")
    assert canonical("Ada has 3 pears and finds 4 more.") == canonical("Ben has 4 coins and finds 3 more.")


def test_training_items_follow_from_seed_and_index_alone():
    items = list(substitute.train_items(7, 50, levels=[1, 2]))
    assert items == list(substitute.train_items(7, 60, levels=[1, 2]))[:50]
    assert items[31] == substitute.train_item(7, 31, levels=[1, 2])
    others = {item["problem"] for item in substitute.train_items(8, 50, subjects=["Precalculus"], levels=[3])}
    assert others.isdisjoint(item["problem"] for item in items)


def test_level_one_needs_single_digits_alone():
    for item in substitute.train_items(0, 3000, levels=[1]):
        numbers = [int(n) for n in re.findall(r"\d+", item["problem"])]
        assert max(numbers) < 50
        assert sum(n > 9 for n in numbers) <= 1, item["problem"]


def test_twenty_thousand_training_items_a_second():
    list(substitute.train_items(0, 100))
    begin = time.process_time()
    count = sum(1 for _ in substitute.train_items(1, 10_000))
    assert count / (time.process_time() - begin) >= 20_000


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


@pytest.fixture
def shared_math500():
    path = Path(__file__).parents[2].parent / "shared" / "data" / "math500_test.jsonl"
    if not path.is_file():
        pytest.skip("the real MATH-500 is not beside this checkout")
    return path
