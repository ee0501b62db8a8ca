"""The training loop of all stages, for one process or several."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from cola_agents.common.processes import Workers
from cola_agents.common.threads import SMALL, fitting_threads
from cola_agents.model.documents import document_attention, takes_documents
from cola_agents.model.modeling import MergeLayer
from cola_agents.train.checkpoints import CONFIGURATION, TYPES, Checkpoints, Saved, begun_steps
from cola_agents.train.data.packing import Batch
from cola_agents.train.data.prefetch import Prefetched
from cola_agents.train.learner import Cut, Learner
from cola_agents.train.options import StageConfig
from cola_agents.train.records import RecordLog, rewind
from cola_agents.train.stage import StageLoss
from cola_agents.train.states import configuration_digest
from cola_envs.jsonl import JsonObject

#: What ``compile`` compiles, where it is trained: decoder layers, and layers of the world model.
_LAYERS = (GradientCheckpointingLayer, MergeLayer)

#: Fields of the configuration that may differ when a run is resumed: they change nothing but the order of
#: additions.
_RESUMABLE = frozenset(
    (
        "log_every",
        "tensorboard",
        "micro_rows",
        "gradient_checkpointing",
        "save_every",
        "keep",
        "attention",
        "liger",
        "compile",
    )
)


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
    say: Callable[[str], None] | None = None,
) -> list[dict[str, float]]:
    """Train a stage and return its log records.

    The noise of row n in step s is seeded by (seed, s, n), and a micro-batch is weighted by its share of the
    counted targets. So one process, gradient accumulation and N processes (``accelerate launch``,
    ``torchrun``) compute the same up to the order of additions; only dropout, which no supported family has
    by default, depends on the split into micro-batches. Process r of N takes micro-batches r, r + N, ... of
    every step. Every process reads the whole stream and skips the others' rows: N processes tokenise and
    pack everything N times, which limits the speed where packing a global batch takes longer than a
    process' share of the training step.

    With ``checkpoints``, the same call after an interruption at any moment resumes from the last complete
    checkpoint: in one process on one CPU thread, bit for bit as if it had not been interrupted. The number of
    processes may differ, and so may settings that do not change the result. All processes must have access
    to the folder.

    Args:
        name: name of the stage in the progress bar and in the records.
        objective: the loss, with the model. During training, modules with trained parameters are in training
            mode; afterwards all are in evaluation mode. Under FSDP the weights stay sharded: see
            :func:`cola_agents.common.processes.whole_state`.
        trained: the trained parameters: all of the objective's that require gradients.
        batches: batches of ``config.rows`` rows; the last of a finite corpus may have fewer. With
            ``checkpoints`` they need ``state_dict()``, whose value JSON can represent, and
            ``load_state_dict()``. If they have a method ``figures()``, its values are logged too.
        log: a JSON-lines file to which records are appended; TensorBoard's are beside it. A record holds
            ``step``, ``loss``, the objective's figures, ``grad_norm`` before clipping, ``lr`` and ``cpu_s``.
        watch: called with every record.
        checkpoints: a folder for checkpoints; None for none.
        say: told how the schedule of a run goes on that was begun for fewer steps, once nothing refuses it.

    Raises:
        ValueError: for rows that do not divide into micro-batches of all processes, a stream that is empty or
            ends before ``config.steps``, a batch with too many rows or no target, weights whose types do not
            fit the precision, a stream without ``state_dict()`` where ``checkpoints`` are given, and a folder
            of a run with other settings, naming them.
        FileExistsError: where ``checkpoints`` holds something else.
        FloatingPointError: when loss or gradient are not finite, naming the step; the weights are those
            before the step.
        ImportError: where TensorBoard is required or accelerate needed, and not installed.
    """
    named = _checked(objective, trained, config)
    workers = Workers(config.precision)
    cut = Cut(config, workers)
    keeper = None
    if checkpoints is not None:
        _check_resumable(name, batches)
        keeper = Checkpoints(checkpoints, _settings(name, objective, trained, config), config.keep)
    saved = workers.first(keeper.newest) if keeper else None
    done = saved.step if saved else 0
    if saved:
        _resume(saved, batches, named)
    with _ahead(objective, batches, config.steps - done, keeper is not None) as batches:
        stream = _numbered(name, batches, done, config.steps)
        # Read one batch before anything is written, so that an empty stream leaves no files.
        first = list(itertools.islice(stream, 1))
        longer = _longer(checkpoints, config) if checkpoints else None
        if keeper:
            workers.first(partial(_begin, keeper, log, name, done))
        if longer and say:
            say(longer)
        if saved and done == config.steps:
            objective.eval()
            return saved.records
        learner = Learner(name, objective, config, workers, cut, saved)
        records = _Records(saved, batches)
        main = workers.rank == 0
        # Said here and not by the configuration, which is also made for its rows and length alone.
        if main and config.steps < config.warmup:
            warnings.warn(
                f"the learning rate rises for {config.warmup} steps (warmup) and there are {config.steps}: "
                f"it gets to {config.rate(config.steps):.0%} of lr; set warmup lower",
                stacklevel=3,
            )
        record_log = RecordLog(name, log if main else None, config.tensorboard if main else None)
        bar = tqdm(
            total=config.steps, initial=done, desc=name, unit="step", mininterval=2.0, disable=not main
        )
        with fitting_threads(objective), _computed_as(objective, config), record_log, bar:
            for step, batch in itertools.chain(first, stream):
                figures = learner.step(step, batch)
                bar.update()
                if step % config.log_every == 0 or step == config.steps:
                    record = records.add(step, learner.report(figures))
                    bar.set_postfix(loss=f"{record['loss']:.3f}")
                    record_log.write(record)
                    if watch and main:
                        watch(record)
                if keeper and (step % config.save_every == 0 or step == config.steps):
                    state = learner.state()
                    record_log.flush()
                    workers.first(partial(keeper.save, step, *state, **records.state()))
        objective.eval()
        return records.all


def _longer(checkpoints: Path, config: StageConfig) -> str | None:
    """How the schedule of a run goes on that was begun for fewer steps; None for another."""
    before = begun_steps(checkpoints)
    if before is None or before >= config.steps:
        return None
    schedules = (dataclasses.replace(config, steps=steps) for steps in (before, config.steps))
    old, new = (schedule.rate(before) * schedule.lr for schedule in schedules)
    return (
        f"The run in {checkpoints} was begun for {before} steps and goes on to {config.steps}. From its last "
        f"checkpoint on, the learning rate follows the schedule of {config.steps} steps: at step {before} it "
        f"is {new:.2e}, and was {old:.2e}."
    )


@contextmanager
def _ahead(
    objective: StageLoss, batches: Iterator[Batch], count: int, resumable: bool
) -> Iterator[Iterator[Batch]]:
    """A block in which up to ``count`` batches are packed in the background; not for a small model.

    The packing of a small model's batches would compete with its short operations for Python's lock.
    """
    if sum(parameter.numel() for parameter in objective.parameters()) < SMALL:
        yield batches
        return
    prefetched = Prefetched(batches, count, resumable=resumable)
    try:
        yield prefetched
    finally:
        prefetched.close()


@contextmanager
def _computed_as(objective: StageLoss, config: StageConfig) -> Iterator[None]:
    """A block in which the objective attends, sums and compiles as configured."""
    stacks = [m for m in objective.modules() if isinstance(m, PreTrainedModel) and hasattr(m, "layers")]
    low = torch.bfloat16 if config.precision == "bf16" else None
    by_documents = config.by_documents and all(takes_documents(m, low or m.dtype) for m in stacks)
    objective.by_documents, objective.liger = by_documents, config.liger
    compiled = (
        [m for m in objective.modules() if isinstance(m, _LAYERS) and m.training] if config.compile else []
    )
    try:
        for layer in compiled:
            layer.compile()
        with document_attention(stacks if by_documents else []):
            yield
    finally:
        objective.by_documents = objective.liger = False
        for layer in compiled:
            layer._compiled_call_impl = None


def _numbered(name: str, batches: Iterator[Batch], done: int, steps: int) -> Iterator[tuple[int, Batch]]:
    """The batches of steps ``done + 1`` to ``steps`` with their numbers, each read in its step.

    Raises:
        ValueError: where the stream ends too early.
    """
    for step in range(done + 1, steps + 1):
        batch = next(batches, None)
        if batch is None and step == 1:
            raise ValueError(f"{name}: the stream holds no batch")
        if batch is None:
            raise ValueError(
                f"{name}: the stream ended after {step - 1} of {steps} steps: let it repeat its documents "
                f"(leave epochs out of its description), or begin anew in another folder, with more "
                f"documents or at most {step - 1} steps"
            )
        yield step, batch


class _Records:
    """All log records of a stage and its CPU time, including those before it was resumed."""

    def __init__(self, saved: Saved | None, batches: Iterator[Batch]) -> None:
        self.all: list[dict[str, float]] = list(saved.records) if saved else []
        self._batches: Any = batches
        self._start = time.process_time() - (saved.cpu_s if saved else 0.0)

    def add(self, step: int, figures: dict[str, float]) -> dict[str, float]:
        record = {"step": step, **figures}
        if hasattr(self._batches, "figures"):
            record |= self._batches.figures()
        record["cpu_s"] = round(time.process_time() - self._start, 1)
        self.all.append(record)
        return record

    def state(self) -> dict[str, Any]:
        """The arguments of :meth:`Checkpoints.save` besides the tensors."""
        cpu_s = time.process_time() - self._start
        return {"stream": self._batches.state_dict(), "records": self.all, "cpu_s": cpu_s}


def _checked(
    objective: StageLoss, trained: list[nn.Parameter], config: StageConfig
) -> dict[str, nn.Parameter]:
    """The trained parameters by name, converted to float32 unless they are to stay in low precision."""
    named = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    if not named or {id(p) for p in named.values()} != {id(p) for p in trained}:
        raise ValueError(
            f"the {len(trained)} parameters to train are not the {len(named)} of {type(objective).__name__} "
            "that require gradients: pass exactly those"
        )
    if not config.low_precision_weights:
        for parameter in trained:
            if parameter.element_size() < 4:
                parameter.data = parameter.data.float()
    types = sorted({str(p.dtype) for p in objective.parameters() if p.is_floating_point()})
    if config.precision == "float32" and len(types) > 1:
        raise ValueError(
            f"the model's weights are of several types ({', '.join(types)}; trained ones are made float32): "
            "load it in float32 (dtype, --dtype), or set precision='bf16' (--precision bf16)"
        )
    return named


def _settings(
    name: str, objective: StageLoss, trained: list[nn.Parameter], config: StageConfig
) -> JsonObject:
    """All settings that change a stage's result, by name, except for the data's, which are in their state."""
    config_settings = {
        key: value for key, value in dataclasses.asdict(config).items() if key not in _RESUMABLE
    }
    frozen = [parameter for parameter in objective.parameters() if not parameter.requires_grad]
    size = sum(parameter.numel() for parameter in trained)
    return {
        "stage": name,
        **config_settings,
        **objective.settings(),
        "trained weights": f"{size} in {len(trained)} tensors",
        CONFIGURATION: configuration_digest(
            *(part.config for part in objective.modules() if isinstance(part, PreTrainedModel))
        ),
        "frozen weights": _fingerprint(frozen),
        TYPES: sorted({str(parameter.dtype).removeprefix("torch.") for parameter in frozen}),
    }


def _fingerprint(weights: list[nn.Parameter]) -> str:
    """A digest that identifies weights by their shapes and up to 64 values of each."""
    digest = hashlib.sha256()
    for weight in weights:
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, len(flat) // 64)][:64].float().cpu()
        digest.update(str(tuple(weight.shape)).encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def _check_resumable(name: str, batches: Any) -> None:
    for method in ("state_dict", "load_state_dict"):
        if not hasattr(batches, method):
            raise ValueError(
                f"{name}: checkpoints need batches that can be resumed; {type(batches).__name__} has no "
                f"{method}(). cola_agents.train.data.packing.PackedBatches has"
            )
    state = batches.state_dict()
    if json.loads(json.dumps(state)) != state:
        raise ValueError(f"{name}: the batches' state_dict() must be JSON values, got {repr(state)[:200]}")


def _begin(keeper: Checkpoints, log: Path | None, name: str, done: int) -> None:
    start = keeper.begin(None if log is None else log.stat().st_size if log.exists() else 0)
    if log is not None and start is not None:
        rewind(log, name, done, start)


def _resume(saved: Saved, batches: Any, named: dict[str, nn.Parameter]) -> None:
    """Load the position in the data and the trained weights of a checkpoint."""
    batches.load_state_dict(saved.stream)
    tensors = saved.trained()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wanted = {name: tuple(parameter.shape) for name, parameter in named.items()}
    if shapes != wanted:
        names = sorted(name for name in {*shapes, *wanted} if shapes.get(name) != wanted.get(name))
        raise ValueError(
            f"{saved.path} does not hold the trained weights (names or shapes differ): {', '.join(names[:3])}"
        )
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(tensors[name])
