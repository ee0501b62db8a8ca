"""The benchmarks run at a small size and write what their tables need; nothing here is timed."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.speed import BareLoop, record_passes
from cola_agents.backbones import make_backbone
from cola_agents.provenance import _command


def test_speed_writes_every_figure(tmp_path, capsys):
    out = tmp_path / "speed.json"
    assert (
        main(
            [
                "speed",
                "--rows",
                "2",
                "--steps",
                "30",
                "--repeats",
                "1",
                "--long-steps",
                "100",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    results = json.loads(out.read_text())
    (stepping,) = results["stepping"]
    assert set(stepping["steps_per_cpu_s"]) == {"env", "bare_loop", "sb3_vec_env"}
    assert stepping["env_of_bare_loop"] > 0
    assert results["sb3"]["collect_of_plain_stepping"] > 0
    assert len(results["long_run"]["cpu_ms_per_step"]) == 10


def test_bare_loop_makes_the_recorded_passes():
    backbone = make_backbone(level="latent")
    recorded = [(2, 1), (1, 14), (2, 1), (2, 1)]
    loop = BareLoop(backbone.model, 2, recorded)
    seen = []
    hook = backbone.model.base.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(args[0].shape)), with_kwargs=True
    )
    loop.run()
    hook.remove()
    assert seen[1:] == recorded  # the first is the prompt that the loop starts from


def test_record_passes_sees_every_forward_of_a_session():
    session = make_backbone(level="latent").session(2)
    passes = record_passes(lambda: (session.load([0, 1], [[5, 6], [5, 6]]), session.extend([0], [[7]])))
    assert passes == [(2, 2), (1, 1)]


def test_tune_writes_runs_and_prints_the_table(tmp_path, capsys):
    out = tmp_path / "tune.json"
    argv = ["tune", "--updates", "1", "--episodes", "4", "--lr", "1e-3", "--kl", "0.1", "--seeds", "7"]
    assert main([*argv, "--out", str(out)]) == 0
    assert {run["arm"] for run in json.loads(out.read_text())["runs"]} == {"latent", "token"}
    assert "| latent | 0.001 | 0.1 | never |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/somewhere/bin/cola", "demo", "--seeds", "3"], "cola demo --seeds 3"),
        (
            ["/a/benchmarks/__main__.py", "tune", "--out", "/b/c.json"],
            "python -m benchmarks tune --out c.json",
        ),
    ],
)
def test_recorded_command_holds_no_path_of_the_machine(argv, command):
    assert _command(argv) == command
