"""MCTS-Q: the paper's search, which branches only where the Bellman error of the Q-function is large."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cola_agents.common.checks import check_fields
from cola_agents.model.sampling import Drawing, sample
from cola_agents.search.config import Ending, SearchResult
from cola_agents.search.forest import NONE, Forest
from cola_agents.search.playout import (
    Judge,
    Player,
    Values,
    checked_logits,
    checked_values,
    judged_endings,
    streams,
)
from cola_agents.search.puct import forwarded_since, resampled_roots, run_search, vote
from cola_envs.episodes import Episodes
from cola_envs.spaces import reach
from cola_envs.state import State


@dataclass(frozen=True)
class MCTSQConfig:
    """Options of MCTS-Q; the defaults are those of the official ``mcts_utils.py``.

    Attributes:
        rounds: expansions per tree (``T``).
        c_puct: weight of the exploration term (``cpuct``).
        root_width, width: children of the root and of any other node (``b1``, ``b2``).
        depth: nodes this many actions below the root are not expanded (``D``).
        certain: an edge whose squared Bellman error is below this is extended by the policy.
        span: largest number of actions of such an extension.
        gamma: discount factor of the Bellman error and of the back-up.
        tries: largest number of actions tried in one expansion.
        stop_at_end: end a tree when the last edge of an expansion ends its episode, as the official code
            does; with short episodes that is after a round or two.
        temperature: sampling temperature of the policy in extensions and rollouts; None for that of the
            argument ``drawing`` of :func:`mcts_q`, or 1.
        token_budget: a tree gets no further expansion after this many new tokens; None for no limit. Not
            in the official code.
        rewards: ``"environment"`` or ``"estimated"``, as in
            :class:`~cola_agents.search.config.SearchConfig`.
        answer: ``"value"``, as in the official code: the best terminal node if its value exceeds the best
            return of any rollout, else that rollout. ``"vote"`` and ``"weighted"``: as in
            :class:`~cola_agents.search.config.SearchConfig`.
    """

    rounds: int = 32
    c_puct: float = 0.7
    root_width: int = 5
    width: int = 4
    depth: int = 64
    certain: float = 0.01
    span: int = 64
    gamma: float = 0.99
    tries: int = 10
    stop_at_end: bool = True
    temperature: float | None = None
    token_budget: int | None = None
    rewards: Literal["environment", "estimated"] = "environment"
    answer: Literal["value", "vote", "weighted"] = "value"

    def __post_init__(self) -> None:
        check_fields(
            self,
            counts=("rounds", "root_width", "width", "depth", "span", "tries", "token_budget"),
            numbers=("gamma", "c_puct", "certain", "temperature"),
            flags=("stop_at_end",),
            optional=("token_budget", "temperature"),
        )
        if self.gamma > 1:
            raise ValueError(f"gamma must be in [0, 1], got {self.gamma}")
        answers = ("value", "vote", "weighted")
        if self.rewards not in ("environment", "estimated") or self.answer not in answers:
            raise ValueError(
                f"rewards must be 'environment' or 'estimated' and answer one of {', '.join(answers)}, got "
                f"{self.rewards!r} and {self.answer!r}"
            )

    def drawing(self, drawing: Drawing | None = None) -> Drawing:
        """The sampling options of play-outs: ``drawing``, at the own temperature if there is one."""
        own: Drawing = {} if self.temperature is None else {"temperature": self.temperature}
        return {**(drawing or {}), **own}


def mcts_q(
    episodes: Episodes,
    rows: Sequence[int],
    policy: Values,
    q: Values,
    config: MCTSQConfig | None = None,
    *,
    seed: int | Sequence[int] = 0,
    judge: Judge | None = None,
    drawing: Drawing | None = None,
) -> SearchResult:
    """Search from the current states of rows, one tree per row, and restore the rows afterwards.

    A round expands, of all nodes that are not full, the one of highest
    ``value + c_puct prior sqrt(N_parent) / (N + 1)``: its likeliest untried actions become edges, one after
    another. Where the squared Bellman error ``(Q(s, a) - gamma max Q(s', .))**2`` is below ``certain`` the
    policy continues and all its actions form one edge; else the edge is one action. The value of a new node
    is the return of a rollout from it. In the back-up the value of an edge is
    ``R_child - R_node + gamma value_child``, and that of a node the mean of its edges, weighted by visits.

    All trees share their forward passes (the official code searches one tree); each has a random stream.

    Args:
        policy: maps rows to action logits [B, A]; attached to the session of ``episodes``.
        q: maps rows to action values [B, A]; attached to the same session.
        seed: seed of the random draws: one, or one per row.
        judge: gives the value of an ending where rewards are estimated; None for Q of its last action, as
            officially. Where the tree branches is decided by Q in either case.
        drawing: sampling options of extensions and rollouts, as in :func:`cola_agents.collect`; None for
            draws at temperature 1 from all actions.

    Raises:
        gymnasium.error.ResetNeeded: for a row whose episode is over or has not begun.
        RuntimeError: before the search, for a task that cannot be restored; or where a replay differed from
            the first run: then all ``rows`` must be reset.
        ValueError: where the size of the values is not that of the action space; for rows that do not exist;
            for a judge where rewards are the environment's.
        FloatingPointError: where logits or action values are not finite, naming row and action. A logit may
            be -inf, for an action that is never taken.

    An exception raised during the search carries the result so far as ``error.partial_result``; the rows are
    restored.

    Source: CoLA (arXiv 2503.21383), MCTS-Q; constants and details from the official code.
    """
    config = config or MCTSQConfig()
    rows = list(rows)
    if judge is not None and config.rewards == "environment":
        raise ValueError('a judge gives the values of endings: it needs rewards="estimated"')
    return run_search(episodes, rows, _MCTSQ(episodes, rows, policy, q, config, seed, judge, drawing))


@dataclass
class _Edge:
    """A new edge: actions with probabilities, their sum of rewards, and info and Q of the last action."""

    actions: list[int]
    probabilities: list[float]
    reward: float
    info: dict[str, Any]
    value: float


class _MCTSQ:
    """The state of one search: trees, endings and counts."""

    def __init__(
        self,
        episodes: Episodes,
        rows: list[int],
        policy: Values,
        q: Values,
        config: MCTSQConfig,
        seed: int | Sequence[int],
        judge: Judge | None,
        drawing: Drawing | None,
    ) -> None:
        self.episodes, self.rows, self.policy, self.q, self.config = episodes, rows, policy, q, config
        self.judge, self.drawing = judge, config.drawing(drawing)
        self.num_actions = int(episodes.action_space.n)
        #: All allowed actions are below this number; masked actions below it count as tried.
        self.num_allowed = reach(episodes.action_mask)
        nodes = 1 + config.root_width + (config.rounds - 1) * config.width
        self.forest = Forest(len(rows), nodes, max(config.root_width, config.width))
        self.streams = streams(seed, len(rows))
        #: Per tree and node: visits, the mean probability of its edge's actions, the sum of the task's
        #: rewards from the root, and the return of the rollout from the node.
        self.visits: list[list[int]] = [[] for _ in rows]
        self.likelihood: list[list[float]] = [[] for _ in rows]
        self.reward_sums: list[list[float]] = [[] for _ in rows]
        self.returns: list[list[float]] = [[] for _ in rows]
        self.tried: list[dict[int, set[int]]] = [{} for _ in rows]
        self.endings: list[list[Ending]] = [[] for _ in rows]
        self.ending_of: list[dict[int, Ending]] = [{} for _ in rows]
        self.rounds = np.zeros(len(rows), dtype=np.int64)
        self.new_tokens = np.zeros(len(rows), dtype=np.int64)
        self.stopped: set[int] = set()
        self.forwarded_before = forwarded_since(0, episodes)

    def run(self, roots: Sequence[State]) -> None:
        for tree, root in enumerate(resampled_roots(self.episodes, self.rows, roots, self.streams)):
            self._add(tree, root, (), 1.0, 0.0, NONE, NONE)
        self._evaluate(dict.fromkeys(range(len(self.rows)), 0))
        for _ in range(self.config.rounds):
            if not self._round():
                break

    def _round(self) -> bool:
        """Expand one node of every tree that has a node to expand; return whether any had."""
        chosen = {
            tree: node
            for tree in range(len(self.rows))
            if tree not in self.stopped and (node := self._select(tree)) is not None
        }
        for tree in chosen:
            self.rounds[tree] += 1
        children: dict[int, list[int]] = {tree: [] for tree in chosen}
        for _ in range(self.config.tries):
            expandable = {tree: node for tree, node in chosen.items() if self._expandable(tree, node)}
            if not expandable:
                break
            for tree, child in self._add_edges(expandable).items():
                children[tree].append(child)
        if self.config.stop_at_end:
            self.stopped |= {
                t for t, nodes in children.items() if nodes and self.forest.terminal[t, nodes[-1]]
            }
        # First the first child of every tree, then the second, so that trees share forward passes.
        for turn in range(max((len(nodes) for nodes in children.values()), default=0)):
            new = {tree: nodes[turn] for tree, nodes in children.items() if turn < len(nodes)}
            running = {tree: node for tree, node in new.items() if not self.forest.terminal[tree, node]}
            if running:
                self._evaluate(running)
            for tree, node in new.items():
                self._back_up(tree, node)
        return bool(chosen)

    def _expandable(self, tree: int, node: int) -> bool:
        """Whether a node may have another edge and has an untried action."""
        width = self.config.width if node else self.config.root_width
        full = int((self.forest.child[tree, node] != NONE).sum()) >= width
        return not full and len(self.tried[tree].setdefault(node, set())) < self.num_allowed

    def _select(self, tree: int) -> int | None:
        """The expandable node of highest score; None without one."""
        budget = self.config.token_budget
        if budget is not None and self.new_tokens[tree] >= budget:
            return None
        best, highest = None, -math.inf
        for node in range(int(self.forest.size[tree])):
            deep = len(self.forest.actions(tree, node)) >= self.config.depth
            if self.forest.terminal[tree, node] or deep or not self._expandable(tree, node):
                continue
            parent = int(self.forest.parent[tree, node]) if node else 0
            bonus = math.sqrt(self.visits[tree][parent]) / (self.visits[tree][node] + 1)
            score = self.forest.value[tree, node] + self.config.c_puct * self.likelihood[tree][node] * bonus
            if score > highest:
                best, highest = node, score
        return best

    def _add_edges(self, nodes: dict[int, int]) -> dict[int, int]:
        """Try the likeliest untried action of a node in each tree; return the new nodes."""
        trees = list(nodes)
        rows = [self.rows[tree] for tree in trees]
        self.episodes.restore(rows, [self.forest.states[tree][nodes[tree]] for tree in trees])
        before = [len(self.episodes.tokens(row)) for row in rows]
        edges = self._first_actions(nodes)
        running = [tree for tree in trees if self.episodes.running(self.rows[tree])]
        if running:
            next_values = self._values([self.rows[tree] for tree in running]).amax(-1).tolist()
            self._extend(
                {
                    tree: edges[tree]
                    for tree, value in zip(running, next_values, strict=True)
                    if (edges[tree].value - self.config.gamma * value) ** 2 < self.config.certain
                }
            )
        over = [row for row in rows if not self.episodes.running(row)]
        judged = {} if self.judge is None else judged_endings(self.judge, over)
        children = {}
        for i, tree in enumerate(trees):
            row, node, new = rows[i], nodes[tree], edges[tree]
            self.new_tokens[tree] += len(self.episodes.tokens(row)) - before[i]
            probability = float(np.mean(new.probabilities))
            edge = int((self.forest.child[tree, node] != NONE).sum())
            reward = self.reward_sums[tree][node] + new.reward
            state, line = self.episodes.snapshot(row), tuple(new.actions)
            child = children[tree] = self._add(tree, state, line, probability, reward, node, edge)
            self.forest.action[tree, node, edge] = new.actions[0]
            self.forest.prior[tree, node, edge] = probability
            if not self.episodes.running(row):
                self.forest.terminal[tree, child] = True
                estimate = judged.get(row, new.value)
                value = reward if self.config.rewards == "environment" else estimate
                self._add_ending(tree, child, new.info, (), value, reward)
        return children

    def _first_actions(self, nodes: dict[int, int]) -> dict[int, _Edge]:
        """Take the likeliest untried action of a node in each tree, whose row is in that node."""
        trees = list(nodes)
        rows = [self.rows[tree] for tree in trees]
        logits, values = self._logits(rows), self._values(rows)
        probabilities = torch.softmax(logits.double(), -1)
        for i, tree in enumerate(trees):
            tried = self.tried[tree][nodes[tree]]
            tried.update(torch.isneginf(logits[i]).nonzero().flatten().tolist())
            logits[i, list(tried)] = -math.inf
        actions = logits.argmax(-1).tolist()
        _, rewards, _, _, infos = self.episodes.step(rows, actions)
        edges = {}
        for i, (tree, action) in enumerate(zip(trees, actions, strict=True)):
            self.tried[tree][nodes[tree]].add(action)
            value, probability = float(values[i, action]), float(probabilities[i, action])
            edges[tree] = _Edge([action], [probability], float(rewards[i]), infos[i], value)
        return edges

    def _extend(self, edges: dict[int, _Edge]) -> None:
        """Continue edges by the policy, for up to ``span`` actions or to the end of the episode."""
        for _ in range(self.config.span):
            edges = {tree: edge for tree, edge in edges.items() if self.episodes.running(self.rows[tree])}
            if not edges:
                return
            rows = [self.rows[tree] for tree in edges]
            logits = self._logits(rows)
            u = torch.tensor([self.streams[tree].random() for tree in edges], dtype=torch.float64)
            drawn, log_probs = sample(logits, u.to(logits.device), **self.drawing)
            actions, values = drawn.tolist(), self._values(rows)
            _, rewards, _, _, infos = self.episodes.step(rows, actions)
            for i, edge in enumerate(edges.values()):
                edge.actions.append(actions[i])
                edge.probabilities.append(math.exp(log_probs[i].item()))
                edge.reward += float(rewards[i])
                edge.info = infos[i]
                edge.value = float(values[i, actions[i]])

    def _evaluate(self, nodes: dict[int, int]) -> None:
        """Play a rollout from each node; its return is the node's value."""
        trees = list(nodes)
        rows = [self.rows[tree] for tree in trees]
        self.episodes.restore(rows, [self.forest.states[tree][nodes[tree]] for tree in trees])
        rewarded = self.config.rewards == "environment"
        player = Player(
            self.episodes,
            self._logits,
            {self.rows[tree]: self.streams[tree] for tree in trees},
            drawing=self.drawing,
            q=None if rewarded else self._values,
            judge=self.judge,
        )
        for tree, ending in zip(trees, player.to_the_end(rows), strict=True):
            self.new_tokens[tree] += ending.spent
            reward = self.reward_sums[tree][nodes[tree]] + ending.reward
            value = reward if rewarded else ending.value
            self._add_ending(tree, nodes[tree], ending.info, ending.actions, value, reward)

    def _add_ending(
        self,
        tree: int,
        node: int,
        info: dict[str, Any],
        line: tuple[int, ...],
        value: float,
        reward: float,
    ) -> None:
        """Record an ending ``line`` actions below a node, whose value and return become the ending's."""
        self.forest.value[tree, node] = value
        self.returns[tree][node] = value
        actions = (*self.forest.actions(tree, node), *line)
        ending = Ending(info["text"], actions, value, reward, info, int(self.new_tokens[tree]))
        self.endings[tree].append(ending)
        self.ending_of[tree][node] = ending

    def _back_up(self, tree: int, node: int) -> None:
        """Add a visit to a new node and its ancestors; an ancestor's value becomes the mean of its edges'."""
        forest, visits = self.forest, self.visits[tree]
        visits[node] += 1
        while node:
            parent, edge = int(forest.parent[tree, node]), int(forest.parent_edge[tree, node])
            value = self.returns[tree][node] - self.returns[tree][parent]
            value += self.config.gamma * float(forest.value[tree, node])
            forest.visits[tree, parent, edge] = visits[node]
            forest.value_sum[tree, parent, edge] = visits[node] * value
            visits[parent] += 1
            forest.value[tree, parent] = (
                forest.value_sum[tree, parent].sum() / forest.visits[tree, parent].sum()
            )
            node = parent

    def _add(
        self,
        tree: int,
        state: Any,
        line: tuple[int, ...],
        probability: float,
        reward: float,
        parent: int,
        edge: int,
    ) -> int:
        node = self.forest.add(tree, state, line, parent, edge)
        self.visits[tree].append(0)
        self.likelihood[tree].append(probability)
        self.reward_sums[tree].append(reward)
        self.returns[tree].append(reward)
        return node

    @torch.no_grad()
    def _logits(self, rows: Sequence[int]) -> Tensor:
        logits = checked_logits(self._checked(self.policy(rows), len(rows), "policy"), rows)
        masked = torch.from_numpy(~self.episodes.action_mask[: self.num_allowed]).to(logits.device)
        return logits.masked_fill(masked, -math.inf)

    @torch.no_grad()
    def _values(self, rows: Sequence[int]) -> Tensor:
        return checked_values(self._checked(self.q(rows), len(rows), "q"), rows, self.episodes)

    def _checked(self, values: Tensor, count: int, name: str) -> Tensor:
        """The columns of the allowed actions; ValueError for another shape."""
        if values.shape not in ((count, self.num_actions), (count, self.num_allowed)):
            raise ValueError(
                f"{name} must give [{count}, {self.num_allowed}], got {list(values.shape)}; was it made for "
                "another codebook?"
            )
        return values[:, : self.num_allowed]

    def result(self, interrupted: bool) -> SearchResult:
        answers = [self._answer(tree) for tree in range(len(self.rows))]
        return SearchResult.of(
            self.forest,
            self.rows,
            self.num_actions,
            lines=[answer.actions if answer else () for answer in answers],
            answers=answers,
            endings=self.endings,
            simulations=self.rounds,
            new_tokens=self.new_tokens,
            forwarded=forwarded_since(self.forwarded_before, self.episodes),
            interrupted=interrupted,
        )

    def _answer(self, tree: int) -> Ending | None:
        endings = self.endings[tree]
        if not endings:
            return None
        if self.config.answer != "value":
            return vote(endings, weighted=self.config.answer == "weighted")
        best = max(endings, key=lambda ending: ending.value)
        terminal = np.flatnonzero(self.forest.terminal[tree])
        if len(terminal):
            node = int(terminal[self.forest.value[tree, terminal].argmax()])
            if self.forest.value[tree, node] > best.value:
                return self.ending_of[tree][node]
        return best
