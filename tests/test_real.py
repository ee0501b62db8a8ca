"""``python -m benchmarks real`` makes a latent-action model of any base, and goes on where it was stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import real
from benchmarks.__main__ import main
from benchmarks.speed import stages
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.train import cross_entropy
from cola_agents.train.learner import Learner
from tests import tiny
from tests.model.test_chat import chat_tokenizer


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """The arguments, with a tiny random base and text in the fields of GSM8K and MATH."""
    base, data = tmp_path / "base", tmp_path / "data"
    tiny.make_base(initializer_range=0.02, tie_word_embeddings=True).save_pretrained(base)
    tiny.make_tokenizer().save_pretrained(base)
    data.mkdir()
    rows = [{"question": f"{n}+{n}=?", "answer": f"{n}+{n}={2 * n}\n#### {2 * n}"} for n in range(40)]
    other = [{"problem": f"What is {n}?", "solution": f"It is \\boxed{{{n}}}."} for n in range(40)]
    for name, lines in (
        ("gsm8k_train", rows),
        ("gsm8k_test", rows[:9]),
        ("math_train", other),
        ("math_test", other),
    ):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    argv = ["real", "--model", str(base), "--out", str(tmp_path / "out"), "--tokens", "1024", "--rows", "2"]
    argv += ["--length", "64", "--layers", "1", "1", "2", "--device", "cpu", "--points", "2"]
    argv += ["--measured-tokens", "120", "--measured-states", "30"]
    for flag, part in (("--data", "train"), ("--held-out", "test")):
        argv += [flag, f"{data}/gsm8k_{part}.jsonl,prompt=question,response=answer,template=dialogue"]
        argv += [flag, f"{data}/math_{part}.jsonl,prompt=problem,response=solution,template=dialogue"]
    return argv


def test_a_stopped_run_goes_on_to_the_same_model_and_figures(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    whole = Learner.step
    steps = []

    def stops(self: Learner, step: int, batch: Any) -> Any:
        steps.append(step)
        if len(steps) == 14:  # in the policy stage, after its first checkpoint
            raise FloatingPointError("the power failed")
        return whole(self, step, batch)

    monkeypatch.setattr(Learner, "step", stops)
    assert main(given) == 2
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6]
    assert main(given) == 0
    assert steps[14:] == [5, 6, 7, 8]
    monkeypatch.undo()

    figures = json.loads((out / "real.json").read_text())
    assert figures["plan"] == {"steps": 8, "began": 8, "rows": 2, "length": 64}
    for stage in ("world", "policy"):
        points = figures["points"][stage]
        assert [point["tokens"] for point in points] == [512, 1024]
        assert all(point["metrics"]["tokens"] == 120 for point in points)
        assert all(point["metrics"]["states"] == 30 for point in points)
        assert ("composed_ce" in points[0]["metrics"]) == (stage == "policy")
    assert figures["final"] == figures["points"]["policy"][-1]["metrics"]

    parts = sorted((out / "latent").glob("*.safetensors"))
    latent = {name: tensor for part in parts for name, tensor in load_file(part).items()}
    model = CoLAForCausalLM.from_pretrained(out / "policy")
    expected = {n: t for n, t in model.state_dict().items() if not n.startswith(("base.", "lm_head."))}
    assert latent.keys() == expected.keys()
    loaded = CoLAForCausalLM.from_pretrained(out / "latent")
    assert loaded.policy_head.weight.equal(expected["policy_head.weight"].bfloat16())
    assert all(latent[name].equal(tensor.bfloat16()) for name, tensor in expected.items())
    assert figures["latent_bytes"] == [part.stat().st_size for part in parts]

    other = [str(tmp_path / "whole") if text == str(out) else text for text in given]
    assert main(other) == 0
    again = json.loads((tmp_path / "whole" / "real.json").read_text())
    assert again["points"] == figures["points"]


def test_latent_weights_are_cut_into_files_of_a_limited_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real, "_FILE", 20_000)
    tiny.make_base().save_pretrained(tmp_path / "base")
    model = CoLAForCausalLM.from_base(tmp_path / "base")
    (tmp_path / "latent").mkdir()
    earlier = tmp_path / "latent" / "model-00009-of-00009.safetensors"
    earlier.write_text("weights of an earlier run")
    sizes = real.write_latent(model, tmp_path / "latent")
    assert len(sizes) > 2
    assert max(sizes) < 20_000 + 3_000  # a header beside the weights
    assert not earlier.exists()


def test_the_steps_that_fit_the_hours_by_hand() -> None:
    timed = {"first_s": 3.0, "later_s": 1.0, "policy_s": 1.0, "epoch_steps": 10}
    assert real.affordable(100, timed, 20.0) == 5
    assert real.affordable(100, timed, 40.0) == 10
    assert real.affordable(100, timed, 46.0) == 13
    assert real.affordable(12, timed, 46.0) == 12
    assert real.affordable(12, timed, 3.9) == 0


def test_hours_are_planned_by_timing_and_the_plan_is_kept(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*given, "--hours", "0.0000001"]) == 2
    assert "no step fits 1e-07 hours" in capsys.readouterr().err
    assert not (tmp_path / "out" / "plan.json").exists()
    monkeypatch.setattr(real, "train", lambda run, say: (_ for _ in ()).throw(ValueError("planned")))
    assert main([*given, "--hours", "1"]) == 2
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["steps"] == 8  # all tokens fit an hour
    assert min(plan["first_s"], plan["later_s"], plan["policy_s"]) > 0
    assert plan["epoch_steps"] > 5
    assert not (tmp_path / "out" / "timing").exists()
    monkeypatch.setattr(real, "_timed", lambda setting: pytest.fail("timed twice"))
    assert main([*given, "--hours", "1"]) == 2
    assert torch.is_grad_enabled()


def test_more_tokens_continue_the_world_model_and_train_its_policy_anew(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole, steps = tmp_path / "out", Learner.step, []

    def counted(self: Learner, step: int, batch: Any) -> Any:
        steps.append(step)
        return whole(self, step, batch)

    def lengthened(tokens: int) -> list[str]:
        place = given.index("--tokens") + 1
        return [*given[:place], str(tokens), *given[place + 1 :]]

    assert main(given) == 0
    first = json.loads((out / "real.json").read_text())
    plan = json.loads((out / "plan.json").read_text())
    assert plan.pop("began") == 8  # as an earlier version wrote it
    (out / "plan.json").write_text(json.dumps(plan))
    monkeypatch.setattr(Learner, "step", counted)
    assert main(given) == 0
    assert main(lengthened(512)) == 0
    assert not steps, "limits that allow no more change nothing"
    capsys.readouterr()

    assert main(lengthened(2048)) == 0
    assert steps == [*range(9, 17), *range(1, 17)]
    said = capsys.readouterr().out
    assert f"Dropped {out / 'policy'}, its checkpoints and its points.json" in said
    figures = json.loads((out / "real.json").read_text())
    assert figures["plan"] == {"steps": 16, "began": 8, "rows": 2, "length": 64}
    world, policy = (figures["points"][stage] for stage in ("world", "policy"))
    assert [point["step"] for point in world] == [4, 8, 12, 16]
    assert world[:2] == first["points"]["world"]
    assert not (out / "world" / "checkpoints" / "world" / "step-00000004").exists()
    assert [point["step"] for point in policy] == [8, 16]
    assert figures["final"] == policy[-1]["metrics"]
    now, before = (CoLAForCausalLM.from_pretrained(out / name) for name in ("policy", "world"))
    assert now.codebook.weight.equal(before.codebook.weight)
    configs = [json.loads((out / stage / "training.json").read_text())["config"] for stage in real.STAGES]
    assert [config["save_every"] for config in configs] == [4, 8]

    steps.clear()
    assert main(lengthened(2048)) == 0
    assert not steps, "the longer run has ended"


def test_more_hours_are_counted_from_the_start_of_the_run(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = {"first_s": 3.0, "later_s": 1.0, "policy_s": 1.0, "epoch_steps": 10}
    plan = {"steps": 5, "rows": 2, "length": 64, **timed}
    monkeypatch.setattr(real, "_timed", lambda setting: pytest.fail("timed again"))
    path = tmp_path / "out" / "plan.json"
    path.parent.mkdir()
    path.write_text(json.dumps(plan))
    monkeypatch.setattr(real, "train", lambda run, say: (_ for _ in ()).throw(ValueError("planned")))
    given[given.index("--tokens") + 1] = "100000"

    def planned(seconds: float) -> dict[str, Any]:
        assert main([*given, "--hours", str(seconds / 3600 / 0.85 + 1e-9)]) == 2
        return dict(json.loads(path.read_text()))

    assert planned(46.0) == {**plan, "steps": 13, "began": 5}
    assert planned(20.0) == {**plan, "steps": 13, "began": 5}
    assert planned(50.0) == {**plan, "steps": 15, "began": 5}


def test_a_plan_is_not_made_longer_in_other_steps_or_without_being_asked(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real, "train", lambda run, say: (_ for _ in ()).throw(ValueError("planned")))
    assert main(given) == 2
    path = tmp_path / "out" / "plan.json"
    plan = path.read_text()
    place = given.index("--tokens")
    assert main([*given[:place], *given[place + 2 :]]) == 2
    assert "only larger --hours or --tokens" in capsys.readouterr().out
    given[place + 1] = "4096"
    assert main([*given, "--rows", "1"]) == 2
    assert "give --rows 2 --length 64" in capsys.readouterr().err
    assert path.read_text() == plan


def test_a_kill_while_the_policy_is_dropped_leaves_none_of_it(given: list[str], tmp_path: Path) -> None:
    dropped = tmp_path / "out" / "policy.dropped"
    (dropped / "checkpoints").mkdir(parents=True)
    assert main(given) == 0
    assert not dropped.exists()


def test_points_of_another_text_are_measured_again(given: list[str], tmp_path: Path) -> None:
    assert main(given) == 0
    figures = tmp_path / "out" / "real.json"
    before = json.loads(figures.read_text())["points"]
    place = given.index("--held-out") + 1
    assert main([*given[: place - 1], *given[place + 1 :]]) == 0  # one source fewer
    after = json.loads(figures.read_text())
    for stage in ("world", "policy"):
        pairs = zip(before[stage], after["points"][stage], strict=True)
        assert all(old["metrics"]["base_ce"] != new["metrics"]["base_ce"] for old, new in pairs)
    assert after["final"] == after["points"]["policy"][-1]["metrics"]


def test_the_endless_corpus_is_refused_before_anything_is_trained(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*given, "--held-out", "generated"]) == 2
    assert "endless" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("make", "template"), [(chat_tokenizer, "chat"), (tiny.make_tokenizer, "dialogue")])
def test_the_project_s_data_are_laid_out_as_the_model_is_prompted(
    make: Any, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.make_base().save_pretrained(tmp_path / "base")
    make().save_pretrained(tmp_path / "base")
    settings = []
    monkeypatch.setattr(real, "make", lambda setting: settings.append(setting) or {"points": {}})
    monkeypatch.setattr(real, "point_table", lambda figures: "")
    argv = ["real", "--model", str(tmp_path / "base"), "--out", str(tmp_path / "out"), "--folder", "texts"]
    assert main(argv) == 0
    assert [spec.template for spec in (*settings[0].data, *settings[0].held_out)] == 4 * [template]
    assert settings[0].data[0].source == "texts/gsm8k_train.jsonl.gz"


def test_the_arms_of_the_stages_have_equal_losses(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "WHOLE", cross_entropy.WHOLE)  # an arm changes it in its own process
    work = stages.Work(given[2], given[given.index("--data") + 1], (1, 1, 1), 2, 2, 64, states=tmp_path / "s")
    results: dict[str, dict[str, Any]] = {}
    for arm, of in reversed(stages.ARMS.items()):
        for stage in of:
            results.setdefault(arm, {})[stage] = stages.measured(replace(work, arm=arm, stage=stage))
    assert all(figures["peak_gib"] > 0.1 for found in results.values() for figures in found.values())
    assert stages.summary(results)["largest_change_of_loss"] < 1e-3
    assert list((tmp_path / "s").glob("part-*.bin"))


def test_the_stages_summary_by_hand() -> None:
    def stage(rate: float, peak: float, *losses: float) -> dict[str, Any]:
        return {"tokens_per_cpu_s": rate, "peak_gib": peak, "losses": list(losses)}

    found = stages.summary(
        {
            "whole": {"world": stage(100, 7, 2.0, 1.5), "policy": stage(100, 2, 4.0)},
            "first epoch": {"world": stage(200, 3, 2.001, 1.5)},
            "later epoch": {"world": stage(400, 1, 2.0, 1.5), "policy": stage(200, 1, 4.0)},
        }
    )
    assert found["tokens_per_cpu_s"]["whole"] == 50
    assert found["times_whole"]["first epoch"] == 2
    assert found["times_whole"]["later epochs"] == pytest.approx(400 / 3 / 50, abs=0.01)
    # Two epochs take 1/100 and 3/400 of a second for a token each.
    assert found["times_whole"]["over 2 epochs"] == pytest.approx(2 / (1 / 100 + 3 / 400) / 50, abs=0.01)
    assert found["peak_gib"] == {"whole": 7, "now": 3}
    assert found["largest_change_of_loss"] == pytest.approx(0.001)
