"""The policy that is trained, beside the one it started as.

Shapes: N episodes, T positions, M acting positions, D hidden, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cola_agents.common.threads import fitting_threads
from cola_agents.decoding.contract import PolicySession
from cola_agents.model.lora import adapters_off
from cola_agents.model.sampling import Drawing, distribution
from cola_agents.rl.actors import Actor
from cola_agents.rl.losses import average, categorical_entropy, categorical_kl, sampled_kl
from cola_agents.rl.options import AgentOptions
from cola_agents.rl.rollout import Act, Rollout
from cola_agents.rl.update import Batch, Record, in_parts
from cola_agents.rl.workers import RolloutWorkers

#: Log-probabilities that are held at once, over all actions: 2 ** 26 are 256 MiB in float32.
LOGITS_AT_ONCE = 2**26


@dataclass(frozen=True)
class Evaluated:
    """Actions that were taken, as a policy sees them now; M acting positions.

    Attributes:
        features: of the actor there, [M, D].
        log_probs: of the actions taken, [M] float32.
        entropy: of the policy, [M] float32.
        kl: from the policy to the reference, exact or estimated, [M] float32; zeros where no reference was
            given.
    """

    features: Tensor
    log_probs: Tensor
    entropy: Tensor
    kl: Tensor


class TrainedPolicy:
    """The actor that is trained beside the policy it started as: evaluates actions, values and KLs.

    It plays as its actor does: :func:`cola_agents.collect` takes either.

    Args:
        actor: the policy.
        reference: the policy that it started as; None where that is the actor without its adapters.
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
        """The policy that this one started as."""
        if self.reference is not None:
            yield self.reference
        else:
            with adapters_off(self.actor.trunk):
                yield self.actor

    def evaluate_actions(self, rollout: Rollout, *, with_kl: bool | None = None) -> Evaluated:
        """Log-probabilities, entropies and KLs at a rollout's M actions, under the policy as it is now.

        Args:
            with_kl: whether the KL to the initial policy is computed, or 0; None: only with ``kl_in="loss"``.
        """
        reference = None
        if with_kl is None:
            with_kl = self.options.kl_in == "loss"
        if with_kl:
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
        """What ``compute`` gives at each position of some episodes, for all of a rollout: [N, T] float32.

        Each process computes on the episodes whose hidden states it holds, ``micro_batch`` at a time.
        """
        found = torch.zeros_like(rollout.rewards)
        with self.threads:
            for index in in_parts(rollout, self.options.micro_batch):
                part = rollout.select(index)
                found[index, : part.mask.shape[1]] = compute(part)
        return self.workers.sum(found)

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
        """The KL that rewards are to pay for: :meth:`kl` and its mean, or 0 unless ``kl_in="reward"``."""
        if self.options.kl_in != "reward":
            return torch.zeros_like(rollout.rewards), {}
        kl = self.kl(rollout)
        return kl, {"kl": average(kl[rollout.mask], rollout.mask, "token").item()}

    def regularised(self, loss: Tensor, part: Batch, now: Evaluated, kl_coef: float) -> tuple[Tensor, Record]:
        """A policy's loss with the entropy bonus and, with ``kl_in="loss"``, the KL; and their figures."""
        entropy = part.mean(now.entropy)
        figures = {"entropy": entropy.item()}
        if self.options.kl_in == "loss":
            kl = part.mean(now.kl)
            loss = loss + kl_coef * kl
            figures["kl"] = kl.item()
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
    """Log-probabilities of actions, entropies and KLs, without holding M distributions where they are large.

    Over a large vocabulary the positions are taken a few at a time and their logits are made again for
    the gradient, so that memory holds ``LOGITS_AT_ONCE`` of them, and not M times A.

    Args:
        features: of the actor, [M, D].
        taken: the actions, [M].
        drawing: temperature, top_k and top_p that the actions were drawn with.
        reference: another actor and its features [M, D], for the KL; nothing of its policy is cut.
        estimator: ``"exact"``, ``"k1"`` or ``"k3"``.
    """

    def part(features: Tensor, taken: Tensor, theirs: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        log_policy = distribution(actor.logits(features), **drawing, taken=taken)
        log_probs = log_policy.gather(-1, taken[:, None]).squeeze(-1)
        kl = torch.zeros_like(log_probs)
        if reference is not None and theirs is not None:
            with torch.no_grad():
                other = distribution(reference[0].logits(theirs), temperature=drawing["temperature"])
            if estimator == "exact":
                kl = categorical_kl(log_policy, other)
            else:
                kl = sampled_kl(log_probs, other.gather(-1, taken[:, None]).squeeze(-1), estimator)
        return log_probs, categorical_entropy(log_policy), kl

    theirs = None if reference is None else reference[1]
    size = max(1, LOGITS_AT_ONCE // actor.num_actions)
    if len(taken) <= size:
        return Evaluated(features, *part(features, taken, theirs))
    pieces = []
    for at in range(0, len(taken), size):
        here = slice(at, at + size)
        given = features[here], taken[here], None if theirs is None else theirs[here]
        pieces.append(
            checkpoint(part, *given, use_reentrant=False) if torch.is_grad_enabled() else part(*given)
        )
    return Evaluated(features, *(torch.cat(columns) for columns in zip(*pieces, strict=True)))
