"""Whole episodes side by side, as learners read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class Episode:
    """One episode as it is played; T counts prompt, agent's tokens and task text.

    Attributes:
        ids: token ids, T of them.
        positions: of each action, the index of the last token before it.
        actions, log_probs, rewards: an entry for each action.
        written: of each token, whether an action wrote it; empty if that is not known.
        terminated: True if the episode ended, False if it was cut.
        info: of the last step.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    written: list[bool] = field(default_factory=list)
    terminated: bool = False
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """N whole episodes, padded on the right. T counts prompt, agent's tokens and task text.

    An action is at the position of the state it was taken in: ``actions[n, t]`` was chosen after reading
    ``ids[n, : t + 1]``. All tensors are on the model's device.

    Attributes:
        ids: token ids [N, T] int64; 0 after an episode's end.
        lengths: tokens of each episode [N].
        hidden: the base LM's hidden states [N, T, D] in its own dtype; 0 after the end.
        mask: [N, T] bool, True at acting positions.
        actions: [N, T] int64; 0 elsewhere.
        log_probs: of the actions, under the distribution they were drawn from, [N, T]; 0 elsewhere.
        rewards: of the action at t, [N, T].
        terminated: [N] bool; False for an episode that was cut (bootstrap from its last state).
        seeds: the row seed of each episode [N].
        problem_seeds: the seed that each episode's problem was drawn with [N], or its index if problems come
            in order.
        infos: the info dict of each episode's last step.
        reference: [N, T, K], 0 elsewhere than at acting positions; see
            :meth:`~cola_agents.rl.policy.TrainedPolicy.with_reference`. None if it was not computed.
        held: for episodes of several processes: the row of ``hidden`` with each episode's states [N], -1 for
            an episode of another process. None if row n of ``hidden`` is episode n.
        written: [N, T] bool, True at tokens that an action wrote; None if that is not known, as of episodes
            read from a file: then each is taken to have written one.
    """

    ids: Tensor
    lengths: Tensor
    hidden: Tensor
    mask: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    terminated: Tensor
    seeds: np.ndarray
    problem_seeds: np.ndarray
    infos: list[dict[str, Any]]
    reference: Tensor | None = None
    held: np.ndarray | None = None
    written: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def episode_rewards(self) -> Tensor:
        """Sum of rewards of each episode, [N]; it does not depend on the padding."""
        return self.rewards.double().sum(1).to(self.rewards.dtype)

    @property
    def reward_sizes(self) -> Tensor:
        """Sum of the magnitudes of each episode's rewards, [N]: rounding error is relative to it."""
        return self.rewards.abs().sum(1)

    @property
    def prompts(self) -> list[list[int]]:
        """The tokens of each episode before its first action."""
        first = self.mask.int().argmax(1).tolist()
        return [row[: at + 1] for row, at in zip(self.ids.tolist(), first, strict=True)]

    @property
    def num_actions(self) -> int:
        """Number of actions in all episodes together."""
        return int(self.mask.sum())

    @property
    def taken_log_probs(self) -> Tensor:
        """Log-probabilities of the actions when they were taken, [M]."""
        return self.log_probs[self.mask]

    @property
    def here(self) -> np.ndarray:
        """Indices of the episodes whose hidden states are in this process."""
        return np.arange(len(self)) if self.held is None else np.flatnonzero(self.held >= 0)

    def select(self, index: np.ndarray | Tensor) -> Rollout:
        """Some of the episodes, cut to the longest of them.

        Args:
            index: indices of episodes, or a mask [N] bool.
        """
        index = torch.as_tensor(index)
        if index.dtype == torch.bool:
            index = index.nonzero().flatten()
        length = int(self.lengths[index].max())
        picked: dict[str, Any] = {}
        for own in fields(self):
            value = getattr(self, own.name)
            if own.name == "hidden" and self.held is not None:
                rows = self.held[index.cpu().numpy()]
                picked["hidden"] = value[rows[rows >= 0], :length]
            elif own.name == "held":
                if value is not None:  # None if the hidden states of all picked episodes are here
                    here = value[index.cpu().numpy()] >= 0
                    value = None if here.all() else np.where(here, here.cumsum() - 1, -1)
                picked["held"] = value
            elif value is None:
                continue
            elif isinstance(value, Tensor):
                picked[own.name] = value[index] if value.dim() == 1 else value[index, :length]
            elif isinstance(value, np.ndarray):
                picked[own.name] = value[index.cpu().numpy()]
            else:
                picked[own.name] = [value[i] for i in index.tolist()]
        return replace(self, **picked)


def side_by_side(
    episodes: Sequence[Episode], seeds: np.ndarray, problem_seeds: np.ndarray, hidden: Sequence[Tensor]
) -> Rollout:
    """Episodes of unequal length as one Rollout, padded on the right.

    Args:
        seeds, problem_seeds: [N].
        hidden: per episode the states of its tokens, [T, D]; the Rollout is on their device.
    """
    lengths = torch.tensor([len(episode.ids) for episode in episodes])
    shape = (len(episodes), int(lengths.max()))
    states = hidden[0].new_zeros((*shape, hidden[0].shape[-1]))
    # Many short lists: numpy reads each in a fraction of the time that torch takes.
    ids, actions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    log_probs, rewards = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    mask = np.zeros(shape, dtype=bool)
    written = np.zeros(shape, dtype=bool) if all(one.written for one in episodes) else None
    for n, episode in enumerate(episodes):
        ids[n, : len(episode.ids)] = episode.ids
        states[n, : len(hidden[n])] = hidden[n]
        at = episode.positions
        mask[n, at] = True
        actions[n, at] = episode.actions
        log_probs[n, at] = episode.log_probs
        rewards[n, at] = episode.rewards
        if written is not None:
            written[n, : len(episode.ids)] = episode.written
    device = states.device
    return Rollout(
        ids=torch.from_numpy(ids).to(device),
        lengths=lengths.to(device),
        hidden=states,
        mask=torch.from_numpy(mask).to(device),
        actions=torch.from_numpy(actions).to(device),
        log_probs=torch.from_numpy(log_probs).to(device),
        rewards=torch.from_numpy(rewards).to(device),
        terminated=torch.tensor([episode.terminated for episode in episodes], device=device),
        seeds=seeds,
        problem_seeds=problem_seeds,
        infos=[episode.info for episode in episodes],
        written=None if written is None else torch.from_numpy(written).to(device),
    )
