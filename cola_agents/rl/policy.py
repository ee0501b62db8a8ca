"""The trained policy beside the initial one: log-probabilities, entropies, KLs and values.

Shapes: N episodes, T positions, M acting positions, D hidden, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cola_agents.common.threads import fitting_threads
from cola_agents.decoding.contract import PolicySession
from cola_agents.model.lora import adapters_off
from cola_agents.model.sampling import Drawing, distribution
from cola_agents.rl.actors import Actor
from cola_agents.rl.collecting import Act
from cola_agents.rl.losses import average, categorical_entropy, categorical_kl, sampled_kl
from cola_agents.rl.options import AgentOptions
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.update import Batch, Record, in_parts
from cola_agents.rl.workers import RolloutWorkers

#: Largest number of logits in memory at once: 2 ** 26 are 256 MiB in float32.
LOGITS_AT_ONCE = 2**26


@dataclass(frozen=True)
class Evaluated:
    """The M actions of a rollout under the policy's current weights.

    Attributes:
        features: the actor's features at the acting positions, [M, D].
        log_probs: of the actions taken, [M] float32.
        entropy: of the policy, [M] float32.
        kl: from the policy to the reference, exact or estimated, [M] float32; zeros without a reference.
    """

    features: Tensor
    log_probs: Tensor
    entropy: Tensor
    kl: Tensor


class TrainedPolicy:
    """The trained actor and the initial policy: evaluates actions, values and KLs.

    :func:`cola_agents.collect` takes it as a policy, as it takes the actor.

    Args:
        actor: the trained policy.
        reference: the initial policy; None if that is the actor without its adapters.
        options: how actions are drawn and the KL is measured.
        workers: the processes that compute together.
    """

    def __init__(
        self, actor: Actor, reference: Actor | None, options: AgentOptions, workers: RolloutWorkers
    ) -> None:
        self.actor = actor
        self.reference = reference
        self.options = options
        self.workers = workers
        self.threads = fitting_threads(actor)

    def attach(self, session: PolicySession) -> Act:
        """Begin to act in a session; see :class:`cola_agents.rl.rollout.Policy`."""
        return self.actor.attach(session)

    @contextmanager
    def initial(self) -> Iterator[Actor]:
        """The initial policy."""
        if self.reference is not None:
            yield self.reference
        else:
            with adapters_off(self.actor.trunk):
                yield self.actor

    def evaluate_actions(self, rollout: Rollout, *, with_kl: bool | None = None) -> Evaluated:
        """Log-probabilities, entropies and KLs at a rollout's M actions, under the current weights.

        Args:
            with_kl: False for a KL of 0 without computing it; None: it is computed with ``kl_in="loss"``.
        """
        reference = None
        if with_kl is None:
            with_kl = self.options.kl_in == "loss"
        if with_kl and rollout.reference is not None:
            with self.initial() as initial:
                reference = initial, rollout.reference[rollout.mask]
        elif with_kl:
            with torch.no_grad(), self.initial() as initial:
                reference = initial, initial.acting(rollout)
        return evaluate_actions(
            self.actor,
            self.actor.acting(rollout),
            rollout.actions[rollout.mask],
            drawing=self.options.drawing,
            reference=reference,
            estimator=self.options.estimator,
        )

    @torch.no_grad()
    def at_positions(self, rollout: Rollout, compute: Callable[[Rollout], Tensor]) -> Tensor:
        """``compute`` of all episodes, ``micro_batch`` of them at a time: [N, T] float32.

        Each process computes on the episodes whose hidden states it holds.
        """
        values = torch.zeros_like(rollout.rewards)
        with self.threads:
            for index in in_parts(rollout, self.options.micro_batch):
                part = rollout.select(index)
                values[index, : part.mask.shape[1]] = compute(part)
        return self.workers.sum(values)

    @torch.no_grad()
    def with_reference(self, rollout: Rollout) -> Rollout:
        """The rollout with the initial policy's features at the actions, computed once for several passes.

        They take as much memory as the hidden states.
        """
        reference = self.actor.head.weight.new_zeros((*rollout.mask.shape, self.actor.head.in_features))
        with self.threads, self.initial() as initial:
            for index in in_parts(rollout, self.options.micro_batch):
                part = rollout.select(index)
                within, at = part.mask.nonzero(as_tuple=True)
                episodes = torch.as_tensor(index, device=at.device)[within]
                reference[episodes, at] = initial.acting(part).to(reference)
        return replace(rollout, reference=reference)

    def values(self, rollout: Rollout) -> Tensor:
        """The value of every state, [N, T]; without a gradient."""
        return self.at_positions(rollout, lambda part: self.actor.values(self.actor.features(part)))

    def kl(self, rollout: Rollout) -> Tensor:
        """The KL to the initial policy at each action, by the options' estimator, [N, T]; 0 elsewhere."""

        def compute(part: Rollout) -> Tensor:
            kl = torch.zeros_like(part.rewards)
            kl[part.mask] = self.evaluate_actions(part, with_kl=True).kl
            return kl

        return self.at_positions(rollout, compute)

    def kl_in_reward(self, rollout: Rollout) -> tuple[Tensor, Record]:
        """With ``kl_in="reward"`` :meth:`kl` [N, T] and its mean, as a figure; otherwise 0 and no figure."""
        if self.options.kl_in != "reward":
            return torch.zeros_like(rollout.rewards), {}
        kl = self.kl(rollout)
        return kl, {"kl": average(kl[rollout.mask], rollout.mask, "token").item()}

    def regularised(self, loss: Tensor, part: Batch, now: Evaluated, kl_coef: float) -> tuple[Tensor, Record]:
        """Add the entropy bonus to a loss and, with ``kl_in="loss"``, the KL; also returns their figures.

        The figure ``kl``, which ``kl_target`` steers, is this part's share of the mean over all actions of
        the minibatch.
        """
        entropy = part.mean(now.entropy)
        figures = {"entropy": entropy.item()}
        if self.options.kl_in == "loss":
            loss = loss + kl_coef * part.mean(now.kl)
            figures["kl"] = (now.kl.sum() / (part.parent or part).rollout.num_actions).item()
        return loss - self.options.entropy_coef * entropy, figures


def evaluate_actions(
    actor: Actor,
    features: Tensor,
    taken: Tensor,
    *,
    drawing: Drawing,
    reference: tuple[Actor, Tensor] | None = None,
    estimator: str = "exact",
) -> Evaluated:
    """Log-probabilities of actions, entropies and KLs, in memory for ``LOGITS_AT_ONCE`` logits.

    If M * A is larger, the positions are computed in parts, and the backward pass computes the logits of each
    part again.

    Args:
        features: of the actor, [M, D].
        taken: the actions, [M].
        drawing: temperature, top_k and top_p that the actions were drawn with.
        reference: another actor and its features [M, D], for the KL; its distribution is not truncated.
        estimator: ``"exact"``, ``"k1"`` or ``"k3"``.
    """

    def part(features: Tensor, taken: Tensor, initial: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        log_policy = distribution(actor.logits(features), **drawing, taken=taken)
        log_probs = log_policy.gather(-1, taken[:, None]).squeeze(-1)
        kl = torch.zeros_like(log_probs)
        if reference is not None and initial is not None:
            with torch.no_grad():
                log_initial = distribution(reference[0].logits(initial), temperature=drawing["temperature"])
            if estimator == "exact":
                kl = categorical_kl(log_policy, log_initial)
            else:
                kl = sampled_kl(log_probs, log_initial.gather(-1, taken[:, None]).squeeze(-1), estimator)
        return log_probs, categorical_entropy(log_policy), kl

    initial = None if reference is None else reference[1]
    size = max(1, LOGITS_AT_ONCE // actor.num_actions)
    if len(taken) <= size:
        return Evaluated(features, *part(features, taken, initial))
    pieces = []
    for at in range(0, len(taken), size):
        here = slice(at, at + size)
        inputs = features[here], taken[here], None if initial is None else initial[here]
        pieces.append(
            checkpoint(part, *inputs, use_reentrant=False) if torch.is_grad_enabled() else part(*inputs)
        )
    return Evaluated(features, *(torch.cat(columns) for columns in zip(*pieces, strict=True)))
