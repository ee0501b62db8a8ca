"""Two processes train what one does: DDP and FSDP over gloo, on a CPU."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cola_agents.common.processes import Workers, check_kind
from tests.train.training_runs import Stopped, config, run

ROOT = Path(__file__).parents[2]
# The world stage has a marginal regulariser of weight 0.5, which is a function of the global batch.
RUNS: list[dict[str, Any]] = [{"stage": "world"}, {"stage": "policy"}, {"stage": "world", "micro_rows": 1}]


def two_processes(out: Path, runs: list[dict[str, Any]], *options: str, timeout: float = 150) -> list[Any]:
    """Records and weights of runs in two processes; whatever happens, none of them is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_addr", "127.0.0.1", "--master_port", str(port), "-m", "tests.train.training_runs"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")}
    process = subprocess.Popen(
        [*command, str(out), *options, *(json.dumps(one, default=str) for one in runs)],
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            # The launcher ends its processes, which are in groups of their own, before itself.
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    assert process.returncode == 0, output[-5000:]
    results = []
    for number in range(len(runs)):
        report = json.loads((out / f"{number}.json").read_text())
        assert report["processes"] == 2
        assert report["sharded"] == ("fsdp" in options)
        results.append((torch.load(out / f"{number}.pt", weights_only=True), report["records"]))
    return results


def assert_same_training(result: Any, expected: Any) -> None:
    """Weights, and every figure of every record, within 1e-4."""
    weights, records = result
    model, wanted = expected
    assert len(records) == len(wanted)
    for one, two in zip(records, wanted, strict=True):
        assert one == pytest.approx(two, abs=1e-4)
    state = model.state_dict()
    assert set(weights) == set(state)
    for name, tensor in state.items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-4, rtol=0, msg=name)


def half_done(folder: Path) -> dict[str, Any]:
    """A world stage that one process left after 4 of 8 steps, to be resumed."""
    arguments: dict[str, Any] = {
        "stage": "world",
        "save_every": 2,
        "log": folder / "log.jsonl",
        "checkpoints": folder / "steps",
    }
    with pytest.raises(Stopped):
        run(**arguments, stop=4)
    return arguments


@pytest.fixture(scope="module")
def alone() -> list[Any]:
    """The same runs in this process."""
    return [run("world"), run("policy")]


@pytest.mark.parametrize("options", [(), ("fsdp",)], ids=["ddp", "fsdp"])
def test_two_processes_train_what_one_does(options, alone, tmp_path):
    """Two stages, gradient accumulation, and a run that one process began and one process then finishes."""
    left = half_done(tmp_path / "left")
    results = two_processes(tmp_path, [*RUNS, left], *options)
    world, policy = alone
    for result, expected in zip(results, (world, policy, world, world), strict=True):
        assert_same_training(result, expected)
    log = [json.loads(line)["step"] for line in (tmp_path / "left" / "log.jsonl").read_text().splitlines()]
    assert log == list(range(1, 9)), "one process alone writes, and nothing twice"
    # What two processes have written one can read.
    model, records = run(**left)
    assert records == results[3][1]
    assert all(torch.equal(results[3][0][name], tensor) for name, tensor in model.state_dict().items())


def test_rows_are_for_all_processes(monkeypatch):
    from cola_agents.train.learner import Cut

    class Three:
        rank, size = 1, 3

    workers: Any = Three()
    message = "rows=8 do not divide into micro-batches of micro_rows=2 for each of 3 processes.*multiple of 6"
    with pytest.raises(ValueError, match=message):
        Cut(config(rows=8), workers)
    with pytest.raises(ValueError, match="multiple of 12"):
        Cut(config(rows=20, micro_rows=4), workers)
    assert Cut(config(rows=12, micro_rows=2), workers).own == [range(2, 4), range(8, 10)]
    assert Cut(config(rows=12), workers).own == [range(4, 8)]


def test_processes_that_read_different_batches_are_noticed(monkeypatch):
    # What another process adds: a share as if its batch had other targets.
    monkeypatch.setattr(Workers, "sum", lambda self, values: 1.01 * values)
    with pytest.raises(ValueError, match="policy: the processes read different batches at step 1"):
        run("policy", steps=1)


def test_several_processes_need_accelerate(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"pip install 'cola-rl\[train\]'"):
        Workers()


def test_one_process_trains_without_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    _, records = run("policy", steps=1)
    assert len(records) == 1


def test_a_launcher_that_started_fewer_processes_than_asked_for_is_noticed(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(ValueError, match=r"was to start several processes and started one.*torchrun"):
        Workers()
    monkeypatch.delenv("MASTER_PORT")
    assert Workers().size == 1


def test_another_precision_of_accelerates_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="mixed precision 'bf16' and the stage for precision 'float32'"):
        Workers("float32")


@pytest.mark.parametrize(
    ("kind", "fsdp2", "sharded", "message"),
    [
        ("MULTI_CPU", False, True, "no FSDP on a CPU"),
        ("FSDP", False, True, "FSDP of version 1; supported are .* fsdp_version: 2"),
        ("DEEPSPEED", False, False, "configured for DEEPSPEED"),
        ("NO", False, False, "configured for NO"),
    ],
)
def test_a_way_to_join_processes_that_is_not_supported_is_refused(kind, fsdp2, sharded, message):
    with pytest.raises(ValueError, match=message):
        check_kind(kind, fsdp2, sharded)
    check_kind("MULTI_GPU", False, False)
    check_kind("FSDP", True, True)
