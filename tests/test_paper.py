"""The paper's claims are decided as their criteria say, and what is missing is named with what makes it."""

from __future__ import annotations

import argparse
import json

import pytest

from benchmarks.claims import paper
from benchmarks.claims.findings import FAILS, HOLDS, NO_DATA, NOT_HERE, OPEN, Inputs
from benchmarks.claims.others import search_above_greedy, semantic_diversity, time_per_update
from benchmarks.claims.runs import CONTROLS, agent_tasks, half, kept_without_kl, reward_after
from benchmarks.claims.table import CLAIMS
from benchmarks.compare.arms import ARMS
from benchmarks.compare.records import read
from tests.comparisons import floors, main_runs, record, write

NO_KL = {"lr": 0.003, "kl_coef": 0.0}


def inputs(folder, records, *, task="Thinking", **results):
    comparison = read(write(folder / task, records, task=task))
    return Inputs({task: comparison}, results)


def mathematics(folder, latent, token, name="reward", **kinds):
    arms = {"latent": {name: latent, **kinds}, "token": {name: token, **kinds}}
    return reward_after(("Arithmetic",), name)(inputs(folder, main_runs(arms), task="Arithmetic"))


def test_mathematics_holds_for_a_difference_that_is_surely_above_zero_however_small(tmp_path):
    # .04 is within the margin of a tie; the paper's own difference is .042.
    finding = mathematics(tmp_path, 0.84, 0.80)
    assert finding.verdict == HOLDS
    assert finding.figures["low"] > 0
    assert finding.figures["verdict"] == "equivalent"


def test_mathematics_does_not_hold_for_a_tie_or_a_loss_and_is_open_in_noise(tmp_path):
    assert mathematics(tmp_path / "a", 0.8, 0.8).verdict == FAILS
    assert mathematics(tmp_path / "b", 0.7, 0.8).verdict == FAILS
    assert mathematics(tmp_path / "c", 0.8, 0.8, noise=0.4).verdict == OPEN


def test_greedy_answers_are_compared_with_greedy_answers(tmp_path):
    records = main_runs({"latent": {"reward": 0.95}, "token": {"reward": 0.6}})
    given = inputs(tmp_path, records, task="Arithmetic")
    assert reward_after(("Arithmetic",), "reward")(given).verdict == HOLDS
    assert reward_after(("Arithmetic",), "reward_greedy")(given).verdict == FAILS


def test_a_few_pairs_leave_a_claim_open(tmp_path):
    records = main_runs({"latent": {"reward": 0.95}, "token": {"reward": 0.6}}, models=[0], seeds=[0, 1])
    given = inputs(tmp_path, records, task="Arithmetic")
    assert reward_after(("Arithmetic",), "reward")(given).verdict == OPEN


def test_the_cause_names_the_controls_that_do_as_well_and_what_that_shows(tmp_path):
    records = main_runs(
        {
            "latent": {"reward": 0.9},
            "token": {"reward": 0.7},
            "rank": {"reward": 0.9},
            "token-lora": {"reward": 0.7},
        }
    )
    given = inputs(tmp_path, records + floors(0.93), task="Arithmetic")
    cause = reward_after(("Arithmetic",), "reward")(given).cause
    assert f"as good as latent: `rank` ({CONTROLS['rank']})" in cause
    assert "worse than latent: `token-lora`" in cause
    assert (
        "not run: `latent-sampled`, `token-frozen`, `token-truncated`, `pushforward`, `latent-fta`, "
        "`token-longer`" in cause
    )
    assert "Before RL the difference was 0.000" in cause
    assert "constant code earns 0.930" in cause


def test_without_an_effect_a_tie_of_a_control_is_no_cause(tmp_path):
    records = main_runs({"latent": {}, "token": {}, "rank": {}})
    given = inputs(tmp_path, records, task="Arithmetic")
    cause = reward_after(("Arithmetic",), "reward")(given).cause
    assert "as good as latent: `rank`;" in cause
    assert CONTROLS["rank"] not in cause


def test_a_claim_over_few_models_is_left_open_and_says_how_many_there_are(tmp_path):
    few = [
        one for one in main_runs({"latent": {"rise": 400}, "token": {"rise": 1_600}}) if one["model_seed"] < 3
    ]
    finding = half("episodes")(inputs(tmp_path / "few", few))
    assert finding.verdict == OPEN
    assert finding.cause.startswith("Pre-trained models: 3; a verdict takes 4.")
    assert "a verdict takes" not in timed(tmp_path / "enough", 400, 1_600).cause


VARIANTS = ("latent-16", "latent-256", "latent-span-4", "latent-span-8", "latent-span-unsure")


def test_controls_are_arms_of_the_comparison():
    assert set(CONTROLS) == set(ARMS) - {"latent", "token", *VARIANTS}


def timed(folder, latent, token, **more):
    records = main_runs({"latent": {"rise": latent}, "token": {"rise": token, **more}})
    return half("episodes")(inputs(folder, records))


def test_half_the_rollouts_is_a_ratio_of_restricted_means_with_its_interval(tmp_path):
    finding = timed(tmp_path / "a", 400, 1_600)
    assert finding.verdict == HOLDS
    assert finding.figures["low"] < finding.figures["ratio"] < finding.figures["high"] < 0.5
    assert timed(tmp_path / "b", 1_000, 1_200).verdict == FAILS


def test_a_censored_side_decides_nothing_in_its_own_favour(tmp_path):
    # Token never gets there: the ratio looks larger than it is, so it cannot refute, but it can support.
    refuted = timed(tmp_path / "a", 1_600, 9_000)
    assert refuted.figures["low"] > 0.5
    assert (refuted.verdict, refuted.figures["censored"]) == (OPEN, {"latent": 0, "token": 20})
    assert timed(tmp_path / "b", 400, 9_000).verdict == HOLDS
    # One latent run does not get there: its true time may be any, so the ratio cannot support.
    records = main_runs({"latent": {"rise": 400}, "token": {"rise": 9_000}})
    records[0] = record("latent", 0, 0, rise=9_000)
    one_late = half("episodes")(inputs(tmp_path / "d", records))
    assert one_late.figures["high"] < 0.5
    assert (one_late.verdict, one_late.figures["censored"]["latent"]) == (OPEN, 1)
    # Latent never gets there: the ratio looks smaller than it is, and is above a half nevertheless.
    assert timed(tmp_path / "c", 9_000, 1_600).verdict == FAILS


def test_a_comparison_without_finished_runs_is_missing_data_and_no_error(tmp_path):
    tuning = [record(arm, 0, 9_000, phase="tuning") for arm in ("latent", "token")]
    given = Inputs(
        {task: read(write(tmp_path / task, tuning, task=task)) for task in ("Thinking", "Arithmetic")}
    )
    assert {claim.found(given).verdict for claim in CLAIMS} == {NO_DATA, NOT_HERE}


def test_half_the_cpu_time_is_another_question_than_half_the_rollouts(tmp_path):
    records = main_runs({"latent": {"rise": 400, "seconds": 1.0}, "token": {"rise": 1_600, "seconds": 0.4}})
    given = inputs(tmp_path, records)
    assert half("episodes")(given).verdict == HOLDS
    assert half("cpu_s")(given).verdict == FAILS


def without_kl(folder, latent, token, models=range(5)):
    records = main_runs({"latent": {}, "token": {}})
    for arm, figures in (("latent", latent), ("token", token)):
        records += [record(arm, m, 100 * m, phase="frontier", options=NO_KL, **figures) for m in models]
    return kept_without_kl(inputs(folder, records))


def test_capability_without_kl_needs_no_harm_of_latent_and_more_of_token(tmp_path):
    holds = without_kl(tmp_path / "a", {"noise": 0.003}, {"arithmetic": 0.3})
    assert holds.verdict == HOLDS
    assert holds.figures["token_lost_more"]["arithmetic"]["mean"] == pytest.approx(0.2, abs=0.02)
    assert holds.figures["options"]["latent"] == NO_KL
    gained = without_kl(tmp_path / "e", {"arithmetic": 0.9}, {"arithmetic": 0.7})
    assert gained.ours == (
        "arithmetic: codes gained 0.407 (no harm), tokens lost 0.203 more than codes (worse); "
        "grammar: codes lost 0.000 (no harm), tokens lost 0.004 less than codes (equal)"
    )
    assert without_kl(tmp_path / "b", {"arithmetic": 0.3}, {"arithmetic": 0.1}).verdict == FAILS
    both = without_kl(tmp_path / "c", {"noise": 0.003}, {"noise": 0.003})
    assert both.verdict == FAILS
    few = without_kl(tmp_path / "d", {}, {"arithmetic": 0.3}, models=range(3))
    assert few.verdict == OPEN


def test_runs_without_kl_that_are_not_there_are_asked_for(tmp_path):
    given = inputs(tmp_path, main_runs({"latent": {}, "token": {}}))
    claim = next(claim for claim in CLAIMS if claim.decide is kept_without_kl)
    finding = claim.found(given)
    assert finding.verdict == NO_DATA
    assert "--frontier 0" in finding.ours


def updates(ppo, grpo):
    spread = [dict(zip(("low", "median", "high"), three, strict=True)) for three in (ppo, grpo)]
    return {
        "updates": {"token_of_latent": spread[0], "grpo": [{"episodes": 32, "token_of_latent": spread[1]}]}
    }


def test_time_per_update_is_judged_by_every_turn():
    given = {
        HOLDS: updates((2.1, 2.5, 3.0), (2.0, 2.2, 2.4)),
        FAILS: updates((1.2, 1.5, 1.9), (1.1, 1.2, 1.3)),
        OPEN: updates((2.1, 2.5, 3.0), (1.8, 2.2, 2.4)),
    }
    for verdict, peers in given.items():
        assert time_per_update(Inputs(results={"peers": peers})).verdict == verdict
    finding = time_per_update(Inputs(results={"peers": given[HOLDS]}))
    assert "PPO: 0.40 of the token level's" in finding.ours
    assert finding.interval.startswith("least to most of the turns: [0.33, 0.48]")


def texts(mean, low, high, reached=1.0, validity=0.9):
    def told(a, b, c):
        three = {"mean": a, "low": b, "high": c}
        return {"diversity": three, "distinct_2": three, "reached": reached}

    arms = {
        "latent, argmax world": {**told(0.4, 0.3, 0.5), "difference": told(mean, low, high)},
        "latent, sampled world": {**told(0.6, 0.5, 0.7), "difference": told(0.0, -0.1, 0.1)},
        "token": told(0.6, 0.5, 0.7),
    }
    points = [{"temperature": 1.0, "quality_diversity": 1.7}]
    return {
        "matched": [{"validity": validity, "reference": "token", "arms": arms}],
        "arms": [{"name": "token", "points": points}],
    }


def test_diversity_is_judged_at_matched_validity():
    def verdict(results):
        return semantic_diversity(Inputs(results={"diversity": results})).verdict

    assert verdict(texts(0.1, 0.05, 0.15)) == HOLDS
    assert verdict(texts(-0.2, -0.3, -0.1)) == FAILS
    assert verdict(texts(0.1, -0.05, 0.25)) == OPEN
    assert verdict(texts(0.1, 0.05, 0.15, reached=0.5)) == OPEN
    beyond = texts(0.1, 0.05, 0.15)
    beyond["matched"][0]["arms"]["latent, argmax world"] = None
    assert verdict(beyond) == OPEN
    finding = semantic_diversity(Inputs(results={"diversity": texts(-0.2, -0.3, -0.1)}))
    assert finding.interval == "[-0.300, -0.100]"
    assert "With the world model sampled: 0.000 [-0.100, 0.100]" in finding.cause
    assert "token 1.70" in finding.cause
    assert "90 % of the texts are grammatical: codes 0.400, tokens 0.600, difference -0.200" in finding.ours


def searched(low, high):
    def line(accuracy, tokens, **minus):
        spread = {"mean": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05}
        return {"points": [{"accuracy": spread, "tokens": tokens}], "minus": minus}

    def apart(low, high):
        return [
            {"mean": -9.0, "low": -9.0, "high": -9.0},
            {"mean": (low + high) / 2, "low": low, "high": high},
        ]

    lines = {
        "greedy": line(0.3, 10.2),
        "MCTS-Q": line(0.5, 160.2, greedy=apart(low, high), token=apart(0.01, 0.05)),
        "best of n": line(0.4, 640.0, greedy=apart(0.0, 0.2)),
    }
    return {"budgets": [1, 64], "tasks": {"arithmetic-2": {"arms": {"latent": {"lines": lines}}}}}


def test_search_is_judged_at_the_largest_budget():
    for verdict, bounds in {HOLDS: (0.1, 0.3), FAILS: (-0.3, -0.1), OPEN: (-0.1, 0.1)}.items():
        assert search_above_greedy(Inputs(results={"search": searched(*bounds)})).verdict == verdict
    finding = search_above_greedy(Inputs(results={"search": searched(0.1, 0.3)}))
    assert "0.500 against 0.300 at a budget of 64 answers' worth of tokens (160 spent" in finding.ours
    assert finding.interval == "[0.100, 0.300]"
    assert "over tokens: `token` 0.030 [0.010, 0.050]" in finding.cause
    assert "best of n 0.100 [0.000, 0.200] (640 tokens)" in finding.cause


def test_a_search_without_its_mathematics_is_asked_for():
    claim = next(claim for claim in CLAIMS if claim.decide is search_above_greedy)
    finding = claim.found(Inputs(results={"search": {"engine": {}}}))
    assert finding.verdict == NO_DATA
    assert "--tasks arithmetic-2" in finding.ours


def test_agent_tasks_are_not_testable_here_unless_one_was_compared(tmp_path):
    assert agent_tasks(Inputs()).verdict == NOT_HERE
    records = main_runs({"latent": {"reward": 0.9}, "token": {}})
    finding = agent_tasks(inputs(tmp_path, records, task="TextRooms"))
    assert finding.verdict == HOLDS
    assert finding.ours.startswith("TextRooms:")


def test_every_missing_input_is_named_with_the_command_that_makes_it():
    said = {claim.name: claim.found(Inputs()) for claim in CLAIMS}
    assert {finding.verdict for finding in said.values()} == {NO_DATA, NOT_HERE}
    for name, finding in said.items():
        assert finding.verdict == NOT_HERE or "`python -m benchmarks " in finding.ours, name


def test_claims_have_names_of_their_own_and_criteria():
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    assert all(claim.criterion and claim.paper and claim.source for claim in CLAIMS)


def parsed(arguments):
    parser = argparse.ArgumentParser()
    paper.add(parser.add_subparsers())
    return parser.parse_args(["paper", *map(str, arguments)])


def test_the_command_writes_the_table_from_folders_and_files(tmp_path, capsys):
    records = main_runs({"latent": {"reward": 0.9}, "token": {}})
    folders = [write(tmp_path / task, records, task=task) for task in ("Thinking", "Arithmetic")]
    peers = tmp_path / "peers.json"
    peers.write_text(json.dumps({"commit": "fed9876", **updates((2.1, 2.5, 3.0), (2.0, 2.2, 2.4))}))
    nothing = tmp_path / "nothing.json"
    out = tmp_path / "paper.json"
    arguments = ["--compare", *folders, "--peers", peers, "--diversity", nothing, "--search", nothing]
    found = parsed([*arguments, "--out", out])
    found.run(found)
    results = json.loads(out.read_text())
    verdicts = {claim["name"]: claim["verdict"] for claim in results["claims"]}
    assert verdicts["Mathematics after RL, sampled"] == HOLDS
    assert verdicts["Time per update"] == HOLDS
    assert verdicts["Semantic diversity"] == NO_DATA
    assert results["inputs"]["compare Thinking"] == {"folder": "Thinking", "commit": "abc1234"}
    page = out.with_suffix(".md").read_text()
    assert page in capsys.readouterr().out
    for claim in results["claims"]:
        assert claim["criterion"] in page
        assert f"| {claim['name']} | {claim['paper']} |" in page
    assert "`peers` at commit fed9876" in page


def test_two_comparisons_on_one_task_are_not_chosen_between(tmp_path):
    folders = [write(tmp_path / name, main_runs({"latent": {}, "token": {}})) for name in ("a", "b")]
    with pytest.raises(ValueError, match="a and b are both on Thinking"):
        paper.gather(folders, {})


def test_a_result_that_is_not_json_is_refused(tmp_path):
    path = tmp_path / "peers.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"peers\.json is not JSON"):
        paper.gather([], {"peers": path})
