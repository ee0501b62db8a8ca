"""Replay a recorded episode to collect, at each step, all actions and where others would have led.

Shapes: A actions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from cola_agents.model.sampling import Drawing, distribution
from cola_agents.rl.collecting import AnyPolicy, attach
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.update import Batch
from cola_envs.episodes import Episodes
from cola_envs.jsonl import JsonObject
from cola_envs.page.log import EpisodeLog, Words
from cola_envs.shown import shown
from cola_envs.state import State

#: The largest number of alternative continuations of a position, those of the likeliest tokens.
FUTURES = 12


@dataclass(frozen=True)
class Known:
    """A recorded episode; the lists have an entry for each action.

    Attributes:
        seed, problem_seed: as in :meth:`~cola_envs.episodes.Episodes.reset`.
        ids: all token ids, to check that the replay is the same.
        actions, log_probs, rewards: as recorded.
        values, advantages: an agent's, None without one; an advantage is None for an action that belongs to
            an earlier decision.
    """

    seed: int
    problem_seed: int
    ids: Sequence[int]
    actions: Sequence[int]
    log_probs: Sequence[float]
    rewards: Sequence[float]
    values: Sequence[float] | None = None
    advantages: Sequence[float | None] | None = None


def known(rollout: Rollout, number: int, batch: Batch | None = None) -> Known:
    """An episode of a rollout, with the advantages and values of its batch where one is given."""
    at = rollout.mask[number]
    values = advantages = None
    if batch is not None:
        decides = batch.decision_mask[number, at].tolist()
        given = _rounded(batch.advantages[number, at])
        advantages = [value if here else None for value, here in zip(given, decides, strict=True)]
        values = None if batch.values is None else _rounded(batch.values[number, at])
    return Known(
        seed=int(rollout.seeds[number]),
        problem_seed=int(rollout.problem_seeds[number]),
        ids=rollout.ids[number, : int(rollout.lengths[number])].tolist(),
        actions=rollout.actions[number, at].tolist(),
        log_probs=_rounded(rollout.log_probs[number, at]),
        rewards=rollout.rewards[number, at].tolist(),
        values=values,
        advantages=advantages,
    )


def _rounded(values: Tensor) -> list[float]:
    """Rounded as in a recording."""
    return [round(value, 6) for value in values.tolist()]


class Player:
    """Replays recorded episodes in rows of their task.

    Args:
        episodes: rows of the task; the first replays the episode, all of them play continuations.
        words: the page's token texts.
        policy: the policy that acted; None for the model's own.
        drawing: the sampling options of its actions.
        is_actor: False where ``policy`` did not act in the episodes: it then only plays continuations, and
            its probabilities are left out.
        prior: whether the model's own policy is as it was before training.
        positions: positions of an episode that get alternative continuations, those where the next token is
            least certain.
        tables: positions that keep the table of all actions.
        ahead: the largest number of steps of a continuation.
    """

    def __init__(
        self,
        episodes: Episodes,
        words: Words,
        *,
        policy: AnyPolicy | None = None,
        drawing: Drawing | None = None,
        is_actor: bool = True,
        prior: bool = True,
        positions: int = 12,
        tables: int = 64,
        ahead: int = 64,
    ) -> None:
        self._episodes, self._words = episodes, words
        self._act = attach(policy, episodes)
        self._drawing: Drawing = drawing or {"temperature": 1.0}
        own = policy is None and self._drawing == {"temperature": 1.0}  # then policy and prior are the same
        self._shows_policy, self._prior = is_actor, prior and not (own and is_actor)
        self._positions, self._tables, self._ahead = positions, tables, ahead

    def follow(self, episode: Known, name: str) -> JsonObject:
        """Replay an episode; returns its data for a page.

        Raises:
            ValueError: where the replay differs: the episode is of another model, task or machine.
        """
        episodes = self._episodes
        episodes.reset([0], [episode.seed], [episode.problem_seed])
        log = EpisodeLog(episodes, 0, self._words, prior=self._prior)
        states: list[State] = []
        for number, action in enumerate(episode.actions):
            if not episodes.running(0):
                raise ValueError(f"{name} has {len(episode.actions)} steps, and ends here after {number}")
            states.append(episodes.snapshot(0))
            log.look(action, self._log_policy() if self._shows_policy else None)
            _, _, terminated, truncated, infos = episodes.step([0], [action])
            log.paid(episode.rewards[number], bool(terminated[0]), bool(truncated[0]), infos[0])
            log.note(log_prob=episode.log_probs[number])
            if episode.values is not None:
                log.note(value=episode.values[number])
            if episode.advantages is not None:
                log.note(advantage=episode.advantages[number])
        if episodes.tokens(0) != list(episode.ids):
            raise ValueError(
                f"{name} is not played the same here: its tokens differ. Give the model (--model), the agent "
                "(--agent) and the arguments of the environment (--env) that it was played with"
            )
        data = log.as_dict(name)
        self._look_ahead(log.steps, states, episode)
        return data

    @torch.no_grad()
    def _log_policy(self) -> np.ndarray:
        """Log-probabilities of the actions in the first row, under the sampling distribution, [A]."""
        drawn = distribution(self._act([0]), **self._drawing)[0].cpu().numpy()
        every = np.full(int(self._episodes.action_space.n), -np.inf)
        every[: len(drawn)] = drawn
        return every

    def _look_ahead(self, steps: list[JsonObject], states: list[State], episode: Known) -> None:
        """Add continuations to the least certain positions, and drop the tables of the most certain."""
        weights = [token_weights(step["table"]) for step in steps]
        doubtful = np.argsort([-_entropy(list(one.values())) for one in weights], kind="stable").tolist()
        forks = [at for at in doubtful[: self._positions] if len(weights[at]) > 1]
        # Tables list the likeliest codes first: index() finds the likeliest code of a token.
        wanted = [
            (at, token, steps[at]["table"]["codes"][steps[at]["table"]["tokens"].index(token)])
            for at in sorted(forks)
            for token in sorted(weights[at], key=lambda one: -weights[at][one])[:FUTURES]
        ]
        rows = self._episodes.num_rows
        for first in range(0, len(wanted), rows):
            part = wanted[first : first + rows]
            futures = self._futures([states[at] for at, _, _ in part], [code for _, _, code in part])
            for (at, token, code), future in zip(part, futures, strict=True):
                if future["ended"]:
                    future["reward"] += sum(episode.rewards[:at])
                steps[at].setdefault("others", []).append({"token": token, "code": code, **future})
        for at in doubtful[self._tables :]:
            if at not in forks:
                del steps[at]["table"]

    @torch.no_grad()
    def _futures(self, states: list[State], first: list[int]) -> list[JsonObject]:
        """Play each state on from a first action, greedily after it; returns texts and rewards."""
        episodes = self._episodes
        rows = list(range(len(states)))
        episodes.restore(rows, states)
        rewards, steps = [0.0] * len(rows), [0] * len(rows)
        running, actions = rows, np.array(first)
        while running:
            paid = episodes.step(running, actions)[1]
            for row, reward in zip(running, paid.tolist(), strict=True):
                rewards[row] += reward
                steps[row] += 1
            running = [row for row in running if episodes.running(row) and steps[row] < self._ahead]
            if running:
                actions = _finite(self._act(running)).argmax(-1).cpu().numpy()
        return [
            {
                "runs": _runs(episodes, row, len(states[row].tokens)),
                "ended": not episodes.running(row),
                "reward": rewards[row],
                "steps": steps[row],
            }
            for row in rows
        ]


def _runs(episodes: Episodes, row: int, start: int) -> list[JsonObject]:
    """A row's text from token ``start`` on, split where the agent's and the task's parts meet."""
    decode = episodes.backbone.tokenizer.decode
    tokens, origins = episodes.tokens(row), episodes.origins(row)
    runs: list[JsonObject] = []
    for own, places in groupby(range(start, len(tokens)), lambda at: origins[at] >= 0):
        at = list(places)
        # Decoded after the token before it: a decoder may drop the space before a first token.
        before = tokens[at[0] - 1 : at[0]]
        text = decode([*before, *(tokens[one] for one in at)]).removeprefix(decode(before))
        runs.append({"text": shown(text), "own": own})
    return runs


def token_weights(table: JsonObject) -> dict[int, float]:
    """The probability of each token in a table, summed over its actions."""
    weights: dict[int, float] = defaultdict(float)
    for token, weight in zip(table["tokens"], table["policy" if "policy" in table else "prior"], strict=True):
        weights[token] += weight
    return dict(weights)


def _entropy(weights: list[float]) -> float:
    shares = np.array([weight for weight in weights if weight > 0])
    shares /= shares.sum() or 1.0
    return float(-(shares * np.log(shares)).sum())


def _finite(logits: Tensor) -> Tensor:
    if logits.isnan().any():
        raise FloatingPointError("the policy's logits are not finite in an alternative continuation")
    return logits
