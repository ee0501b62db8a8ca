"""Adam for weights of any type, its learning rate, and a plain loop of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from cola_agents.common.rates import scheduled_rate

T = TypeVar("T")

#: The share of the steps of :func:`fit_batches` over which the learning rate rises.
WARMUP = 0.03


class Optimiser(Protocol):
    """The interface of an optimiser for :func:`cola_agents.rl.update.improve`."""

    def zero_grad(self) -> None:
        """Forget the gradients."""

    def step(self, max_norm: float) -> float:
        """Clip the gradients to ``max_norm`` and step; returns the norm before clipping."""


class Adam32:
    """Adam whose steps are made in float32.

    At the learning rates of large models a step is smaller than the spacing of bfloat16 numbers, and would be
    lost. So each weight of another type than float32 has a float32 twin: gradients are converted to float32,
    Adam steps the twin, and the weight is the rounded twin. For float32 weights this is ``torch.optim.Adam``.

    Args:
        parameters: the parameters; those without ``requires_grad`` are left out.
        lr: the learning rate.
        betas: Adam's; CoLA's post-training uses (0.9, 0.95).
        warmup: number of first steps over which the learning rate rises linearly to ``lr``.

    Attributes:
        steps: the number of steps that this object has begun.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        warmup: int = 0,
    ) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._twins = [
            p if p.dtype == torch.float32 else nn.Parameter(p.detach().float()) for p in self.parameters
        ]
        self.adam = torch.optim.Adam(self._twins, lr=lr, betas=betas)
        self.warmup = warmup
        self.steps = 0

    def begin(self) -> None:
        """Create Adam's averages (zeros), as Adam itself does at a weight's first step."""
        for twin in self._twins:
            if not self.adam.state[twin]:
                averages = {name: torch.zeros_like(twin) for name in ("exp_avg", "exp_avg_sq")}
                self.adam.state[twin] = {"step": torch.tensor(0.0), **averages}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, max_norm: float) -> float:
        """Clip the gradients to ``max_norm`` and step; returns the norm before clipping.

        Raises:
            FloatingPointError: where that norm is not finite; weights and optimiser are as they were.
        """
        norm = float(nn.utils.clip_grad_norm_(self.parameters, max_norm))
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient's norm is {norm}: no step was made; lower lr")
        self.steps += 1
        pairs = list(zip(self.parameters, self._twins, strict=True))
        for parameter, twin in pairs:
            if twin is not parameter:
                twin.grad = None if parameter.grad is None else parameter.grad.float()
        with self._warming_up():
            self.adam.step()
        for parameter, twin in pairs:
            if twin is not parameter:
                parameter.copy_(twin)
                twin.grad = None  # no longer needed, and twice the size of the parameter's own
        return norm

    @contextmanager
    def _warming_up(self) -> Iterator[None]:
        """Scale the learning rate for the next step, by the steps that Adam's averages hold."""
        made = max((int(state["step"]) for state in self.adam.state.values()), default=0)
        rates = [group["lr"] for group in self.adam.param_groups]
        for group, rate in zip(self.adam.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (made + 1) / max(1, self.warmup))
        try:
            yield
        finally:
            for group, rate in zip(self.adam.param_groups, rates, strict=True):
                group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """Adam's state, and the float32 twins where there are any."""
        twins = [
            None if twin is parameter else twin.detach()
            for parameter, twin in zip(self.parameters, self._twins, strict=True)
        ]
        return {"adam": self.adam.state_dict(), "twins": twins}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any], *, keep_lr: bool = False) -> None:
        """Load the result of :meth:`state_dict`; load the weights themselves before.

        Args:
            keep_lr: keep this optimiser's learning rate in place of the saved one.

        Raises:
            ValueError: for the state of an optimiser of other weights; nothing is changed then.
        """
        self._check(state)
        rates = [group["lr"] for group in self.adam.param_groups]
        self.adam.load_state_dict(state["adam"])
        if keep_lr:
            for group, rate in zip(self.adam.param_groups, rates, strict=True):
                group["lr"] = rate
        for twin, saved in zip(self._twins, state["twins"], strict=True):
            if saved is not None:
                twin.copy_(saved)

    def _check(self, state: Any) -> None:
        """Raise ValueError for a state that is not of these weights."""
        try:
            averages, twins = state["adam"]["state"], state["twins"]
            groups = [len(group["params"]) for group in state["adam"]["param_groups"]]
            fits = (
                groups == [len(self._twins)]
                and set(averages) <= set(range(len(self._twins)))
                and all(
                    (one is None) == (twin is parameter) and (one is None or _alike(one, twin))
                    for one, twin, parameter in zip(twins, self._twins, self.parameters, strict=True)
                )
                and all(
                    _alike(averages[i][name], self._twins[i])
                    for i in averages
                    for name in ("exp_avg", "exp_avg_sq")
                )
            )
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"this is no state of an optimiser: {error!r}") from error
        if not fits:
            raise ValueError("this is the state of an optimiser of other weights: shapes or types differ")


def fit_batches(
    model: nn.Module,
    batches: Iterable[T],
    steps: int,
    loss: Callable[[T], tuple[Tensor, dict[str, float]]],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    clip: float = 1.0,
    final: float = 1.0,
    name: str,
) -> Iterator[dict[str, float]]:
    """Make a step of :class:`Adam32` on each batch; yields a record after each: step, loss, and its figures.

    Args:
        model: trained in place.
        batches: ``steps`` of them.
        loss: maps a batch to its loss, a scalar, and further figures.
        lr: peak learning rate, after a warm-up over :data:`WARMUP` of the steps, at least one; a cosine takes
            it to ``final`` times that.
        clip: the largest gradient norm.
        name: of the bar and of errors.

    Raises:
        FloatingPointError: when the loss is not finite, naming the step, or the gradient is not.
    """
    optimiser, warmup = Adam32(model.parameters(), lr=lr, betas=betas), max(1, round(WARMUP * steps))
    bar = tqdm(batches, total=steps, desc=name, unit="step", mininterval=2.0)
    for step, batch in enumerate(bar, start=1):
        value, figures = loss(batch)
        if not torch.isfinite(value):
            raise FloatingPointError(f"{name}: loss is {value.item()} at step {step}; lower lr={lr}")
        optimiser.zero_grad()
        value.backward()
        for group in optimiser.adam.param_groups:
            group["lr"] = lr * scheduled_rate(step, steps=steps, warmup=warmup, final=final)
        optimiser.step(clip)
        yield {"step": step, "loss": value.item(), **figures}


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (one.shape, one.dtype) == (other.shape, other.dtype)


def tensors_of(state: Any) -> Iterator[torch.Tensor]:
    """The tensors of a nested state, in its order."""
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from tensors_of(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from tensors_of(value)
