"""The benchmarks run at a small size and write what their tables need; nothing here is timed."""

import dataclasses
import json

import pytest
import torch

from benchmarks import held_runs, models
from benchmarks.__main__ import main
from benchmarks.compare import campaign
from benchmarks.speed import decoding, growth, limits, shapes
from benchmarks.speed.limits import Cost, Machine, decode_cost, measure_machine
from benchmarks.speed.shapes import SHAPES, measure_shapes, shapes_table
from benchmarks.speed.speed import BareLoop, record_passes
from benchmarks.written import in_steps
from cola_agents.common.provenance import command_line
from cola_agents.decoding import follower, kv, session
from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.decoding.loading import make_backbone
from tests import tiny


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
                "--decode-tokens",
                "3",
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
    assert {part["model"] for part in results["decoding"]} == set(decoding.MODELS)
    for part in results["decoding"]:
        assert set(part["cpu_ms_per_step"]) == set(part["wall_ms_per_step"]) == CONTENDERS
        assert set(part["limits"]) == {"base", "base_static", "cola", "cola_static"}
        assert set(part["same_tokens"].values()) == {1.0}, "contenders of one model said different things"
    assert "| bundled | 2 |" in capsys.readouterr().out


def test_readouts_writes_how_far_each_is_from_the_base(tmp_path, capsys):
    out = tmp_path / "readouts.json"
    assert main(["readouts", "--tokens", "128", "--out", str(out)]) == 0
    results = json.loads(out.read_text())
    assert results["state"]["zero"] == results["base"], "new merge layers add nothing"
    assert abs(results["normed_difference"]["zero"] - results["base"]) < 0.1
    assert results["difference"]["zero"] != results["difference"]["drawn"]
    assert "| state | " in capsys.readouterr().out


def test_written_tells_answers_in_steps_from_others(tmp_path, capsys):
    out = tmp_path / "written.json"
    assert main(["written", "--episodes", "64", "--out", str(out)]) == 0
    found = json.loads(out.read_text())["policies"]
    for policy in found.values():
        share = policy["in_steps"]
        parts = [(share, policy["reward_in_steps"]), (1 - share, policy["reward_of_others"])]
        assert sum(weight * (mean or 0) for weight, mean in parts) == pytest.approx(
            policy["reward"], abs=2e-4
        )
    assert found["one constant code"]["in_steps"] > found["cloned policy, sampled"]["in_steps"]
    assert found["cloned policy, greedy"]["in_steps"] < found["cloned policy, sampled"]["in_steps"]
    assert "| random codes |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (" 10+2=12, 12/6=2, so \\boxed{2}.", True),
        (" \\boxed{2}.", False),
        (" so \\boxed{x=2}", False),
        ("", False),
    ],
)
def test_an_answer_is_in_steps_if_a_calculation_is_in_front_of_its_box(text, steps):
    assert in_steps(text) is steps


CONTENDERS = {
    "base",
    "cola",
    "base_static",
    "cola_static",
    "transformers_loop",
    "transformers_generate",
}


def test_nothing_reads_a_prompt_after_the_clock_has_started(tiny_cola, monkeypatch):
    widths = []

    def recording(stack, kv, chunk, **inputs):
        widths.append(max(chunk.widths))
        return run_rows(stack, kv, chunk, **inputs)

    run_rows = kv.run_rows
    for module in (session, follower):
        monkeypatch.setattr(module, "run_rows", recording)
    latent = LatentBackbone(tiny_cola, decoding.Numbers(tiny_cola.config.vocab_size))
    run = decoding.stepping(latent, [[3, 4, 5], [5, 4, 3]], 4)
    assert widths == [3, 3], "base and policy"
    del widths[:]
    run()
    assert widths
    assert set(widths) == {1}


def test_growth_measures_every_axis_and_draws_it(tmp_path, monkeypatch, capsys):
    few = {name: values[:2] for name, values in growth.AXES.items()}
    monkeypatch.setattr(growth, "AXES", few)
    out = tmp_path / "growth.json"
    assert main(["growth", "--tokens", "1", "--repeats", "1", "--out", str(out)]) == 0
    held = json.loads(out.read_text())
    assert held["axes"].keys() == few.keys() == held["centre"].keys()
    for axis, points in held["axes"].items():
        assert [at[axis] for at in points] == list(few[axis])
        assert all(at["cpu_ms_per_step"].keys() == set(growth.CONTENDERS) for at in points)
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    assert "| codes | 64 | " in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    ["growth --tokens 0", "speed --repeats 0", "stability --every 0", "peers --tokens -3"],
)
def test_a_count_below_one_is_refused_before_anything_runs(command, capsys):
    with pytest.raises(SystemExit):
        main(command.split())
    assert f"must be at least 1, got {command.split()[-1]}" in capsys.readouterr().err


def test_decoding_compares_over_the_very_same_weights(tiny_cola):
    whole = decoding.causal_lm(tiny_cola)
    assert whole.model is tiny_cola.base
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        expected = tiny_cola.lm_head(tiny_cola.hidden(ids))
        torch.testing.assert_close(whole(ids).logits, expected)
    assert not any(p.is_meta for p in whole.parameters())


# ------------------------------------------------------------------ bytes, operations, limits


def config_of(**changed):
    """A shape small enough to count by hand; K = 2, Q = 4."""
    text = {"hidden_size": 4, "intermediate_size": 6, "num_attention_heads": 2, "num_key_value_heads": 1}
    base = tiny.make_base(**text, num_hidden_layers=3, vocab_size=10)
    return tiny.make_cola(base=base, num_codes=8, num_policy_layers=1, num_merge_layers=2, **changed)


def test_cost_of_a_step_equals_what_is_counted_by_hand():
    config = config_of().config
    given = {"rows": 2, "context": 5, "element_size": 4}
    # A layer: 2 * 4 * 4 + 2 * 4 * 2 + 3 * 4 * 6 = 120. Base: 3 * 120 + 4 * 10 = 400.
    assert decode_cost(config, **given, latent=False) == Cost(
        weight_bytes=400 * 4, kv_bytes=2 * 5 * 3 * 4 * 4, table_bytes=0, flops=2 * (800 + 5 * 3 * 16)
    )
    # And the policy's layer, its head 4 * 8, and two merge layers of 3 * 4 * 6.
    assert decode_cost(config, **given, latent=True) == Cost(
        weight_bytes=(400 + 120 + 32 + 144) * 4,
        kv_bytes=2 * 5 * 4 * 4 * 4,
        table_bytes=2 * 2 * 12 * 4,
        flops=2 * (1392 + 5 * 4 * 16),
    )
    without = decode_cost(config, **given, latent=True, table=False)
    assert without.weight_bytes == (400 + 120 + 32 + 240) * 4
    assert without.table_bytes == 0


def test_weights_that_are_counted_are_those_of_the_modules():
    model = config_of()
    given = {"rows": 1, "context": 0, "element_size": 1}
    matrices = [model.base.layers, model.lm_head]
    for latent, parts in (
        (False, matrices),
        (True, [*matrices, model.policy_trunk, model.policy_head, model.merge]),
    ):
        held = sum(p.numel() for part in parts for p in part.parameters() if p.dim() == 2)
        cost = decode_cost(model.config, **given, latent=latent, table=False)
        assert cost.weight_bytes == held


def test_8b_shapes_have_the_floor_that_the_paper_allows():
    config = SHAPES["8b"].config()
    given = {"rows": 1, "context": 0, "element_size": 2}
    base, looked_up, merged = (
        decode_cost(config, **given, latent=latent, table=table).weight_bytes
        for latent, table in ((False, True), (True, True), (True, False))
    )
    assert base == 2 * 7_504_658_432  # Llama-3.1-8B's 8.03 billion without embedding and norms
    assert looked_up / base == pytest.approx(1.28, abs=0.005)
    assert merged / base == pytest.approx(1.31, abs=0.005)


def test_a_step_is_bound_by_the_slower_of_moving_and_computing():
    machine = Machine(copy_bandwidth=100.0, matmul_rate=10.0)
    moving, computing = Cost(150, 40, 10, 4), Cost(100, 0, 0, 40)
    assert machine.least_seconds(moving) == 2.0
    assert machine.least_seconds(computing) == 4.0
    assert machine.described(moving, 4.0)["of_limit"] == 0.5
    assert machine.described(moving, 4.0)["bound_by"] == "bandwidth"
    described = machine.described(computing, 5.0)
    assert (described["of_limit"], described["of_copy_bandwidth"]) == (0.8, 0.2)
    assert described["bound_by"] == "arithmetic"


def test_the_machine_is_measured_in_bytes_moved_and_operations(monkeypatch):
    seconds = iter([[0.5, 0.25], [0.125]])
    monkeypatch.setattr(limits, "seconds_of", lambda *_: next(seconds))
    machine = measure_machine(torch.device("cpu"), torch.float32, copy_bytes=2**22, matmul_size=8)
    assert machine == Machine(copy_bandwidth=4 * 2 * 2**22 / 0.25, matmul_rate=2 * 8**3 / 0.125)


# ------------------------------------------------------------------ shapes

TINY = dataclasses.replace(
    SHAPES["small"],
    text={
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    },
    prompt=6,
    tokens=3,
    episodes=4,
    length=8,
    rows=(1, 3),
    copy_bytes=2**16,
    matmul_size=16,
)
PARTS = ["machine", "model", "decode 1", "decode 3", "update latent", "update token"]


def test_shapes_measures_every_part_and_judges_every_target():
    saved = []
    results = measure_shapes(
        TINY, device="cpu", repeats=1, save=lambda found: saved.append(list(found["parts"]))
    )
    assert list(results["parts"]) == PARTS
    assert saved == [PARTS[: n + 1] for n in range(len(PARTS))] + [PARTS]
    assert (results["device"], results["shape"]) == ("cpu", "another")
    assert "NOT 8B" in results["note"]
    assert (
        results["parts"]["update latent"]["trained_parameters"]
        < (results["parts"]["update token"]["trained_parameters"])
    )
    assert len(results["targets"]) == 6
    assert all(t["met"] in (True, False) for t in results["targets"] if t["measured"] is not None)
    assert "| CoLA decoding at most 1.33 times base-only, 3 rows |" in shapes_table(results)
    json.dumps(results)


def test_a_part_without_memory_is_recorded_and_the_rest_is_kept(monkeypatch):
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    monkeypatch.setattr(shapes, "update_token", fails)
    results = measure_shapes(TINY, device="cpu", repeats=1)
    assert results["parts"]["update token"]["out_of_memory"].endswith("Tried to allocate 2 GiB.")
    assert results["parts"]["update latent"]["seconds"] > 0
    assert [t["met"] for t in results["targets"]][-2:] == [None, None]
    assert "not measured" in shapes_table(results)
    monkeypatch.setattr(shapes, "random_model", fails)
    assert list(measure_shapes(TINY, device="cpu", repeats=1)["parts"]) == PARTS[:2]


def test_an_error_that_is_not_about_memory_is_not_hidden(monkeypatch):
    def fails(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(shapes, "decode", fails)
    with pytest.raises(RuntimeError, match="do not match"):
        measure_shapes(TINY, device="cpu", repeats=1)


def test_targets_are_met_at_the_border_and_missed_beyond():
    def parts(ratio, share, latent, token, held):
        decoded = {"cola_of_base": ratio, **{k: {"of_copy_bandwidth": share} for k in ("base", "cola")}}
        update = {"seconds": latent, "peak_memory_mib": held}
        return {
            "decode 1": decoded,
            "decode 3": decoded,
            "update latent": update,
            "update token": {"seconds": token, "peak_memory_mib": 100.0},
        }

    met = shapes.targets(parts(1.33, 0.7, 1.0, 3.0, 50.0), TINY)
    missed = shapes.targets(parts(1.34, 0.69, 1.0, 2.9, 51.0), TINY)
    assert [t["met"] for t in met] == [True] * 6
    assert [t["met"] for t in missed] == [False] * 6


def test_shapes_keeps_what_was_published_until_it_is_through(tmp_path, monkeypatch, capsys):
    out = tmp_path / "shapes.json"
    out.write_text("before")
    monkeypatch.setitem(SHAPES, "small", TINY)
    monkeypatch.setattr(shapes, "update_token", lambda *_: 1 / 0)
    argv = ["shapes", "--shape", "small", "--device", "cpu", "--repeats", "1", "--out", str(out)]
    with pytest.raises(ZeroDivisionError):
        main(argv)
    assert out.read_text() == "before"
    assert list(json.loads((tmp_path / "shapes.partial.json").read_text())["parts"]) == PARTS[:-1]
    monkeypatch.undo()
    monkeypatch.setitem(SHAPES, "small", TINY)
    main(argv)
    assert list(json.loads(out.read_text())["parts"]) == PARTS
    assert [path.name for path in tmp_path.iterdir()] == ["shapes.json"]
    assert "Device cpu, shape small: NOT 8B" in capsys.readouterr().out


def test_bare_loop_makes_the_recorded_passes():
    backbone = make_backbone(level="latent")
    recorded = [(2, 1), (1, 14), (2, 1), (2, 1)]
    loop = BareLoop(backbone.model, 2, recorded)
    seen = []
    hook = backbone.model.base.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(args[0].shape)), with_kwargs=True
    )
    run = loop.prepared()
    assert seen == [(2, 14)], "the rows' prompts, which are no part of what is timed"
    run()
    hook.remove()
    assert seen[1:] == recorded


def test_record_passes_sees_every_forward_of_a_session():
    session = make_backbone(level="latent").session(2)
    passes = record_passes(lambda: (session.load([0, 1], [[5, 6], [5, 6]]), session.extend([0], [[7]])))
    assert passes == [(2, 2), (1, 1)]


def test_a_result_file_goes_on_with_the_settings_that_it_was_begun_with(tmp_path):
    out, runs = tmp_path / "runs.json", [{"seed": 7}]
    assert held_runs(out, {"updates": 1}) == []
    out.write_text(json.dumps({"updates": 1, "runs": runs}))
    assert held_runs(out, {"updates": 1}) == runs
    with pytest.raises(ValueError, match="was begun with updates=1 and is now to go on with 2"):
        held_runs(out, {"updates": 2})
    with pytest.raises(ValueError, match="does not say its episodes"):
        held_runs(out, {"updates": 1, "episodes": 4})


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["compare", "--models", "none", "--out", "there"], "none has no model 0/base"),
        (["compare", "--models", "none", "--env", "level", "--out", "there"], "is no KEY=VALUE"),
        (["report", "none"], "config.json"),
    ],
)
def test_what_is_missing_is_said_in_a_line(argv, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("benchmarks: ")
    assert said in line


def test_a_comparison_passes_arguments_on_to_its_environments(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(campaign, "campaign", lambda plan, *_, **__: asked.append(plan.protocol.env_kwargs))
    monkeypatch.setattr("benchmarks.compare.report.write_report", lambda out: "")
    argv = ["compare", "--task", "Thinking", "--models", "m", "--env", "level=2", "--env", "stop=a b"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    assert asked == [{"level": 2, "stop": "a b"}]


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (
            ["/bin/cola", "eval", "--out=/home/me/x.json", "--env", "problems=/a/b/p.jsonl", "hub:/h/data"],
            "cola eval --out=x.json --env problems=p.jsonl hub:data",
        ),
        (
            ["/bin/cola", "eval", "--model", "https://a.org/b/c", "a/b"],
            "cola eval --model https://a.org/b/c a/b",
        ),
        (
            ["/bin/cola", "play", "--model", "/a/model/", "--env", "stop=/"],
            "cola play --model model/ --env stop=/",
        ),
        (["/somewhere/bin/cola", "demo", "--seeds", "3"], "cola demo --seeds 3"),
        (
            ["/a/benchmarks/__main__.py", "growth", "--out", "/b/c.json"],
            "python -m benchmarks growth --out c.json",
        ),
    ],
)
def test_recorded_command_holds_no_path_of_the_machine(argv, command):
    assert command_line(argv) == command


def test_the_models_of_the_bundled_recipe_are_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "train_bundled", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(models, "clone_ranks", lambda recipe, base, out: out.mkdir())
    folder = models.pretrain(0, 1.0, tmp_path)
    for name in ("base", "cola"):
        weights = (folder / name / "model.safetensors").read_bytes()
        assert weights == (models.BUNDLED / name / "model.safetensors").read_bytes()
    assert json.loads((folder / "recipe.json").read_text())["seed"] == 0
