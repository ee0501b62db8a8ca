"""Baselines of the searches: greedy decoding, best of n, majority vote, and beam search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from cola_agents.model.sampling import Drawing
from cola_agents.search.config import Ending
from cola_agents.search.playout import Judge, Player, Values, checked_logits, streams
from cola_agents.search.puct import running_states, vote
from cola_envs.episodes import Episodes
from cola_envs.fields import TEXT


class CompleteEpisodes:
    """Complete episodes from the current states of rows: greedy, best of n, and majority vote.

    Args:
        episodes: the environments of ``rows``, which are restored after each episode.
        rows: rows whose episodes are running, one problem per row.
        policy: maps rows to action logits [B, A]; attached to the session of ``episodes``.
        q: maps rows to action values [B, A]. With it, the value of an ending is Q of its last action and the
            task's rewards are not read.
        judge: gives the value of an ending, in place of Q's and of the task's rewards.
        seed: seed of the random draws.

    Attributes:
        endings: the endings of each problem, in the order in which they were played.
        new_tokens: tokens generated so far for each problem, [R].
    """

    def __init__(
        self,
        episodes: Episodes,
        rows: Sequence[int],
        policy: Values,
        q: Values | None = None,
        seed: int = 0,
        judge: Judge | None = None,
    ) -> None:
        self.episodes, self.rows, self.policy = episodes, list(rows), policy
        self.q, self.judge = q, judge
        self._roots = running_states(episodes, self.rows)
        self._streams = streams(seed, len(self.rows))
        self.endings: list[list[Ending]] = [[] for _ in self.rows]
        self.new_tokens = np.zeros(len(self.rows), dtype=np.int64)

    def play(self, temperature: float = 1.0, which: Sequence[int] | None = None) -> None:
        """Play one more episode of every problem, or of the problems ``which``; temperature 0 is greedy."""
        chosen = list(range(len(self.rows)) if which is None else which)
        rows = [self.rows[i] for i in chosen]
        roots = [self._roots[i] for i in chosen]
        stochastic = self.episodes.world_temperature > 0
        seeds = [int(self._streams[i].integers(2**53)) for i in chosen] if stochastic else None
        try:
            self.episodes.restore(rows, roots, seeds)
            streams = {self.rows[i]: self._streams[i] for i in chosen}
            drawing: Drawing = {"temperature": temperature}
            player = Player(self.episodes, self.policy, streams, drawing=drawing, q=self.q, judge=self.judge)
            endings = player.to_the_end(rows)
        finally:
            self.episodes.restore(rows, roots)
        for i, ending in zip(chosen, endings, strict=True):
            self.new_tokens[i] += ending.spent
            self.endings[i].append(replace(ending, spent=int(self.new_tokens[i])))

    def answers(self, how: Literal["first", "value", "vote", "weighted"]) -> list[Ending]:
        """One ending per problem.

        Args:
            how: ``"first"``; ``"value"``: that of highest value (best of n); ``"vote"``: the majority's;
                ``"weighted"``: that of the answer whose endings have the largest sum of values.
        """
        if how == "first":
            return [endings[0] for endings in self.endings]
        if how == "value":
            return [max(endings, key=lambda ending: ending.value) for endings in self.endings]
        if how == "vote":
            return [vote(endings) for endings in self.endings]
        if how == "weighted":
            return [vote(endings, weighted=True) for endings in self.endings]
        raise ValueError(f"how must be 'first', 'value', 'vote' or 'weighted', got {how!r}")


def beam_search(episodes: Episodes, rows: Sequence[int], policy: Values) -> tuple[list[Ending], int]:
    """Beam search over actions for the likeliest endings under the policy.

    Codes that give the same token are not merged: they are different actions with the same text.

    Args:
        episodes: the environments of ``rows``, which are restored afterwards.
        rows: one row per beam, each of which has been reset; the problem is that of the first row.
        policy: maps rows to action logits [B, A].

    Returns:
        Up to ``len(rows)`` endings, best first, with the log-probability as their value; and the number of
        tokens generated.

    Raises:
        gymnasium.error.ResetNeeded: where the episode of the first row is over.
        FloatingPointError: where a logit of the policy is NaN or +inf, or all logits of a row are -inf.
    """
    rows, width = list(rows), len(rows)
    (root,) = running_states(episodes, rows[:1])
    originals = [root, *(episodes.snapshot(row) for row in rows[1:])]
    beam: list[tuple[float, float, Any]] = [(0.0, 0.0, root)]  # log-probability, sum of rewards, state
    start, new_tokens = len(root.actions), 0
    endings: list[Ending] = []
    try:
        while beam and len(endings) < width:
            active = rows[: len(beam)]
            episodes.restore(active, [state for _, _, state in beam])
            with torch.no_grad():
                log_probs = torch.log_softmax(checked_logits(policy(active), active).double(), -1)
            scores = torch.tensor([score for score, _, _ in beam], dtype=torch.float64)
            total = (scores[:, None].to(log_probs.device) + log_probs).flatten()
            best = total.topk(min(width, int(torch.isfinite(total).sum())))
            parents = (best.indices // log_probs.shape[1]).tolist()
            actions = (best.indices % log_probs.shape[1]).tolist()
            states = [beam[parent][2] for parent in parents]
            returns = [beam[parent][1] for parent in parents]
            active = rows[: len(states)]
            episodes.restore(active, states)
            _, rewards, _, _, infos = episodes.step(active, actions)
            beam = []
            for i, row in enumerate(active):
                state = episodes.snapshot(row)
                new_tokens += len(state.tokens) - len(states[i].tokens)
                score, reward = float(best.values[i]), returns[i] + float(rewards[i])
                if episodes.running(row):
                    beam.append((score, reward, state))
                    continue
                line = state.actions[start:]
                endings.append(Ending(TEXT.of(infos[i]), line, score, reward, infos[i], new_tokens))
    finally:
        episodes.restore(rows, originals)
    return sorted(endings, key=lambda ending: -ending.value)[:width], new_tokens
