"""What an evaluation plays, and what its report says: shares, pass@k, votes, intervals, groups, names."""

from __future__ import annotations

import itertools
import json
import math
import tracemalloc
import warnings
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest

from cola_agents import GRPO
from cola_agents.cli import main
from cola_agents.commands.settings import settings
from cola_agents.evaluation import demo, run
from cola_agents.evaluation.probe import Probe, StoryTask, probe
from cola_agents.evaluation.reports import Played, summary, table
from cola_agents.evaluation.run import evaluate
from cola_agents.evaluation.scores import Tries, interval, majority, pass_at_k, scores, wilson
from cola_agents.rl.rows import make_rows
from cola_agents.search import SearchConfig, playout
from cola_agents.search.fitting import concordance
from cola_envs import register_task
from cola_envs.fields import given_answer, identity
from cola_envs.order import FiniteTask
from cola_envs.task import Turn
from cola_envs.tasks import substitute
from cola_envs.tasks.arithmetic import set_hash
from cola_envs.tasks.math500 import Math500, SubstituteWarning
from cola_envs.tasks.problem_set import NO_LEVEL


@pytest.fixture(autouse=True)
def _no_fetched_problems(monkeypatch, tmp_path):
    monkeypatch.setenv("COLA_DATA", str(tmp_path / "fetched"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SubstituteWarning)
        yield


# The figures


def test_concordance_counts_pairs_that_were_paid_differently_and_ties_of_value_by_half():
    # Paid 1 against 0: .4 > .1, .4 = .4, .9 > .1, .9 > .4.
    assert concordance(np.array([0.1, 0.4, 0.4, 0.9]), np.array([0, 1, 0, 1])) == pytest.approx(3.5 / 4)
    # Three levels: 2 over 1, 2 over 0 and 1 over 0 are pairs; the two that are paid 1 are none.
    assert concordance(np.array([5.0, 3.0, 9.0, 4.0]), np.array([2, 1, 1, 0])) == pytest.approx(3 / 5)
    assert concordance(np.array([1.0, 2.0]), np.array([1, 1])) is None
    rng = np.random.default_rng(0)
    values, paid = rng.integers(9, size=60), rng.integers(4, size=60)
    pairs = [(i, j) for i in range(60) for j in range(60) if paid[i] > paid[j]]
    plain = [(values[i] > values[j]) + 0.5 * (values[i] == values[j]) for i, j in pairs]
    assert concordance(values, paid) == pytest.approx(np.mean(plain))


@pytest.mark.parametrize(("tries", "successes"), [(1, 0), (1, 1), (4, 0), (4, 1), (5, 3), (6, 6), (7, 2)])
def test_pass_at_k_is_the_share_of_drawn_sets_with_a_success(tries, successes):
    outcomes = [1] * successes + [0] * (tries - successes)
    for k in range(1, tries + 1):
        drawn = [any(chosen) for chosen in itertools.combinations(outcomes, k)]
        assert pass_at_k(tries, successes, k) == pytest.approx(sum(drawn) / len(drawn))


def test_pass_at_k_by_hand():
    assert pass_at_k(4, 1, 2) == 0.5  # of six pairs, three hold the success
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    for bad in ((4, 5, 1), (4, 1, 0), (4, 1, 5), (4, -1, 2)):
        with pytest.raises(ValueError, match="is undefined"):
            pass_at_k(*bad)


@pytest.mark.parametrize(
    ("successes", "answers", "credit"),
    [
        ("111", ("2", "2", "2"), 1.0),
        ("000", ("2", "3", "3"), 0.0),
        ("100", ("2", "3", "4"), 1 / 3),  # three answers tie
        ("1100", ("2", "2", "3", "3"), 0.5),
        ("1100", ("2", "2", "3", "4"), 1.0),
        ("11000", ("1/2", "0.5", "3", "3.0", "\\frac{6}{2}"), 0.0),  # the wrong ones are one answer
        ("1100", ("1/2", "\\frac{1}{2}", "3", "5"), 1.0),
        ("1000", ("2", None, None, None), 1.0),  # no answer, no vote
        ("000", (None, None, None), 0.0),
        ("10000", ("2", "3", "3", None, "4"), 0.0),
        ("1", ("2",), 1.0),
    ],
)
def test_a_vote_counts_equal_answers_together(successes, answers, credit):
    problem = Tries(tuple(s == "1" for s in successes), answers)
    assert majority(problem) == pytest.approx(credit)
    backwards = Tries(problem.successes[::-1], answers[::-1])
    assert majority(backwards) == pytest.approx(credit)


def test_a_vote_needs_the_answers_and_a_problem_a_try():
    with pytest.raises(ValueError, match="needs the answers"):
        majority(Tries((True, False)))
    with pytest.raises(ValueError, match="at least one try"):
        Tries(())
    with pytest.raises(ValueError, match="2 answers for 1 tries"):
        Tries((True,), ("1", "2"))


def test_an_interval_of_shares_is_wilsons_and_of_other_scores_the_bootstraps():
    assert interval([1.0] * 8 + [0.0] * 2) == wilson(8, 10)
    assert interval([0.25] * 10) == wilson(2.5, 10)  # the bootstrap would have no width
    values = [0.0, 0.25, 0.5, 1.0] * 25
    low, high = interval(values)
    half = 1.96 * np.std(values) / math.sqrt(len(values))
    assert low == pytest.approx(np.mean(values) - half, abs=0.015)
    assert high == pytest.approx(np.mean(values) + half, abs=0.015)
    assert interval(values) == (low, high)


def test_the_bootstrap_of_many_problems_takes_little_memory_and_draws_the_same():
    values = np.random.default_rng(1).integers(0, 5, 3000) / 4
    drawn = np.random.default_rng(0).integers(len(values), size=(2_000, len(values)))
    wanted = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    tracemalloc.start()
    found = interval(values.tolist())
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == tuple(wanted)
    assert most < 20e6  # at once they are 96 MB


def test_wilsons_interval_by_hand():
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)


def test_wilsons_interval_stays_between_0_and_1():
    for count in range(1, 200):
        assert wilson(0, count)[0] >= 0.0
        assert wilson(count, count)[1] <= 1.0


def test_intervals_over_problems_cover_the_truth():
    """Of 200 small studies of 30 problems with four tries each, about 95 % hold the true mean."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        skill = rng.beta(0.5, 0.5, size=30)  # true mean 0.5; the tries at one problem are alike
        values = rng.binomial(4, skill) / 4
        low, high = interval(values.tolist())
        covered += low <= 0.5 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_scores_by_hand():
    problems = [
        Tries((True, True), ("1", "1")),
        Tries((True, False), ("1", "2")),
        Tries((False, False), (None, "3")),
    ]
    figures = scores(problems)
    assert figures["problems"] == 3
    assert (figures["success"], figures["pass@1"], figures["pass@2"]) == (0.5, 0.5, 0.6667)
    assert figures["maj@2"] == 0.5  # 1, a tie, 0
    assert figures["pass@2_95"] == [round(bound, 4) for bound in wilson(2, 3)]
    assert list(scores([Tries((True,), ("1",))])) == [
        "problems",
        "success",
        "success_95",
        "pass@1",
        "pass@1_95",
    ]
    assert "maj@2" not in scores([Tries((True, False))])
    assert [key for key in scores([Tries((True,) * 6)]) if key.startswith("pass") and key[-1] != "5"] == [
        "pass@1",
        "pass@2",
        "pass@4",
        "pass@6",
    ]
    with pytest.raises(ValueError, match="as many tries"):
        scores([Tries((True,)), Tries((True, False))])


# The report


def played(success: bool, **info) -> Played:
    return Played({"success": success, "num_tokens": 4, **info}, float(success))


def test_a_report_groups_by_whatever_the_task_tells():
    rows = [
        played(k % 2 == 0, unique_id=str(k), subject="ab"[k % 2], level=k % 3, kind="one", task_type=None)
        for k in range(12)
    ]
    report = summary([rows])
    assert set(report["by"]) == {"subject", "level"}  # one kind, and no task type
    assert report["by"]["subject"]["a"]["success"] == 1.0
    assert report["by"]["subject"]["b"]["success_95"] == [round(bound, 4) for bound in wilson(0, 6)]
    assert [report["by"]["level"][name]["problems"] for name in ("0", "1", "2")] == [4, 4, 4]
    json.dumps(report)


def test_a_report_names_set_engine_and_numbers():
    rows = [
        played(
            True,
            unique_id=str(k),
            dataset="games",
            games_sha256="abc",
            games=90,
            engine="1.2.3",
            java="17",
        )
        for k in range(3)
    ]
    report = summary([rows])
    assert (report["set_hash"], report["set_size"], report["problems"]) == ("abc", 90, 3)
    assert report["engines"] == {"engine": "1.2.3", "java": "17"}
    assert report["distinct_problems"] == 3
    two = summary([[*rows, played(True, unique_id="3", dataset="games", games_sha256="abd")]])
    assert two["set_hash"] == ["abc", "abd"]
    bare = summary([[played(True), played(False)]])
    assert (bare["dataset"], bare["distinct_problems"]) == ("not named by the task", None)
    assert not {"engines", "set_hash", "set_size"} & set(bare)


def test_what_was_played_is_told_apart_by_its_hash():
    one, two = ([played(True, unique_id=name)] for name in "ab")
    assert (
        summary([one])["played_sha256"] == summary([one])["played_sha256"] != summary([two])["played_sha256"]
    )
    assert identity({"task_type": "boil", "variation": 3}) != identity({"task_type": "boil", "variation": 4})


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        (("", None, NO_LEVEL, "Algebra"), {"Algebra": 1, "not told": 3}),
        ((0, "1", 1, NO_LEVEL), {"0": 1, "1": 2, "not told": 1}),
        (("1", 1), {}),  # one group tells nothing
    ],
)
def test_groups_of_one_name_are_one_group_and_lose_no_problem(values, problems):
    report = summary([[played(True, unique_id=str(k), level=value) for k, value in enumerate(values)]])
    groups = report.get("by", {}).get("level", {})
    assert {name: figures["problems"] for name, figures in groups.items()} == problems


def test_rounds_over_different_problems_are_refused():
    with pytest.raises(ValueError, match=r"other problems in a later round.*leave samples out"):
        summary([[played(True, unique_id="1")], [played(True, unique_id="2")]])


def test_answers_are_voted_on_only_where_success_is_their_matter():
    assert given_answer({"answer": "5", "gold": "5"}) == given_answer({"answer": 3, "given": 5}) == "5"
    assert given_answer({"answer": 3, "given": ""}) is None
    assert given_answer({"answer": "", "gold": "5"}) is None
    arithmetic = [
        [played(True, question="?", answer=3, given=3)],
        [played(False, question="?", answer=3, given=4)],
    ]
    assert summary(arithmetic)["maj@2"] == 0.5
    thinking = [
        [played(True, question="?", given=3, correct=False)],
        [played(False, question="?", given=3, correct=True)],
    ]
    assert "maj@2" not in summary(thinking)
    assert "maj@2" not in summary([[played(True, goal="x")], [played(False, goal="x")]])


def test_a_substitute_is_warned_of():
    assert "no MATH-500 result" in summary([[played(True, dataset=substitute.NAME)]])["warning"]
    assert "warning" not in summary([[played(True, dataset="MATH-500")]])


def test_the_table_has_a_line_for_all_and_for_each_group():
    rows = [played(k > 2, unique_id=str(k), level=k % 2, dataset="own", set_size=9) for k in range(6)]
    report = {"task": "T", "split": "test", "actions": "greedy", **summary([rows])}
    lines = table(report).splitlines()
    assert lines[0] == "T, own, split test: 6 problems of 9, greedy"
    assert [line.split()[0] for line in lines[2:5]] == ["all", "level", "level"]
    assert lines[2].split()[1:3] == ["6", "0.500"]
    assert len({len(line) for line in lines[1:5]}) == 1


# Playing


def test_every_try_is_at_the_same_problems_and_is_a_new_one():
    report = evaluate("CoLA-Arithmetic-v0", episodes=24, samples=3, env_kwargs={"kinds": ("sum", "gcd")})
    assert (report["problems"], report["episodes"], report["samples"]) == (24, 72, 3)
    assert report["distinct_problems"] <= 24
    assert report["set_hash"] == set_hash(1, "test", ("sum", "gcd"))
    assert set(report["by"]) == {"kind"}
    assert report["pass@1"] == report["success"] < report["pass@3"]
    assert report["pass@1_95"][0] <= report["pass@1"] <= report["pass@1_95"][1]
    again = evaluate("CoLA-Arithmetic-v0", episodes=24, samples=3, env_kwargs={"kinds": ("sum", "gcd")})
    assert again["maj@3"] == report["maj@3"]


def test_the_first_try_is_what_one_try_gives():
    one = evaluate("CoLA-Arithmetic-v0", episodes=20)
    rounds = evaluate("CoLA-Arithmetic-v0", episodes=20, samples=2)
    assert one["samples"] == 1
    assert one["played_sha256"] == rounds["played_sha256"]
    assert one["success"] == one["pass@1"]


def test_a_finite_set_is_played_whole_in_every_round():
    items = [{**item, "unique_id": f"own/{i}"} for i, item in enumerate(substitute.test_items()[:7])]
    report = evaluate("CoLA-Math500-v0", env_kwargs={"problems": items, "max_tokens": 8}, samples=2)
    assert (report["problems"], report["distinct_problems"], report["episodes"]) == (7, 7, 14)
    assert report["set_size"] == 7
    assert report["set_hash"] == Math500(1, problems=items, split="test").set_hash
    assert set(report["by"]) == {"subject"}
    part = evaluate("CoLA-Math500-v0", env_kwargs={"problems": items, "max_tokens": 8}, episodes=3, samples=2)
    assert (part["problems"], part["set_size"]) == (3, 7)


def test_a_finite_set_has_no_more_problems_than_it_holds():
    items = [{"problem": f"What is ${k} + 1$?", "answer": str(k + 1)} for k in range(3)]
    given = {"problems": items, "max_tokens": 4}
    with pytest.raises(ValueError, match=r"more than the 3 problems of this set.*samples="):
        evaluate("CoLA-Math500-v0", greedy=True, episodes=4, env_kwargs=given)
    assert evaluate("CoLA-Math500-v0", greedy=True, episodes=3, env_kwargs=given)["problems"] == 3
    drawn = evaluate("CoLA-Math500-v0", episodes=4, env_kwargs={**given, "sequential": False})
    assert (drawn["problems"], drawn["set_size"]) == (4, 3)  # with replacement, as was asked for


class Listed(FiniteTask):
    """A finite set of one's own, in order."""

    stop = ()

    def __init__(self, num_rows):
        super().__init__(num_rows, 3, sequential=True)

    def _prompt(self, row):
        return f"Problem {self._index(row)}:"

    def step(self, rows, texts):
        return [Turn(reward=1.0, info={"success": True, "unique_id": str(self._index(row))}) for row in rows]

    def info(self, row):
        return {}


def test_a_finite_set_of_ones_own_is_played_whole_by_default_and_never_twice():
    given = {"task": Listed, "max_tokens": 4}
    report = evaluate("CoLA-Text-v0", env_kwargs=given)
    assert (report["problems"], report["distinct_problems"]) == (3, 3)
    with pytest.raises(ValueError, match="more than the 3 problems"):
        evaluate("CoLA-Text-v0", episodes=4, env_kwargs=given)


@pytest.fixture
def registry_as_it_was():
    """Other tests look at every id."""
    before = dict(gym.registry)
    yield
    gym.registry.clear()
    gym.registry.update(before)


@pytest.mark.usefixtures("registry_as_it_was")
def test_a_task_is_evaluated_with_the_arguments_that_it_was_registered_with(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        "".join(json.dumps({"problem": f"${k} + 1$?", "answer": str(k + 1)}) + "\n" for k in range(3))
    )
    for name, more in (("Whole", {}), ("Drawn", {"sequential": False}), ("Told", {"system": "Be brief."})):
        register_task(f"Own{name}", "cola_envs.tasks.math500:Math500", 4, problems=str(path), **more)
    whole = evaluate("CoLA-OwnWhole-v0")
    assert (whole["problems"], whole["distinct_problems"]) == (3, 3)
    assert evaluate("CoLA-OwnDrawn-v0", episodes=5)["problems"] == 5
    assert evaluate("CoLA-OwnTold-v0")["system"] == "Be brief."
    one = evaluate(
        "CoLA-OwnWhole-v0", env_kwargs={"problems": json.loads(f"[{path.read_text().splitlines()[0]}]")}
    )
    assert one["problems"] == 1


class Forgetful:
    """Asks another question at every reset."""

    repeatable = False
    stop = ()
    asked = 0

    def reset(self, rng):
        Forgetful.asked += 1
        return f"Question {Forgetful.asked}:"

    def step(self, text):
        return Turn(reward=1.0, info={"success": True})


def test_several_tries_at_a_task_that_is_not_repeatable_are_refused_before_the_first():
    given = {"task": Forgetful, "max_tokens": 4}
    assert evaluate("CoLA-Text-v0", episodes=2, env_kwargs=given)["problems"] == 2
    asked = Forgetful.asked
    with pytest.raises(ValueError, match=r"samples=2 .* not repeatable"):
        evaluate("CoLA-Text-v0", episodes=2, samples=2, env_kwargs=given)
    assert Forgetful.asked == asked


def test_more_problems_than_are_held_at_once_come_in_order(monkeypatch):
    monkeypatch.setattr("cola_agents.evaluation.run._CHUNK", 4)
    items = [{"problem": f"What is ${k} + 1$?", "answer": str(k + 1)} for k in range(11)]
    chunked = evaluate("CoLA-Math500-v0", env_kwargs={"problems": items, "max_tokens": 6})
    monkeypatch.setattr("cola_agents.evaluation.run._CHUNK", 256)
    whole = evaluate("CoLA-Math500-v0", env_kwargs={"problems": items, "max_tokens": 6})
    assert chunked == whole
    assert whole["distinct_problems"] == 11


def test_a_saved_agent_plays_with_its_own_settings(tmp_path):
    agent = GRPO("CoLA-Arithmetic-v0", num_envs=4, seed=1, env_kwargs={"level": 2})
    agent.save(tmp_path / "run")
    report = evaluate("CoLA-Arithmetic-v0", agent=tmp_path / "run", episodes=12, samples=2)
    assert report["agent"] == "run"
    assert report["fingerprint"] == agent.fingerprint
    assert report["set_hash"] == set_hash(2, "test", ("sum", "product", "equation"))
    mean = agent.evaluate(12).episode_rewards.mean().item()
    assert evaluate("CoLA-Arithmetic-v0", agent=tmp_path / "run", episodes=12)["success"] == round(mean, 4)


def test_greedy_tries_differ_only_where_a_world_model_is_drawn_from():
    given = {
        "episodes": 1,
        "samples": 2,
        "greedy": True,
        "env_kwargs": {"max_tokens": 2, "world_temperature": 1},
    }
    with pytest.raises(ValueError, match="greedy tries are all alike"):
        evaluate("CoLA-Arithmetic-Token-v0", **given)
    assert "pass@2" in evaluate("CoLA-Arithmetic-v0", **given)


def test_a_searched_agent_draws_its_play_outs_as_the_agent_does_and_the_report_says_how(monkeypatch):
    agent = GRPO("CoLA-Arithmetic-v0", num_envs=2, top_k=3, temperature=0.5, env_kwargs={"max_tokens": 4})
    drawn, sampled = [], playout.sample
    monkeypatch.setattr(playout, "sample", lambda *_, **how: (drawn.append(how), sampled(*_, **how))[1])
    config = SearchConfig(simulations=2, rewards="estimated", answer="value")
    report = evaluate("CoLA-Arithmetic-v0", agent=agent, episodes=1, search=config, judge="policy")
    agent.close()
    assert report["actions"] == "searched, PUCT, play-outs sampled at temperature 0.5, top 3"
    assert {tuple(sorted(how.items(), key=str)) for how in drawn} == {
        (("temperature", 0.5), ("top_k", 3), ("top_p", 1.0))
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples must be at least 1"),
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"samples": 2, "greedy": True}, "greedy tries are all alike"),
        ({"agent": "run", "tokenizer": "other"}, "not both"),
        ({"random": True, "greedy": True}, "random actions are drawn without a policy"),
        ({"random": True, "agent": "run"}, "random actions are drawn without a policy"),
        ({"q": "no/q"}, "q= values what a search finds, and there is no search"),
        ({"judge": "policy"}, "judge= values what a search finds, and there is no search"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate("CoLA-Arithmetic-v0", **arguments)


@pytest.mark.parametrize("twin", ["", "-Token"])
def test_random_actions_are_uniform_over_all_actions(twin, monkeypatch):
    drawn, choose = [], run.collect

    def recorded(*args, **kwargs):
        drawn.append(choose(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(run, "collect", recorded)
    report = evaluate(f"CoLA-Arithmetic{twin}-v0", random=True, episodes=64)
    assert report["actions"] == "uniformly random"
    (rollout,) = drawn
    count = 768 if twin else 64
    assert rollout.log_probs[rollout.mask].numpy() == pytest.approx(-math.log(count), abs=1e-5)
    assert len(rollout.actions[rollout.mask].unique()) > count / 2


def test_random_actions_leave_out_those_that_stand_for_nothing():
    logits = run.Uniform(np.array([True, False, True])).attach(None)([0, 4])
    assert logits.softmax(-1).tolist() == [[0.5, 0, 0.5]] * 2


# The command


def test_the_command_prints_a_table_and_writes_json(capsys, tmp_path):
    argv = ["eval", "--task", "CoLA-Math500-v0", "--episodes", "6", "--samples", "2"]
    argv += ["--out", str(tmp_path / "r.json")]
    assert (
        main(
            [
                *argv,
                "--env",
                'subjects=["Algebra", "Geometry"]',
                "--env",
                "levels=[1]",
                "--env",
                "max_tokens=8",
            ]
        )
        == 0
    )
    err = capsys.readouterr().out
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report["by"]["subject"]) <= {"Algebra", "Geometry"}
    assert report["set_size"] == 29
    assert "pass@2" in err
    assert "warning: a substitute" in err
    assert main(["eval", "--task", "CoLA-Arithmetic-v0", "--episodes", "4", "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_settings_are_json_or_text():
    assert settings(["level=2", "kinds=sum", "levels=[1,2]", "note=a=b", "on=true"], "--env") == {
        "level": 2,
        "kinds": "sum",
        "levels": [1, 2],
        "note": "a=b",
        "on": True,
    }
    for pairs, message in ((["level"], "no KEY=VALUE"), (["=2"], "no KEY=VALUE"), (["a=1", "a=2"], "twice")):
        with pytest.raises(ValueError, match=message):
            settings(pairs, "--env")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (".003", 0.003),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("1.e-3", 0.001),
        ("+1", 1),
        ("+.5E2", 50.0),
        ("50_000", 50_000),
        ("1_000.5", 1000.5),
        ("-inf", -math.inf),
        ("0", 0),
        ("0.5", 0.5),
        ("-1e3", -1000.0),
        ("[.9, +1, None]", [0.9, 1, None]),
        (
            '{"lr": [.5, 1_000], "on": True, "name": ".5 +1"}',
            {"lr": [0.5, 1000], "on": True, "name": ".5 +1"},
        ),
        ('".5"', ".5"),
    ],
)
def test_settings_take_numbers_as_people_write_them(text, value):
    read = settings([f"key={text}"], "--set")["key"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        "007",
        "2024_01",
        "1_00",
        "1.2.3",
        "1 2",
        "+-1",
        ".",
        "+",
        "_1",
        "1e",
        "a .5",
        "[.5",
        "1,2",
        "0x10",
        "info",
        "Nan",
    ],
)
def test_settings_keep_what_is_no_number_as_text(text):
    assert settings([f"key={text}"], "--env") == {"key": text}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--env", "split=train"], "--split"),
        (["--env", "num_envs=3"], "give --num-envs"),
        (["--env", "levle=2"], "Did you mean 'level'"),
        (["--samples", "0"], "samples must be at least 1"),
    ],
)
def test_the_command_refuses_in_one_clear_line(more, message, capsys):
    assert main(["eval", "--task", "CoLA-Arithmetic-v0", "--episodes", "2", *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cola: ")
    assert message in error


def test_the_split_of_an_evaluation_may_be_an_argument_of_its_environment():
    given = {"max_tokens": 4, "split": "train"}
    assert evaluate("CoLA-Arithmetic-v0", episodes=2, env_kwargs=given)["split"] == "train"
    with pytest.raises(ValueError, match="differ: give one"):
        evaluate("CoLA-Arithmetic-v0", episodes=2, split="test", env_kwargs=given)


def test_an_evaluation_makes_the_folder_of_its_report_and_refuses_one_as_its_file(tmp_path, monkeypatch):
    argv = ["eval", "--task", "CoLA-Arithmetic-v0", "--episodes", "2", "--env", "max_tokens=4", "--out"]
    assert main([*argv, str(tmp_path / "new" / "r.json")]) == 0
    assert json.loads((tmp_path / "new" / "r.json").read_text())["episodes"] == 2
    monkeypatch.setattr("cola_agents.evaluation.run.evaluate", lambda *_, **__: pytest.fail("evaluated"))
    assert main([*argv, str(tmp_path)]) == 2


def test_an_interrupted_demo_keeps_the_arms_that_ended(tmp_path, monkeypatch):
    ended = []

    def arm(arm, **_):
        if ended:
            raise KeyboardInterrupt
        ended.append(arm.name)
        return {"arm": arm.name}

    monkeypatch.setattr(demo, "run_arm", arm)
    monkeypatch.setattr(demo, "floor", lambda *_, **__: {})
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(out=tmp_path, updates=1)
    assert json.loads((tmp_path / "results.json").read_text())["runs"] == [{"arm": ended[0]}]


class Engine:
    """Counts how many of it are open, as an engine in a process of its own would be."""

    stop = ()
    made = 0
    open: ClassVar[set[int]] = set()

    def __init__(self):
        Engine.made += 1
        self.open.add(id(self))

    def reset(self, rng):
        return "Write:"

    def step(self, text):
        return Turn(reward=1.0, info={"success": True})

    def close(self):
        self.open.discard(id(self))


def test_the_demo_closes_every_engine_that_it_opens_also_after_an_error(monkeypatch):
    monkeypatch.setattr(demo, "FLOOR_PROBLEMS", 1)
    monkeypatch.setattr(demo, "probe", lambda agent, episodes: Probe(0.5, 0.5, 0.5, 0.5, 0.5, episodes))
    arm = demo.Arm("latent", "CoLA-Text-v0", {})
    given = {"episodes": 2, "env_kwargs": {"task": Engine, "max_tokens": 1}}
    demo.floor("CoLA-Text-v0", **given)
    assert (Engine.made > 64, Engine.open) == (True, set())
    assert demo.run_arm(arm, updates=1, seed=0, **given)["history"]
    assert Engine.open == set()
    monkeypatch.setattr(demo, "probe", lambda agent, episodes: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        demo.run_arm(arm, updates=1, seed=0, **given)
    assert Engine.open == set()


def test_an_arm_of_the_demo_passes_over_an_update_that_measures_no_kl(monkeypatch):
    monkeypatch.setattr(demo, "probe", lambda agent, episodes: Probe(0.5, 0.5, 0.5, 0.5, 0.5, episodes))
    arm = demo.Arm("latent", "CoLA-Text-v0", {"kl_coef": 0.0})
    kwargs = {"task": Engine, "max_tokens": 1}
    (record,) = demo.run_arm(arm, updates=1, seed=0, episodes=2, env_kwargs=kwargs)["history"]
    assert "kl" not in record


@pytest.mark.parametrize("twin", ["", "-Token"])
def test_the_probe_asks_agents_that_were_trained_on_its_tasks_the_same_as_all_others(twin):
    def figures(name: str, **env_kwargs: Any) -> list[float]:
        agent = GRPO(f"CoLA-{name}{twin}-v0", num_envs=2, env_kwargs=env_kwargs)
        return list(probe(agent, episodes=16, num_batches=0).as_dict().values())[:4]

    asked = figures("Thinking")
    assert figures("Arithmetic", level=3, max_tokens=8, shots=[("1 + 1 = ?", "2")]) == asked
    assert figures("Text", task=StoryTask, max_tokens=4) == asked


def test_the_probe_plays_with_the_world_and_the_format_of_the_agent(monkeypatch):
    made = []
    monkeypatch.setattr(
        "cola_agents.evaluation.probe.make_rows",
        lambda env_id, count, **given: (made.append(given), make_rows(env_id, count, **given))[1],
    )
    kwargs = {"world_temperature": 0.5, "prompt_format": "plain"}
    probe(GRPO("CoLA-Arithmetic-v0", num_envs=2, env_kwargs=kwargs), episodes=2, num_batches=0)
    assert [kwargs.items() <= given.items() for given in made] == [True] * 3


def test_the_probe_draws_as_the_agent_does():
    """As greedily as the greedy measure at a low temperature, and otherwise at a high one."""
    cold, hot = (
        probe(GRPO("CoLA-Arithmetic-v0", num_envs=2, temperature=temperature), episodes=32, num_batches=0)
        for temperature in (1e-3, 50.0)
    )
    assert cold.arithmetic == cold.arithmetic_greedy == hot.arithmetic_greedy
    assert hot.arithmetic != hot.arithmetic_greedy
    assert hot.grammar < cold.grammar


def test_an_agent_of_a_command_is_read_whole_once(tmp_path, monkeypatch):
    GRPO("CoLA-Arithmetic-v0", num_envs=2, prompts=1, group_size=2).save(tmp_path / "agent")
    read, reads = run.read_saved, []
    monkeypatch.setattr(run, "read_saved", lambda path: (reads.append(path), read(path))[1])
    monkeypatch.setattr("cola_agents.rl.saving.read_saved", lambda path: pytest.fail("read a second time"))
    assert main(["eval", "--agent", str(tmp_path / "agent"), "--episodes", "2"]) == 0
    assert len(reads) == 1


def test_a_seed_and_a_model_in_the_wrong_place_are_refused_by_name():
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        evaluate("CoLA-Arithmetic-v0", seed=-1)
    for name in ("model", "tokenizer"):
        with pytest.raises(TypeError, match=f"env_kwargs has '{name}', which is an argument of evaluate"):
            evaluate("CoLA-Arithmetic-v0", env_kwargs={name: "x"})
