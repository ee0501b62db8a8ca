"""The one training loop that every stage runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cola_agents.train.data import Batch
from cola_agents.train.records import RecordLog

LossFunction = Callable[[Batch], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class StageConfig:
    """How a stage is trained.

    Attributes:
        steps: optimiser steps.
        rows, length: batch shape: rows of packed documents and their length in tokens.
        lr: peak learning rate; a linear warm-up of ``warmup`` steps, then a cosine to ``final`` of it.
        weight_decay, betas, clip: AdamW's, and the largest gradient norm.
        seed: seeds the data order and the noise of the stage.
        log_every: steps between two log records.
        tensorboard: whether they go to TensorBoard too, next to the log file: None for where it is installed,
            True to insist on it.
    """

    steps: int
    rows: int = 8
    length: int = 256
    lr: float = 3e-3
    warmup: int = 50
    final: float = 0.05
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    seed: int = 0
    log_every: int = 100
    tensorboard: bool | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rows < 1 or self.length < 8:
            raise ValueError(f"steps, rows >= 1 and length >= 8 are needed, got {self}")

    @property
    def tokens(self) -> int:
        """Tokens the stage reads."""
        return self.steps * self.rows * self.length


def run_stage(
    name: str,
    trained: list[nn.Parameter],
    loss_of: LossFunction,
    batches: Iterator[Batch],
    config: StageConfig,
    log: Path | None = None,
    watch: Callable[[dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train ``trained`` on ``batches`` and return the log records.

    Args:
        name: shown in the progress bar and in the records.
        trained: the parameters that learn; everything else is left alone.
        loss_of: a batch to its loss and the figures to log.
        log: a JSON-lines file that records are appended to; TensorBoard's are beside it.
        watch: is shown every record.

    Raises:
        FloatingPointError: when the loss stops being finite, naming the step.
        ImportError: where TensorBoard is insisted on and missing.
    """
    optimiser = torch.optim.AdamW(trained, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, config))
    records = []
    start = time.process_time()
    with (
        RecordLog(name, log, config.tensorboard) as record_log,
        tqdm(total=config.steps, desc=name, unit="step", mininterval=2.0) as bar,
    ):
        for step in range(1, config.steps + 1):
            loss, figures = loss_of(next(batches))
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"{name}: loss is {loss.item()} at step {step}; lower lr={config.lr}"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, config.clip)
            optimiser.step()
            schedule.step()
            bar.update()
            if step % config.log_every == 0 or step == config.steps:
                record = {"step": step, "loss": round(loss.item(), 5), **figures}
                record["cpu_s"] = round(time.process_time() - start, 1)
                records.append(record)
                bar.set_postfix({key: f"{value:.3f}" for key, value in figures.items()})
                record_log.write(record)
                if watch:
                    watch(record)
    return records


def _rate(step: int, config: StageConfig) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
