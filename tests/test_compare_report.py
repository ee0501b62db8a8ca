"""The comparison's report, from records whose effects are known."""

from __future__ import annotations

import argparse
import json
import random

import numpy as np
import pytest

from benchmarks.compare import summary
from benchmarks.compare.arms import ARMS
from benchmarks.compare.figures import STYLES, draw_curves, draw_differences, draw_frontier, styles
from benchmarks.compare.page import number, page
from benchmarks.compare.records import Run, read
from benchmarks.compare.report import add, summarise, write_report
from benchmarks.compare.summary import efficient, judge
from benchmarks.statistics import estimate, paired
from tests.comparisons import UPDATES, floors, main_runs, record, write


def found(folder, **options):
    return summarise(read(folder), **options)


def text(folder):
    return page(found(folder))


def test_a_known_effect_is_found_and_a_null_is_a_tie(tmp_path):
    records = main_runs({"latent": {"reward": 0.9}, "token": {"reward": 0.75}, "rank": {"reward": 0.9}})
    arms = found(write(tmp_path, records))["differences"]["reward"]["arms"]
    assert arms["token"]["verdict"] == "more"
    assert arms["token"]["low"] < 0.15 < arms["token"]["high"]
    assert arms["token"]["agreeing"] == 5
    assert arms["rank"]["verdict"] == "equivalent"
    assert arms["rank"]["low"] < 0 < arms["rank"]["high"]


def test_a_difference_is_what_the_statistics_say_of_the_pairs_worked_apart(tmp_path):
    records = main_runs({"latent": {"reward": 0.9}, "token": {}})
    sides = {arm: {} for arm in ("latent", "token")}
    for one in records:
        sides[one["arm"]].setdefault(one["model_seed"], []).append(one["after"]["reward"])
    expected = estimate(paired(sides["latent"], sides["token"]))
    token = summarise(read(write(tmp_path, records)))["differences"]["reward"]["arms"]["token"]
    assert token["mean"] == pytest.approx(expected.mean, rel=1e-5)
    assert token["low"] == pytest.approx(expected.low, rel=1e-5)
    assert (token["runs"], token["models"]) == (20, 5)


def test_what_noise_hides_is_undecided_and_neither_a_tie_nor_an_effect(tmp_path):
    records = main_runs({"latent": {"noise": 0.4}, "token": {"noise": 0.4}})
    assert found(write(tmp_path, records))["differences"]["reward"]["arms"]["token"]["verdict"] == "undecided"


def test_fewer_than_five_pairs_decide_nothing(tmp_path):
    records = main_runs({"latent": {"reward": 0.9}, "token": {"reward": 0.2}}, models=[0, 1], seeds=[0, 1])
    token = found(write(tmp_path, records))["differences"]["reward"]["arms"]["token"]
    assert token["low"] > 0.6
    assert (token["verdict"], token["holm_p"], token["runs"]) == ("undecided", None, 4)


def test_holm_takes_back_what_one_test_among_many_would_have_said():
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(8, 20))
    noise -= noise.mean(1, keepdims=True)
    border = {run: [0.6 + value] for run, value in enumerate(noise[0])}
    nulls = {f"null {i}": {run: [value] for run, value in enumerate(row)} for i, row in enumerate(noise[1:])}
    alone = judge({"border": border}, 0.05)["border"]
    among = judge({"border": border, **nulls}, 0.05)["border"]
    assert alone.verdict == "more"
    assert alone.estimate == among.estimate
    assert among.verdict == "undecided"
    assert among.holm_p == pytest.approx(8 * alone.holm_p)


def test_a_test_without_enough_runs_does_not_weaken_or_help_the_others():
    rng = np.random.default_rng(4)
    runs = {run: [0.2 + value] for run, value in enumerate(rng.normal(scale=0.3, size=12))}
    few = {0: [5.0], 1: [5.1]}
    alone, beside = judge({"a": runs}, 0.05)["a"], judge({"a": runs, "few": few}, 0.05)
    assert beside["a"] == alone
    assert beside["few"].verdict == "undecided"


def test_runs_that_never_got_there_count_up_to_the_horizon(tmp_path):
    records = main_runs({"latent": {"rise": 500}, "token": {"rise": 9_000}})
    result = found(write(tmp_path, records))
    horizon = UPDATES * 64
    token = result["arms"]["token"]
    assert token["times"]["episodes"] == {"median": None, "reached": 0, "runs": 20, "horizon": horizon}
    assert token["quantities"]["time_episodes"]["mean"] == horizon
    assert result["arms"]["latent"]["times"]["episodes"]["reached"] == 20
    assert result["differences"]["time_episodes"]["arms"]["token"]["verdict"] == "less"
    assert f"not in {horizon:,}" in text(tmp_path)


def test_times_are_censored_at_what_the_cheapest_run_had(tmp_path):
    # Token reaches .9 after some 1,000 rollouts, 16 updates of a second; latent's whole run took 10 s.
    records = main_runs({"latent": {"seconds": 0.25}, "token": {"seconds": 1.0, "rise": 900}})
    result = found(write(tmp_path, records))
    assert result["horizons"] == {"episodes": UPDATES * 64, "cpu_s": pytest.approx(10.0)}
    assert result["arms"]["token"]["times"]["cpu_s"]["reached"] == 0
    assert result["arms"]["token"]["times"]["episodes"]["reached"] == 20


def test_harm_and_no_harm_are_told_apart(tmp_path):
    records = main_runs({"latent": {}, "token": {"arithmetic": 0.35}, "rank": {"arithmetic": 0.6}})
    harm = found(write(tmp_path, records))["harm"]["arithmetic"]
    assert {arm: one["verdict"] for arm, one in harm.items()} == {
        "latent": "equivalent",
        "token": "more",
        "rank": "less",
    }


def test_what_a_task_is_paid_for_is_no_damage_of_it(tmp_path):
    result = found(write(tmp_path, main_runs({"latent": {}, "token": {}}), task="Arithmetic"))
    assert "arithmetic" not in result["harm"]
    assert "arithmetic_lost" not in result["differences"]
    assert "grammar_lost" in result["differences"]


def test_runs_that_diverged_are_named_and_do_not_pass_for_runs_not_yet_made(tmp_path):
    records = main_runs({"latent": {}, "token": {}})
    for one in [one for one in records if one["arm"] == "token"][:3]:
        one["failed"] = "the loss is not finite"
    summary = found(write(tmp_path, records))
    assert summary["diverged"] == {"token": ["the loss is not finite"] * 3}
    assert "token" not in summary["missing"]
    assert summary["arms"]["token"]["runs"] == 17
    said = [line for line in summary["says"] if line.startswith("**3 main runs of `token` diverged")]
    assert "the loss is not finite" in said[0]


def test_a_verdict_takes_models_and_not_several_runs_of_each():
    kept = judge({"kept": {model: [0.9 + model / 100] for model in range(4)}}, 0.02)["kept"]
    assert kept.verdict == "more"
    assert judge({"two": {0: [0.9] * 8, 1: [0.91] * 8}}, 0.02)["two"].verdict == "undecided"


def test_missing_runs_are_counted_and_runs_without_a_partner_dropped(tmp_path):
    records = main_runs({"latent": {"reward": 0.9}, "token": {}})
    records = [one for one in records if not (one["arm"] == "token" and one["model_seed"] == 4)]
    write(tmp_path, records, arms=["latent", "token", "pushforward"])
    result = found(tmp_path)
    assert result["missing"] == {
        "token": {"asked": 20, "missing": 4},
        "pushforward": {"asked": 20, "missing": 20},
    }
    token = result["differences"]["reward"]["arms"]["token"]
    assert (token["runs"], token["models"], token["unpaired"]) == (16, 4, 4)
    assert "`pushforward`: 20 of 20 main runs." in text(tmp_path)
    assert "up to 4 runs have no partner" in text(tmp_path)


def test_a_figure_that_is_undefined_leaves_its_arm_out_of_that_quantity_alone(tmp_path):
    records = main_runs({"latent": {}, "token-truncated": {"cross_entropy": None}, "token": {}})
    differences = found(write(tmp_path, records))["differences"]
    assert set(differences["cross_entropy_risen"]["arms"]) == {"token"}
    assert set(differences["reward"]["arms"]) == {"token", "token-truncated"}


def test_without_the_latent_arm_nothing_is_compared_and_the_page_says_so(tmp_path):
    write(tmp_path, main_runs({"token": {}}), arms=["latent", "token"])
    assert "No main run of `latent` is finished" in text(tmp_path)


def test_a_search_without_main_runs_has_a_frontier_and_no_curves(tmp_path, capsys):
    records = [
        record("latent", 0, 9_000, phase="tuning", options={"lr": lr, "kl_coef": 0.1}) for lr in (1, 2)
    ]
    write(tmp_path, records)
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers())
    arguments = parser.parse_args(["report", str(tmp_path)])
    arguments.run(arguments)
    said = (tmp_path / "report.md").read_text()
    assert said in capsys.readouterr().out
    assert (tmp_path / "frontier.png").is_file()
    assert not (tmp_path / "curves.png").exists()
    assert "curves.png" not in said
    assert "`latent`: 20 of 20 main runs." in said


def test_the_reference_is_held_against_the_floors_of_the_same_models(tmp_path):
    records = main_runs({"latent": {"reward": 0.9}, "token": {}}) + floors(0.9)
    result = found(write(tmp_path, records))
    floor = result["floors"]["constant-code"]
    assert floor["reward"]["mean"] == 0.9
    assert floor["reference_beyond"]["verdict"] == "equivalent"
    assert any("constant-code" in sentence and "a tie" in sentence for sentence in result["says"])


def test_the_frontier_is_what_no_other_point_dominates():
    points = [
        {"reward": reward, "loss": loss}
        for reward, loss in ((0.9, 0.5), (0.8, 0.1), (0.7, 0.1), (0.8, 0.1), (0.85, 0.6), (0.6, None))
    ]
    # (.7, .1) has less reward for as little as (.8, .1); (.85, .6) loses to (.9, .5); equal points both stay.
    assert efficient(points, "reward", "loss") == [True, True, False, True, False, False]


def test_a_chosen_setting_is_judged_by_its_main_runs_alone(tmp_path):
    chosen, other = {"lr": 0.003, "kl_coef": 0.1}, {"lr": 0.01, "kl_coef": 0.1}
    records = main_runs({"latent": {"reward": 0.8}})
    records += [record("latent", 0, 9_000, phase="tuning", options=chosen, reward=0.99)]
    records += [record("latent", 0, 9_000, phase="tuning", options=other, reward=0.9, arithmetic=0.3)]
    result = found(write(tmp_path, records))
    points = {one["options"]["lr"]: one for one in result["frontier"]["latent"]}
    assert (points[0.003]["phases"], points[0.003]["runs"]) == (["main"], 20)
    assert points[0.003]["reward"] == pytest.approx(0.8, abs=0.05)
    assert points[0.01]["arithmetic"] == pytest.approx(0.2, abs=0.03)
    assert "arithmetic" in points[0.01]["frontier_of"]  # dear, but with the most reward
    kept = result["without_harm"]["latent"]
    assert (kept["settings"], kept["without_harm"], kept["best"]["options"]) == (2, 1, chosen)


def test_a_setting_of_which_a_run_diverged_is_not_without_harm_and_says_so(tmp_path):
    good, bad = {"lr": 0.003, "kl_coef": 0.1}, {"lr": 0.03, "kl_coef": 0.0}
    records = main_runs({"latent": {"reward": 0.8}, "token": {}})
    records += [record("latent", 0, 0, phase="frontier", options=bad, reward=0.95)]
    key = {"phase": "frontier", "arm": "latent", "model_seed": 1, "seed": 100, "options": bad}
    records += [{**key, "failed": "loss is not finite"}]
    folder = write(tmp_path, records)
    result = found(folder)
    points = {one["options"]["lr"]: one for one in result["frontier"]["latent"]}
    assert points[0.03]["diverged"] == 1
    assert "diverged" not in points[0.003]
    assert result["without_harm"]["latent"]["best"]["options"] == good
    assert "1 (frontier), 1 diverged" in text(folder)


def test_nothing_is_said_of_harm_that_was_not_measured(tmp_path):
    records = main_runs({"latent": {"reward": 0.8}, "token": {}})
    records += [record("latent", 0, 9_000, phase="tuning", options={"lr": 0.01, "kl_coef": 0.1})]
    for one in records:
        for when in ("before", "after"):
            one[when] = {name: one[when][name] for name in ("reward", "reward_greedy")}
    folder = write(tmp_path, records)
    result = found(folder)
    assert result["kept"] == []
    assert result["without_harm"] == {}
    page = text(folder)
    assert "Settings whose" not in page
    assert "on a frontier of" not in page
    assert "nan" not in page


def test_the_page_and_the_plots_do_not_depend_on_the_order_of_the_runs(tmp_path):
    records = main_runs({"latent": {"reward": 0.9}, "token": {}}) + floors(0.9)
    records += [
        record(arm, 0, 9_000, phase="tuning", options={"lr": lr, "kl_coef": kl})
        for arm in ("latent", "token")
        for lr in (0.001, 0.01)
        for kl in (0.0, 0.1)
    ]
    shuffled = random.Random(0).sample(records, len(records))
    one = write(tmp_path / "one" / "same", records, arms=["latent", "token"])
    two = write(tmp_path / "two" / "same", shuffled, arms=["latent", "token"])
    for folder in (one, two):
        write_report(folder)
    names = ("report.md", "report.json", "curves.png", "differences.png", "frontier.png")
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    assert not list(one.glob("*.partial"))


def test_a_report_elsewhere_leaves_the_folder_of_the_runs_alone(tmp_path):
    folder = write(tmp_path / "runs", main_runs({"latent": {}, "token": {}}))
    write_report(folder, tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "runs.jsonl"]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["task"] == "Thinking"


def test_a_line_that_was_cut_off_is_left_out_and_said(tmp_path):
    folder = write(tmp_path, main_runs({"latent": {}, "token": {}}))
    path = folder / "runs.jsonl"
    path.write_text(path.read_text()[:-20])
    comparison = read(folder)
    assert comparison.cut
    assert len(comparison.runs) == 39
    assert "is cut off" in text(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one["after"].update(reward=float("nan")), "line 2 .*reward after RL is nan"),
        (lambda one: one.update(task="Countdown"), "line 2 .*task 'Countdown'"),
        (lambda one: one.update(phase="warm-up"), "phase 'warm-up' is none of"),
        (lambda one: one.pop("after"), "line 2 .*has no after"),
        (lambda one: one["curve"]["reward"].pop(), "columns of its curve differ"),
        (lambda one: one["curve"].pop("cpu_s"), "its curve has no cpu_s"),
        (lambda one: one["curve"]["cpu_s"].reverse(), "cpu_s of its curve do not rise"),
        (lambda one: one.update(curve={}), "needs its curve"),
        (lambda one: one.update(options={"lr": 1.0}), "two settings in the main phase"),
        (lambda one: one.update(seed=0), "this run twice"),
        (lambda one: one.update(prompts_sha256="b"), "2 sets of problems"),
        (lambda one: one.update(probe={"Arithmetic": {"level": 2}}), "measured on different tasks"),
    ],
)
def test_records_that_would_mislead_are_refused(tmp_path, change, message):
    records = [
        record("latent", 0, seed) | {"prompts_sha256": "a", "probe": {"Arithmetic": {"level": 1}}}
        for seed in (0, 1)
    ]
    change(records[1])
    write(tmp_path, records)
    text = (tmp_path / "runs.jsonl").read_text()
    if message.endswith("'Countdown'"):
        first, second = text.splitlines()
        (tmp_path / "runs.jsonl").write_text(first + "\n" + second.replace("Thinking", "Countdown") + "\n")
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_a_folder_that_is_no_comparison_is_refused_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m benchmarks compare"):
        read(tmp_path)
    write(tmp_path, [])
    (tmp_path / "runs.jsonl").write_text("{}\nno json\n")
    with pytest.raises(ValueError, match=r"line 1 of runs\.jsonl has no phase, arm, model_seed, after"):
        read(tmp_path)


def test_every_arm_has_a_look_of_its_own():
    assert set(ARMS) == set(STYLES)
    looks = styles([*ARMS, "another", "one more"])
    assert len(set(looks.values())) == len(looks)


def test_nothing_to_draw_is_said_and_not_drawn(tmp_path):
    comparison = read(write(tmp_path, []))
    path = tmp_path / "plot.png"
    empty = {"differences": {}, "frontier": {}, "arms": {}}
    assert not draw_curves(comparison, path, threshold=0.9)
    assert not draw_differences(empty, path)
    assert not draw_frontier(empty, path)
    assert not path.exists()


def test_the_mean_of_a_band_is_the_mean_of_the_models_means():
    from benchmarks.compare.figures import band

    x = [64.0, 128.0]
    runs = [
        Run("main", "latent", model, seed, curve={"episodes": x, "reward": [0.0, height], "cpu_s": x})
        for model, seed, height in ((0, 0, 0.2), (0, 1, 0.4), (1, 0, 0.9))
    ]
    centre, low, high = band(runs, "episodes", np.array([96.0, 128.0]))
    assert centre == pytest.approx([0.3, 0.6])
    assert (low <= centre).all()
    assert (centre <= high).all()


def test_numbers_have_as_many_places_as_their_size_asks_for():
    assert [number(value) for value in (0.12345, -0.0001, 5.678, 56.78, 1234.5)] == [
        "0.123",
        "0.000",
        "5.68",
        "56.8",
        "1,234",
    ]


def test_shares_of_the_form_and_of_right_answers_are_shown_where_runs_have_them(tmp_path):
    records = main_runs({"latent": {}, "token": {}})
    assert "right form" not in text(write(tmp_path, records))
    for one in records:
        one["before"] |= {"format": 0.25, "correct": 0.5}
        one["after"] |= {"format": 1.0, "correct": 0.125}
    page = text(write(tmp_path, records))
    assert "| in the right form, sampled | right with or without it, sampled |" in page
    assert "| 0.250 → 1.000 [1.000, 1.000] | 0.500 → 0.125 [0.125, 0.125] |" in page


def test_every_quantity_of_a_full_report_is_of_every_pair(tmp_path):
    comparison = read(write(tmp_path, main_runs({"latent": {}, "token": {}})))
    names = [quantity.name for quantity in summary.quantities(comparison, 0.9)]
    assert len(set(names)) == len(names)
    differences = found(tmp_path)["differences"]
    assert list(differences) == names
    assert {one["arms"]["token"]["runs"] for one in differences.values()} == {20}
