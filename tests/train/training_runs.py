"""Tiny training stages for the tests.

``torchrun --nproc_per_node 2 -m tests.train.training_runs OUT [fsdp] RUN...`` trains each run, the arguments
of :func:`run` in JSON, in two processes, and leaves its records and weights in ``OUT``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from cola_agents.common.processes import whole_state
from cola_agents.model.text import PlainTokenizer
from cola_agents.train.base import pretrain_base
from cola_agents.train.bundled.corpus import documents
from cola_agents.train.clone import clone_policy
from cola_agents.train.data.packing import Batch, packed_batches
from cola_agents.train.options import CodeConfig, StageConfig
from cola_agents.train.world import pretrain_world
from tests import tiny

SHAPE: dict[str, Any] = {"rows": 4, "length": 64}


class Stopped(Exception):
    """Simulates a crash."""


class Batches:
    """Resumable batches of the generated corpus; their position is the number of batches drawn.

    Args:
        stop: raise :class:`Stopped` in place of batch number ``stop``, counted from 0.
    """

    def __init__(self, stop: int | None = None) -> None:
        self._stop, self._drawn = stop, 0
        self._stream = self._open()

    def _open(self) -> Iterator[Batch]:
        return iter(packed_batches(documents(0), PlainTokenizer(tiny.make_tokenizer()), **SHAPE))

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        if self._drawn == self._stop:
            raise Stopped
        self._drawn += 1
        return next(self._stream)

    def state_dict(self) -> dict[str, int]:
        return {"drawn": self._drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._stream, self._drawn = self._open(), state["drawn"]
        for _ in range(self._drawn):
            next(self._stream)


def config(**changed: Any) -> StageConfig:
    return StageConfig(
        **{"steps": 8, **SHAPE, "lr": 1e-3, "warmup": 2, "log_every": 1, "tensorboard": False, **changed}
    )


def timeless(records: list[dict[str, float]]) -> list[dict[str, float]]:
    """Records without their CPU time."""
    return [{name: value for name, value in record.items() if name != "cpu_s"} for record in records]


def run(
    stage: str,
    *,
    batches: Any = None,
    stop: int | None = None,
    dtype: str = "float32",
    log: Path | None = None,
    checkpoints: Path | None = None,
    codes: CodeConfig | None = None,
    **changed: Any,
) -> tuple[Any, list[dict[str, float]]]:
    """One stage of a tiny model: the trained model and its records.

    Args:
        stage: ``"base"``, ``"world"`` (with a marginal regulariser that matters) or ``"policy"``.
        batches: in place of :class:`Batches`.
        stop: argument of :class:`Batches`.
        dtype: type of the weights.
        changed: fields of the configuration.
    """
    kwargs: dict[str, Any] = {"log": log, "checkpoints": checkpoints}
    model: Any = tiny.make_base() if stage == "base" else tiny.make_cola("normed_difference")
    if stage == "world":
        kwargs["codes"] = codes or CodeConfig(marginal=0.5)
    train: Any = {"base": pretrain_base, "world": pretrain_world, "policy": clone_policy}[stage]
    records = train(model.to(getattr(torch, dtype)), batches or Batches(stop), config(**changed), **kwargs)
    return model, timeless(records)


def shard_on_the_cpu() -> None:
    """Make accelerate's FSDP available on a CPU, where accelerate ignores its configuration.

    Apart from that, accelerate and torch run the code that a GPU would run, with gloo in place of NCCL.
    """
    import accelerate
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    class Sharding(accelerate.Accelerator):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.state.distributed_type = DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.state.fsdp_plugin = FullyShardedDataParallelPlugin(
                fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
            )

    accelerate.Accelerator = Sharding  # type: ignore[misc]


def main(out: Path, runs: list[str]) -> None:
    if runs[0] == "fsdp":
        shard_on_the_cpu()
        runs = runs[1:]
    for number, text in enumerate(runs):
        arguments = json.loads(text)
        for name in ("log", "checkpoints"):
            if name in arguments:
                arguments[name] = Path(arguments[name])
        model, records = run(**arguments)
        sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
        state = whole_state(model)
        if state:
            torch.save(state, out / f"{number}.pt")
            report = {"records": records, "sharded": sharded, "processes": torch.distributed.get_world_size()}
            (out / f"{number}.json").write_text(json.dumps(report))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
    # All is written. Threads of gloo can abort an interpreter that shuts down, which is not what is tested.
    sys.stdout.flush()
    os._exit(0)
