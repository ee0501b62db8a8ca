"""Playing rows on to the ends of their episodes: what every search and every baseline does with a leaf."""

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

#: Rows to action logits, or to action values, [B, A].
Values = Callable[[Sequence[int]], Tensor]


def streams(seed: int | Sequence[int], count: int) -> list[np.random.Generator]:
    """A generator each for ``count`` rows: drawn from their number and one seed, or from a seed each.

    Raises:
        ValueError: for another number of seeds.
    """
    if isinstance(seed, (int, np.integer)):
        return [np.random.default_rng([seed, number]) for number in range(count)]
    if len(seed) != count:
        raise ValueError(f"one seed, or one for each of {count} rows, is needed: got {len(seed)}")
    return [np.random.default_rng([own]) for own in seed]


class Outlook(NamedTuple):
    """What a player sees of B rows: action logits [B, A], and action values [B, A] where it has a judge."""

    logits: Tensor
    values: Tensor | None


@dataclass
class _Played:
    """A row that is played on: where that began, and what came of it so far."""

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
        episodes: whose rows are played.
        policy: rows to action logits [B, A].
        streams: of each row, drawn from once an action.
        temperature: at which actions are drawn; 0 takes the likeliest.
        discount: of an ending's value, per action.
        q: rows to action values [B, A]. Where it is given, an ending is worth what it says of the last
            action, and the task's rewards are not looked at.
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
        self._played: dict[int, _Played] = {}

    def to_the_end(self, rows: Sequence[int]) -> list[Ending]:
        """Play each row, which must be running, to the end of its episode.

        Returns:
            Per row its ending, everything in it counted from here; ``spent`` are the tokens it took.

        Raises:
            FloatingPointError: as :meth:`look`.
        """
        found: dict[int, Ending] = {}
        self.begin(rows)
        while going := [row for row in rows if row not in found]:
            seen = self.look(going)
            actions = self.draw(going, seen)
            _, rewards, _, _, infos = self.episodes.step(going, actions)
            found |= self.took(going, actions, seen, rewards, infos)
        return [found[row] for row in rows]

    def begin(self, rows: Sequence[int]) -> None:
        """Count from the states that rows are in now; what they were playing before is dropped."""
        for row in rows:
            self._played[row] = _Played(len(self.episodes.tokens(row)), len(self.episodes.actions(row)))

    @torch.no_grad()
    def look(self, rows: Sequence[int]) -> Outlook:
        """The logits and values of rows, which have begun or are about to.

        Raises:
            FloatingPointError: where logits or action values are not finite, naming row and action. A logit
                of -inf is an action that is never drawn; one action at least must have another.
            ValueError: for action values of another number of actions.
        """
        logits = checked_logits(self.policy(rows), rows)
        return Outlook(logits, None if self.q is None else checked_values(self.q(rows), rows, self.episodes))

    def draw(self, rows: Sequence[int], seen: Outlook) -> list[int]:
        """The next action of each row, of which ``seen`` tells."""
        u = torch.tensor([self.streams[row].random() for row in rows], dtype=torch.float64)
        actions, _ = sample(seen.logits, u.to(seen.logits.device), temperature=self.temperature)
        drawn: list[int] = actions.tolist()
        return drawn

    def took(
        self,
        rows: Sequence[int],
        actions: Sequence[int],
        seen: Outlook,
        rewards: Sequence[float] | np.ndarray,
        infos: Sequence[dict[str, Any]],
    ) -> dict[int, Ending]:
        """Count what the step of each row gave; the endings of those whose episode is over."""
        ended = {}
        for i, row in enumerate(rows):
            played, reward = self._played[row], float(rewards[i])
            played.reward += reward
            if seen.values is None:
                played.value += played.factor * reward
            else:
                played.value = float(seen.values[i, actions[i]])
            played.factor *= self.discount
            if not self.episodes.running(row):
                del self._played[row]
                ended[row] = Ending(
                    text=infos[i]["text"],
                    actions=tuple(self.episodes.actions(row)[played.actions :]),
                    value=played.value,
                    reward=played.reward,
                    info=infos[i],
                    spent=len(self.episodes.tokens(row)) - played.tokens,
                )
        return ended


def checked_logits(logits: Tensor, rows: Sequence[int]) -> Tensor:
    """Action logits [B, A] as they came.

    Raises:
        FloatingPointError: for NaN or +inf, or a row of nothing but -inf.
    """
    never = torch.isneginf(logits)
    _refuse(~(torch.isfinite(logits) | never), rows, "the policy's logit")
    _refuse(never.all(-1, keepdim=True).expand_as(never), rows, "the policy's logit")
    return logits


def checked_values(values: Tensor, rows: Sequence[int], episodes: Episodes) -> Tensor:
    """Action values [B, A] as they came; those of actions that are not allowed may be anything.

    Raises:
        FloatingPointError: for one that is not finite.
        ValueError: for another number of actions.
    """
    sizes = sorted({reach(episodes.action_mask), len(episodes.action_mask)})
    if values.shape[-1] not in sizes:
        raise ValueError(
            f"the Q-function judges {values.shape[-1]} actions and there are "
            f"{' or '.join(map(str, sizes))}; was it made for another codebook?"
        )
    allowed = torch.from_numpy(episodes.action_mask[: values.shape[-1]]).to(values.device)
    _refuse(~torch.isfinite(values) & allowed, rows, "the Q-function's value")
    return values


def _refuse(bad: Tensor, rows: Sequence[int], what: str) -> None:
    """Raise for the first entry that is marked, of [B, A]."""
    if bad.any():
        at, action = bad.nonzero()[0].tolist()
        raise NotFiniteError(rows[at], f"{what} of action {action} in row {rows[at]} is not finite")
