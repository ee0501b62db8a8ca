"""The optimiser step of a stage, split over micro-batches and processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from cola_agents.common.processes import Workers
from cola_agents.common.randomness import drawn_from
from cola_agents.train.checkpoints import Saved
from cola_agents.train.data.packing import IGNORED, Batch, collate
from cola_agents.train.options import StageConfig
from cola_agents.train.stage import StageLoss, row_generators


class Cut:
    """The row ranges of a global batch's micro-batches: ``pieces``, and ``own`` of this process."""

    def __init__(self, config: StageConfig, workers: Workers) -> None:
        rows, size = config.rows, workers.size
        micro = config.micro_rows or max(1, rows // size)
        if rows % (micro * size):
            raise ValueError(
                f"rows={rows} do not divide into micro-batches of micro_rows={micro} for each of {size} "
                f"processes: rows must be a multiple of {micro * size}"
            )
        self.pieces = [range(at, at + micro) for at in range(0, rows, micro)]
        self.own = self.pieces[workers.rank :: size]


class Learner:
    """The weights, the optimiser and the step of a stage."""

    def __init__(
        self,
        name: str,
        objective: StageLoss,
        config: StageConfig,
        workers: Workers,
        cut: Cut,
        saved: Saved | None,
    ) -> None:
        self._name, self._config, self._workers, self._cut = name, config, workers, cut
        self._objective = objective
        named = {key: p for key, p in objective.named_parameters() if p.requires_grad}
        self._names = list(named)
        _set_modes(objective, False)
        _checkpoint_activations(objective, config.gradient_checkpointing)
        self._optimiser = torch.optim.AdamW(
            _groups(named, config), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
        self._wrapped = workers.prepare(objective, self._optimiser, *(["pool"] if objective.pools else []))
        self._trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        self._device = self._trained[0].device
        if saved:
            self._load_optimiser(saved.optimiser())
        self._norm = torch.zeros(())

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Take one optimiser step.

        Returns:
            ``loss`` and the objective's figures, means over the targets of the global batch, in float64.
        """
        config, name = self._config, self._name
        counts = (batch.targets != IGNORED).sum(1).tolist()
        if len(counts) > config.rows:
            raise ValueError(f"{name}: got a batch of {len(counts)} rows for rows={config.rows}")
        if not any(counts):
            raise ValueError(f"{name}: the batch of step {step} has no target")
        batch = filled(batch, config.rows)
        counts += [0] * (config.rows - len(counts))
        shares = {piece: sum(counts[piece.start : piece.stop]) / sum(counts) for piece in self._cut.own}
        parts = {piece: batch.part(piece.start, piece.stop).to(self._device) for piece in shares}
        for group in self._optimiser.param_groups:
            group["lr"] = config.lr * config.rate(step)
        figures = self._backward(step, parts, shares)
        if abs(figures.pop("share").item() - 1) > 1e-6:
            raise ValueError(
                f"{name}: the processes read different batches at step {step}: give each the same documents, "
                "in the same order"
            )
        if not torch.isfinite(figures["loss"]):
            raise FloatingPointError(
                f"{name}: loss is {figures['loss'].item()} at step {step}; lower lr={config.lr}"
            )
        norm = nn.utils.clip_grad_norm_(self._trained, config.clip)
        self._norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not torch.isfinite(self._norm):
            raise FloatingPointError(
                f"{name}: the gradient's norm is {self._norm.item()} at step {step}; lower lr={config.lr}"
            )
        self._optimiser.step()
        return figures

    def _backward(
        self, step: int, parts: dict[range, Batch], shares: dict[range, float]
    ) -> dict[str, Tensor]:
        """Compute the gradients of the global batch; return the loss, the figures and the summed shares."""
        pooled = self._pooled(step, parts, shares)
        extra = () if pooled is None else (pooled,)
        self._optimiser.zero_grad(set_to_none=True)
        means = _Means()
        for piece, part in parts.items():
            last = piece == self._cut.own[-1]
            with nullcontext() if last else self._workers.accumulate(self._wrapped):
                with _precision(self._device, self._config, step, piece):
                    generators = row_generators(self._config.seed, step, piece)
                    loss, figures = self._wrapped(part, generators, *extra)
                # DDP averages gradients over the processes; the factor turns the mean into a sum.
                (loss * (shares[piece] * self._workers.size)).backward()
            means.add({"loss": loss.detach(), **figures, "share": torch.ones_like(loss)}, shares[piece])
        return means.over(self._workers)

    def _pooled(self, step: int, parts: dict[range, Batch], shares: dict[range, float]) -> Tensor | None:
        """The mean of the objective's ``pool`` over the global batch; None where it is not needed."""
        if not self._objective.pools or len(self._cut.pieces) == 1:
            return None
        means = _Means()
        for piece, part in parts.items():
            with torch.no_grad(), _precision(self._device, self._config, step, piece):
                pooled = self._objective.pool(part, row_generators(self._config.seed, step, piece))
            means.add({"pooled": pooled}, shares[piece])
        return means.over(self._workers)["pooled"].float()

    def report(self, figures: dict[str, Tensor]) -> dict[str, float]:
        """The entries of a log record for a step's figures."""
        others = {name: value for name, value in figures.items() if name != "loss"}
        return {
            "loss": figures["loss"].item(),
            **self._objective.report(others),
            "grad_norm": self._norm.item(),
            "lr": self._optimiser.param_groups[0]["lr"],
        }

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Unsharded trained weights and optimiser state, on the CPU; empty in all processes but the first."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        states: Any = get_state_dict(self._wrapped, self._optimiser, options=options)
        model, optimiser = states
        weights = {name: model[name].contiguous() for name in self._names if name in model}
        moments = {
            f"{key}:{name}": tensor.contiguous()
            for name, state in optimiser.get("state", {}).items()
            for key, tensor in state.items()
        }
        return weights, moments

    def _load_optimiser(self, tensors: dict[str, Tensor]) -> None:
        state: dict[str, dict[str, Tensor]] = {name: {} for name in self._names}
        for key, tensor in tensors.items():
            kind, _, name = key.partition(":")
            state[name][kind] = tensor
        optimiser: dict[str, Any] = get_optimizer_state_dict(self._wrapped, self._optimiser)
        optimiser["state"] = state
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(self._wrapped, self._optimiser, optimiser, options=options)


class _Means:
    """Means over the targets of the global batch, from those of its micro-batches."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor], share: float) -> None:
        for name, value in values.items():
            weighted = value.detach().double() * share
            self._sums[name] = self._sums[name] + weighted if name in self._sums else weighted

    def over(self, workers: Workers) -> dict[str, Tensor]:
        shapes = [value.shape for value in self._sums.values()]
        flat = workers.sum(torch.cat([value.flatten() for value in self._sums.values()]))
        parts = flat.split([shape.numel() for shape in shapes])
        return {name: part.view(shape) for name, part, shape in zip(self._sums, parts, shapes, strict=True)}


@contextmanager
def _precision(device: torch.device, config: StageConfig, step: int, piece: range) -> Iterator[None]:
    """Compute in the stage's precision; seed dropout, if the model has any, by (seed, step, first row)."""
    (source,) = row_generators(config.seed, step, piece[:1])
    with (
        drawn_from(source.initial_seed(), device),
        torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"),
    ):
        yield


def filled(batch: Batch, rows: int) -> Batch:
    """A batch padded to ``rows`` rows by rows without targets."""
    missing = rows - len(batch.ids)
    if not missing:
        return batch
    empty = collate([[]] * missing, batch.ids.shape[1])
    return Batch(
        *(
            torch.cat([getattr(batch, field.name), getattr(empty, field.name).to(batch.ids.device)])
            for field in fields(Batch)
        )
    )


def _groups(named: dict[str, nn.Parameter], config: StageConfig) -> list[dict[str, Any]]:
    """AdamW's parameter groups: the codebook has its own where its weight decay differs."""
    decay = config.codebook_weight_decay
    codebook = {name for name in named if decay is not None and "codebook" in name.split(".")}
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in named.items() if name not in codebook]},
        {"params": [p for name, p in named.items() if name in codebook], "weight_decay": decay},
    ]
    return [group for group in groups if group["params"]]


def _set_modes(module: nn.Module, inherited: bool) -> None:
    """Set training mode for modules with trained parameters and for their children without parameters."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    module.training = any(trained) if trained else inherited
    for child in module.children():
        _set_modes(child, module.training)


def _checkpoint_activations(objective: nn.Module, enable: bool) -> None:
    """Switch gradient checkpointing on or off in decoders with trained parameters."""
    for module in objective.modules():
        if isinstance(module, PreTrainedModel) and hasattr(module, "layers") and module.training:
            module._set_gradient_checkpointing(
                enable=enable, gradient_checkpointing_func=partial(checkpoint, use_reentrant=False)
            )
