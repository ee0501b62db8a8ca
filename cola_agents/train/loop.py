"""The training loop of every stage, in one process or in several."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from cola_agents.common.processes import Workers
from cola_agents.train.checkpoints import Checkpoints, Saved
from cola_agents.train.data.packing import Batch
from cola_agents.train.learner import Cut, Learner
from cola_agents.train.records import RecordLog, rewind
from cola_agents.train.stage import StageConfig, StageLoss
from cola_envs.jsonl import JsonObject

__all__ = ["StageConfig", "StageLoss", "run_stage"]

#: Fields of the configuration that change nothing but the order of additions.
_FREE = frozenset(("log_every", "tensorboard", "micro_rows", "gradient_checkpointing", "save_every", "keep"))


def run_stage(
    name: str,
    objective: StageLoss,
    trained: list[nn.Parameter],
    batches: Iterator[Batch],
    config: StageConfig,
    *,
    log: Path | None = None,
    watch: Callable[[dict[str, float]], None] | None = None,
    checkpoints: Path | None = None,
) -> list[dict[str, float]]:
    """Train a stage and return its log records.

    Row n of step s has its own random generator, seeded by (seed, s, n), and the weight of a micro-batch is
    its share of the counted targets. So one process, gradient accumulation and N processes (``accelerate
    launch``, ``torchrun``) compute the same up to the order of additions; only dropout, which no supported
    family has by default, depends on the split. Process r of N takes micro-batches r, r + N, and so on of
    every step. Every process reads, tokenises and packs the whole stream and skips the rows of the others,
    which limits the speed where packing a global batch takes longer than training on a share of it.

    With ``checkpoints``, calling this again after a stop at any moment resumes from the last whole
    checkpoint: in one process on one thread of a CPU, bit for bit as without the stop. The number of
    processes and settings that do not change the result may differ. All processes must see the folder.

    Args:
        name: shown in the progress bar and in the records.
        objective: the loss, with the model. Modules with trained parameters are in training mode during the
            loop; all modules are in evaluation mode afterwards. Under FSDP the weights stay sharded: see
            :func:`cola_agents.common.processes.whole_state`.
        trained: the trained parameters: all of the objective's that require gradients.
        batches: of ``config.rows`` rows; the last one of a finite corpus may have fewer. With
            ``checkpoints`` they need ``state_dict()``, of JSON values, and ``load_state_dict()``. The result
            of their method ``figures()``, if they have one, is logged too.
        log: a JSON-lines file to which records are appended; TensorBoard's are beside it. A record holds
            ``step``, ``loss``, the objective's figures, ``grad_norm`` before clipping, ``lr`` and ``cpu_s``.
        watch: called with every record.
        checkpoints: a folder for checkpoints; None for none.

    Raises:
        ValueError: for rows that do not divide into micro-batches of all processes, an empty stream or one
            that ends before ``config.steps``, a batch with too many rows or no target, weights whose types
            do not fit the precision, ``checkpoints`` for batches without ``state_dict``, and a folder of a
            run with other settings, naming them.
        FileExistsError: where ``checkpoints`` holds something else.
        FloatingPointError: when loss or gradient stop being finite, naming the step; the weights are those
            of the step before.
        ImportError: where TensorBoard is required and missing, or accelerate is needed and missing.
    """
    named = _checked(objective, trained, config)
    workers = Workers(config.precision)
    cut = Cut(config, workers)
    store, saved = None, None
    if checkpoints is not None:
        _check_place(name, batches)
        store = Checkpoints(checkpoints, _settings(name, objective, trained, config), config.keep)
        saved = workers.first(store.newest)
    first_step = saved.step if saved else 0
    batch = None
    if saved:
        batches.load_state_dict(saved.stream)  # type: ignore[attr-defined]
        _load_trained(saved, named)
    if first_step < config.steps and (batch := next(batches, None)) is None:
        after = f" after step {first_step}" if first_step else ""
        raise ValueError(f"{name}: the stream holds no batch{after}")
    if store:
        workers.first(partial(_begin, store, log, name, first_step))
    if saved and first_step == config.steps:
        objective.eval()
        return saved.records
    learner = Learner(name, objective, config, workers, cut, saved)
    records = list(saved.records) if saved else []
    cpu_start = time.process_time() - (saved.cpu_s if saved else 0.0)
    main = workers.rank == 0
    with (
        RecordLog(name, log if main else None, config.tensorboard if main else None) as record_log,
        tqdm(
            total=config.steps, initial=first_step, desc=name, unit="step", mininterval=2.0, disable=not main
        ) as bar,
    ):
        for step in range(first_step + 1, config.steps + 1):
            if batch is None and (batch := next(batches, None)) is None:
                raise ValueError(
                    f"{name}: the stream ended after {step - 1} of {config.steps} steps: give it more "
                    "documents, let it repeat them, or lower steps"
                )
            figures = learner.step(step, batch)
            batch = None
            bar.update()
            if step % config.log_every == 0 or step == config.steps:
                record: dict[str, float] = {"step": step, **learner.report(figures)}
                bar.set_postfix(loss=f"{record['loss']:.3f}")
                if hasattr(batches, "figures"):
                    record |= batches.figures()
                record["cpu_s"] = round(time.process_time() - cpu_start, 1)
                records.append(record)
                record_log.write(record)
                if watch and main:
                    watch(record)
            if store and (step % config.save_every == 0 or step == config.steps):
                weights, moments = learner.state()
                record_log.flush()
                write = partial(
                    store.save,
                    step,
                    weights,
                    moments,
                    stream=batches.state_dict(),  # type: ignore[attr-defined]
                    records=records,
                    cpu_s=time.process_time() - cpu_start,
                )
                workers.first(write)
    objective.eval()
    return records


def _checked(
    objective: StageLoss, trained: list[nn.Parameter], config: StageConfig
) -> dict[str, nn.Parameter]:
    """Check the trained parameters and convert them to the stage's precision; return them by name."""
    named = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    if not named or {id(p) for p in named.values()} != {id(p) for p in trained}:
        raise ValueError(
            f"the {len(trained)} parameters to train are not the {len(named)} of {type(objective).__name__} "
            "that require gradients"
        )
    if not config.low_precision_weights:
        for parameter in trained:
            if parameter.element_size() < 4:
                parameter.data = parameter.data.float()
    types = sorted({str(p.dtype) for p in objective.parameters() if p.is_floating_point()})
    if config.precision == "float32" and len(types) > 1:
        raise ValueError(
            f"the model's weights are of several types ({', '.join(types)}; trained ones are made float32): "
            "load it in float32, or set precision='bf16'"
        )
    return named


def _settings(
    name: str, objective: StageLoss, trained: list[nn.Parameter], config: StageConfig
) -> JsonObject:
    """Everything that changes a stage's result, by name, except the data, which check themselves.

    The frozen weights are identified by a digest of their shapes and of up to 64 numbers of each.
    """
    digest = hashlib.sha256()
    for weight in (p for p in objective.parameters() if not p.requires_grad):
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // 64)][:64].float().cpu()
        digest.update(str(tuple(weight.shape)).encode() + sample.numpy().tobytes())
    size = sum(parameter.numel() for parameter in trained)
    return {
        "stage": name,
        **{key: value for key, value in dataclasses.asdict(config).items() if key not in _FREE},
        **objective.settings(),
        "trained weights": f"{size} in {len(trained)} tensors",
        "frozen weights": digest.hexdigest()[:16],
    }


def _check_place(name: str, batches: Any) -> None:
    for method in ("state_dict", "load_state_dict"):
        if not hasattr(batches, method):
            raise ValueError(
                f"{name}: checkpoints need batches that can be resumed; {type(batches).__name__} has no "
                f"{method}(). cola_agents.train.data.packing.PackedBatches has"
            )
    state = batches.state_dict()
    if json.loads(json.dumps(state)) != state:
        raise ValueError(f"{name}: the batches' state_dict() does not survive JSON: {repr(state)[:200]}")


def _begin(store: Checkpoints, log: Path | None, name: str, step: int) -> None:
    start = store.begin(None if log is None else log.stat().st_size if log.exists() else 0)
    if log is not None and start is not None:
        rewind(log, name, step, start)


def _load_trained(saved: Saved, named: dict[str, nn.Parameter]) -> None:
    tensors = saved.trained()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    expected = {name: tuple(parameter.shape) for name, parameter in named.items()}
    if shapes != expected:
        odd = sorted(name for name in {*shapes, *expected} if shapes.get(name) != expected.get(name))
        raise ValueError(f"{saved.path} holds other weights than the trained ones: {', '.join(odd[:3])}")
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(tensors[name])
