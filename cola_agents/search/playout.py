"""Rollouts: play rows from their current states to the ends of their episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cola_agents.decoding.finite import NotFiniteError
from cola_agents.model.sampling import Drawing, sample
from cola_agents.search.config import Ending
from cola_envs.episodes import Episodes
from cola_envs.spaces import widths

#: Maps rows to action logits or action values [B, A].
Values = Callable[[Sequence[int]], Tensor]
#: Maps rows whose episodes are over to values [B]; higher is better (:mod:`cola_agents.search.judges`).
Judge = Callable[[Sequence[int]], Tensor]


def streams(seed: int | Sequence[int], count: int) -> list[np.random.Generator]:
    """``count`` random generators, one per row, seeded by (seed, row number) or by one seed per row.

    Raises:
        ValueError: where the number of seeds is not ``count``.
    """
    if isinstance(seed, (int, np.integer)):
        return [np.random.default_rng([seed, number]) for number in range(count)]
    if len(seed) != count:
        raise ValueError(f"give one seed, or one for each of the {count} rows: got {len(seed)}")
    return [np.random.default_rng([row_seed]) for row_seed in seed]


class ActionScores(NamedTuple):
    """Action logits [B, A] of B rows, and action values [B, A] where there is a Q-function."""

    logits: Tensor
    values: Tensor | None


@dataclass
class _Playout:
    """A running rollout: the row's token and action counts at its start, and the return so far.

    ``discount`` is that of the next action's reward.
    """

    start_tokens: int
    start_actions: int
    value: float = 0.0
    reward: float = 0.0
    discount: float = 1.0


class Player:
    """Plays rows to the ends of their episodes: :meth:`to_the_end`, or action by action.

    Action by action, rows may begin and end at different times and be stepped together with other rows: call
    :meth:`begin`; then repeat :meth:`score`, :meth:`draw`, a step of the episodes, and :meth:`record`.

    Args:
        episodes: the environments of the rows.
        policy: maps rows to action logits [B, A].
        streams: a random generator per row; each action takes one draw.
        drawing: sampling options, as in :func:`cola_agents.collect`; None for draws at temperature 1 from all
            actions.
        discount: discount factor of an ending's value, per action; an estimate counts as a reward of the last
            action.
        q: maps rows to action values [B, A]. With it, the value of an ending is Q of its last action and the
            task's rewards are not read.
        judge: gives the value of an ending, in place of Q's and of the task's rewards.
    """

    def __init__(
        self,
        episodes: Episodes,
        policy: Values,
        streams: Mapping[int, np.random.Generator],
        *,
        drawing: Drawing | None = None,
        discount: float = 1.0,
        q: Values | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.episodes, self.policy, self.streams, self.q = episodes, policy, streams, q
        self.judge = judge
        self.drawing: Drawing = {**(drawing or {})}
        self.discount = discount
        self._playouts: dict[int, _Playout] = {}

    def to_the_end(self, rows: Sequence[int]) -> list[Ending]:
        """Play each row, which must be running, to the end of its episode.

        Returns:
            The ending of each row, counted from its current state; ``spent`` is the number of new tokens.

        Raises:
            FloatingPointError, ValueError: as :meth:`score`.
        """
        endings: dict[int, Ending] = {}
        self.begin(rows)
        while running := [row for row in rows if row not in endings]:
            scores = self.score(running)
            actions = self.draw(running, scores)
            _, rewards, _, _, infos = self.episodes.step(running, actions)
            endings |= self.record(running, actions, scores, rewards, infos)
        return [endings[row] for row in rows]

    def begin(self, rows: Sequence[int]) -> None:
        """Begin a rollout of each row at its current state; a running one of that row is dropped."""
        for row in rows:
            self._playouts[row] = _Playout(len(self.episodes.tokens(row)), len(self.episodes.actions(row)))

    @torch.no_grad()
    def score(self, rows: Sequence[int]) -> ActionScores:
        """The action logits and action values of rows.

        Raises:
            FloatingPointError: where logits or action values are not finite, naming row and action. A logit
                may be -inf, for an action that is never drawn, but not every logit of a row.
            ValueError: where the number of action values is not that of the actions.
        """
        logits = checked_logits(self.policy(rows), rows)
        values = None if self.q is None else checked_values(self.q(rows), rows, self.episodes)
        return ActionScores(logits, values)

    def draw(self, rows: Sequence[int], scores: ActionScores) -> list[int]:
        """Draw the next action of each row."""
        u = torch.tensor([self.streams[row].random() for row in rows], dtype=torch.float64)
        actions, _ = sample(scores.logits, u.to(scores.logits.device), **self.drawing)
        drawn: list[int] = actions.tolist()
        return drawn

    def record(
        self,
        rows: Sequence[int],
        actions: Sequence[int],
        scores: ActionScores,
        rewards: Sequence[float] | np.ndarray,
        infos: Sequence[dict[str, Any]],
    ) -> dict[int, Ending]:
        """Add the step of each row to its rollout; return the endings of rows whose episode is over."""
        over = [row for row in rows if not self.episodes.running(row)]
        judged = {} if self.judge is None else judged_endings(self.judge, over)
        endings = {}
        for i, row in enumerate(rows):
            playout, reward = self._playouts[row], float(rewards[i])
            playout.reward += reward
            if row in judged:
                playout.value = playout.discount * judged[row]
            elif scores.values is None:
                playout.value += playout.discount * reward
            else:
                playout.value = playout.discount * float(scores.values[i, actions[i]])
            playout.discount *= self.discount
            if row in over:
                del self._playouts[row]
                endings[row] = Ending(
                    text=infos[i]["text"],
                    actions=tuple(self.episodes.actions(row)[playout.start_actions :]),
                    value=playout.value,
                    reward=playout.reward,
                    info=infos[i],
                    spent=len(self.episodes.tokens(row)) - playout.start_tokens,
                )
        return endings


def judged_endings(judge: Judge, rows: Sequence[int]) -> dict[int, float]:
    """A judge's value of each row, whose episode is over.

    Raises:
        NotFiniteError: for a value that is not finite.
        ValueError: where the number of values is not that of the rows.
    """
    if not rows:
        return {}
    values = torch.as_tensor(judge(rows))
    if tuple(values.shape) != (len(rows),):
        raise ValueError(f"a judge gives a value for each row, [{len(rows)}], got {list(values.shape)}")
    _raise_if_any(~torch.isfinite(values)[:, None], rows, "the judge's value", of_actions=False)
    return dict(zip(rows, values.tolist(), strict=True))


def checked_logits(logits: Tensor, rows: Sequence[int]) -> Tensor:
    """Return action logits [B, A] unchanged.

    Raises:
        FloatingPointError: for NaN or +inf, or a row of nothing but -inf.
    """
    masked = torch.isneginf(logits)
    invalid = ~(torch.isfinite(logits) | masked) | masked.all(-1, keepdim=True)
    _raise_if_any(invalid, rows, "the policy's logit")
    return logits


def checked_values(values: Tensor, rows: Sequence[int], episodes: Episodes) -> Tensor:
    """Return action values [B, A] unchanged; those of masked actions are not checked.

    Raises:
        FloatingPointError: for a value that is not finite.
        ValueError: where the number of values is not that of the actions.
    """
    sizes = widths(episodes.action_mask)
    if values.shape[-1] not in sizes:
        raise ValueError(
            f"the Q-function has {values.shape[-1]} actions and the environment has "
            f"{' or '.join(map(str, sizes))}; was it made for another codebook?"
        )
    allowed = torch.from_numpy(episodes.action_mask[: values.shape[-1]]).to(values.device)
    _raise_if_any(~torch.isfinite(values) & allowed, rows, "the Q-function's value")
    return values


def _raise_if_any(invalid: Tensor, rows: Sequence[int], what: str, of_actions: bool = True) -> None:
    """Raise NotFiniteError for the first True entry of ``invalid`` [B, A]."""
    if invalid.any():
        at, action = invalid.nonzero()[0].tolist()
        of = f" of action {action}" if of_actions else ""
        raise NotFiniteError(rows[at], f"{what}{of} in row {rows[at]} is not finite")
