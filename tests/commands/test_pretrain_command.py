"""``cola pretrain`` on given models and data: what it writes, how it goes on, and how it refuses."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer

from cola_agents import GRPO
from cola_agents.cli import main
from cola_agents.common.files import LOCK
from cola_agents.model import hub
from cola_agents.model.loading import load_tokenizer
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.text import PlainTokenizer
from cola_agents.train import training
from cola_agents.train.adapters import load_adapters
from cola_agents.train.bundled import recipe
from cola_agents.train.bundled.settings import Recipe
from cola_agents.train.checkpoints import Checkpoints
from cola_agents.train.learner import Learner
from cola_agents.train.options import StageConfig
from cola_agents.train.records import LogWarning
from cola_agents.train.runs import Run
from cola_agents.train.specs import parse_data
from cola_agents.train.training import train
from tests import tiny
from tests.common.test_files import hold, status_of

#: A stage of a few quick steps.
SHORT = ("--rows", "2", "--length", "48", "--save-every", "2", "--log-every", "1")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a latent-action model, and text of its own."""
    path = tmp_path_factory.mktemp("start")
    tokenizer = tiny.make_tokenizer()
    for name, model in (("base", tiny.make_base()), ("cola", tiny.make_cola())):
        model.save_pretrained(path / name)
        tokenizer.save_pretrained(path / name)
    (path / "text.txt").write_text(
        "".join(f"Story {n}: a small cat sees {n} red balls.\n" for n in range(60))
    )
    rows = [{"prompt": f"{n}+1=", "response": f"{n + 1}, says the cat"} for n in range(30)]
    (path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pretrain(*argv: object) -> int:
    return main(["pretrain", *map(str, argv)])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def changed(one: Path, other: Path) -> set[str]:
    a, b = weights(one), weights(other)
    return {name.split(".")[0] for name in a.keys() & b.keys() if not torch.equal(a[name], b[name])}


LATENT = {"inverse_trunk", "inverse_head", "codebook", "merge", "policy_trunk", "policy_head", "readout_norm"}


def parts(folder: Path) -> set[str]:
    return {name.partition(".")[0] for name in weights(folder)}


def test_latent_parts_get_their_base_back_or_another_place_of_it(start, tmp_path, capsys):
    shutil.copytree(start / "base", tmp_path / "base")
    argv = ("--data", start / "text.txt", "--steps", "1", *SHORT, "--codes", "8")
    assert pretrain("world", "--model", tmp_path / "base", "--out", tmp_path / "w", *argv) == 0
    expected = CoLAForCausalLM.from_pretrained(tmp_path / "w").state_dict()
    shutil.move(tmp_path / "base", tmp_path / "moved")
    convert = ("convert", str(tmp_path / "w"))
    assert main([*convert, str(tmp_path / "whole")]) == 2
    assert f"`cola convert {tmp_path / 'w'} TARGET --whole`" in capsys.readouterr().err
    assert main([*convert, str(tmp_path / "whole"), "--whole"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    moved = ("--base", str(tmp_path / "moved"))
    assert main([*convert, str(tmp_path / "whole"), "--whole", *moved]) == 0
    assert main([*convert, str(tmp_path / "latent"), *moved]) == 0
    assert parts(tmp_path / "whole") > parts(tmp_path / "latent")
    for name in ("whole", "latent"):
        state = CoLAForCausalLM.from_pretrained(tmp_path / name).state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in state)
        assert main(["eval", "--task", "CoLA-Arithmetic-v0", "--model", str(tmp_path / name), *EVAL]) == 0


EVAL = ("--episodes", "1", "--env", "max_tokens=2")


def test_world_policy_and_fta_run_one_after_another_on_own_text(start, tmp_path, capsys):
    text = start / "text.txt"
    grown = ("--codes", "8", "--readout", "normed_difference", "--policy-layers", "2")
    argv = ("--data", text, "--steps", "3", *SHORT)
    assert pretrain("world", "--model", start / "base", "--out", tmp_path / "w", *argv, *grown) == 0
    model = CoLAForCausalLM.from_pretrained(tmp_path / "w")
    assert (model.config.num_codes, model.config.readout) == (8, "normed_difference")
    assert parts(tmp_path / "w") == LATENT, "the base is referred to"
    assert len(model.policy_trunk.layers) == 2
    assert pretrain("policy", "--model", tmp_path / "w", "--out", tmp_path / "p", *argv) == 0
    assert changed(tmp_path / "w", tmp_path / "p") == {"policy_trunk", "policy_head"}
    assert not (tmp_path / "p" / "metrics.json").exists(), "nothing is measured without held-out text"
    tuning = ("--data", f"{start / 'answers.jsonl'},template=dialogue", "--epochs", "1", *SHORT)
    held_out = ("--held-out", start / "answers.jsonl")
    assert pretrain("fta", "--model", tmp_path / "p", "--out", tmp_path / "f", *tuning, *held_out) == 0
    assert parts(tmp_path / "p") == LATENT
    assert parts(tmp_path / "f") == LATENT | {"base", "lm_head"}, "the base was trained"
    assert changed(tmp_path / "p", tmp_path / "f") == {"policy_trunk", "policy_head"}
    tuned, before = (CoLAForCausalLM.from_pretrained(tmp_path / name) for name in ("f", "p"))
    assert not torch.equal(tuned.lm_head.weight, before.lm_head.weight)
    records = [json.loads(line) for line in (tmp_path / "f" / "log.jsonl").read_text().splitlines()]
    steps = {stage: [r["step"] for r in records if r["stage"] == stage] for stage in ("fta-i", "policy")}
    assert steps["fta-i"] == steps["policy"] == list(range(1, len(steps["policy"]) + 1))
    assert len(steps["policy"]) > 4
    assert json.loads((tmp_path / "f" / "metrics.json").read_text())["tokens"] > 0
    done = json.loads((tmp_path / "f" / "training.json").read_text())
    assert done["run"]["data"][0]["source"] == "answers.jsonl"
    assert str(start) not in json.dumps(done), "no path of this machine"
    assert AutoTokenizer.from_pretrained(tmp_path / "f").get_vocab() == tiny.make_tokenizer().get_vocab()
    assert pretrain("fta", "--model", tmp_path / "p", "--out", tmp_path / "f", *tuning, *held_out) == 0
    assert "is finished: nothing to do" in capsys.readouterr().out


def test_the_ends_of_spans_are_named_by_text_and_by_how_unsure_the_base_is(start, tmp_path, capsys):
    tokenizer = PlainTokenizer(load_tokenizer(start / "base"))
    argv = ("--model", start / "base", "--data", start / "text.txt", "--steps", "1", *SHORT)
    ends = ("--span", "3", "--span-ends", "\\n", "5", "--span-entropy", "0.5")
    assert pretrain("world", "--out", tmp_path / "w", *argv, *ends) == 0
    config = CoLAForCausalLM.from_pretrained(tmp_path / "w").config
    assert config.span_entropy == 0.5
    assert set(config.span_ends) == {5, *(i for i in tokenizer.ids if "\n" in tokenizer.spell([i]))}
    assert len(config.span_ends) > 1
    assert pretrain("world", "--out", tmp_path / "n", *argv, "--span", "3", "--span-ends", "\\n\\t\\n") == 2
    assert "no token of the tokenizer contains" in capsys.readouterr().err


def test_a_span_is_grown_kept_and_not_changed(start, tmp_path, capsys):
    argv = ("--data", start / "text.txt", "--steps", "1", *SHORT)
    grown = ("--span", "3", "--span-ends", "7", "5")
    assert pretrain("world", "--model", start / "base", "--out", tmp_path / "w", *argv, *grown) == 0
    assert pretrain("policy", "--model", tmp_path / "w", "--out", tmp_path / "p", *argv) == 0
    config = CoLAForCausalLM.from_pretrained(tmp_path / "p").config
    assert (config.span, config.span_ends) == (3, [5, 7])
    assert pretrain("world", "--model", tmp_path / "p", "--out", tmp_path / "n", *argv, "--span", "2") == 2
    assert "--span cannot be changed" in capsys.readouterr().err


def test_a_stopped_run_goes_on_to_the_same_weights_by_the_same_command(start, tmp_path, monkeypatch):
    """Stopped in either stage of FTA-I, at a step that is no checkpoint."""

    def argv(name: str) -> tuple[Any, ...]:
        mixture = ("--data", start / "text.txt", "--data", f"{start / 'answers.jsonl'},weight=2")
        return ("fta", "--model", start / "cola", "--out", tmp_path / name, *mixture, "--steps", "5", *SHORT)

    assert pretrain(*argv("whole")) == 0
    true_step = Learner.step
    for stage in ("fta-i", "policy"):

        def step(self: Any, number: int, batch: Any, stage: str = stage) -> Any:
            if self._name == stage and number == 4:
                raise KeyboardInterrupt
            return true_step(self, number, batch)

        monkeypatch.setattr(Learner, "step", step)
        assert pretrain(*argv(stage)) == 130
        monkeypatch.setattr(Learner, "step", true_step)
        assert not (tmp_path / stage / "training.json").exists()
        assert pretrain(*argv(stage)) == 0
        assert same(tmp_path / stage, tmp_path / "whole")
        logs = [
            [{k: v for k, v in json.loads(line).items() if k != "cpu_s"} for line in log.splitlines()]
            for log in ((tmp_path / name / "log.jsonl").read_text() for name in ("whole", stage))
        ]
        assert logs[0] == logs[1]


def test_without_data_the_world_stage_is_the_recipes_but_for_its_start(start, tmp_path):
    stage = StageConfig(steps=2, rows=2, length=64, warmup=1)
    made = Recipe(world=stage)
    recipe.train_world(made, start / "base", tmp_path / "recipe")
    argv = ("--steps", "2", "--rows", "2", "--length", "64", "--warmup", "1", "--whole")
    assert pretrain("world", "--source", start / "base", "--out", tmp_path / "command", *argv) == 0
    assert same(tmp_path / "recipe", tmp_path / "command")


def test_adapters_are_merged_or_kept(start, tmp_path):
    argv = ("fta", "--model", start / "cola", "--under", "policy", "--data", start / "text.txt")
    short = ("--steps", "3", "--lora-rank", "2", *SHORT)
    assert pretrain(*argv, *short, "--out", tmp_path / "merged") == 0
    assert pretrain(*argv, *short, "--out", tmp_path / "kept", "--keep-adapters") == 0
    assert same(tmp_path / "kept", start / "cola")
    assert changed(start / "cola", tmp_path / "merged") == {"base"}
    with pytest.warns(UserWarning, match="holds adapters of its base in adapters/, .* without them"):
        gym.make("CoLA-Arithmetic-v0", model=str(tmp_path / "kept"))
    model = CoLAForCausalLM.from_pretrained(tmp_path / "kept")
    load_adapters(model, tmp_path / "kept" / "adapters")
    for name, tensor in weights(tmp_path / "merged").items():
        torch.testing.assert_close(model.state_dict()[name], tensor, atol=1e-5, rtol=1e-5)


def test_tokens_and_the_papers_preset_become_a_configuration(tmp_path):
    run = Run("world", "m", tmp_path, preset="paper", tokens=10**9)
    config = run.stage_config()
    assert (config.lr, config.rows, config.length, config.warmup) == (1e-4, 512, 2048, 100)
    assert (config.steps, config.seed, config.codebook_weight_decay) == (954, 42, 0.0)
    codes = run.code_config()
    assert (codes.tau, codes.entropy, codes.marginal) == (2.0, 0.001, 0.0)
    assert Run("policy", "m", tmp_path, preset="paper").stage_config().tokens == pytest.approx(
        6.4e11, rel=1e-5
    )
    assert Run("fta", "m", tmp_path, preset="paper", steps=100).stage_config().warmup == 3
    assert Run("world", "m", tmp_path, config={"lr": 1.0}).stage_config().lr == 1.0


@pytest.mark.parametrize(("preset", "usual"), [("tiny", 50), ("paper", 100)])
def test_the_default_warmup_is_at_most_an_eighth_of_the_steps(preset, usual, tmp_path):
    for stage in ("world", "policy"):
        assert Run(stage, "m", tmp_path, preset=preset).stage_config().warmup == usual
        for steps, warmup in ((1, 1), (20, 3), (8 * usual - 8, usual - 1), (8 * usual, usual)):
            config = Run(stage, "m", tmp_path, preset=preset, steps=steps).stage_config()
            assert config.warmup == warmup
            assert config.rate(warmup) == pytest.approx(1)
        given = Run(stage, "m", tmp_path, preset=preset, steps=20, config={"warmup": 19})
        assert given.stage_config().warmup == 19


@pytest.mark.filterwarnings("error:the learning rate rises")
def test_a_run_that_is_longer_than_its_warmup_is_not_warned_of_it(start, tmp_path):
    def begin(warmup):
        settings = {"rows": 2, "length": 48, "warmup": warmup}
        data = tuple(parse_data([str(start / "text.txt")]))
        train(Run("world", str(start / "base"), tmp_path / str(warmup), data=data, steps=2, config=settings))

    begin(2)
    with pytest.raises(UserWarning, match="rises for 3 steps"):
        begin(3)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["world"], "--model (or --source)"),
        (["world", "--model", "{start}"], "holds no model: there is no config.json"),
        (["world", "--model", "{start}/cola", "--codes", "4"], "latent-action model already: --codes"),
        (["world", "--model", "{start}/base", "--under", "policy"], "takes no --under"),
        (["policy", "--model", "{start}/base"], "holds a llama model, not a latent-action model"),
        (["policy", "--model", "{start}/cola", "--tau", "2"], "takes no --tau"),
        (["policy", "--model", "{start}/cola", "--length", "1024"], "beyond the model's context of 512"),
        (["policy", "--model", "{start}/cola", "--data", "{start}/nowhere.txt"], "no file or folder"),
        (["policy", "--model", "{start}/cola", "--data", "{start}/empty.txt"], "empty.txt holds no document"),
        (
            ["policy", "--model", "{start}/cola", "--data", "{start}/torn.jsonl"],
            "torn.jsonl, line 1 is not JSON",
        ),
        (["policy", "--model", "{start}/cola", "--epochs", "1"], "take no 'epochs'"),
        (["policy", "--model", "{start}/cola", "--tokenizer", "{start}/other"], "is not that of"),
        (["policy", "--model", "{start}/cola", "--steps", "0"], "steps must be at least 1"),
        (["policy", "--model", "{start}/cola", "--lr", "-1"], "lr must be positive"),
        (["policy", "--model", "{start}/cola", "--rows", "3", "--micro-rows", "2"], "not a multiple"),
        (["policy", "--model", "{start}/cola", "--dtype", "float33"], "dtype 'float33' is no floating type"),
        (["policy", "--model", "{start}/cola", "--dtype", "int8"], "dtype 'int8' is no floating type"),
        (
            ["policy", "--model", "{start}", "--dtype", "bfloat16", "--precision", "float32"],
            "takes no frozen weights in bfloat16 (dtype, --dtype): leave one of them out",
        ),
        (["policy", "--model", "{start}/cola", "--device", "nonsense"], "device 'nonsense' cannot be used"),
        (["policy", "--model", "{start}/cola", "--held-out", "{start}/nowhere.txt"], "no file or folder"),
        (
            ["fta", "--model", "{start}/cola", "--held-out", "{start}/empty.txt"],
            "empty.txt holds no document",
        ),
        (["policy", "--model", "{start}/cola", "--held-out", "{start}/torn.jsonl"], "line 1 is not JSON"),
        (["fta", "--model", "{start}/cola", "--keep-adapters"], "--keep-adapters needs --lora-rank"),
        (["fta", "--model", "{start}/cola", "--lora-alpha", "3"], "--lora-alpha needs --lora-rank"),
        (["fta", "--model", "{start}/cola", "--preset", "paper"], "one epoch in the paper"),
        (["base", "--data", "{start}/text.txt", "--lr", "1"], "takes no --data, --lr"),
        (["base", "--codes", "4"], "takes no --codes"),
        (["policy", "--model", "{start}/cola", "--inverse-layers", "2"], "takes no --inverse-layers"),
        (["world", "--model", "{start}/base", "--no-reclone"], "takes no --no-reclone"),
        (["world", "--model", "{start}/base", "--codes", "1"], "--codes: num_codes must be at least 2"),
        (
            ["world", "--model", "{start}/base", "--inverse-layers", "0"],
            "--inverse-layers: num_inverse_layers must be at least 1, got 0",
        ),
        (["world", "--model", "{start}/base", "--tau", "0"], "(--tau) must be positive"),
        (["world", "--model", "{start}/base", "--marginal", "-1"], "(--marginal) must be a finite number of"),
        (["world", "--model", "{start}/base", "--entropy", "-3"], "of at least 0, got -3.0"),
        (
            ["fta", "--model", "{start}/cola", "--lora-rank", "0"],
            "rank (--lora-rank) must be at least 1, got 0",
        ),
        (["policy", "--model", "{start}/cola", "--tokens", "inf"], "--tokens is a finite number"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_is_written(start, tmp_path, argv, message, capsys):
    (start / "empty.txt").write_text("\n")
    (start / "torn.jsonl").write_text('{"text": ')
    if not (start / "other").exists():
        recipe.train_tokenizer(["other words entirely"], 270).save_pretrained(start / "other")
    filled = [part.replace("{start}", str(start)) for part in argv]
    assert pretrain(*filled, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "own", "foreign"),
    [
        ("world", "--data --tokens --codes --tau --keep", "--under --held-out --gamma"),
        ("policy", "--data --epochs --held-out", "--codes --tau --lora-rank --gamma"),
        ("fta", "--data --epochs --held-out --under --lora-rank", "--codes --tau --gamma"),
        ("q", "--data --steps --gamma --held-out-problems", "--tokens --held-out --codes --tensorboard"),
        ("bundled", "--seed --steps --tensorboard", "--model --data --rows --gamma"),
        ("card", "--seed", "--steps --model --data"),
    ],
)
def test_the_help_of_a_stage_shows_its_own_options_alone(stage, own, foreign, capsys):
    with pytest.raises(SystemExit, match="0"):
        pretrain(stage, "--help")
    flags = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert {"--out", *own.split()} <= flags
    assert not flags & set(foreign.split())


def test_a_folder_of_something_else_or_of_another_run_is_left_alone(start, tmp_path, capsys):
    argv = ("policy", "--model", start / "cola", "--data", start / "text.txt", *SHORT)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert pretrain(*argv, "--steps", "2", "--out", tmp_path / "mine") == 2
    assert "holds something other than a run" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert pretrain(*argv, "--steps", "2", "--out", tmp_path / "run") == 0
    before = weights(tmp_path / "run")
    assert pretrain(*argv, "--steps", "1", "--out", tmp_path / "run") == 2
    assert "finished run with other settings" in capsys.readouterr().err
    # The same as if it had been stopped before it was finished.
    (tmp_path / "run" / "training.json").unlink()
    assert pretrain(*argv, "--steps", "1", "--out", tmp_path / "run") == 2
    assert "was begun with steps=2" in capsys.readouterr().err
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path / "run").items())


@pytest.fixture
def finished(start, tmp_path, monkeypatch):
    """The arguments of a finished run of two steps in a folder of text, which is the current one."""
    shutil.copytree(start, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    argv = ("policy", "--model", "cola", "--data", "text.txt", *SHORT, "--out", "run")
    assert pretrain(*argv, "--steps", "2") == 0
    return argv


ELSEWHERE = "model='cola', and now it is 'cola (elsewhere)' ("


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (("--steps", "4", "--lr", "1e-3"), "begun with lr=0.003, and now it is 0.001 (see training.json)"),
        (("--steps", "1"), "begun with steps=2, and now it is 1 ("),
        (("--steps", "2", "--save-every", "1"), "begun with save_every=2, and now it is 1 ("),
        (("--steps", "2", "--rows", "1", "--seed", "5"), "seed=0, and now it is 5; rows=2, and now it is 1"),
        (("--steps", "2", "--model", "other/cola"), "model='cola', and now it is 'other/cola' ("),
        (
            ("--steps", "2", "--model", "{here}/other/cola"),
            "model='cola', and now it is 'cola (elsewhere)' (",
        ),
        (
            ("--steps", "2", "--data", "answers.jsonl"),
            "and now it is [{'source': 'text.txt'}, {'source': 'ans",
        ),
        (("--epochs", "3"), "epochs=None, and now it is 3"),
    ],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_a_finished_run_names_what_differs_with_both_values(other, named, earlier, finished, capsys):
    shutil.copytree("cola", "other/cola")
    if earlier:
        forget_places()
        named = named.replace(ELSEWHERE, "paths that were written in another way than now")
    other = [part.replace("{here}", os.getcwd()) for part in other]
    assert pretrain(*finished, *other) == 2
    assert named in capsys.readouterr().err


def forget_places() -> None:
    """Make the finished run in the folder ``run`` one of an earlier version."""
    done = json.loads(Path("run/training.json").read_text())
    del done["places"]
    Path("run/training.json").write_text(json.dumps(done))


def test_a_finished_run_is_the_same_however_its_paths_and_defaults_are_written(finished, capsys):
    here = os.getcwd()
    again = (
        "policy",
        "--model",
        f"{here}/cola",
        "--data",
        "./text.txt",
        *SHORT,
        "--out",
        "run",
        "--lr",
        "3e-3",
    )
    assert pretrain(*again, "--steps", "2") == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert pretrain(*again, "--steps", "3") == 0
    assert json.loads(Path("run/training.json").read_text())["config"]["steps"] == 3
    assert here not in Path("run/training.json").read_text()


def test_a_finished_run_of_an_earlier_version_is_recognised_and_made_longer(finished, capsys):
    forget_places()
    assert pretrain(*finished, "--steps", "2") == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert pretrain(*finished, "--steps", "3") == 0


class Killed(BaseException):
    """Simulates a kill."""


def stop(monkeypatch: pytest.MonkeyPatch, saves: int, *argv: object) -> None:
    """Begin a run, and kill it after a number of checkpoints."""
    save, done = Checkpoints.save, itertools.count(1)

    def saving(self: Checkpoints, *given: Any, **named: Any) -> None:
        save(self, *given, **named)
        if next(done) == saves:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", saving)
        with pytest.raises(Killed):
            pretrain(*argv)


FTA = ("fta", "--rows", "2", "--length", "48", "--save-every", "1")


def test_a_run_that_was_stopped_leaves_its_folder_to_no_other_run(start, tmp_path, monkeypatch, capsys):
    argv = ("--model", start / "cola", "--data", start / "text.txt", "--out", tmp_path / "run")
    stopped = (*FTA, *argv, "--steps", "2", "--no-reclone")
    others = [(*FTA, *argv, "--steps", "2", "--under", "policy"), ("policy", *argv, "--steps", "2", *SHORT)]
    stop(monkeypatch, 1, *stopped)
    for other in others:
        assert pretrain(*other) == 2
        assert "a run that was stopped, with checkpoints of fta-inverse; those of" in capsys.readouterr().err
    assert pretrain(*stopped) == 0
    stop(monkeypatch, 1, "policy", *argv[:-1], tmp_path / "policy", "--steps", "4", *SHORT)
    assert pretrain(*FTA, *argv[:-1], tmp_path / "policy", "--steps", "4") == 2
    assert "with checkpoints of policy; those of this run are fta-inverse, pol" in capsys.readouterr().err


def test_a_cloning_that_was_stopped_goes_on_after_more_steps_were_refused(
    start, tmp_path, monkeypatch, capsys
):
    argv = (*FTA, "--model", start / "cola", "--data", start / "text.txt", "--out", tmp_path / "run")
    stop(monkeypatch, 3, *argv, "--steps", "2")
    assert pretrain(*argv, "--steps", "4") == 2
    assert "after 2 steps of FTA-I, and 4 steps were asked for" in capsys.readouterr().err
    assert pretrain(*argv, "--steps", "2") == 0


def test_a_longer_run_that_is_killed_in_its_last_save_goes_on_and_is_not_called_finished(
    start, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "run"
    argv = ("world", "--model", start / "base", "--data", start / "text.txt", *SHORT, "--out", out)
    assert pretrain(*argv, "--steps", "2") == 0
    before = weights(out)

    def killed(*given: Any, **named: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(hub, "write_reference", killed)
        with pytest.raises(Killed):
            pretrain(*argv, "--steps", "4")
    CoLAForCausalLM.from_pretrained(out)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(out).items())
    assert pretrain(*argv, "--steps", "2") == 2
    assert "is finished" not in capsys.readouterr().out
    assert pretrain(*argv, "--steps", "4") == 0
    CoLAForCausalLM.from_pretrained(out)


def test_a_run_goes_on_with_the_type_of_its_frozen_weights_alone(start, tmp_path, monkeypatch, capsys):
    tiny.make_cola().bfloat16().float().save_pretrained(tmp_path / "cola")
    tiny.make_tokenizer().save_pretrained(tmp_path / "cola")
    argv = ("policy", "--model", tmp_path / "cola", "--data", start / "text.txt", *SHORT, "--steps", "4")
    argv = (*argv, "--precision", "bf16", "--out", tmp_path / "run")
    stop(monkeypatch, 1, *argv)
    assert pretrain(*argv, "--dtype", "bfloat16") == 2
    assert "begun with types of the frozen weights=['float32'], and now it is" in capsys.readouterr().err
    settings = tmp_path / "run" / "checkpoints" / "policy" / "run.json"
    begun = json.loads(settings.read_text())
    del begun["settings"]["types of the frozen weights"]  # a run that an earlier version began
    settings.write_text(json.dumps(begun))
    assert pretrain(*argv) == 0


@pytest.mark.parametrize("stage", ["world", "policy", "fta"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_loaded_in_few_bits_are_computed_with_in_bf16(stage, dtype, start, tmp_path):
    model = start / ("base" if stage == "world" else "cola")
    argv = (stage, "--model", model, "--data", start / "text.txt", "--steps", "1", *SHORT)
    assert pretrain(*argv, "--dtype", dtype, "--out", tmp_path / "run") == 0
    done = json.loads((tmp_path / "run" / "training.json").read_text())
    assert done["config"]["precision"] == "bf16"


def test_a_precision_that_was_given_beside_weights_in_few_bits_is_kept_or_refused(tmp_path):
    assert Run("world", "m", tmp_path, dtype="float64").stage_config().precision == "float32"
    kept = {"low_precision_weights": True}
    assert Run("world", "m", tmp_path, dtype="bfloat16", config=kept).stage_config().precision == "float32"
    with pytest.raises(ValueError, match=r"\(precision, --precision\) takes no frozen weights in float16"):
        Run("world", "m", tmp_path, dtype="float16", config={"precision": "float32"})


def test_held_out_text_is_measured_once_however_short_it_is(start, tmp_path, capsys):
    held_out = tmp_path / "held.txt"
    held_out.write_text("".join(f"A cat sees {n} balls.\n" for n in range(6)))
    argv = ("policy", "--model", start / "cola", "--data", start / "text.txt", *SHORT, "--steps", "2")
    for name, spec in (("once", held_out), ("again", f"{held_out},epochs=3")):
        assert pretrain(*argv, "--held-out", spec, "--out", tmp_path / name) == 0
        measured = json.loads((tmp_path / name / "metrics.json").read_text())
        tokenizer = PlainTokenizer(tiny.make_tokenizer())
        documents = [tokenizer.encode(line) for line in held_out.read_text().splitlines()]
        assert measured["tokens"] == sum(map(len, documents))
        assert "scored" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_the_run_goes_on(start, tmp_path, monkeypatch, capsys):
    argv = ("policy", "--model", start / "cola", "--data", start / "text.txt", *SHORT, "--steps", "2")

    def full(*given: Any, **named: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: File too large (os error 27)")

    for place in ("cola_agents.model.shards.save_file", "transformers.modeling_utils.safe_save_file"):
        with monkeypatch.context() as patched:
            patched.setattr(place, full)
            assert pretrain(*argv, "--out", tmp_path / "run") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert re.fullmatch(rf"cola: {tmp_path}/run.* could not be written: .*File too large.*", error)
    assert pretrain(*argv, "--out", tmp_path / "run") == 0


@pytest.mark.parametrize("stage", ["base", "bundled"])
def test_base_and_bundled_write_into_no_folder_that_holds_something(stage, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("precious")
    assert pretrain(stage, "--steps", "1", "--out", tmp_path) == 2
    assert "is not an empty folder: nothing was written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_card_has_the_recipe_of_its_folder(tmp_path, monkeypatch, capsys):
    written = []
    monkeypatch.setattr(
        "cola_agents.evaluation.bundled_card.write_card", lambda *given: written.append(given)
    )
    (tmp_path / "recipe.json").write_text(json.dumps({"seed": 3}))
    assert pretrain("card", "--out", tmp_path) == 0
    assert pretrain("card", "--out", tmp_path, "--seed", "3") == 0
    assert len(written) == 2
    assert pretrain("card", "--out", tmp_path, "--seed", "4") == 2
    assert "says seed 3: leave --seed 4 out" in capsys.readouterr().err


def test_a_card_wants_both_models(start, tmp_path, capsys):
    assert pretrain("card", "--out", tmp_path) == 2
    assert "holds no cola/config.json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_arithmetic_errors_are_one_line(start, tmp_path, monkeypatch, capsys):
    for error in (FloatingPointError, OverflowError):

        def step(self: Any, number: int, batch: Any, error: Any = error) -> Any:
            raise error("out of range at step 1")

        monkeypatch.setattr(Learner, "step", step)
        argv = ("policy", "--model", start / "cola", "--data", start / "text.txt", *SHORT)
        assert pretrain(*argv, "--out", tmp_path / error.__name__) == 2
        assert "cola: out of range at step 1" in capsys.readouterr().err


def test_a_run_killed_before_its_first_file_was_whole_can_be_begun(start, tmp_path, capsys):
    argv = ("policy", "--model", start / "cola", "--data", start / "text.txt", "--steps", "1", *SHORT)
    left = tmp_path / "run" / "checkpoints" / "policy"
    left.mkdir(parents=True)
    (left / ".run.json.new").write_text('{"log_')
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    assert pretrain(*argv, "--out", tmp_path / "run") == 2
    assert "holds something other than a run" in capsys.readouterr().err
    (tmp_path / "run" / "thesis.txt").unlink()
    assert pretrain(*argv, "--out", tmp_path / "run") == 0
    (tmp_path / "empty" / "checkpoints" / "policy").mkdir(parents=True)
    assert pretrain(*argv, "--out", tmp_path / "empty") == 0
    assert same(tmp_path / "run", tmp_path / "empty")


def test_the_generated_corpus_named_as_data_is_the_generated_corpus(start, tmp_path):
    argv = ("policy", "--model", start / "cola", "--steps", "2", *SHORT)
    assert pretrain(*argv, "--out", tmp_path / "unnamed") == 0
    assert pretrain(*argv, "--out", tmp_path / "named", "--data", "generated") == 0
    assert same(tmp_path / "unnamed", tmp_path / "named")
    figures = [(tmp_path / name / "metrics.json").read_text() for name in ("unnamed", "named")]
    assert figures[0] == figures[1]


def test_figures_with_kept_adapters_lie_beside_the_adapters(start, tmp_path):
    argv = ("fta", "--model", start / "cola", "--under", "policy", "--data", start / "text.txt")
    kept = ("--lora-rank", "2", "--keep-adapters", "--held-out", start / "text.txt")
    assert pretrain(*argv, "--steps", "1", *SHORT, *kept, "--out", tmp_path) == 0
    assert json.loads((tmp_path / "adapters" / "metrics.json").read_text())["tokens"] > 0
    assert not (tmp_path / "metrics.json").exists()


def test_a_model_without_inverse_dynamics_is_tuned_and_not_measured(start, tmp_path):
    model = tiny.make_cola(num_inverse_layers=0)
    model.save_pretrained(tmp_path / "v0")
    tiny.make_tokenizer().save_pretrained(tmp_path / "v0")
    run = Run("fta", str(tmp_path / "v0"), tmp_path / "out", tune="policy", steps=1, config={"length": 48})
    assert train(run) is None
    assert changed(tmp_path / "v0", tmp_path / "out") == {"base", "lm_head"}


def test_two_processes_train_what_one_does(start, tmp_path):
    """Two CPU processes over gloo, FTA-I with its two stages; rank 0 alone writes and speaks."""
    pytest.importorskip("accelerate")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = ["pretrain", "fta", "--model", str(start / "cola"), "--data", str(start / "answers.jsonl")]
    argv += ["--steps", "3", "--rows", "4", "--micro-rows", "2", "--length", "48", "--log-every", "1"]
    argv += ["--lora-rank", "2", "--held-out", str(start / "text.txt")]
    launch = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "-m", "cola_agents.cli", *argv, "--out", str(tmp_path / "two")],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Wrote") == 1
    assert main([*argv, "--out", str(tmp_path / "one")]) == 0
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")]
    records = [[json.loads(line) for line in log] for log in logs]
    losses = [[record["loss"] for record in log if "loss" in record] for log in records]
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    for name, tensor in weights(tmp_path / "two").items():
        torch.testing.assert_close(tensor, weights(tmp_path / "one")[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("stage", ["world", "base"])
def test_a_second_writer_of_a_run_is_refused_with_the_name_of_the_first(stage, start, tmp_path, capsys):
    out = tmp_path / "run"
    child = hold(out, "folder")
    try:
        model = ("--model", start / "base") if stage == "world" else ()
        assert pretrain(stage, *model, "--out", out, "--steps", "2") == 2
        assert f"is being written by process {child} on" in capsys.readouterr().err
        assert [path.name for path in out.iterdir()] == [LOCK]
    finally:
        os.kill(child, signal.SIGKILL)
        status_of(child)


def test_a_finished_run_whose_files_are_damaged_says_so(start, tmp_path, capsys):
    out = tmp_path / "run"
    argv = ("policy", "--model", start / "cola", "--out", out, "--data", start / "text.txt", "--steps", "2")
    assert pretrain(*argv, *SHORT) == 0
    log = out / "log.jsonl"
    log.write_bytes(b"\0" * 40 + b"\n" + log.read_bytes())
    with pytest.warns(LogWarning, match=r"log\.jsonl, line 1 .*left as it is"):
        assert pretrain(*argv, *SHORT) == 0
    assert "is finished" in capsys.readouterr().out
    for content in ("null", "[", '{"run": 1}', "\0"):
        (out / "training.json").write_text(content)
        assert pretrain(*argv, *SHORT) == 2
        assert "training.json" in capsys.readouterr().err


def rates(folder: Path) -> list[float]:
    return [json.loads(line)["lr"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("ended", [True, False])
def test_more_steps_make_a_run_longer_on_the_longer_schedule(ended, start, tmp_path, monkeypatch, capsys):
    out = tmp_path / "world"
    settings = ("world", "--model", start / "base", "--data", start / "text.txt", "--out", out, *SHORT)
    settings += ("--warmup", 1, "--codes", 16)
    if ended:
        assert pretrain(*settings, "--steps", 4) == 0
        before = rates(out)
    else:
        whole = Learner.step

        def stops(self: Learner, step: int, batch: Any) -> Any:
            if step == 4:
                raise FloatingPointError("stopped")
            return whole(self, step, batch)

        monkeypatch.setattr(Learner, "step", stops)
        assert pretrain(*settings, "--steps", 4) == 2
        monkeypatch.undo()
        before = rates(out)[:2]
    capsys.readouterr()
    if not ended:
        assert pretrain(*settings, "--steps", 8, "--seed", 1) == 2
        refused = capsys.readouterr()
        assert "was begun with seed=0, and now it is 1" in refused.err
        assert "goes on to 8" not in refused.out
    assert pretrain(*settings, "--steps", 8) == 0
    said = capsys.readouterr().out
    assert "was begun for 4 steps and goes on to 8" in said
    shorter, longer = StageConfig(steps=4, warmup=1), StageConfig(steps=8, warmup=1)
    now, then = 3e-3 * longer.rate(4), 3e-3 * shorter.rate(4)
    assert now > then
    assert f"at step 4 it is {now:.2e}, and was {then:.2e}." in said
    assert rates(out) == pytest.approx(before + [3e-3 * longer.rate(n) for n in range(len(before) + 1, 9)])
    assert json.loads((out / "training.json").read_text())["config"]["steps"] == 8
    assert pretrain(*settings, "--steps", 8) == 0
    assert "is finished: nothing to do" in capsys.readouterr().out
    for refused in (("--steps", 4), ("--steps", 12, "--lr", 0.1), ("--epochs", 9)):
        kept = weights(out)
        assert pretrain(*settings, *refused) == 2
        assert "a run is made longer by more --steps" in capsys.readouterr().err
        assert all(tensor.equal(kept[name]) for name, tensor in weights(out).items())


def test_a_run_of_one_epoch_goes_on_into_the_next(start, tmp_path):
    out = tmp_path / "policy"
    settings = ("policy", "--model", start / "cola", "--data", start / "text.txt", "--out", out, *SHORT)
    assert pretrain(*settings, "--epochs", 1) == 0
    steps = json.loads((out / "training.json").read_text())["config"]["steps"]
    assert pretrain(*settings, "--steps", steps + 3) == 0
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [r["epoch/text.txt"] for r in records if r["stage"] == "policy"] == [1] * steps + [2] * 3


def test_the_stages_of_a_run_share_a_cache_of_states(start, tmp_path, capsys):
    folder = tmp_path / "states"
    given = ("--data", start / "text.txt", "--states", folder, *SHORT, "--steps", 2)
    grown = ("--codes", 16, "--out", tmp_path / "world")
    assert pretrain("world", "--model", start / "base", *grown, *given) == 0
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sizes["part-00000.index"] > 0
    assert pretrain("policy", "--model", tmp_path / "world", "--out", tmp_path / "policy", *given) == 0
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == sizes
    assert pretrain("policy", "--model", start / "cola", "--out", tmp_path / "no", *given) == 2
    assert "holds states of another base" in capsys.readouterr().err
    assert not list((tmp_path / "no").rglob("*.safetensors"))


def test_a_policy_is_saved_before_it_is_measured_and_measured_again(start, tmp_path, monkeypatch, capsys):
    out = tmp_path / "policy"
    argv = ("policy", "--model", start / "cola", "--data", start / "text.txt", *SHORT, "--steps", 2)
    argv += ("--held-out", start / "text.txt", "--held-out-tokens", 100, "--out", out)

    def fails(*given: object, **options: object) -> None:
        raise OSError("the power failed")

    monkeypatch.setattr(training, "measure", fails)
    assert pretrain(*argv) == 2
    saved = weights(out)
    assert not (out / "training.json").exists()
    monkeypatch.undo()
    assert pretrain(*argv) == 0
    assert all(tensor.equal(saved[name]) for name, tensor in weights(out).items())
    assert json.loads((out / "metrics.json").read_text())["tokens"] == 100
    assert (out / "training.json").exists()
    assert "100/100" in capsys.readouterr().err  # the progress bar


def test_what_a_token_agent_played_is_learned_from_with_the_agents_own_model(tmp_path, capsys):
    agent, tries = tmp_path / "agent", tmp_path / "tries.jsonl"
    learner = GRPO("CoLA-Arithmetic-Token-v0", prompts=4, group_size=4, num_envs=16, lr=1e-2, warmup=0)
    learner.update()
    learner.save(agent)
    played = ("--task", "CoLA-Arithmetic-Token-v0", "--agent", agent, "--problems", 8, "--n", 4)
    assert main(["generate", *map(str, played), "--out", str(tries)]) == 0
    for stage in ("q", "outcome"):
        learn = (stage, "--data", tries, "--steps", 1)
        assert pretrain(*learn, "--out", tmp_path / stage) == 2
        assert "Pass the model that recorded them, or the agent" in capsys.readouterr().err
        assert pretrain(*learn, "--agent", agent, "--model", "x", "--out", tmp_path / stage) == 2
        assert "--agent has its own model: leave out --model" in capsys.readouterr().err
        assert pretrain(*learn, "--agent", agent, "--out", tmp_path / stage) == 0
    search = ("--search", "puct", "--simulations", "2", "--episodes", "1")
    assert main(["eval", "--agent", str(agent), "--judge", str(tmp_path / "outcome"), *search]) == 0


def test_an_agent_with_a_class_and_a_task_of_ones_own_is_learned_from(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("own_parts.py").write_text(
        "from cola_agents import GRPO\n"
        "from cola_envs import Turn\n"
        "class Mine(GRPO):\n"
        "    pass\n"
        "class Letters:\n"
        "    stop = ()\n"
        "    def reset(self, rng):\n"
        "        return 'Write:'\n"
        "    def step(self, text):\n"
        "        return Turn(reward=float('a' in text), done=True, info={'success': 'a' in text})\n"
    )
    own = ("--task", "own_parts:Letters", "--algo", "own_parts:Mine")
    small = ("--timesteps", "4", "--episodes", "1", "--num-envs", "2", "--quiet", "--env", "max_tokens=3")
    small += ("--set", "group_size=2", "--set", "prompts=1")
    assert main(["train", *own, *small, "--out", "run"]) == 0
    assert (
        main(["generate", *own, "--agent", "run", "--problems", "4", "--n", "4", "--out", "tries.jsonl"]) == 0
    )
    learn = ("--data", "tries.jsonl", "--steps", "1")
    for stage in ("q", "outcome"):
        assert pretrain(stage, *learn, "--agent", "run", "--out", "no") == 2
        assert "--algo" in capsys.readouterr().err
        assert pretrain(stage, *learn, *own, "--agent", "run", "--out", stage) == 0
    assert pretrain("q", *learn, *own, "--out", "no") == 2
    assert "give --agent too" in capsys.readouterr().err
    named = ("--task", "CoLA-Text-v0", *own[2:], "--agent", "run", "--out", "no")
    assert pretrain("q", *learn, *named) == 2
    assert "an agent keeps its environment" in capsys.readouterr().err
    assert pretrain("world", "--model", "run", *own, "--out", "no") == 2
    assert "the stage world takes no --task, --algo" in capsys.readouterr().err


def test_a_finished_stage_of_latent_parts_is_pointed_to_convert_for_the_whole(start, tmp_path, capsys):
    world = ("world", "--model", start / "base", "--data", start / "text.txt", "--steps", 1, *SHORT)
    assert pretrain(*world, "--out", tmp_path / "world") == 0
    assert pretrain(*world, "--out", tmp_path / "world", "--whole") == 0
    assert f"`cola convert {tmp_path / 'world'} TARGET --whole` writes everything" in capsys.readouterr().out
