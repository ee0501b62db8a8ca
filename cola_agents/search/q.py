"""The Q-function: action values, learned from recorded episodes by double DQN."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from cola_agents.common.threads import fitting_threads
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.decoding.contract import PolicySession
from cola_agents.rl.rollout import Rollout
from cola_agents.search.config import Evaluate, Evaluation
from cola_agents.search.fitting import fit
from cola_agents.search.playout import Values
from cola_agents.search.trunk import Kind, Trunk, copied, read_description
from cola_agents.train.options import DISCOUNT, QConfig
from cola_envs.checks import check_number

#: Fields of a saved Q-function's ``q.json``.
_DESCRIPTION = ("reads", "fingerprint", "gamma", "num_actions")
#: How a saved one is read: the name of its files, what it is called, its fields.
SAVED = ("q", "Q-function", _DESCRIPTION)


def check_discount(gamma: object) -> float:
    """The discount factor of a Q-function; ValueError for anything but a number from 0 to 1."""
    number = check_number("gamma", gamma, 0.0)
    if number > 1:
        raise ValueError(f"gamma must be in [0, 1], got {gamma}")
    return number


class QFunction(Trunk):
    """Q(s, a) for every action a: a decoder and a bias-free head on its last hidden state.

    Build one with :meth:`over`; the head starts at zero, and so does every action value.

    Args:
        trunk, reads, fingerprint: as in :class:`~cola_agents.search.trunk.Trunk`.
        head: linear layer D -> A, without bias.
        gamma: discount factor per action in training, in [0, 1].
        mask: the allowed actions, [A] bool; the value of the others is -inf. None where all are allowed.
    """

    _masked: Tensor | None

    def __init__(
        self,
        trunk: Any,
        head: nn.Linear,
        reads: Literal["hidden", "ids"],
        fingerprint: str,
        gamma: float = DISCOUNT,
        mask: np.ndarray | None = None,
    ) -> None:
        super().__init__(trunk, reads, fingerprint)
        self.head, self.gamma = head, check_discount(gamma)
        masked = None if mask is None or mask.all() else torch.from_numpy(~mask).to(head.weight.device)
        self.register_buffer("_masked", masked, persistent=False)

    @classmethod
    def over(
        cls,
        backbone: LatentBackbone | TokenBackbone,
        *,
        trunk: Kind | None = None,
        gamma: float = DISCOUNT,
    ) -> QFunction:
        """An untrained Q-function for a backbone's actions.

        Args:
            trunk: ``"policy"``: a copy of the cloned policy's stack on the frozen base's hidden states,
                cheap to train and to run (the default at latent level); ``"model"``: a copy of the
                language model, as in the official code (the only trunk at token level).
            gamma: discount factor per action, in [0, 1]; the default is the official code's.

        Raises:
            ValueError: for a policy trunk at token level, where there is no policy stack; for another gamma.
        """
        decoder, reads = copied(backbone, trunk)
        _, head = backbone.initial_policy()
        shape = head.in_features, int(backbone.action_space.n)
        q_head = skip_init(nn.Linear, *shape, bias=False, device=head.weight.device)
        nn.init.zeros_(q_head.weight)
        return cls(decoder, q_head, reads, backbone.fingerprint, gamma, backbone.action_mask())

    @property
    def num_actions(self) -> int:
        """The number of actions that it has values for, A."""
        return self.head.out_features

    def forward(self, rollout: Rollout) -> Tensor:
        """Action values at every position of whole episodes, [N, T, A] float32."""
        return self._values(self.states(rollout))

    def at(self, rollout: Rollout, positions: Tensor) -> Tensor:
        """Action values at some positions [N, M] of whole episodes, [N, M, A] float32."""
        states = self.states(rollout)
        # Positions are selected before the head, which is most of the work where A is a vocabulary.
        return self._values(states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1])))

    def _values(self, states: Tensor) -> Tensor:
        values: Tensor = self.head(states.to(self.head.weight.dtype)).float()
        return values if self._masked is None else values.masked_fill(self._masked, float("-inf"))

    def attach(self, session: PolicySession) -> Values:
        """Return a function from the rows of a session to their action values [B, A].

        Raises:
            ValueError: where the session's actions are not those of the Q-function.
        """
        features, threads = self.follow(session), fitting_threads(self)

        def values(rows: Sequence[int]) -> Tensor:
            with torch.no_grad(), threads:
                return self._values(features(rows))

        return values

    def save(self, path: str | Path) -> None:
        """Save safetensors and a JSON description to a folder that is absent or empty.

        Raises:
            FileExistsError: if the folder is not empty.
        """
        self.save_files(path, "q", _DESCRIPTION)

    @classmethod
    def load(cls, path: str | Path, backbone: LatentBackbone | TokenBackbone) -> QFunction:
        """Load a Q-function that :meth:`save` wrote.

        Raises:
            FileNotFoundError: where the folder holds no Q-function.
            DamagedError: a ValueError, for files that differ from what :meth:`save` wrote.
            ValueError: for a Q-function of another model or another number of actions.
        """
        description = read_description(path, *SAVED, backbone)
        kind: Kind = "policy" if description["reads"] == "hidden" else "model"
        q = cls.over(backbone, trunk=kind, gamma=description["gamma"])
        q.load_weights(path, "q")
        return q.eval()


def train_q(
    q: QFunction,
    rollout: Rollout,
    config: QConfig | None = None,
    *,
    held_out: Rollout | None = None,
) -> list[dict[str, float]]:
    """Train a Q-function on recorded episodes; returns a log record per step.

    The loss is the mean squared difference from the double-DQN target over the actions taken. The next state
    is that of the row's next action, so that text of the task in between is not discounted; the official code
    takes that of the next token. The last action of a truncated episode has no known next state and is left
    out.

    Args:
        q: trained in place.
        rollout: N episodes; with their hidden states where the trunk reads those.
        held_out: as in :func:`~cola_agents.search.fitting.fit`.

    Raises:
        ValueError, FloatingPointError: as :func:`~cola_agents.search.fitting.fit`.

    Source: van Hasselt et al. 2016 (arXiv 1509.06461); CoLA's Q-function.
    """
    config = config or QConfig()
    target = copy.deepcopy(q).requires_grad_(False)

    def loss(batch: Rollout) -> tuple[Tensor, dict[str, float]]:
        error, mean_value = _td_loss(q, target, batch)
        return error, {"q": mean_value}

    def copy_to_target(step: int) -> None:
        if step % config.target_every == 0:
            target.load_state_dict(q.state_dict())

    return fit(
        q,
        rollout,
        config,
        loss,
        partial(ending_values, q),
        held_out=held_out,
        after_step=copy_to_target,
        name="q",
    )


def _td_loss(q: QFunction, target: QFunction, rollout: Rollout) -> tuple[Tensor, float]:
    """The mean squared TD error of episodes, and the mean value of their actions."""
    positions, rewards, mask, has_target = acting(rollout)
    values = q.at(rollout, positions)
    with torch.no_grad():
        targets = episode_targets(rewards, values, target.at(rollout, positions), mask, gamma=q.gamma)
    taken = values.gather(-1, rollout.actions.gather(1, positions)[..., None]).squeeze(-1)
    errors = functional.mse_loss(taken, targets, reduction="none")
    loss = (errors * has_target).sum() / has_target.sum().clamp_min(1)
    return loss, taken[mask].mean().item()


def ending_values(q: QFunction, rollout: Rollout) -> Tensor:
    """Q of the last action of each of N episodes, [N]."""
    positions, _, mask, _ = acting(rollout)
    last = positions.gather(1, mask.sum(1, keepdim=True) - 1)
    return q.at(rollout, last)[:, 0].gather(1, rollout.actions.gather(1, last))[:, 0]


def acting(rollout: Rollout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The positions of episodes at which an action is taken.

    Returns:
        The positions [N, M], padded with 0; the rewards of their actions [N, M]; a mask [N, M] bool, False at
        padding; and a mask [N, M] bool, False also where the next state is unknown.
    """
    counts = rollout.mask.sum(1)
    mask = torch.arange(int(counts.max()), device=counts.device) < counts[:, None]
    positions = torch.zeros(mask.shape, dtype=torch.long, device=counts.device)
    positions[mask] = rollout.mask.nonzero()[:, 1]
    rewards = rollout.rewards.gather(1, positions) * mask
    has_target = mask.clone()
    truncated = ~rollout.terminated
    has_target[truncated, counts[truncated] - 1] = False
    return positions, rewards, mask, has_target


def q_evaluator(logits: Values, q: Values) -> Evaluate:
    """Priors from a policy, values from a Q-function: the value of a state is that of its best action.

    Args:
        logits: maps rows to the policy's action logits [B, A].
        q: maps rows to action values [B, A]; attached to the same session.
    """

    @torch.no_grad()
    def evaluate(rows: Sequence[int], /) -> Evaluation:
        given, values = logits(rows), q(rows)
        prior = torch.softmax(given.double(), -1)
        best = values[:, : given.shape[1]].amax(-1)
        return Evaluation(prior.cpu().numpy(), best.double().cpu().numpy(), values.double().cpu().numpy())

    return evaluate


def td_target(rewards: Tensor, online: Tensor, target: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """Double-Q targets: ``y_t = r_t + gamma Q_target(s_t+1, argmax_a Q_online(s_t+1, a)) mask_t+1``.

    Args:
        rewards: [B, T], for the action at t.
        online, target: action values of the two networks, [B, T, A].
        mask: [B, T], 1 where an action was taken; the value after the last one is 0.

    Returns:
        [B, T - 1]; entries where ``mask`` is 0 are arbitrary.

    Source: van Hasselt et al. 2016 (arXiv 1509.06461), as CoLA's Q-function uses it.
    """
    best = online[:, 1:].argmax(-1, keepdim=True)
    next_values = target[:, 1:].gather(-1, best).squeeze(-1)
    return rewards[:, :-1] + gamma * next_values * mask[:, 1:].to(next_values)


def episode_targets(rewards: Tensor, online: Tensor, target: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """:func:`td_target` of whole episodes, [B, T]: the target of a last action is its reward."""
    online, target = (functional.pad(values, (0, 0, 0, 1)) for values in (online, target))
    rewards, mask = (functional.pad(each, (0, 1)) for each in (rewards, mask))
    return td_target(rewards, online, target, mask, gamma=gamma)
