"""The command line: what it prints, what it writes, and how it refuses."""

import dataclasses
import json
import re
import shlex
import subprocess
import sys

import pytest
from gymnasium.envs.registration import registry

from cola_agents import GRPO
from cola_agents.cli import leaf_parsers, main, make_parser
from cola_agents.commands.helps import EXAMPLES
from cola_agents.decoding.loading import BUNDLED
from cola_agents.evaluation import demo
from cola_agents.evaluation.probe import Probe
from cola_agents.evaluation.run import evaluate
from cola_agents.search import QConfig
from cola_envs.shown import shown_line
from cola_envs.tasks import substitute


def test_demo_writes_table_plot_and_results(tmp_path, capsys):
    assert main(["demo", "--updates", "1", "--episodes", "8", "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [run["arm"] for run in results["runs"]] == ["latent", "token"]
    assert {"command", "commit", "packages", "hardware", "floor", "updates"} <= set(results)
    for run in results["runs"]:
        assert len(run["fingerprint"]) == 64
        assert run["history"][-1]["episodes"] == 128
        assert set(run["before"]) == set(run["after"]) >= {"format", "arithmetic", "grammar", "cross_entropy"}
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "latent GRPO, seed 0" in printed
    assert "uniform random codes" in printed
    for run in results["runs"]:
        for when, answer in zip(("before", "after"), run["answers"], strict=True):
            assert f"{run['arm']}, one answer {when}: {shown_line(answer)}" in printed


def test_demo_takes_another_task_and_arguments_of_its_environment(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "FLOOR_PROBLEMS", 1)
    monkeypatch.setattr(demo, "probe", lambda agent, episodes: Probe(0.5, 0.5, 0.5, 0.5, 0.5, episodes))
    out = tmp_path / "out"
    small = ["--updates", "1", "--episodes", "4", "--out", str(out)]
    task = ["--task", "CoLA-Arithmetic-v0", "--env", "level=2", "--env", "max_tokens=4"]
    assert main(["demo", *task, *small, "--system", "Be brief.", "--dtype", "bfloat16"]) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["env_kwargs"] == {"level": 2, "max_tokens": 4, "system": "Be brief."}
    assert (results["dtype"], results["device"]) == ("bfloat16", "cpu")
    runs = results["runs"]
    assert [run["env_id"] for run in runs] == ["CoLA-Arithmetic-v0", "CoLA-Arithmetic-Token-v0"]
    assert max(record["length"] for run in runs for record in run["history"]) <= 4
    assert "| policy | reward | arithmetic |" in capsys.readouterr().out
    assert main(["demo", "--task", "CoLA-Arithmetic-Token-v0", *small]) == 2
    assert "takes a CoLA id of latent actions" in capsys.readouterr().err
    assert main(["demo", "--env", "split=test", "--out", str(tmp_path / "demo")]) == 2
    assert "leave split out" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_eval_reports_share_interval_and_dataset(capsys):
    assert main(["eval", "--task", "CoLA-Arithmetic-v0", "--episodes", "16", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    low, high = report["success_95"]
    assert low <= report["success"] <= high
    assert report["dataset"] == "cola-arithmetic-v0"
    assert report["episodes"] == 16


def test_eval_never_reports_a_substitute_under_the_name_of_math500(capsys, recwarn):
    assert main(["eval", "--task", "CoLA-Math500-v0", "--episodes", "4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    if report["dataset"] == "MATH-500":
        pytest.skip("the real MATH-500 is in this machine's Hugging Face cache")
    assert report["dataset"] == substitute.NAME
    assert "no MATH-500 result" in report["warning"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["eval", "--task", "CoLA-Arithmetic-v0", "--episodes", "0"], "at least 1"),
        (["eval", "--task", "CoLA-Arithmetic-v0", "--agent", "nowhere"], "no saved agent"),
        (["eval", "--task", "CoLA-Arithmetic-v0", "--model", "/no/such/folder"], "config.json"),
        (["eval", "--task", "CoLA-Arithmetik-v0"], "CoLA-Arithmetic"),
        (["eval", "--task", "CartPole-v1"], "not one of the CoLA environments"),
        (["eval", "--task", "CoLA-Text-v0"], "CoLA-Text needs task="),
        (["eval"], "give --task, or --agent"),
        (["eval", "--task", "nowhere:Task"], "No module named 'nowhere'"),
        (["eval", "--task", "cola_envs.build:Nothing"], "Nothing"),
        (["eval", "--task", "CoLA-Arithmetic-v0", "--model", "nope"], "hub id (owner/name)"),
        (["demo", "--updates", "0"], "at least 1"),
        (["pretrain", "world", "--out", "unused"], "--source"),
    ],
)
def test_bad_input_ends_with_one_clear_line(argv, message, capsys):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("cola: ")


def test_stages_run_one_after_another_from_the_command_line(tmp_path):
    base, world, policy = (str(tmp_path / name) for name in ("base", "world", "policy"))
    assert main(["pretrain", "base", "--out", base, "--steps", "2"]) == 0
    assert main(["pretrain", "world", "--source", base, "--out", world, "--steps", "2"]) == 0
    assert main(["pretrain", "policy", "--source", world, "--out", policy, "--steps", "2"]) == 0
    metrics = json.loads((tmp_path / "policy" / "metrics.json").read_text())
    assert metrics["tokens"] > 1000
    assert main(["eval", "--task", "CoLA-Arithmetic-v0", "--model", policy, "--episodes", "2"]) == 0


def test_help_says_defaults_an_example_and_the_options_of_algorithms(capsys):
    assert main([]) == 0
    assert "train" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("cola-rl ")
    for command in ("train", "eval", "pretrain q"):
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        said = " ".join(capsys.readouterr().out.split())
        assert f"example: cola {command.split()[0]}" in said, command
        assert "(default: " in said, command
    assert main(["tasks"]) == 0
    assert "CoLA-Household-v0" in capsys.readouterr().out
    assert main(["tasks", "CoLA-Arithmetic-v0"]) == 0
    assert "level: int" in capsys.readouterr().out
    assert "    group_size: int = 8" in (GRPO.__doc__ or "")


@pytest.mark.parametrize(
    ("task", "of_the_wrapped"),
    [
        ("CoLA-Thinking-v0", r"**Reward.** 1.0 if the integer in the last ``\boxed{...}`` is the answer"),
        ("CoLA-Countdown-Token-v0", r"**Reward.** 1.0 if the expression in the last ``\boxed{...}``"),
    ],
)
def test_a_task_around_another_is_described_with_it(task, of_the_wrapped, capsys):
    assert main(["tasks", task]) == 0
    said = capsys.readouterr().out
    for words in (
        f"{task}: ",
        "**Prompt.** ``Use <think></think> and <answer></answer>.``",
        "**Reward.** ``format_weight`` if the whole segment matches",
        of_the_wrapped,
        "  split: Split = 'train'",
    ):
        assert words in said
    assert "a task that ends after one segment; its" not in said, "the task that is wrapped is no argument"
    assert not re.search(r":\w+:`", said), "a role of Sphinx"


@pytest.mark.parametrize("level", ["", "-Token"])
def test_the_description_of_a_task_has_its_token_budget_and_where_other_arguments_are(level, capsys):
    said = {}
    for name in ("CoLA-Arithmetic", "CoLA-ScienceWorld", "CoLA-Preference"):
        assert main(["tasks", f"{name}{level}-v0"]) == 0
        said[name] = capsys.readouterr().out
        assert "Arguments of every environment: docs/environments.md" in said[name]
    assert "Token budget of an episode: 48, unless max_tokens is given." in said["CoLA-Arithmetic"]
    assert "Token budget of an episode: 1024, " in said["CoLA-ScienceWorld"]
    assert "on_task_error='truncate'" in said["CoLA-ScienceWorld"]
    assert "on_task_error='raise'" in said["CoLA-Preference"]


def test_the_description_of_a_task_names_nothing_that_a_terminal_cannot_follow(capsys):
    unknown = ("(see ``set_hash``)", "``ALL_KINDS``", "``SIMPLIFICATIONS``", "``Score``", "``Order``")
    for spec in list(registry.values()):
        if str(spec.kwargs.get("builder", "")).startswith("cola_envs."):
            assert main(["tasks", spec.id]) == 0
            said = capsys.readouterr().out
            assert not [name for name in unknown if name in said], spec.id


def test_every_command_says_what_it_does_and_what_each_option_means():
    for parser in leaf_parsers(make_parser()):
        assert parser.description, parser.prog
        assert not [action for action in parser._actions if not action.help], parser.prog


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("world", {"lr": "0.003; paper: 0.0001", "seed": "0; paper: 42", "num_policy_layers": "1; paper: 8"}),
        ("policy", {"steps": "805; paper: 610352", "micro_rows": "all; paper: 4"}),
        ("policy", {"warmup": "50; paper: 100; at most an eighth of all steps"}),
        ("fta", {"steps": "200; paper: none, give --epochs 1", "warmup": "3 % of all steps"}),
        ("base", {"steps": "12000"}),
    ],
)
def test_the_help_of_a_stage_has_the_defaults_of_its_preset(stage, expected):
    (parser,) = (one for one in leaf_parsers(make_parser()) if one.prog == f"cola pretrain {stage}")
    assert parser.format_help() == parser.format_help()
    said = " ".join(parser.format_help().split())
    for dest, default in expected.items():
        (flag, *_), text = next(
            (action.option_strings, action.help or "") for action in parser._actions if action.dest == dest
        )
        plain = text.replace("%%", "%")
        assert plain.endswith(f"(default: {default})"), flag
        assert plain in said, flag


def test_every_command_has_an_example_and_every_example_is_shown():
    parsers = {parser.prog.split()[-1]: parser for parser in leaf_parsers(make_parser())}
    assert set(parsers) == set(EXAMPLES)
    for name, parser in parsers.items():
        assert f"example: {EXAMPLES[name]}" in (parser.epilog or ""), name
        assert f"cola {EXAMPLES[name].removeprefix('cola ')}".startswith(parser.prog), name


def test_the_help_of_the_stage_q_has_the_defaults_of_its_config(monkeypatch, capsys):
    other = dataclasses.make_dataclass(
        "Other", [("steps", int, 11), ("batch_size", int, 22), ("lr", float, 0.33), ("seed", int, 0)]
    )
    for config in (QConfig, other):
        monkeypatch.setattr("cola_agents.train.options.QConfig", config)
        with pytest.raises(SystemExit, match="0"):
            main(["pretrain", "q", "--help"])
        said = " ".join(capsys.readouterr().out.split())
        for words, value in (
            ("optimiser steps", config().steps),
            ("recorded episodes of a step", config().batch_size),
            ("learning rate", config().lr),
            ("seed of the order of the episodes", config().seed),
            ("discount per action", 0.99),
        ):
            assert f"{words} (default: {value})" in said


_SMALL = shlex.split("--timesteps 8 --episodes 2 --num-envs 2 --quiet --set group_size=2 --set prompts=2")


def _own_module(folder, monkeypatch):
    """A module in the working directory with a task that it registers."""
    monkeypatch.chdir(folder)
    name = f"own_{folder.name.replace('-', '_')}"
    (folder / f"{name}.py").write_text(
        "import cola_envs\n"
        "class Dots:\n"
        "    'Write full stops.'\n"
        "    stop = ('.',)\n"
        "    def __init__(self, turns=1):\n"
        "        self.turns = turns\n"
        "    def reset(self, rng):\n"
        "        return 'Write:'\n"
        "    def step(self, text):\n"
        "        return cola_envs.Turn(reward=float('.' in text), done=True)\n"
        f"cola_envs.register_task('{name}', '{name}:Dots', max_tokens=4)\n"
    )
    return name


def test_an_id_that_a_module_in_the_working_directory_registers_is_a_task(tmp_path, monkeypatch, capsys):
    name = _own_module(tmp_path, monkeypatch)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path not in ("", str(tmp_path))])
    task = f"{name}:CoLA-{name}-v0"
    for described in (task, f"{name}:Dots"):
        assert main(["tasks", described]) == 0
        said = capsys.readouterr().out
        assert "Write full stops." in said
        assert ("turns=1" in said) == (described == task)
    assert main(["train", "--task", task, "--algo", "grpo", "--out", "run", *_SMALL]) == 0
    assert main(["eval", "--agent", "run", "--episodes", "2"]) == 0
    assert task in capsys.readouterr().out
    assert main(["eval", "--task", f"CoLA-{name}x-v0", "--episodes", "2"]) == 2
    assert f"my_module:CoLA-{name}x-v0" in capsys.readouterr().err


def test_a_run_and_a_recording_of_a_task_by_its_class_are_looked_at_with_the_class(tmp_path, monkeypatch):
    name = _own_module(tmp_path, monkeypatch)
    own = ["--task", f"{name}:Dots", "--env", "max_tokens=4"]
    assert main(["train", *own, "--algo", "grpo", "--out", "run", *_SMALL]) == 0
    assert main(["generate", *own, "--problems", "2", "--out", "tries.jsonl"]) == 0
    sizes = shlex.split("--episodes 1 --positions 1 --simulations 0 --tokens 0")
    for what in ("run", "tries.jsonl"):
        assert main(["look", what, "--task", f"{name}:Dots", *sizes, "--out", f"{what}.html"]) == 0
        assert (tmp_path / f"{what}.html").stat().st_size > 10_000


def test_the_bundled_model_by_its_name_is_pointed_to_the_command_without_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["look", "cola"]) == 2
    assert "leave it out for the bundled model" in capsys.readouterr().err


def test_an_evaluation_shows_an_answer_and_writes_its_report_to_a_file(tmp_path, capsys):
    out = tmp_path / "report.json"
    assert main(["eval", "--task", "CoLA-Arithmetic-v0", "--episodes", "2", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    said = capsys.readouterr().out
    assert f"one answer: {report['example']}" in said
    assert "{" not in said.split("one answer")[0]


def test_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "cola_agents.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert "demo" in done.stdout


def test_eval_plays_every_problem_of_a_test_set_once(tmp_path, capsys):
    rows = [{**item, "unique_id": f"own/{i}"} for i, item in enumerate(substitute.test_items()[:9])]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    argv = ["eval", "--task", "CoLA-Math500-v0", "--problems", str(tmp_path / "own.jsonl")]
    assert main([*argv, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["episodes"], report["distinct_problems"]) == (9, 9)
    assert report["dataset"] == "own.jsonl"
    assert report["split"] is None


def test_policy_stage_refuses_a_base(capsys):
    base = str(BUNDLED / "base")
    assert main(["pretrain", "policy", "--source", base, "--out", "unused", "--steps", "1"]) == 2
    assert "cola pretrain world" in capsys.readouterr().err


def test_evaluation_takes_problems_from_an_iterator():
    problems = iter([{**item, "unique_id": f"own/{i}"} for i, item in enumerate(substitute.test_items()[:3])])
    report = evaluate("CoLA-Math500-v0", env_kwargs={"problems": problems, "max_tokens": 4})
    assert report["distinct_problems"] == 3


def test_the_command_is_also_a_module():
    ran = subprocess.run(
        [sys.executable, "-m", "cola_agents", "look", "--help"], capture_output=True, text=True
    )
    assert ran.returncode == 0
    assert ran.stdout.startswith("usage: cola look")


def test_a_page_is_not_written_over_a_folder_and_nothing_is_played_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cola_agents.evaluation.look.sources.look", lambda *a, **k: pytest.fail("played"))
    assert main(["look", "--out", str(tmp_path)]) == 2
    assert f"--out {tmp_path} is a folder: name the HTML file" in capsys.readouterr().err


def test_a_report_of_a_task_has_its_mean_reward(capsys):
    assert main(["eval", "--task", "CoLA-Arithmetic-v0", "--episodes", "4"]) == 0
    assert "mean reward " in capsys.readouterr().out
