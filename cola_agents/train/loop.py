"""The one training loop that every stage runs, in one process or in several."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
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
from cola_agents.common.threads import fitting_threads
from cola_agents.train.checkpoints import Checkpoints, Saved
from cola_agents.train.data.packing import Batch
from cola_agents.train.learner import Cut, Learner
from cola_agents.train.records import RecordLog, rewind
from cola_agents.train.stage import StageConfig, StageLoss
from cola_envs.jsonl import JsonObject

__all__ = ["StageConfig", "StageLoss", "run_stage"]

#: Fields of the configuration that change no result but the order of additions.
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

    Row n of step s has a noise generator of its own, seeded by (seed, s, n), and a micro-batch weighs by its
    share of the counted targets. So one process, gradient accumulation and N processes (``accelerate
    launch``, ``torchrun``) compute the same thing up to the order of additions; dropout alone, which no
    supported family has by default, depends on the cut. Process r of N takes micro-batches r, r + N, and so
    on of every step. Every process reads the whole stream and leaves the others' rows: N processes tokenise
    and pack everything N times, and wait for it where packing a global batch takes longer than learning
    from one's share of it.

    With ``checkpoints``, running the same thing again after it stopped at any moment goes on from the last
    whole checkpoint: in one process on one thread of a CPU, bit for bit as if it had not stopped. The number
    of processes and what does not change the result may differ. The folder has to be one that every process
    sees.

    Args:
        name: shown in the progress bar and in the records.
        objective: what is minimised, with the model. Modules with something trained are in training mode
            meanwhile, all are in evaluation mode afterwards. Under FSDP its weights stay spread over the
            processes: see :func:`cola_agents.common.processes.whole_state`.
        trained: the parameters that learn: all of the objective's that require gradients.
        batches: of ``config.rows`` rows; one with fewer, the last of a finite corpus, is as good. With
            ``checkpoints`` they have ``state_dict()`` and ``load_state_dict()``, which JSON can hold. What
            their method ``figures()`` returns, where they have one, is logged too.
        log: a JSON-lines file that records are appended to; TensorBoard's are beside it. A record holds
            ``step``, ``loss``, the objective's figures, ``grad_norm`` before clipping, ``lr`` and ``cpu_s``.
        watch: is shown every record.
        checkpoints: a folder for checkpoints; None for none.

    Raises:
        ValueError: for rows that do not divide into micro-batches of all processes, an empty stream or one
            that ends before ``config.steps``, a batch with too many rows or no target, weights whose types
            do not fit the precision, a stream that does not know its place where ``checkpoints`` are asked
            for, and a folder of a run with other settings, naming them.
        FileExistsError: where ``checkpoints`` holds something else.
        FloatingPointError: when loss or gradient stop being finite, naming the step; the weights are those
            of the step before.
        ImportError: where TensorBoard is insisted on and missing, or accelerate is needed and missing.
    """
    named = _checked(objective, trained, config)
    workers = Workers(config.precision)
    cut = Cut(config, workers)
    keeper, saved = None, None
    if checkpoints is not None:
        _check_place(name, batches)
        keeper = Checkpoints(checkpoints, _settings(name, objective, trained, config), config.keep)
        saved = workers.first(keeper.newest)
    done = saved.step if saved else 0
    if saved:
        batches.load_state_dict(saved.stream)  # type: ignore[attr-defined]
        _load_trained(saved, named)
    stream = _numbered(name, batches, done, config.steps)
    # An empty stream is refused before anything is written.
    first = list(itertools.islice(stream, 1))
    if keeper:
        workers.first(partial(_begin, keeper, log, name, done))
    if saved and done == config.steps:
        objective.eval()
        return saved.records
    learner = Learner(name, objective, config, workers, cut, saved)
    records = _Records(saved, batches)
    mine = workers.rank == 0
    with (
        fitting_threads(objective),
        RecordLog(name, log if mine else None, config.tensorboard if mine else None) as record_log,
        tqdm(
            total=config.steps, initial=done, desc=name, unit="step", mininterval=2.0, disable=not mine
        ) as bar,
    ):
        for step, batch in itertools.chain(first, stream):
            figures = learner.step(step, batch)
            bar.update()
            if step % config.log_every == 0 or step == config.steps:
                record = records.add(step, learner.report(figures))
                bar.set_postfix(loss=f"{record['loss']:.3f}")
                record_log.write(record)
                if watch and mine:
                    watch(record)
            if keeper and (step % config.save_every == 0 or step == config.steps):
                state = learner.state()
                record_log.flush()
                workers.first(partial(keeper.save, step, *state, **records.state()))
    objective.eval()
    return records.all


def _numbered(name: str, batches: Iterator[Batch], done: int, steps: int) -> Iterator[tuple[int, Batch]]:
    """The batches of steps ``done + 1`` to ``steps`` with their numbers, none read ahead of its step.

    Raises:
        ValueError: where the stream ends before.
    """
    for step in range(done + 1, steps + 1):
        batch = next(batches, None)
        if batch is None and step == done + 1:
            raise ValueError(f"{name}: the stream holds no batch" + (f" after step {done}" if done else ""))
        if batch is None:
            raise ValueError(
                f"{name}: the stream ended after {step - 1} of {steps} steps: give it more documents, let it "
                "repeat them, or lower steps"
            )
        yield step, batch


class _Records:
    """All records of a stage, those before it was stopped too, and the time that it took."""

    def __init__(self, saved: Saved | None, batches: Iterator[Batch]) -> None:
        self.all: list[dict[str, float]] = list(saved.records) if saved else []
        self._batches: Any = batches
        self._begun = time.process_time() - (saved.cpu_s if saved else 0.0)

    def add(self, step: int, figures: dict[str, float]) -> dict[str, float]:
        record = {"step": step, **figures}
        if hasattr(self._batches, "figures"):
            record |= self._batches.figures()
        record["cpu_s"] = round(time.process_time() - self._begun, 1)
        self.all.append(record)
        return record

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of them and of the stream."""
        spent = time.process_time() - self._begun
        return {"stream": self._batches.state_dict(), "records": self.all, "cpu_s": spent}


def _checked(
    objective: StageLoss, trained: list[nn.Parameter], config: StageConfig
) -> dict[str, nn.Parameter]:
    """The trained parameters by name, made ready for the stage's precision."""
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
    """All that changes a stage's result, by name, but for the data, which know their own place."""
    chosen = {key: value for key, value in dataclasses.asdict(config).items() if key not in _FREE}
    size = sum(parameter.numel() for parameter in trained)
    return {
        "stage": name,
        **chosen,
        **objective.settings(),
        "trained weights": f"{size} in {len(trained)} tensors",
        "frozen weights": _fingerprint([p for p in objective.parameters() if not p.requires_grad]),
    }


def _fingerprint(weights: list[nn.Parameter]) -> str:
    """Tells frozen weights from others by their shapes and up to 64 numbers of each."""
    digest = hashlib.sha256()
    for weight in weights:
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // 64)][:64].float().cpu()
        digest.update(str(tuple(weight.shape)).encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


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


def _begin(keeper: Checkpoints, log: Path | None, name: str, done: int) -> None:
    start = keeper.begin(None if log is None else log.stat().st_size if log.exists() else 0)
    if log is not None and start is not None:
        rewind(log, name, done, start)


def _load_trained(saved: Saved, named: dict[str, nn.Parameter]) -> None:
    tensors = saved.trained()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wanted = {name: tuple(parameter.shape) for name, parameter in named.items()}
    if shapes != wanted:
        odd = sorted(name for name in {*shapes, *wanted} if shapes.get(name) != wanted.get(name))
        raise ValueError(f"{saved.path} holds other weights than are trained: {', '.join(odd[:3])}")
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(tensors[name])
