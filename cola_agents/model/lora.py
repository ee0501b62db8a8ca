"""Low-rank adapters on a stack of layers with shared, frozen weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from cola_agents.common.randomness import drawn_from

M = TypeVar("M")


def shared_copy(module: M) -> M:
    """A copy of a module that shares the original's weights; none of them is trainable."""
    assert isinstance(module, nn.Module)
    memo: dict[int, object] = {id(b): b for b in module.buffers()}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(module, memo)


def alpha_of(rank: int, alpha: float | None) -> float:
    """``alpha`` of adapters, or twice their rank for None; their scale is ``alpha / rank``.

    Raises:
        ValueError: for an alpha that is not positive.
    """
    if alpha is not None and not alpha > 0:
        raise ValueError(f"the adapters' alpha must be positive, got {alpha}: with 0 they would do nothing")
    return 2 * rank if alpha is None else alpha


def add_adapters(stack: nn.Module, rank: int, alpha: float | None, seed: int) -> None:
    """Insert adapters into every linear layer of a stack, in place; only they are trainable then.

    They start as the identity: the first factor is drawn from ``seed``, the second is 0. Adapters have the
    stack's type; for a lower precision the optimiser has float32 master weights.

    Args:
        rank: of the two factors.
        alpha: the scale is ``alpha / rank``; None for ``2 rank``.

    Raises:
        ValueError: for an alpha that is not positive.
        ImportError: without peft.

    Source: Hu et al. 2021, arXiv 2106.09685.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("lora_rank needs peft: pip install 'cola-rl[train]'") from error
    alpha = alpha_of(rank, alpha)
    linear = [name.rpartition(".")[2] for name, part in stack.named_modules() if isinstance(part, nn.Linear)]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=sorted(set(linear)))  # type: ignore[arg-type]
    with drawn_from(seed):
        inject_adapter_in_model(config, stack)
    stack.eval()
    generator = torch.Generator().manual_seed(seed)
    for layer in _adapters(stack):
        for name, factor in layer.lora_A.items():
            bound = 1 / math.sqrt(factor.in_features)
            drawn = torch.rand(factor.weight.shape, generator=generator)
            with torch.no_grad():
                factor.weight.copy_((2 * drawn - 1) * bound)
                layer.lora_B[name].weight.zero_()


@contextmanager
def adapters_off(stack: nn.Module) -> Iterator[None]:
    """Disable the adapters of a stack within the block."""
    layers = _adapters(stack)
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _adapters(stack: nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [part for part in stack.modules() if isinstance(part, BaseTunerLayer)]
