"""A stage that stopped at any moment goes on as if it had not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cola_agents.train.checkpoints import Checkpoints, CheckpointWarning
from cola_agents.train.options import CodeConfig
from cola_agents.train.records import LogWarning, RecordLog, check_log, rewind
from tests import tiny
from tests.train.training_runs import Batches, Stopped, run, timeless

ROOT = Path(__file__).parents[2]
SHORT: dict[str, Any] = {"steps": 5, "save_every": 2}


def logged(log: Path) -> list[dict[str, float]]:
    return timeless([json.loads(line) for line in log.read_text().splitlines()])


def stopped(folder: Path, stop: int, stage: str = "world", **changed: Any) -> Path:
    """A run that stopped where it asked for batch number ``stop``; its folder of checkpoints."""
    with pytest.raises(Stopped):
        run(stage, stop=stop, log=folder / "log.jsonl", checkpoints=folder / "steps", **SHORT, **changed)
    return folder / "steps"


def resumed(folder: Path, stage: str = "world", **changed: Any) -> Any:
    return run(stage, log=folder / "log.jsonl", checkpoints=folder / "steps", **{**SHORT, **changed})


def assert_equal_runs(one: Any, two: Any) -> None:
    """Bit for bit: records and weights."""
    assert one[1] == two[1]
    for (name, tensor), other in zip(one[0].state_dict().items(), two[0].state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name


@pytest.fixture(scope="module")
def whole() -> Any:
    """The run that was never stopped, without checkpoints."""
    return run("world", **SHORT)


@pytest.mark.parametrize("stage", ["base", "world", "policy"])
@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_stage_equals_one_that_never_stopped(stage, stop, tmp_path):
    """Before the first checkpoint, and after one with a step that is lost and done again."""
    expected = run(stage, **SHORT)
    stopped(tmp_path, stop, stage)
    found = resumed(tmp_path, stage)
    assert_equal_runs(found, expected)
    records = logged(tmp_path / "log.jsonl")
    assert [record.pop("stage") for record in records] == [stage] * 5  # type: ignore[misc]
    assert records == expected[1], "no record twice, none lost"


def test_a_finished_stage_is_not_trained_again(whole, tmp_path):
    resumed(tmp_path)
    log = (tmp_path / "log.jsonl").read_bytes()
    found = resumed(tmp_path, batches=Batches(stop=0))
    assert_equal_runs(found, whole)
    assert (tmp_path / "log.jsonl").read_bytes() == log
    assert not found[0].training


def test_the_last_checkpoints_are_kept(tmp_path):
    resumed(tmp_path, save_every=1, keep=3)
    names = sorted(path.name for path in (tmp_path / "steps").iterdir())
    assert names == ["run.json", "step-00000003", "step-00000004", "step-00000005"]


def test_what_changes_no_result_may_change(whole, tmp_path):
    stopped(tmp_path, 3)
    _, records = resumed(
        tmp_path, micro_rows=2, gradient_checkpointing=True, save_every=1, keep=9, log_every=5
    )
    assert [record["step"] for record in records] == [1, 2, 5]
    assert records[-1] == pytest.approx(whole[1][-1], abs=1e-4)


# ------------------------------------------------------------------ killed

KILLED = """
import functools, os, signal, sys
from pathlib import Path
import torch, tqdm
torch.set_num_threads(1)
tqdm.tqdm.monitor_interval = 0
from tests.train import training_runs as t
import cola_agents.train.checkpoints as checkpoints

t.tiny.make_tokenizer = functools.cache(t.tiny.make_tokenizer)
next(t.Batches())
out = Path(sys.argv[1])
arguments = {"steps": 2, "save_every": 1, "keep": 1}


def train(folder, kill_at):
    # Calls that change what is on the disk, and the drawing of a batch; the process dies before call kill_at.
    calls = 0

    def deadly(function):
        def called(*args, **kwargs):
            nonlocal calls
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return function(*args, **kwargs)

        return called

    for module, name in ((os, "fsync"), (os, "replace"), (t.Batches, "__next__")):
        setattr(module, name, deadly(getattr(module, name)))
    checkpoints.write_tensors = deadly(checkpoints.write_tensors)
    model, records = t.run("policy", log=folder / "log.jsonl", checkpoints=folder / "steps", **arguments)
    torch.save({"weights": model.state_dict(), "records": records}, folder / "result.pt")


def child(folder, kill_at):
    pid = os.fork()
    if pid == 0:
        try:
            train(folder, kill_at)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    return status


kill_at = killed = 0
while True:
    folder = out / str(kill_at)
    folder.mkdir()
    status = child(folder, kill_at)
    if status == 0:
        break
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    assert child(folder, None) == 0, kill_at
    kill_at += 1
print(kill_at)
"""


def test_a_stage_killed_at_any_moment_goes_on_bit_for_bit(tmp_path):
    """SIGKILL before every call that changes the disk, in the middle of checkpoints too; then once more."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    points = int(done.stdout.split()[-1])
    assert points > 18
    # The last folder holds the run that outlived every kill.
    expected = torch.load(tmp_path / str(points) / "result.pt", weights_only=True)
    assert [record["step"] for record in expected["records"]] == [1, 2]
    for point in range(points):
        found = torch.load(tmp_path / str(point) / "result.pt", weights_only=True)
        assert found["records"] == expected["records"], point
        for name, tensor in expected["weights"].items():
            assert torch.equal(found["weights"][name], tensor), (point, name)
        assert [record["step"] for record in logged(tmp_path / str(point) / "log.jsonl")] == [1, 2], point
        left = sorted(path.name for path in (tmp_path / str(point) / "steps").iterdir())
        assert left == ["run.json", "step-00000002"], point


# ------------------------------------------------------------------ damaged

FILES = ("trained.safetensors", "optimiser.safetensors", "state.json")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink], ids=["truncated", "flipped", "missing"])
def test_a_damaged_checkpoint_falls_back_to_the_last_whole_one_and_says_so(
    damage, name, whole, made, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(made, folder)
    damage(folder / "steps" / "step-00000004" / name)
    with pytest.warns(CheckpointWarning) as given:
        found = resumed(folder)
    (message,) = [str(warning.message) for warning in given if warning.category is CheckpointWarning]
    assert "step-00000004 is damaged" in message
    assert "resumed from step-00000002" in message
    assert_equal_runs(found, whole)
    assert (folder / "steps" / "broken-0-step-00000004").is_dir(), "nothing is thrown away"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run with checkpoints of steps 2 and 4, of 5."""
    folder = tmp_path_factory.mktemp("made")
    stopped(folder, 4)
    return folder


def test_without_a_whole_checkpoint_nothing_begins_anew(made, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(made, folder)
    for step in (2, 4):
        truncate(folder / "steps" / f"step-0000000{step}" / "trained.safetensors")
    before = sorted(str(path) for path in folder.rglob("*"))
    with pytest.raises(
        ValueError, match=r"all checkpoints in .* are damaged: step-00000004: trained.*step-00000002"
    ):
        resumed(folder)
    assert sorted(str(path) for path in folder.rglob("*")) == before


OTHER_JSON = {
    "other types": '{"sha256": 1, "state": 1}',
    "a list as state": '{"sha256": "a", "state": []}',
    "a deep nest": "[" * 100_000,
    "a deep nest of objects": '{"a":' * 100_000,
    "null": "null",
    "a list": "[]",
    "a number": "1" * 5000,
    "text": '"state"',
    "zeros": "\0" * 200,
    "nothing": "",
    "NaN": "NaN",
    "a lone surrogate": '{"sha256": "a", "state": "\\ud800"}',
}


@pytest.fixture
def two_saved(tmp_path) -> Checkpoints:
    """Checkpoints of steps 1 and 2."""
    kept = Checkpoints(tmp_path / "steps", {"lr": 1}, 3)
    kept.begin(None)
    for step in (1, 2):
        kept.save(step, {"a": torch.ones(2)}, {"b": torch.ones(2)}, stream=None, records=[], cpu_s=0)
    return kept


@pytest.mark.parametrize("content", OTHER_JSON.values(), ids=OTHER_JSON)
def test_other_json_in_place_of_a_state_falls_back_and_names_the_file(content, two_saved):
    (two_saved.folder / "step-00000002" / "state.json").write_text(content)
    with pytest.warns(CheckpointWarning, match=r"step-00000002 is damaged .*state\.json"):
        saved = two_saved.newest()
    assert saved is not None
    assert saved.step == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"step": 3},
        {"step": True},
        {"step": None},
        {"step": 10**400},
        {"records": None},
        {"records": [None]},
        {"records": [{"step": "1"}]},
        {"cpu_s": float("nan")},
        {"cpu_s": 10**400},
        {"cpu_s": "0"},
        {"digests": {}},
        {"digests": {"../../secret": "a"}},
        {"digests": []},
    ],
    ids=str,
)
def test_a_state_of_another_form_falls_back_though_its_digest_is_right(changed, two_saved):
    path = two_saved.folder / "step-00000002" / "state.json"
    body = json.dumps(json.loads(json.loads(path.read_text())["state"]) | changed)
    path.write_text(json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "state": body}))
    with pytest.warns(CheckpointWarning, match=r"step-00000002 is damaged .*state\.json"):
        saved = two_saved.newest()
    assert saved is not None
    assert saved.step == 1


@pytest.mark.parametrize(
    "content",
    [
        *OTHER_JSON.values(),
        '{"settings": {"lr": 1}}',
        '{"settings": null, "log_size": 0}',
        '{"settings": {"lr": 1}, "log_size": "0"}',
        '{"settings": {"lr": 1}, "log_size": -1}',
    ],
)
def test_a_damaged_description_of_a_run_is_said_and_nothing_is_changed(content, two_saved):
    (two_saved.folder / "run.json").write_text(content)
    before = sorted(two_saved.folder.iterdir())
    for call in (two_saved.newest, lambda: two_saved.begin(None)):
        with pytest.raises(ValueError, match=r"run\.json is damaged .*restore the file from a copy"):
            call()
    assert sorted(two_saved.folder.iterdir()) == before


# ------------------------------------------------------------------ not the same run


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"lr": 2e-3}, "lr=0.001, and now it is 0.002"),
        ({"steps": 4}, "steps=5, and now it is 4"),
        ({"seed": 1}, "seed=0, and now it is 1"),
        ({"precision": "bf16"}, "precision='float32', and now it is 'bf16'"),
        ({"codes": CodeConfig(marginal=0.5, tau=2.0)}, r"codes\.tau=1\.0, and now it is 2\.0"),
        ({"stage": "policy"}, "stage='world', and now it is 'policy'"),
    ],
)
def test_a_run_with_other_settings_is_refused_and_named(made, tmp_path, changed, named):
    folder = tmp_path / "run"
    shutil.copytree(made, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=named):
        resumed(folder, **changed)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_another_base_is_noticed(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "run")
    other = tiny.make_base(5)
    monkeypatch.setattr(tiny, "make_base", lambda seed: other)
    with pytest.raises(ValueError, match="was begun with frozen weights="):
        resumed(tmp_path / "run")


def test_another_configuration_of_the_base_is_noticed_unless_the_run_did_not_write_it_down(
    made, tmp_path, monkeypatch
):
    shutil.copytree(made, tmp_path / "run")
    make_base = tiny.make_base
    monkeypatch.setattr(tiny, "make_base", lambda seed: make_base(seed, rms_norm_eps=1e-3))
    with pytest.raises(ValueError, match="was begun with configuration="):
        resumed(tmp_path / "run")
    (path,) = (tmp_path / "run").rglob("run.json")
    about = json.loads(path.read_text())
    del about["settings"]["configuration"]
    path.write_text(json.dumps(about))
    resumed(tmp_path / "run")


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(FileExistsError, match="holds something other than checkpoints"):
        run("policy", checkpoints=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_batches_without_a_place_cannot_be_resumed(tmp_path):
    with pytest.raises(
        ValueError, match=r"policy: checkpoints need batches that can be resumed; .*state_dict"
    ):
        run("policy", batches=iter([next(Batches())]), checkpoints=tmp_path / "steps")
    assert not list(tmp_path.iterdir())


def test_a_place_that_json_does_not_keep_is_refused(tmp_path):
    class Odd(Batches):
        def state_dict(self) -> Any:
            return {"drawn": (1, 2)}

    with pytest.raises(ValueError, match=r"the batches' state_dict\(\) must be JSON values"):
        run("policy", batches=Odd(), checkpoints=tmp_path / "steps")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ the log


def test_rewinding_a_log_takes_out_this_runs_later_records_alone(tmp_path):
    log = tmp_path / "log.jsonl"
    before = '{"stage": "world", "step": 9}\n'
    after = [
        '{"stage": "world", "step": 1}\n',
        '{"stage": "codebook", "step": 7}\n',
        '{"stage": "world", "step": 2}\n',
        '{"stage": "world", "st',
    ]
    log.write_text(before + "".join(after))
    rewind(log, "world", 1, len(before))
    assert log.read_text() == before + after[0] + after[1]
    log.with_name(".log.jsonl.new").write_text("what a kill left of an earlier rewinding")
    rewind(log, "world", 1, len(before))
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    rewind(tmp_path / "absent.jsonl", "world", 0, 0)
    assert not (tmp_path / "absent.jsonl").exists()


DAMAGED_LINES = {
    "zeros": b"\0" * 50 + b"\n",
    "zeros at the end": b"\0" * 50,
    "null": b"null\n",
    "a list": b"[1]\n",
    "cut": b'{"stage": "world", "st\n',
    "no UTF-8": b'{"stage": "\xff", "step": 1}\n',
    "no step": b'{"stage": "world"}\n',
    "no stage": b'{"step": 1}\n',
    "a step of text": b'{"stage": "world", "step": "1"}\n',
    "NaN": b'{"stage": "world", "step": NaN}\n',
    "a nest": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("raw", DAMAGED_LINES.values(), ids=DAMAGED_LINES)
def test_a_damaged_line_is_left_out_of_a_log_with_a_warning_that_names_it(raw, tmp_path):
    log = tmp_path / "log.jsonl"
    first, last = (b'{"stage": "world", "step": %d}\n' % step for step in (1, 2))
    content = first + raw + (last if raw.endswith(b"\n") else b"")
    log.write_bytes(content)
    with pytest.warns(LogWarning, match=r"log\.jsonl, line 2 .*kept as broken-0-log\.jsonl"):
        rewind(log, "world", 2, 0)
    assert log.read_bytes() == content.replace(raw, b"")
    assert (tmp_path / "broken-0-log.jsonl").read_bytes() == content, "nothing is thrown away"
    log.write_bytes(content)
    with pytest.warns(LogWarning, match=r"log\.jsonl, line 2 .*left as it is"):
        check_log(log)
    assert log.read_bytes() == content


def test_a_run_goes_on_though_its_log_is_damaged(whole, made, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(made, folder)
    log = folder / "log.jsonl"
    first, *others = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + b"\0" * 99 + b"\n" + b"".join(others))
    with pytest.warns(LogWarning, match=r"log\.jsonl, line 2"):
        found = resumed(folder)
    assert_equal_runs(found, whole)
    assert [record["step"] for record in logged(log)] == [1, 2, 3, 4, 5]


def test_tensorboard_has_every_step_and_keeps_other_stages(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RecordLog("other", tmp_path / "log.jsonl", True) as other:
        other.write({"step": 5, "loss": 1.5})
    stopped(tmp_path, 3, tensorboard=True)
    resumed(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("other/loss")] == [(5, 1.5)]
    found = {(event.step, event.value) for event in events.Scalars("world/loss")}
    expected = [(record["step"], record["loss"]) for record in logged(tmp_path / "log.jsonl")[1:]]
    assert sorted(found) == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in expected]
