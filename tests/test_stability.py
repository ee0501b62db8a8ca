"""The stability benchmark: runs by update, which go on after an interruption."""

import json
from dataclasses import replace

import pytest

from benchmarks.stability import stability, stability_table
from tests import tiny
from tests.comparisons import SMALL

RUNS = ["latent:lr=1e-3", "token:lr=1e-2,warmup=0"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return tiny.write_models(tmp_path_factory.mktemp("models"), seeds=(0,)) / "0"


def test_a_stopped_benchmark_goes_on_to_what_an_undisturbed_one_finds(pretrained, tmp_path):
    protocol, path = replace(SMALL, updates=2), tmp_path / "stability.json"
    whole = stability(RUNS, protocol, pretrained, path, seeds=2, every=1)["runs"]
    wanted = [(run, seed) for run in RUNS for seed in (8_000, 8_001)]
    assert [(one["run"], one["seed"]) for one in whole] == wanted
    assert list(whole[0]["test"]) == [0, 1, 2]
    assert len(whole[0]["curves"]["reward"]) == 2

    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "runs": held["runs"][:3]}))
    again = stability(RUNS, protocol, pretrained, path, seeds=2, every=1)["runs"]
    timeless = [{**one, "cpu_s": 0, "test": list(one["test"].values())} for one in (*whole, *again)]
    assert timeless[4:] == timeless[:4]


def test_a_file_of_other_settings_is_refused_and_kept(pretrained, tmp_path):
    protocol, path = replace(SMALL, updates=1), tmp_path / "stability.json"
    stability(RUNS[:1], protocol, pretrained, path, seeds=1, every=1)
    held = path.read_text()
    for changed in ({"task": "Countdown"}, {"episodes": 5}, {"updates": 2}):
        other = replace(protocol, **changed)
        with pytest.raises(ValueError, match=r"was begun with \w+=.* and is now to go on with"):
            stability(RUNS[:1], other, pretrained, path, seeds=2, every=1)
    with pytest.raises(ValueError, match=r"model_seed=0 and is now to go on with 1"):
        stability(RUNS[:1], protocol, pretrained.parent / "1", path, seeds=2, every=1)
    assert path.read_text() == held


def test_the_table_gives_the_mean_and_the_lowest_seed():
    runs = [{"run": "a:lr=1", "test": {"0": 0.5, "10": low}} for low in (0.25, 0.75)]
    assert "| a:lr=1 | 2 | 0.500 (0.500) | 0.500 (0.250) |" in stability_table({"runs": runs})


def test_a_run_that_diverges_is_recorded_and_the_next_one_is_made(pretrained, tmp_path):
    protocol, path = replace(SMALL, updates=2), tmp_path / "stability.json"
    runs = ["latent:lr=1e30,kl_coef=0.1", "latent:lr=1e-3,kl_coef=0"]
    first, second = stability(runs, protocol, pretrained, path, seeds=1, every=1)["runs"]
    assert "not finite" in first["failed"]
    assert list(first["test"]) == [0]
    assert "failed" not in second
    assert list(second["test"]) == [0, 1, 2]
    assert stability(runs, protocol, pretrained, path, seeds=1, every=1)["runs"][0]["failed"]
    read = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read["runs"][1]["curves"]["kl"] == [None, None], "an update without a signal measures none"
    assert f"| {runs[0]} | 1, 1 diverged |" in stability_table(read)


def test_an_unknown_arm_is_named_before_anything_runs(pretrained, tmp_path):
    with pytest.raises(ValueError, match=r"unknown arm 'tokens' in 'tokens:lr=1'.*latent"):
        stability([RUNS[0], "tokens:lr=1"], SMALL, pretrained, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()
