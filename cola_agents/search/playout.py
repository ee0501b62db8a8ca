"""Rollouts: play rows from their current states to the ends of their episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cola_agents.decoding.session import NotFiniteError
from cola_agents.model.sampling import sample
from cola_agents.search.config import Ending
from cola_envs.episodes import Episodes
from cola_envs.spaces import reach

#: Maps rows to action logits or action values [B, A].
Values = Callable[[Sequence[int]], Tensor]


def streams(seed: int | Sequence[int], count: int) -> list[np.random.Generator]:
    """``count`` random generators, one a row: seeded by one seed and the row's number, or by a seed each.

    Raises:
        ValueError: for another number of seeds.
    """
    if isinstance(seed, (int, np.integer)):
        return [np.random.default_rng([seed, number]) for number in range(count)]
    if len(seed) != count:
        raise ValueError(f"one seed, or one for each of {count} rows, is needed: got {len(seed)}")
    return [np.random.default_rng([row_seed]) for row_seed in seed]


class Outlook(NamedTuple):
    """Action logits [B, A] of B rows, and action values [B, A] where there is a Q-function."""

    logits: Tensor
    values: Tensor | None


@dataclass
class _Playout:
    """A rollout of a row: its counts of tokens and actions at the start, and its return so far."""

    tokens: int
    actions: int
    value: float = 0.0
    reward: float = 0.0
    factor: float = 1.0


class Player:
    """Plays rows to the ends of their episodes: :meth:`to_the_end`, or action by action.

    Action by action, rows may begin and end at different times and share their steps with other rows:
    :meth:`begin` them; then in turn :meth:`look`, :meth:`draw`, step the episodes, and :meth:`took`.

    Args:
        episodes: the rows belong to these.
        policy: rows to action logits [B, A].
        streams: a random generator per row, with one draw per action.
        temperature: of the actions; 0 takes the likeliest.
        discount: of an ending's value, per action.
        q: rows to action values [B, A]. With it, the value of an ending is Q of its last action and the
            task's rewards are not read.
    """

    def __init__(
        self,
        episodes: Episodes,
        policy: Values,
        streams: Mapping[int, np.random.Generator],
        *,
        temperature: float = 1.0,
        discount: float = 1.0,
        q: Values | None = None,
    ) -> None:
        self.episodes, self.policy, self.streams, self.q = episodes, policy, streams, q
        self.temperature, self.discount = temperature, discount
        self._playouts: dict[int, _Playout] = {}

    def to_the_end(self, rows: Sequence[int]) -> list[Ending]:
        """Play each row, which must be running, to the end of its episode.

        Returns:
            The ending of each row, counted from its current state; ``spent`` is the number of new tokens.

        Raises:
            FloatingPointError: as :meth:`look`.
        """
        endings: dict[int, Ending] = {}
        self.begin(rows)
        while going := [row for row in rows if row not in endings]:
            outlook = self.look(going)
            actions = self.draw(going, outlook)
            _, rewards, _, _, infos = self.episodes.step(going, actions)
            endings |= self.took(going, actions, outlook, rewards, infos)
        return [endings[row] for row in rows]

    def begin(self, rows: Sequence[int]) -> None:
        """Begin a rollout of each row at its current state; drop any that was under way."""
        for row in rows:
            self._playouts[row] = _Playout(len(self.episodes.tokens(row)), len(self.episodes.actions(row)))

    @torch.no_grad()
    def look(self, rows: Sequence[int]) -> Outlook:
        """The action logits and action values of rows.

        Raises:
            FloatingPointError: where logits or action values are not finite, naming row and action. A logit
                may be -inf, for an action that is never drawn, but not every logit of a row.
            ValueError: for action values of another number of actions.
        """
        logits = checked_logits(self.policy(rows), rows)
        return Outlook(logits, None if self.q is None else checked_values(self.q(rows), rows, self.episodes))

    def draw(self, rows: Sequence[int], outlook: Outlook) -> list[int]:
        """Draw the next action of each row."""
        u = torch.tensor([self.streams[row].random() for row in rows], dtype=torch.float64)
        actions, _ = sample(outlook.logits, u.to(outlook.logits.device), temperature=self.temperature)
        drawn: list[int] = actions.tolist()
        return drawn

    def took(
        self,
        rows: Sequence[int],
        actions: Sequence[int],
        outlook: Outlook,
        rewards: Sequence[float] | np.ndarray,
        infos: Sequence[dict[str, Any]],
    ) -> dict[int, Ending]:
        """Add the step of each row to its rollout; return the endings of rows whose episode is over."""
        endings = {}
        for i, row in enumerate(rows):
            playout, reward = self._playouts[row], float(rewards[i])
            playout.reward += reward
            if outlook.values is None:
                playout.value += playout.factor * reward
            else:
                playout.value = float(outlook.values[i, actions[i]])
            playout.factor *= self.discount
            if not self.episodes.running(row):
                del self._playouts[row]
                endings[row] = Ending(
                    text=infos[i]["text"],
                    actions=tuple(self.episodes.actions(row)[playout.actions :]),
                    value=playout.value,
                    reward=playout.reward,
                    info=infos[i],
                    spent=len(self.episodes.tokens(row)) - playout.tokens,
                )
        return endings


def checked_logits(logits: Tensor, rows: Sequence[int]) -> Tensor:
    """Return action logits [B, A] unchanged.

    Raises:
        FloatingPointError: for NaN or +inf, or a row of nothing but -inf.
    """
    never = torch.isneginf(logits)
    _refuse(~(torch.isfinite(logits) | never), rows, "the policy's logit")
    _refuse(never.all(-1, keepdim=True).expand_as(never), rows, "the policy's logit")
    return logits


def checked_values(values: Tensor, rows: Sequence[int], episodes: Episodes) -> Tensor:
    """Return action values [B, A] unchanged; those of masked actions are not checked.

    Raises:
        FloatingPointError: for a value that is not finite.
        ValueError: for another number of actions.
    """
    sizes = sorted({reach(episodes.action_mask), len(episodes.action_mask)})
    if values.shape[-1] not in sizes:
        raise ValueError(
            f"the Q-function has {values.shape[-1]} actions and there are "
            f"{' or '.join(map(str, sizes))}; was it made for another codebook?"
        )
    allowed = torch.from_numpy(episodes.action_mask[: values.shape[-1]]).to(values.device)
    _refuse(~torch.isfinite(values) & allowed, rows, "the Q-function's value")
    return values


def _refuse(bad: Tensor, rows: Sequence[int], what: str) -> None:
    """Raise NotFiniteError for the first True entry of ``bad`` [B, A]."""
    if bad.any():
        at, action = bad.nonzero()[0].tolist()
        raise NotFiniteError(rows[at], f"{what} of action {action} in row {rows[at]} is not finite")
