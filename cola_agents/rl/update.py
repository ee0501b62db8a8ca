"""One update: gradient steps on a batch of episodes.

Shapes: N episodes, T positions, M acting positions, G decisions (M of them, or fewer macro actions).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cola_agents.rl.actors import Actor
from cola_agents.rl.losses import average, sum_macros
from cola_agents.rl.optimiser import Optimiser
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.shared_prompts import shared_prompts
from cola_agents.rl.workers import RolloutWorkers

#: Figures of an update by name.
Record = dict[str, float]


@dataclass(frozen=True)
class Batch:
    """Episodes with advantages: the batch of an update, a minibatch of it, or a part of a minibatch.

    Attributes:
        rollout: the episodes.
        decision_mask: [N, T] bool, True at decisions: every action, or the first of each macro action.
        advantages: [N, T], read at decisions.
        figures: figures by name that are recorded once for the whole batch.
        loss_mean: how :meth:`mean` averages: ``"token"`` or ``"sequence"``, as in
            :func:`cola_agents.rl.losses.average`.
        values, returns: [N, T]; None for an algorithm without a value function.
        parent: the minibatch that this part was cut from; None if this is not a part.
    """

    rollout: Rollout
    decision_mask: Tensor
    advantages: Tensor
    figures: Record
    loss_mean: str = "token"
    values: Tensor | None = None
    returns: Tensor | None = None
    parent: Batch | None = None

    @cached_property
    def num_decisions(self) -> int:
        """Number of decisions in all episodes together."""
        return int(self.decision_mask.sum())

    def select(self, index: np.ndarray) -> Batch:
        """The episodes of ``index``, cut to the longest of them."""
        rollout = self.rollout.select(index)
        length = rollout.mask.shape[1]
        values, returns = (
            None if tensor is None else tensor[index][:, :length] for tensor in (self.values, self.returns)
        )
        return replace(
            self,
            rollout=rollout,
            decision_mask=self.decision_mask[index][:, :length],
            advantages=self.advantages[index][:, :length],
            values=values,
            returns=returns,
            parent=None,
        )

    def parts(self, size: int | None) -> Iterator[Batch]:
        """The episodes that this process computes on, ``size`` at a time; None for all at once."""
        for index in in_parts(self.rollout, size):
            whole = len(index) == len(self.rollout)
            yield self if whole else replace(self.select(index), parent=self)

    def by_decision(self, values: Tensor) -> Tensor:
        """``values`` [M], one for each action, summed over the actions of each decision: [G]."""
        return sum_macros(values, self.rollout.mask, self.decision_mask)

    def mean(self, values: Tensor, over: Literal["actions", "decisions"] = "actions") -> Tensor:
        """This part's share of the minibatch's mean of ``values``: the shares of all parts add up to it.

        Args:
            values: one for each action, [M], or each decision, [G].
            over: which of the two.
        """
        minibatch = self.parent or self
        mask, total = self.rollout.mask, minibatch.rollout.num_actions
        if over == "decisions":
            mask, total = self.decision_mask, minibatch.num_decisions
        if self.loss_mean == "sequence":
            total = len(minibatch.rollout)
        return average(values, mask, self.loss_mean, total)

    def ratio_figures(self, log_ratio: Tensor, clip: float | None = None) -> Record:
        """Distance of the policy from the one that played: shares of the minibatch's means.

        Args:
            log_ratio: of each decision, the log-probability now minus that when it was taken, [G].
            clip: the ratio's clipping range; None for a loss without clipping.
        """
        log_ratio = log_ratio.detach()
        share = self.num_decisions / (self.parent or self).num_decisions
        figures = {"approx_kl": (torch.expm1(log_ratio) - log_ratio).mean().item() * share}
        if clip is not None:
            figures["clip_fraction"] = ((log_ratio.exp() - 1).abs() > clip).float().mean().item() * share
        return figures


def improve(
    actor: Actor,
    optimiser: Optimiser,
    batch: Batch,
    loss: Callable[[Batch], tuple[Tensor, Record]],
    minibatches: Iterator[np.ndarray],
    *,
    micro_batch: int | None,
    max_grad_norm: float,
    workers: RolloutWorkers,
) -> dict[str, list[float]]:
    """Make a gradient step on each of the minibatches.

    Args:
        loss: returns a part's share of the minibatch's loss, and of its figures.
        minibatches: the indices of each minibatch's episodes; see :func:`shuffled`.
        micro_batch: episodes in a part, for gradient accumulation; None for whole minibatches.
        workers: the processes that compute together, each on its own episodes.

    Returns:
        Figures by name, a list with a number for each step; with ``loss`` and ``grad_norm``.

    Raises:
        FloatingPointError: for a loss or a gradient that is not finite; that step is not made.
    """
    figures: dict[str, list[float]] = defaultdict(list)
    for index in minibatches:
        step: Record = defaultdict(float)
        optimiser.zero_grad()
        for part in batch.select(index).parts(micro_batch):
            value, shares = loss(part)
            if not torch.isfinite(value):
                raise FloatingPointError(f"the loss is {value.item()}: no step was made; lower lr")
            value.backward()
            for name, share in {**shares, "loss": value.item()}.items():
                step[name] += share
        step = workers.sum_gradients(list(actor.trained().values()), step)
        step["grad_norm"] = optimiser.step(max_grad_norm)
        for name, number in step.items():
            figures[name].append(number)
    return figures


def in_parts(rollout: Rollout, size: int | None) -> list[np.ndarray]:
    """Indices of the episodes whose hidden states are in this process, ``size`` at a time; None for all.

    Episodes of similar length are in one part, since a part is padded to its longest; where it is worth more,
    those of one prompt (:mod:`cola_agents.rl.shared_prompts`).
    """
    here = rollout.here
    if size is None or size >= len(here):
        return [here] if len(here) else []
    order = [rollout.lengths]
    shared = shared_prompts(rollout.ids, rollout.lengths, rollout.mask, rollout.hidden.shape[-1])
    if shared is not None:
        order.append(shared.group)
    here = here[np.lexsort([key.cpu().numpy()[here] for key in order])]
    return [here[at : at + size] for at in range(0, len(here), size)]


def shuffled(
    count: int, size: int | None, passes: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Indices of minibatches of ``size`` of ``count`` episodes, in a new order each pass; None for all."""
    size = size or count
    for _ in range(passes):
        order = generator.permutation(count)
        yield from (order[at : at + size] for at in range(0, count, size))
