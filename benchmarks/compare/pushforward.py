"""The latent policy's distribution over tokens, in place of codes.

Under an argmax world model a code is a token, and several codes may be the same one. The *pushforward* of a
policy over codes is the policy over tokens that it amounts to: a token's probability is the sum over the
codes that give it.

Shapes: M positions, D hidden, A codes, V vocabulary, N episodes, T positions of an episode.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cola_agents.decoding.code_table import code_table
from cola_agents.decoding.contract import PolicyBackbone
from cola_agents.rl.grpo import GRPO
from cola_agents.rl.losses import categorical_entropy, categorical_kl
from cola_agents.rl.policy import Evaluated, TrainedPolicy
from cola_agents.rl.rollout import Rollout

#: States whose [states, A, V] logits are held at once.
CHUNK = 128
#: Stands for the probability of an empty group, in policy and reference alike.
EMPTY = 1e-30


@torch.no_grad()
def code_groups(backbone: Any, hidden: Tensor) -> Tensor:
    """For each code the lowest code that gives the same token under the argmax: [M, D] to [M, A]."""
    table = code_table(backbone.model)
    if table is None:
        raise ValueError("the comparison looks codes up in a table, and this model has no plain merge layers")
    codes = torch.arange(int(backbone.action_space.n), device=hidden.device)
    groups = []
    for state in hidden.split(CHUNK):
        logits = table.world(state[:, None], codes).masked_fill_(backbone.unused_ids, float("-inf"))
        token = logits.argmax(-1)
        groups.append((token[:, :, None] == token[:, None, :]).to(torch.uint8).argmax(-1))
    return torch.cat(groups)


def pushed(logits: Tensor, groups: Tensor) -> Tensor:
    """Log-probabilities of the groups, [M, A]; a group stands at its lowest code, and others are empty."""
    together = torch.zeros_like(logits, dtype=torch.float32).scatter_add(
        -1, groups, logits.float().softmax(-1)
    )
    return together.clamp_min(EMPTY).log()


@dataclass(frozen=True)
class GroupedRollout(Rollout):
    """A rollout whose actions are groups of codes.

    Attributes:
        groups: of :func:`code_groups`, [N, T, A]; 0 where no action was taken.
    """

    groups: Tensor = field(kw_only=True)


class PushforwardPolicy(TrainedPolicy):
    """A policy over codes whose probabilities are those of tokens; it evaluates a :class:`GroupedRollout`."""

    def evaluate_actions(self, rollout: Rollout, *, with_kl: bool | None = None) -> Evaluated:
        assert isinstance(rollout, GroupedRollout)
        at, temperature = rollout.mask, self.options.temperature
        features = self.actor.acting(rollout)
        log_policy = pushed(self.actor.logits(features) / temperature, rollout.groups[at])
        log_probs = log_policy.gather(-1, rollout.actions[at][:, None]).squeeze(-1)
        kl = torch.zeros_like(log_probs)
        if self.options.kl_in == "loss" if with_kl is None else with_kl:
            with torch.no_grad(), self.initial() as initial:
                theirs = initial.logits(initial.acting(rollout)) / temperature
            kl = categorical_kl(log_policy, pushed(theirs, rollout.groups[at]))
        return Evaluated(features, log_probs, categorical_entropy(log_policy), kl)


class PushforwardGRPO(GRPO):
    """GRPO on the latent policy's own weights, with probabilities of tokens in place of codes.

    What is played is what :class:`~cola_agents.rl.grpo.GRPO` plays; only the log-probability that is learned,
    the entropy and the KL are those of tokens. It tells the action space of the *gradient* from all else.
    """

    def make_policy(self, given: PolicyBackbone) -> tuple[PolicyBackbone, TrainedPolicy]:
        backbone, policy = super().make_policy(given)
        return backbone, PushforwardPolicy(policy.actor, policy.reference, self.options, self.workers)

    def play(self, seeds: np.ndarray, problem_seeds: np.ndarray, *, greedy: bool = False) -> Rollout:
        rollout = super().play(seeds, problem_seeds, greedy=greedy)
        at = rollout.mask
        groups = torch.zeros((*at.shape, self.actor.num_actions), dtype=torch.long, device=at.device)
        groups[at] = code_groups(self.backbone, rollout.hidden[at])
        actions, log_probs = rollout.actions.clone(), rollout.log_probs.clone()
        actions[at] = groups[at].gather(-1, rollout.actions[at][:, None]).squeeze(-1)
        grouped = GroupedRollout(**{**vars(rollout), "actions": actions}, groups=groups)
        with torch.no_grad():
            log_probs[at] = self.policy.evaluate_actions(grouped, with_kl=False).log_probs
        return GroupedRollout(**{**vars(grouped), "log_probs": log_probs})


@torch.no_grad()
def sampled_world_kl(backbone: Any, hidden: Tensor, logits: Tensor, reference: Tensor) -> Tensor:
    """KL in token space between two policies over codes when the world model is sampled from, [M].

    Args:
        hidden: base states, [M, D].
        logits, reference: of the codes, [M, A].
    """
    table = code_table(backbone.model)
    assert table is not None
    codes = torch.arange(int(backbone.action_space.n), device=hidden.device)
    divergences = []
    for state, ours, theirs in zip(
        hidden.split(CHUNK), logits.split(CHUNK), reference.split(CHUNK), strict=True
    ):
        world = table.world(state[:, None], codes).masked_fill_(backbone.unused_ids, float("-inf"))
        token = world.float().softmax(-1)
        ours, theirs = (torch.einsum("ma,mav->mv", p.float().softmax(-1), token) for p in (ours, theirs))
        divergences.append(categorical_kl(ours.clamp_min(EMPTY).log(), theirs.clamp_min(EMPTY).log()))
    return torch.cat(divergences)
