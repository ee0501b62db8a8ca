"""Processes that train one agent together: each plays its share of the episodes, all make the same update.

They exchange, at the start, the trained weights of the first process, then for every batch the episodes
without their hidden states, values and KLs, and gradients. Each process holds the frozen model and the whole
policy, and computes on the episodes that it played. Figures of the batch (advantages of groups, whitening,
minibatches, records) are computed from all of it, by every process.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cola_agents.common.interrupts import hold_interrupts
from cola_agents.common.processes import Workers, num_launched
from cola_agents.rl.callbacks import Stopped
from cola_agents.rl.rollout import Rollout

T = TypeVar("T")

#: The time limit of an exchange: other processes may play longer episodes, or evaluate in a callback.
WAIT = timedelta(hours=1)

#: Gradients in one all-reduce: 2 ** 26 are 256 MiB in float32.
GRADIENTS_AT_ONCE = 2**26


class LostProcessError(RuntimeError):
    """Another process ended or missed an exchange, or this one was closed."""


class RolloutWorkers(Workers):
    """The processes of an agent's training, and their exchanges.

    All processes make the same calls in the same order. A process that fails reports its error in place of
    its next exchange (:meth:`fail`), so that the others raise too, and do not wait for it. Objects are
    exchanged through the CPU (gloo), with the time limit :data:`WAIT`; tensors stay on their device. Ctrl-C
    waits for the end of an exchange, which the other processes could not leave otherwise.

    Attributes:
        rank, size: the number of this process, and of all processes.

    Raises:
        ImportError, ValueError: see :class:`~cola_agents.common.processes.Workers`; and where accelerate is
            configured to shard weights, which an agent does not support.
    """

    def __init__(self) -> None:
        if num_launched() > 1:
            _check_environment()
        super().__init__()
        self._ended = False  # whether the others know that this process ended early
        self._group: Any = None
        if self.size > 1:
            self._group = torch.distributed.new_group(backend="gloo", timeout=WAIT)

    def share(self, count: int) -> slice:
        """The consecutive ones of ``count`` episodes that this process plays.

        Raises:
            ValueError: for fewer episodes than processes.
        """
        if count < self.size:
            raise ValueError(
                f"{count} episodes cannot be shared by {self.size} processes: each plays at least one"
            )
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def exchange(self, value: T) -> list[T]:
        """Every process's value, by rank.

        Raises:
            Stopped, KeyboardInterrupt: where another process did.
            RuntimeError: where another process failed, with its message.
            LostProcessError: where another process is gone.
        """
        return [value] if self.size == 1 else self._meet(value, None)

    def begin(self) -> None:
        """Report errors again from here on: all processes know the earlier ones."""
        self._ended = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that all processes run: they leave it together, and an error in one is raised in all."""
        self.begin()
        try:
            yield
            if self.size > 1:
                self._meet(None, None, last=True)
        except BaseException as error:
            self.fail(error)
            raise

    def close(self) -> None:
        """Leave the other processes, whose next exchange fails. May be called more than once."""
        group, self._group = self._group, None
        if group is not None and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group(group)

    def fail(self, error: BaseException) -> None:
        """Report an error of this process to the others, at their next exchange.

        Raises:
            RuntimeError, KeyboardInterrupt: where this process only stopped, and another raised these.
        """
        if self.size > 1 and not self._ended:
            with suppress(LostProcessError):  # the error itself is what the caller raises
                self._meet(None, error)

    def _meet(self, value: Any, error: BaseException | None, *, last: bool = False) -> list[Any]:
        """All-gather values and errors; ``last``: no exchange follows, so later errors are not reported."""
        outcomes: list[Any] = [None] * self.size
        with hold_interrupts(patient=True):
            self._call(torch.distributed.all_gather_object, outcomes, (_report(error), value))
            failures = {rank: report for rank, (report, _) in enumerate(outcomes) if report is not None}
            self._ended = last or bool(failures)
        if failures and (error is None or isinstance(error, Stopped)):
            raise _as_raised(failures)
        return [value for _, value in outcomes]

    def _call(self, collective: Callable[..., Any], *arguments: Any, device: str = "cpu") -> None:
        """Call a collective of torch, over gloo on the CPU, else over the default group (NCCL on GPUs)."""
        if self._group is None:
            self._ended = True
            raise LostProcessError(
                "the agent was closed, and has left the other processes: load or build it again"
            )
        try:
            collective(*arguments, group=self._group if device == "cpu" else None)
        except RuntimeError as lost:
            self._ended = True
            raise LostProcessError(
                f"another of the {self.size} processes ended, or did not answer within {WAIT}: its own "
                "output says why. All processes must make the same calls of the agent"
            ) from lost

    def agree(self, described: dict[str, Any], carried: T) -> list[T]:
        """Begin an update: check that all processes have the same agent.

        Args:
            described: settings to compare; real numbers to a thousandth.
            carried: a value to exchange without comparison.

        Returns:
            ``carried`` of every process.

        Raises:
            ValueError: in every process, naming what differs.
        """
        self.begin()
        exchanged = self.exchange((described, carried))
        for name in described:
            values = [settings[name] for settings, _ in exchanged]
            if not all(_same(value, values[0]) for value in values):
                self._ended = True
                raise ValueError(
                    f"the processes have different agents: {name} is {', '.join(map(repr, values))}; all of "
                    "them must make the same calls with the same arguments"
                )
        return [value for _, value in exchanged]

    @torch.no_grad()
    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors with those of the first process."""
        if self.size > 1:
            with hold_interrupts(patient=True):
                self.exchange(None)
                for tensor in tensors:
                    self._call(torch.distributed.broadcast, tensor, 0, device=tensor.device.type)

    def sum(self, values: Tensor) -> Tensor:
        """Add up tensors of the same shape, in place."""
        if self.size > 1:
            with hold_interrupts(patient=True):
                self.exchange(None)
                self._call(torch.distributed.all_reduce, values, device=values.device.type)
        return values

    @torch.no_grad()
    def sum_gradients(
        self, parameters: Sequence[nn.Parameter], figures: dict[str, float]
    ) -> dict[str, float]:
        """Sum the gradients over the processes, in place and in float32; return the sums of ``figures``.

        A process without an episode of a minibatch has no gradients.
        """
        if self.size == 1:
            return figures
        with hold_interrupts(patient=True):
            exchanged = self.exchange((figures, [p.grad is not None for p in parameters]))
            anywhere = np.any([has_gradient for _, has_gradient in exchanged], axis=0)
            for part in _pieces([p for p, summed in zip(parameters, anywhere, strict=True) if summed]):
                gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in part]
                # The sum begins with an exchange, where one that has no memory for this tells the others.
                sums = self.sum(torch.cat([gradient.flatten().float() for gradient in gradients]))
                for p, piece in zip(part, sums.split([p.numel() for p in part]), strict=True):
                    p.grad = piece.view_as(p).to(p.dtype, copy=True)
        names = dict.fromkeys(name for each, _ in exchanged for name in each)
        return {name: sum(each.get(name, 0.0) for each, _ in exchanged) for name in names}

    def all_gather(self, own: Rollout) -> Rollout:
        """The episodes of all processes, by rank; with the hidden states of this process alone."""
        if self.size == 1:
            return own
        light: dict[str, Any] = {
            field.name: value.cpu()
            for field in fields(own)
            if isinstance(value := getattr(own, field.name), Tensor) and field.name != "hidden"
        }
        parts = self.exchange(replace(own, hidden=own.hidden[:0].cpu(), **light))
        return _joined(parts, own, self.rank)


def _check_environment() -> None:
    """Raise ValueError where accelerate is configured for FSDP or mixed precision."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise ValueError(
            "accelerate is configured for FSDP, and an agent has the whole policy in every process: set its "
            "use_fsdp to false; lora_rank makes the trained part small"
        )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no":
        raise ValueError(
            f"accelerate is configured for mixed precision {precision!r}, and an agent computes in the type "
            "of its model: leave accelerate's at 'no' and pass dtype="
        )


def text_of(value: Any) -> str:
    """A setting as a text that is the same in every process: without addresses, and with sets in order."""
    if isinstance(value, dict):
        return "{" + ", ".join(sorted(f"{key!r}: {text_of(one)}" for key, one in value.items())) + "}"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(text_of, value))) + "}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _same(value: Any, other: Any) -> bool:
    """Whether two settings are equal; real numbers may differ by the rounding of different devices."""
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=1e-3)
    return bool(value == other)


def _report(error: BaseException | None) -> tuple[str, str] | None:
    """Type and message of an error, for the other processes; SIGTERM is reported as Ctrl-C."""
    if isinstance(error, KeyboardInterrupt):
        return KeyboardInterrupt.__name__, ""
    return None if error is None else (type(error).__name__, str(error))


def _as_raised(failures: dict[int, tuple[str, str]]) -> BaseException:
    """The error to raise for the failures of other processes: the most severe one."""
    for rank, (kind, message) in failures.items():
        if kind not in (Stopped.__name__, KeyboardInterrupt.__name__):
            return RuntimeError(f"process {rank} failed: {kind}: {message}")
    interrupted = any(kind == KeyboardInterrupt.__name__ for kind, _ in failures.values())
    return KeyboardInterrupt() if interrupted else Stopped()


def _pieces(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters in order, in pieces of up to :data:`GRADIENTS_AT_ONCE` numbers, or one parameter."""
    piece: list[nn.Parameter] = []
    for parameter in parameters:
        if piece and sum(p.numel() for p in piece) + parameter.numel() > GRADIENTS_AT_ONCE:
            yield piece
            piece = []
        piece.append(parameter)
    if piece:
        yield piece


def _joined(parts: Sequence[Rollout], own: Rollout, rank: int) -> Rollout:
    """Rollouts concatenated and padded on the right to the longest, with the hidden states of ``own``."""
    length = max(part.mask.shape[1] for part in parts)
    whole: dict[str, Any] = {}
    for field in fields(Rollout):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], Tensor):
            padded = [functional.pad(v, (0, length - v.shape[1])) if v.dim() == 2 else v for v in values]
            whole[field.name] = torch.cat(padded).to(own.ids.device) if field.name != "hidden" else own.hidden
        elif isinstance(values[0], np.ndarray):
            whole[field.name] = np.concatenate(values)
        elif field.name == "infos":
            whole[field.name] = [info for infos in values for info in infos]
    counts = [len(part) for part in parts]
    held = np.full(sum(counts), -1)
    held[sum(counts[:rank]) :][: counts[rank]] = np.arange(counts[rank])
    return Rollout(**{**whole, "held": held})
