"""How much of a policy gradient is signal: the squared mean of group gradients against their spread.

Shapes: n groups of episodes, P parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cola_agents.rl.agent import Agent
from cola_agents.rl.update import Batch


@dataclass(frozen=True)
class Signal:
    """The gradient's signal and noise, of n independent gradients.

    Attributes:
        signal: an unbiased estimate of the mean gradient's squared norm; the plain squared norm of the mean
            counts noise / n as well. It may be negative.
        noise: an unbiased estimate of the trace of one gradient's covariance.
        count: n.
        error: standard error of :attr:`ratio`, by the jackknife, which errs to the large side, up to sqrt(2)
            times, where the signal is small; None where there is no ratio.
    """

    signal: float
    noise: float
    count: int
    error: float | None

    @property
    def ratio(self) -> float | None:
        """``signal / noise`` of one gradient, m times as much of the mean of m; None without noise."""
        return self.signal / self.noise if self.noise > 0 else None


def signal_to_noise(products: np.ndarray) -> Signal:
    """Signal and noise of gradients, given the inner products of each with each.

    Args:
        products: [n, n], n at least 3; of several blocks of parameters together, the sum of theirs.
    """
    n = len(products)
    if products.shape != (n, n) or n < 3:
        raise ValueError(
            f"the products of at least 3 gradients are needed, got an array {list(products.shape)}"
        )
    own, total = np.diag(products), products.sum()
    signal, noise = _moments(own.sum(), total, n)
    if not noise > 0:
        return Signal(float(signal), float(noise), n, None)
    # Every gradient left out once.
    signals, noises = _moments(own.sum() - own, total - 2 * products.sum(1) + own, n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = signals / noises
    error = float(np.sqrt((n - 1) * ratios.var())) if np.isfinite(ratios).all() else None
    return Signal(float(signal), float(noise), n, error)


def _moments(own: np.ndarray, total: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Of n gradients the squared norm of the mean and the trace of the covariance.

    Args:
        own: sum of their squared norms.
        total: squared norm of their sum.
    """
    return (total - own) / (n * (n - 1)), (own - total / n) / (n - 1)


def group_gradients(agent: Agent, batch: Batch, size: int) -> dict[str, Tensor]:
    """The gradient of each group's share of the agent's loss, by part of its actor: [n, P of the part].

    The head's and the trunk's parameters are apart; the value's are left out.

    Args:
        size: episodes of a group, which are consecutive in the batch.
    """
    named = {name: p for name, p in agent.actor.trained().items() if not name.startswith("value_head")}
    parts: dict[str, list[Tensor]] = {name.split(".")[0]: [] for name in named}
    for at in range(0, len(batch.rollout), size):
        share, _ = agent.loss(replace(batch.select(np.arange(at, at + size)), parent=batch))
        loss = share * batch.num_decisions  # its sum over the group's decisions
        derivatives = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        pieces: dict[str, list[Tensor]] = {part: [] for part in parts}
        for (name, parameter), gradient in zip(named.items(), derivatives, strict=True):
            filled = torch.zeros_like(parameter) if gradient is None else gradient
            pieces[name.split(".")[0]].append(filled.flatten().float())
        for part, vectors in pieces.items():
            parts[part].append(torch.cat(vectors))
    return {part: torch.stack(rows) for part, rows in parts.items()}


def products_of(gradients: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Inner products of gradients with one another, [n, n] float64, of each part and of ``"all"``."""
    products = {part: (rows @ rows.T).double().cpu().numpy() for part, rows in gradients.items()}
    return {"all": sum(products.values(), np.zeros(())), **products}


def gradient_snr(agent: Agent) -> tuple[dict[str, Signal], Batch]:
    """Signal and noise of the next policy gradient of a bundled agent, without an update.

    The agent plays one batch, and each group of episodes that are judged against one another (GRPO, RLOO: the
    answers to one problem; others: each episode) gives one gradient of the agent's own loss: these are
    independent, where the episodes of a group are not. An agent that standardises over its whole batch
    (``whiten``, PPO's values) couples groups a little. Memory: n gradients of the actor, in float32.

    Returns:
        Per part of the actor (``"all"``, ``"head"``, ``"trunk"``) its :class:`Signal`, of a group's gradient;
        per episode divide by the group's size. And the batch.

    Raises:
        ValueError: for fewer than 3 groups.
    """
    played = agent.num_timesteps, agent.num_episodes
    try:
        batch = agent.batch()
    finally:
        agent.num_timesteps, agent.num_episodes = played
    gradients = group_gradients(agent, batch, getattr(agent.options, "group_size", 1))
    return {part: signal_to_noise(products) for part, products in products_of(gradients).items()}, batch
