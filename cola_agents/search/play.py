"""Playing rows on to the ends of their episodes: what every search and every baseline does with a leaf."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cola_agents.sampling import sample
from cola_agents.search.config import Ending
from cola_agents.session import NotFiniteError
from cola_envs.episodes import Episodes

#: Rows to action logits, or to action values, [B, A].
Values = Callable[[Sequence[int]], Tensor]


@torch.no_grad()
def play_on(
    episodes: Episodes,
    rows: Sequence[int],
    policy: Values,
    streams: Mapping[int, np.random.Generator],
    *,
    temperature: float = 1.0,
    discount: float = 1.0,
    q: Values | None = None,
) -> list[Ending]:
    """Play each row to the end of its episode.

    Args:
        rows: that are running.
        policy: rows to action logits [B, A].
        streams: of each row, drawn from once an action.
        temperature: at which actions are drawn; 0 takes the likeliest.
        discount: of an ending's value, per action.
        q: rows to action values [B, A]. Where it is given, an ending is worth what it says of the last
            action, and the task's rewards are not looked at.

    Returns:
        Per row its ending, everything in it counted from here; ``spent`` are the tokens it took.

    Raises:
        FloatingPointError: where logits or action values are not finite, naming row and action. A logit of
            -inf is an action that is never drawn; one action at least must have another.
    """
    rows = list(rows)
    tokens = {row: len(episodes.tokens(row)) for row in rows}
    start = {row: len(episodes.actions(row)) for row in rows}
    value, reward = dict.fromkeys(rows, 0.0), dict.fromkeys(rows, 0.0)
    told: dict[int, dict[str, Any]] = {}
    going, factor = rows, 1.0
    while going:
        logits = checked_logits(policy(going), going)
        judged = None if q is None else _checked_values(q(going), going, episodes)
        u = torch.tensor([streams[row].random() for row in going], dtype=torch.float64)
        actions, _ = sample(logits, u.to(logits.device), temperature=temperature)
        taken = actions.tolist()
        _, rewards, _, _, infos = episodes.step(going, taken)
        for i, row in enumerate(going):
            reward[row] += float(rewards[i])
            if judged is None:
                value[row] += factor * float(rewards[i])
            else:
                value[row] = float(judged[i, taken[i]])
            told[row] = infos[i]
        factor *= discount
        going = [row for row in going if episodes.running(row)]
    return [
        Ending(
            text=told[row]["text"],
            actions=tuple(episodes.actions(row)[start[row] :]),
            value=value[row],
            reward=reward[row],
            info=told[row],
            spent=len(episodes.tokens(row)) - tokens[row],
        )
        for row in rows
    ]


def checked_logits(logits: Tensor, rows: Sequence[int]) -> Tensor:
    """Action logits [B, A] as they came.

    Raises:
        FloatingPointError: for NaN or +inf, or a row of nothing but -inf.
    """
    never = torch.isneginf(logits)
    _refuse(~(torch.isfinite(logits) | never), rows, "the policy's logit")
    _refuse(never.all(-1, keepdim=True).expand_as(never), rows, "the policy's logit")
    return logits


def _checked_values(values: Tensor, rows: Sequence[int], episodes: Episodes) -> Tensor:
    """Action values [B, A] as they came; those of actions that are not allowed may be anything."""
    allowed = torch.from_numpy(episodes.action_mask[: values.shape[-1]]).to(values.device)
    _refuse(~torch.isfinite(values) & allowed, rows, "the Q-function's value")
    return values


def _refuse(bad: Tensor, rows: Sequence[int], what: str) -> None:
    """Raise for the first entry that is marked, of [B, A]."""
    if bad.any():
        at, action = bad.nonzero()[0].tolist()
        raise NotFiniteError(rows[at], f"{what} of action {action} in row {rows[at]} is not finite")
