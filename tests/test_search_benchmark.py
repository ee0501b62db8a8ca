"""The search benchmark: budgets counted alike for all, paired over problems, gone on with."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.search.accuracy import GOING_ON, LINES, by_then, difference, judge, point
from benchmarks.search.arms import Recipe, narrowed, player_of
from benchmarks.search.command import add
from benchmarks.search.engine import measure_engine
from benchmarks.search.methods import JUDGES, METHODS, Found, Stage, beam, play, read, write
from benchmarks.search.report import best_look, table
from cola_agents.search.config import Ending
from tests.search.test_mcts_q import UNSURE, logits
from tests.search.test_search import Words, code, played

#: Judges to whom all answers are alike.
JUDGED = {name: lambda rows: torch.zeros(len(rows)) for name in JUDGES}


def ending(answer: str, value: float, right: bool, spent: int) -> Ending:
    return Ending(answer, (), value, float(right), {}, spent)


#: Two problems; the first is answered rightly by the second and the third answer, which agree.
RUN = Found(
    [
        [ending("4", 0.3, False, 10), ending("5", 0.2, True, 18), ending("5", 0.9, True, 30)],
        [ending("7", 0.5, False, 12), ending("8", 0.1, True, 20), ending("7", 0.6, False, 31)],
    ],
    new_tokens=61,
    forwarded=70,
    cpu_s=6.1,
)


def test_nothing_more_is_begun_once_the_budget_is_spent() -> None:
    endings = RUN.endings[0]
    wanted = {1: 1, 10: 1, 11: 2, 18: 2, 19: 3, 500: 3}
    assert {budget: len(by_then(endings, budget)) for budget in wanted} == wanted


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("best of n", {10: [0, 0], 15: [0, 0], 25: [1, 0]}),
        ("majority vote", {10: [0, 0], 15: [0, 0], 25: [1, 0]}),
        ("pass@n (oracle)", {10: [0, 0], 15: [1, 1], 25: [1, 1]}),
    ],
)
def test_the_accuracy_at_a_budget_is_that_of_the_answers_found_by_then(
    name: str, scores: dict[float, list[int]]
) -> None:
    assert {budget: point(LINES[name], [RUN], budget).scores for budget in scores} == scores
    at = point(LINES[name], [RUN], 15)
    assert at.tokens == (18 + 20) / 2
    assert at.cpu_s == pytest.approx(19 * 6.1 / 61)


def test_search_seeds_are_averaged_within_a_problem_and_differences_paired() -> None:
    swapped = Found(RUN.endings[::-1], 61, 70, 6.1)
    both = point(LINES["best of n"], [RUN, swapped], 25)
    assert both.scores == [0.5, 0.5]
    one = point(LINES["best of n"], [RUN], 25)
    assert difference(one, one) == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert difference(one, both)["mean"] == 0.0
    assert difference(one, both)["low"] == -6.3531, "half of t(.975, 1) = 12.706"


def test_the_judge_is_judged_over_all_answers_and_within_problems() -> None:
    judged = judge(RUN)
    assert judged["answers"] == 6
    # Within: (.2 < .3, .9 > .3) and (.1 < .5, .1 < .6).
    assert judged["auc_within"] == pytest.approx((0.5 + 0.0) / 2)
    assert sum(count for _, _, count in judged["calibration"]) == 6


def test_the_page_says_how_the_judges_weights_were_chosen() -> None:
    said = best_look({"held_out_looks": {"25": 0.51, "50": 0.6, "75": 0.55}})
    assert said == "chosen at step 50 by 0.600 on held-out training problems, the best of 3 looks"
    assert best_look({"held_out_looks": {}}) == best_look({}) == ""


def test_every_method_spends_its_budget_and_no_more_than_a_round_beyond() -> None:
    policy = logits(a=1.0, b=0.9, c=0.8)

    def q(rows: Sequence[int]) -> torch.Tensor:
        out = torch.zeros(len(rows), 257)
        out[:, code("z")] = 100.0  # never taken: every step is unsure, and every end worth nothing
        return out

    for name, method in METHODS.items():
        stage = Stage(played(Words, 2, max_tokens=3), policy, q, 64, 24, 0, JUDGED)
        found = play(method, stage, range(3))
        assert len(found.endings) == 3
        spent = [problem[-1].spent for problem in found.endings]
        assert found.new_tokens == sum(spent)
        for problem in found.endings:
            costs = [ending.spent for ending in problem]
            assert costs == sorted(costs)
        if name == "greedy":
            assert spent == [3, 3, 3]
        elif name != "mcts-q":  # which stops of its own accord
            assert all(21 <= tokens < 24 + 5 * 4 for tokens in spent), (name, spent)


def test_an_ending_knows_what_the_search_had_spent_when_it_was_found() -> None:
    episodes = played(Words, 2, max_tokens=3)
    stage = Stage(episodes, logits(a=1.0, b=0.9, c=0.8), UNSURE, 64, 9, 0)
    found = play(METHODS["tries"], stage, range(2))
    assert [[ending.spent for ending in problem] for problem in found.endings] == [[3, 6, 9]] * 2
    (likeliest,) = play(beam(2), stage, range(1)).endings[0]
    assert likeliest.text == "aaa"
    assert 3 < likeliest.spent <= 6


@pytest.mark.parametrize("name", ["tries", "puct", "mcts-q", "mcts-q-on", "puct-true"])
def test_alike_problems_of_different_batches_draw_differently(name: str) -> None:
    def texts(rows: int, seed: int) -> list[list[str]]:
        q = logits(z=100.0)  # never taken: every step is unsure
        stage = Stage(played(Words, rows, max_tokens=3), logits(a=1.0, b=0.9, c=0.8), q, 64, 60, seed)
        found = play(METHODS[name], stage, range(4))  # Words is the same problem whatever its seed
        return [[ending.text for ending in problem] for problem in found.endings]

    for rows in (1, 2):
        found = texts(rows, 0)
        assert all(a != b for a, b in combinations(found, 2)), rows
        assert found == texts(rows, 0)
        assert all(a != b for a, b in zip(found, texts(rows, 1), strict=True))


def test_the_narrowed_policy_and_q_know_the_likeliest_actions_alone() -> None:
    def q(rows: Sequence[int]) -> torch.Tensor:
        return torch.arange(257.0).expand(len(rows), -1)

    policy, values = narrowed(logits(a=2.0, b=1.0, c=0.5), q, 2)
    assert torch.softmax(policy([0, 1]), -1)[:, [code("a"), code("b")]].sum(-1).tolist() == [1.0, 1.0]
    assert values([0]).argmax().item() == max(code("a"), code("b"))
    assert policy([0]).isfinite().all()


def test_codes_and_tokens_stand_on_one_base() -> None:
    nowhere = Path("unused")
    latent, token = (
        player_of("arithmetic-2", arm, Recipe(), nowhere, print).backbone for arm in ("latent", "token")
    )
    assert (latent.level, token.level) == ("latent", "token")
    ours, theirs = latent.base.state_dict(), token.base.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_a_run_is_kept_whole(tmp_path: Path) -> None:
    write(tmp_path / "run.json", RUN)
    assert read(tmp_path / "run.json") == RUN
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def _main(*given: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers())
    arguments = parser.parse_args(["search", *given])
    arguments.run(arguments)
    return json.loads(arguments.out.read_text())


def test_the_command_measures_draws_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work, out = tmp_path / "work", tmp_path / "search.json"
    small = [
        "--tasks",
        "arithmetic-2",
        "--arms",
        "latent",
        "token-rl",
        "--problems",
        "3",
        "--rl-updates",
        "1",
    ]
    small += ["--budgets", "1", "3", "--beams", "2", "--rows", "3", "--q-problems", "4", "--q-answers", "2"]
    small += ["--q-steps", "2", "--q-held-out", "0", "--sections", "accuracy"]
    results = _main(*small, "--work", str(work), "--out", str(out))
    assert "tries, seed 0" in capsys.readouterr().out
    arms = results["tasks"]["arithmetic-2"]["arms"]
    assert set(arms["latent"]["lines"]) == {*LINES, "beam 2"}
    best = arms["latent"]["lines"]["best of n"]
    assert [len(best["minus"][other]) for other in ("greedy", GOING_ON, "majority vote")] == [2, 2, 2]
    minus = best["minus"][GOING_ON][-1]["tokens"]
    assert minus == [
        arms["latent"]["lines"][name]["points"][-1]["tokens"] for name in ("best of n", GOING_ON)
    ]
    assert arms["latent"]["commits"] == [results["commit"] or "unknown"]
    tokens = [at["tokens"] for at in best["points"]]
    assert tokens[0] < tokens[1]
    assert "| best of n |" in out.with_suffix(".md").read_text()
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    again = _main(*small, "--work", str(work), "--out", str(out))
    assert ", seed 0" not in capsys.readouterr().out
    assert again["tasks"] == results["tasks"]
    (kept,) = (work / "arithmetic-2" / "latent").glob("tries-[0-9]*.json")
    record = json.loads(kept.read_text())
    kept.write_text(json.dumps({**record, "commit": "0ld"}))
    old = _main(*small, "--work", str(work), "--out", str(out))
    assert "0ld" in old["tasks"]["arithmetic-2"]["arms"]["latent"]["commits"]
    (made_at,) = re.findall("made at commit (.+)\\.", out.with_suffix(".md").read_text())
    assert "0ld" in made_at.split(", ")
    del record["commit"]  # as it was before commits were kept
    kept.write_text(json.dumps(record))
    assert read(kept).commit is None
    kept.unlink()
    with pytest.raises(ValueError, match="take another --work"):
        _main(*small, "--q-steps", "3", "--work", str(work), "--out", str(out))
    with pytest.raises(ValueError, match="as many rows as it is wide"):
        _main(*small, "--beams", "9", "--work", str(work), "--out", str(out))


def test_the_engine_is_measured_with_many_trees_and_with_one() -> None:
    found = measure_engine(trees=2, problems=2, simulations=2, repeats=1, searches=10)
    assert found["forwarded_of_new"]["together"] >= 1.0
    assert found["together_of_alone"] > 0
    assert found["memory"]["resident_mib"].keys() == {"1", "10"}
    assert "| 2 trees, simulations per CPU-s |" in table({"command": "", "engine": found})


@pytest.mark.parametrize(
    "content", ["", "null", "[", '{"endings": 1}', '{"endings": [[1]]}', '{"endings": []}', "\0"]
)
def test_a_damaged_run_of_a_method_is_named(content, tmp_path):
    path = tmp_path / "tries-9-0.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"tries-9-0\.json does not hold a run .*remove it"):
        read(path)
