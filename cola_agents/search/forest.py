"""Search trees as arrays, so that many trees are selected and backed up together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

#: In ``child`` and ``parent``: no node; in ``action``: no edge.
NONE = -1


class Forest:
    """R trees of up to N nodes with up to K edges a node. Node 0 of a tree is its root.

    Args:
        num_trees: R.
        num_nodes: N, including the root.
        num_edges: K.
        width: the likeliest actions of a node that its priors are normalised over, at least K; None for K.

    Attributes:
        action: the (first) action of an edge, [R, N, K]; -1 where there is no edge.
        prior: prior probability of an edge, [R, N, K]; those of the likeliest ``width`` actions sum to 1.
        visits, value_sum: visit count of an edge and sum of its returns, [R, N, K].
        reward: reward along an edge, [R, N, K]; 0 before its first visit.
        child: the node that an edge leads to, [R, N, K]; -1 before its first visit.
        terminal: whether the episode is over in a node, [R, N].
        value: the value estimate of a node at its expansion, [R, N].
        parent, parent_edge: the edge that leads to a node, [R, N]; -1 for a root.
        size: number of nodes in use, [R].
        states: the snapshot of each node.
        lines: the actions of the edge that leads to each node.
    """

    def __init__(self, num_trees: int, num_nodes: int, num_edges: int, width: int | None = None) -> None:
        self._width = num_edges if width is None else width
        edges, nodes = (num_trees, num_nodes, num_edges), (num_trees, num_nodes)
        self.action = np.full(edges, NONE, dtype=np.int64)
        self.prior = np.zeros(edges)
        self.visits = np.zeros(edges, dtype=np.int64)
        self.value_sum = np.zeros(edges)
        self.reward = np.zeros(edges)
        self.child = np.full(edges, NONE, dtype=np.int64)
        self.terminal = np.zeros(nodes, dtype=bool)
        self.value = np.zeros(nodes)
        self.parent = np.full(nodes, NONE, dtype=np.int64)
        self.parent_edge = np.full(nodes, NONE, dtype=np.int64)
        self.size = np.zeros(num_trees, dtype=np.int64)
        self.states: list[list[Any]] = [[] for _ in range(num_trees)]
        self.lines: list[list[tuple[int, ...]]] = [[] for _ in range(num_trees)]

    def add(self, tree: int, state: Any, line: tuple[int, ...], parent: int = NONE, edge: int = NONE) -> int:
        """Add a node below an edge of ``parent`` (-1 for a root) and return its number.

        Raises:
            IndexError: when the tree is full.
        """
        node = int(self.size[tree])
        if node >= self.value.shape[1]:
            raise IndexError(f"tree {tree} is full: it has room for {self.value.shape[1]} nodes")
        self.size[tree] += 1
        self.parent[tree, node], self.parent_edge[tree, node] = parent, edge
        if parent != NONE:
            self.child[tree, parent, edge] = node
        self.states[tree].append(state)
        self.lines[tree].append(line)
        return node

    def open(self, tree: int, node: int, actions: np.ndarray, prior: np.ndarray, value: float) -> None:
        """Expand a node: set its value and its edges, the likeliest first."""
        order = np.argsort(-prior, kind="stable")[: self._width]
        weights = prior[order] / prior[order].sum()
        kept = min(len(order), self.action.shape[2])
        self.action[tree, node, :kept] = actions[order[:kept]]
        self.prior[tree, node, :kept] = weights[:kept]
        self.value[tree, node] = value

    def q(self, trees: np.ndarray, nodes: np.ndarray, unvisited: str) -> np.ndarray:
        """Mean returns of the edges of nodes, [B, K].

        An unvisited edge gets 0 for ``unvisited="zero"``, as published, and the mean return of its node for
        ``"parent"``.
        """
        visits, sums = self.visits[trees, nodes], self.value_sum[trees, nodes]
        default = np.zeros(len(trees))
        if unvisited == "parent":
            default = (sums.sum(-1) + self.value[trees, nodes]) / (visits.sum(-1) + 1)
        return np.where(visits > 0, sums / np.maximum(visits, 1), default[:, None])

    def puct(
        self, trees: np.ndarray, nodes: np.ndarray, *, c_init: float, c_base: float, unvisited: str
    ) -> np.ndarray:
        """The pUCT scores of the edges of nodes, [B, K]; -inf where there is no edge.

        ``Q + c P sqrt(N) / (1 + n)`` with ``c = c_init + log((1 + N + c_base) / c_base)``, where n counts the
        edge's visits and N the node's, including its expansion, so that the likeliest edge comes first.

        Source: Silver et al. 2018 (AlphaZero, Science 362); Schrittwieser et al. 2020 (MuZero, Nature
        588), appendix B, equation 2.
        """
        visits = self.visits[trees, nodes]
        total = visits.sum(-1, keepdims=True) + 1
        c = c_init + np.log((1 + total + c_base) / c_base)
        bonus = c * self.prior[trees, nodes] * np.sqrt(total) / (1 + visits)
        score = self.q(trees, nodes, unvisited) + bonus
        return np.where(self.action[trees, nodes] == NONE, -np.inf, score)

    def back_up(self, tree: int, path: list[tuple[int, int]], leaf_value: float, discount: float) -> None:
        """Add one visit and its return to every edge of ``path``, (node, edge) pairs from the root.

        ``discount`` is per action: an edge of n actions discounts by its n-th power.
        """
        value = leaf_value
        for node, edge in reversed(path):
            length = len(self.lines[tree][self.child[tree, node, edge]])
            value = self.reward[tree, node, edge] + discount**length * value
            self.visits[tree, node, edge] += 1
            self.value_sum[tree, node, edge] += value

    def path(self, tree: int, node: int) -> list[tuple[int, int]]:
        """The (node, edge) pairs from the root to a node."""
        edges = []
        while self.parent[tree, node] != NONE:
            edges.append((int(self.parent[tree, node]), int(self.parent_edge[tree, node])))
            node = int(self.parent[tree, node])
        return edges[::-1]

    def actions(self, tree: int, node: int) -> list[int]:
        """All actions from the root to a node."""
        line: list[int] = []
        for parent, edge in self.path(tree, node):
            line += self.lines[tree][int(self.child[tree, parent, edge])]
        return line


@dataclass(frozen=True)
class Tree:
    """A read-only view of tree ``number`` of a forest."""

    forest: Forest
    number: int

    def children(self, node: int = 0) -> list[int]:
        """The nodes below a node, the most visited first."""
        below = self.forest.child[self.number, node]
        edges = np.flatnonzero(below != NONE)
        order = np.argsort(-self.forest.visits[self.number, node, edges], kind="stable")
        children: list[int] = below[edges[order]].tolist()
        return children

    def visits(self, node: int) -> int:
        """The visit count of the edge to a node; for the root, the sum over its edges."""
        edge = self._edge(node)
        return int(self.forest.visits[edge]) if edge else int(self.forest.visits[self.number, 0].sum())

    def mean(self, node: int) -> float:
        """The mean return of the edge to a node; for the root, over its edges, or its initial value."""
        edge = self._edge(node) or (self.number, 0)
        visits = self.forest.visits[edge].sum()
        if not visits:
            return float(self.forest.value[self.number, node])
        return float(self.forest.value_sum[edge].sum() / visits)

    def line(self, node: int) -> tuple[int, ...]:
        """The actions of the edge to a node."""
        return self.forest.lines[self.number][node]

    def prior(self, node: int) -> float:
        """The prior of the edge to a node; 1 for the root."""
        edge = self._edge(node)
        return float(self.forest.prior[edge]) if edge else 1.0

    def tokens(self, node: int) -> list[int]:
        """The token ids that the edge to a node added; for the root, all ids before it."""
        states = self.forest.states[self.number]
        parent = int(self.forest.parent[self.number, node])
        return list(states[node].tokens[len(states[parent].tokens) if parent != NONE else 0 :])

    def terminal(self, node: int) -> bool:
        """Whether the episode is over in a node."""
        return bool(self.forest.terminal[self.number, node])

    def __len__(self) -> int:
        return int(self.forest.size[self.number])

    def _edge(self, node: int) -> tuple[int, int, int] | None:
        parent = int(self.forest.parent[self.number, node])
        if parent == NONE:
            return None
        return self.number, parent, int(self.forest.parent_edge[self.number, node])
