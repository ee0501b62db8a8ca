"""Baselines of the searches: greedy decoding, best of n, majority vote, and beam search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from cola_agents.search.config import Ending
from cola_agents.search.playout import Player, Values, checked_logits, streams
from cola_agents.search.puct import running_states, vote
from cola_envs.episodes import Episodes
from cola_envs.fields import TEXT


class Tries:
    """Whole episodes from the current states of rows: greedy, best of n, and majority vote.

    Args:
        episodes: the rows belong to these; they are restored after each episode.
        rows: rows whose episodes are running, a problem each.
        policy: rows to action logits [B, A], attached to the session of these episodes.
        q: rows to action values [B, A]. With it, the value of an ending is Q of its last action and the
            task's rewards are not read.
        seed: of the draws.

    Attributes:
        endings: per problem, in the order of play.
        new_tokens: new tokens of each problem so far, [R].
    """

    def __init__(
        self, episodes: Episodes, rows: Sequence[int], policy: Values, q: Values | None = None, seed: int = 0
    ) -> None:
        self.episodes, self.rows, self.policy, self.q = episodes, list(rows), policy, q
        self._roots = running_states(episodes, self.rows)
        self._streams = streams(seed, len(self.rows))
        self.endings: list[list[Ending]] = [[] for _ in self.rows]
        self.new_tokens = np.zeros(len(self.rows), dtype=np.int64)

    def play(self, temperature: float = 1.0, which: Sequence[int] | None = None) -> None:
        """Play one more episode of every problem, or of the problems ``which``; temperature 0 is greedy."""
        chosen = list(range(len(self.rows)) if which is None else which)
        rows = [self.rows[i] for i in chosen]
        roots = [self._roots[i] for i in chosen]
        fresh = self.episodes.world_temperature > 0
        seeds = [int(self._streams[i].integers(2**53)) for i in chosen] if fresh else None
        try:
            self.episodes.restore(rows, roots, seeds)
            streams = {self.rows[i]: self._streams[i] for i in chosen}
            player = Player(self.episodes, self.policy, streams, temperature=temperature, q=self.q)
            endings = player.to_the_end(rows)
        finally:
            self.episodes.restore(rows, roots)
        for i, ending in zip(chosen, endings, strict=True):
            self.new_tokens[i] += ending.spent
            self.endings[i].append(replace(ending, spent=int(self.new_tokens[i])))

    def answers(self, how: Literal["first", "value", "vote"]) -> list[Ending]:
        """Per problem the first ending, the one of highest value (best of n), or that of the majority."""
        if how == "first":
            return [endings[0] for endings in self.endings]
        if how == "value":
            return [max(endings, key=lambda ending: ending.value) for endings in self.endings]
        if how == "vote":
            return [vote(endings) for endings in self.endings]
        raise ValueError(f"how must be 'first', 'value' or 'vote', got {how!r}")


def beam_search(
    episodes: Episodes, rows: Sequence[int], policy: Values, *, length_penalty: float = 0.0
) -> tuple[list[Ending], int]:
    """Beam search over actions: the likeliest endings under the policy, and the number of new tokens.

    Codes that give the same token stay separate: they are different actions with the same text.

    Args:
        episodes: the rows belong to these; they are restored afterwards.
        rows: one per beam, each of which has been reset; the problem is that of the first.
        policy: rows to action logits [B, A].
        length_penalty: the score of an ending is its log-probability divided by its length to this power.

    Returns:
        Up to ``len(rows)`` endings, best first, with the score as their value; and the new tokens.

    Raises:
        gymnasium.error.ResetNeeded: where the episode of the first row is over.
        FloatingPointError: where the policy's logits are not finite, except for -inf.
    """
    rows, width = list(rows), len(rows)
    (root,) = running_states(episodes, rows[:1])
    originals = [root, *(episodes.snapshot(row) for row in rows[1:])]
    beam: list[tuple[float, float, Any]] = [(0.0, 0.0, root)]  # score, sum of rewards, state
    start, new_tokens = len(root.actions), 0
    endings: list[Ending] = []
    try:
        while beam and len(endings) < width:
            here = rows[: len(beam)]
            episodes.restore(here, [state for _, _, state in beam])
            with torch.no_grad():
                log_probs = torch.log_softmax(checked_logits(policy(here), here).double(), -1)
            scores = torch.tensor([score for score, _, _ in beam], dtype=torch.float64)
            total = (scores[:, None].to(log_probs.device) + log_probs).flatten()
            best = total.topk(min(width, int(torch.isfinite(total).sum())))
            parents = (best.indices // log_probs.shape[1]).tolist()
            actions = (best.indices % log_probs.shape[1]).tolist()
            states = [beam[parent][2] for parent in parents]
            paid = [beam[parent][1] for parent in parents]
            here = rows[: len(states)]
            episodes.restore(here, states)
            before = [len(state.tokens) for state in states]
            _, rewards, _, _, infos = episodes.step(here, actions)
            beam = []
            for i, row in enumerate(here):
                state = episodes.snapshot(row)
                new_tokens += len(state.tokens) - before[i]
                score, sofar = float(best.values[i]), paid[i] + float(rewards[i])
                if episodes.running(row):
                    beam.append((score, sofar, state))
                    continue
                line = state.actions[start:]
                value = score / math.pow(len(line), length_penalty)
                endings.append(Ending(TEXT.of(infos[i]), line, value, sofar, infos[i], new_tokens))
    finally:
        episodes.restore(rows, originals)
    return sorted(endings, key=lambda ending: -ending.value)[:width], new_tokens
