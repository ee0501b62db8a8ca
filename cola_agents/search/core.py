"""Tree search over the actions of Episodes: PUCT, many trees at a time."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded

from cola_agents.reports import given_answer
from cola_agents.search.config import Ending, Evaluate, Evaluation, Follow, SearchConfig, SearchResult
from cola_agents.search.forest import NONE, Forest
from cola_envs.episodes import Episodes
from cola_envs.state import State


def search(
    episodes: Episodes,
    rows: Sequence[int],
    evaluate: Evaluate,
    config: SearchConfig | None = None,
    *,
    follow: Follow | None = None,
    seed: int = 0,
) -> SearchResult:
    """Search from the states that rows are in, one tree a row, and leave the rows as they were found.

    In each round every tree selects a leaf; all leaves are stepped together and evaluated in one call.

    Args:
        episodes: whose rows these are. Rows that are not searched are left alone.
        rows: whose episodes are running.
        evaluate: prior and value of the states that rows are in.
        config: see :class:`~cola_agents.search.config.SearchConfig`.
        follow: the policy that continues an edge; needed where ``span`` is more than 1.
        seed: of the root noise, and of the world's sampling where it has a temperature: the search then
            draws futures of its own and does not see the one to come.

    Returns:
        What was found; after Ctrl-C what had been found until then, marked ``interrupted``.

    Raises:
        gymnasium.error.ResetNeeded: for a row whose episode is over or has not begun.
        RuntimeError: for a task that cannot be put back, before the rows are touched.
        ValueError: for priors, values or action values that are not finite numbers, or of another size than
            the action space; the rows were put back.
    """
    config = config or SearchConfig()
    rows = list(rows)
    if config.span > 1 and follow is None:
        raise ValueError(f"span={config.span} needs follow=, the policy that continues an edge")
    with put_back(episodes, rows) as roots:
        run = _Run(episodes, rows, evaluate, config, follow, seed)
        interrupted = False
        try:
            run.plant(roots)
            run.grow()
        except KeyboardInterrupt:
            interrupted = True
        return run.result(interrupted)


def running_states(episodes: Episodes, rows: Sequence[int]) -> list[State]:
    """Snapshots of rows.

    Raises:
        gymnasium.error.ResetNeeded: for a row whose episode is over or has not begun.
    """
    for row in rows:
        if not episodes.running(row):
            raise ResetNeeded(f"there is nothing to search in row {row}: its episode is over")
    return [episodes.snapshot(row) for row in rows]


@contextmanager
def put_back(episodes: Episodes, rows: Sequence[int]) -> Iterator[list[State]]:
    """The states of running rows, which are put back into them afterwards, come what may."""
    states = running_states(episodes, rows)
    try:
        yield states
    finally:
        episodes.restore(rows, states)


class _Run:
    """One search under way."""

    def __init__(
        self,
        episodes: Episodes,
        rows: list[int],
        evaluate: Evaluate,
        config: SearchConfig,
        follow: Follow | None,
        seed: int,
    ) -> None:
        self.episodes, self.rows, self.evaluate = episodes, rows, evaluate
        self.config, self.follow = config, follow
        self.rng = np.random.default_rng(seed)
        self.num_actions = int(episodes.action_space.n)
        width = min(config.width or self.num_actions, int(episodes.action_mask.sum()))
        self.forest = Forest(len(rows), config.simulations + 1, width)
        self.merge = config.merge and episodes.backbone.level == "latent" and episodes.world_temperature == 0
        #: Per tree and node what was paid on the way to it, seen or not.
        self.paid: list[list[float]] = [[] for _ in rows]
        #: Per tree and node what the evaluator says of each action; read where rewards are estimated.
        self.action_values: list[dict[int, np.ndarray]] = [{} for _ in rows]
        self.endings: list[list[Ending]] = [[] for _ in rows]
        #: Which ending a node came with: its own, or that of the evaluation that played it on.
        self.ending_of: list[dict[int, Ending]] = [{} for _ in rows]
        self.done = np.zeros(len(rows), dtype=np.int64)
        self.new_tokens = np.zeros(len(rows), dtype=np.int64)
        self.forwarded_before = forwarded_since(0, episodes)

    # ---------------------------------------------------------------- growing

    def plant(self, roots: Sequence[Any]) -> None:
        """Make the roots and evaluate them."""
        if self.episodes.world_temperature > 0:
            seeds = self.rng.integers(2**53, size=len(roots)).tolist()
            self.episodes.restore(self.rows, roots, seeds)
            roots = [self.episodes.snapshot(row) for row in self.rows]
        trees = list(range(len(self.rows)))
        for tree, root in zip(trees, roots, strict=True):
            self.forest.add(tree, root, ())
            self.paid[tree].append(0.0)
        self._open(trees, [0] * len(trees))
        if self.config.noise > 0:
            for tree in trees:
                edges = self.forest.action[tree, 0] != NONE
                noise = self.rng.dirichlet([self.config.noise] * int(edges.sum()))
                prior = self.forest.prior[tree, 0]
                prior[edges] += self.config.noise_share * (noise - prior[edges])

    def grow(self) -> None:
        """Simulate until every tree is done."""
        while live := [tree for tree in range(len(self.rows)) if not self._finished(tree)]:
            pairs = list(zip(live, self._select(np.array(live)), strict=True))
            fresh = [(tree, path) for tree, path in pairs if self._leaf(tree, path) == NONE]
            if fresh:
                self._expand(fresh)
            for tree, path in pairs:
                leaf = self._leaf(tree, path)
                value = 0.0 if self.forest.terminal[tree, leaf] else float(self.forest.value[tree, leaf])
                self.forest.back_up(tree, path, value, self.config.discount)
                self.done[tree] += 1

    def _leaf(self, tree: int, path: list[tuple[int, int]]) -> int:
        return int(self.forest.child[tree, path[-1][0], path[-1][1]])

    def _finished(self, tree: int) -> bool:
        config, left = self.config, self.config.simulations - int(self.done[tree])
        if left <= 0 or (config.token_budget is not None and self.new_tokens[tree] >= config.token_budget):
            return True
        if config.early_stop:
            first, *others = sorted(self.forest.visits[tree, 0].tolist(), reverse=True)
            return first - (others[0] if others else 0) > left
        return False

    def _select(self, trees: np.ndarray) -> list[list[tuple[int, int]]]:
        """Per tree the path to an edge not taken yet, or to the end of an episode."""
        config = self.config
        paths: list[list[tuple[int, int]]] = [[] for _ in trees]
        nodes = np.zeros(len(trees), dtype=np.int64)
        walking = np.arange(len(trees))
        while len(walking):
            at, here = trees[walking], nodes[walking]
            edges = self.forest.puct(
                at, here, c_init=config.c_init, c_base=config.c_base, unvisited=config.unvisited
            ).argmax(-1)
            for i, node, edge in zip(walking.tolist(), here.tolist(), edges.tolist(), strict=True):
                paths[i].append((node, edge))
            below = self.forest.child[at, here, edges]
            nodes[walking] = below
            walking = walking[(below != NONE) & ~self.forest.terminal[at, below]]
        return paths

    def _expand(self, fresh: list[tuple[int, list[tuple[int, int]]]]) -> None:
        """Take the last edge of each path, and evaluate where it leads."""
        forest = self.forest
        trees = [tree for tree, _ in fresh]
        rows = [self.rows[tree] for tree in trees]
        ends = [path[-1] for _, path in fresh]
        self.episodes.restore(
            rows, [forest.states[tree][node] for tree, (node, _) in zip(trees, ends, strict=True)]
        )
        before = {row: len(self.episodes.tokens(row)) for row in rows}
        stepped = self._take(
            rows, [int(forest.action[tree, *end]) for tree, end in zip(trees, ends, strict=True)]
        )
        going, nodes = [], []
        for tree, row, (node, edge) in zip(trees, rows, ends, strict=True):
            line, reward, paid, info = stepped[row]
            self.paid[tree].append(self.paid[tree][node] + paid)
            child = forest.add(tree, self.episodes.snapshot(row), line, node, edge)
            self.new_tokens[tree] += len(self.episodes.tokens(row)) - before[row]
            if self.episodes.running(row):
                forest.reward[tree, node, edge] = reward if self.config.rewards == "environment" else 0.0
                going.append(tree)
                nodes.append(child)
            else:
                worth = self._worth(tree, node, line, reward)
                forest.terminal[tree, child] = True
                forest.reward[tree, node, edge] = worth
                self._found(tree, child, Ending(info["text"], line, worth, paid, info), node)
        if going:
            self._open(going, nodes)

    def _take(
        self, rows: list[int], actions: list[int]
    ) -> dict[int, tuple[tuple[int, ...], float, float, dict[str, Any]]]:
        """Take an edge in each row: its actions, their rewards discounted and as paid, the last info."""
        lines: dict[int, list[int]] = {row: [] for row in rows}
        rewards, sums, infos = dict.fromkeys(rows, 0.0), dict.fromkeys(rows, 0.0), {}
        going, chosen = rows, np.array(actions)
        for count in range(self.config.span):
            if count:
                assert self.follow is not None
                likelihood = np.asarray(self.follow(going))
                chosen = likelihood.argmax(-1)
            _, paid, _, _, told = self.episodes.step(going, chosen)
            for row, action, reward, info in zip(going, chosen.tolist(), paid, told, strict=True):
                lines[row].append(action)
                rewards[row] += self.config.discount**count * float(reward)
                sums[row] += float(reward)
                infos[row] = info
            going = [row for row in going if self.episodes.running(row)]
            if not going:
                break
        return {row: (tuple(lines[row]), rewards[row], sums[row], infos[row]) for row in rows}

    def _worth(self, tree: int, node: int, line: tuple[int, ...], reward: float) -> float:
        """What the end of an episode is worth, by the configuration's rule."""
        if self.config.rewards == "environment":
            return reward
        values = self.action_values[tree].get(node)
        if values is None:
            return float(self.forest.value[tree, node])
        return float(values[line[0]])

    def _open(self, trees: list[int], nodes: list[int]) -> None:
        """Evaluate nodes, whose states the trees' rows are in, and give them edges."""
        rows = [self.rows[tree] for tree in trees]
        before = [len(self.episodes.tokens(row)) for row in rows]
        same = self.episodes.session.outcomes(rows)[0][:, :, 0] if self.merge else None
        found = Evaluation(*self.evaluate(rows))
        prior, value = self._checked(found, len(rows))
        for i, (tree, node) in enumerate(zip(trees, nodes, strict=True)):
            self.new_tokens[tree] += len(self.episodes.tokens(rows[i])) - before[i]
            weights = prior[i] if same is None else merged(prior[i], same[i])
            actions = np.flatnonzero(weights > 0)
            self.forest.open(tree, node, actions, weights[actions], float(value[i]))
            if found.action_values is not None:
                self.action_values[tree][node] = np.asarray(found.action_values[i])
            ending = found.endings[i] if found.endings is not None else None
            if ending is not None:
                self._found(tree, node, ending, node)

    def _found(self, tree: int, node: int, ending: Ending, since: int) -> None:
        """Keep an ending that was played on from the node ``since``, counted from the root."""
        path = self.forest.path(tree, since)
        value, taken = ending.value, list(self.forest.actions(tree, since))
        for parent, edge in reversed(path):
            length = len(self.forest.lines[tree][int(self.forest.child[tree, parent, edge])])
            paid = float(self.forest.reward[tree, parent, edge])
            value = paid + self.config.discount**length * value
        reward = self.paid[tree][since] + ending.reward
        spent = int(self.new_tokens[tree])
        whole = Ending(ending.text, (*taken, *ending.actions), value, reward, ending.info, spent)
        self.endings[tree].append(whole)
        self.ending_of[tree][node] = whole

    def _checked(self, found: Evaluation, count: int) -> tuple[np.ndarray, np.ndarray]:
        prior, value = np.asarray(found.prior, dtype=np.float64), np.asarray(found.value, dtype=np.float64)
        known = int(self.episodes.action_mask.sum())  # a token policy may leave out ids that mean nothing
        shapes = {(count, self.num_actions), (count, known)}
        if prior.shape not in shapes or value.shape != (count,):
            raise ValueError(
                f"an evaluator must give a prior {' or '.join(str(list(s)) for s in sorted(shapes))} and a "
                f"value [{count}], got {list(prior.shape)} and {list(value.shape)}; was it made for another "
                "codebook?"
            )
        prior = np.pad(prior, ((0, 0), (0, self.num_actions - prior.shape[1])))
        prior[:, ~self.episodes.action_mask] = 0.0
        if not (np.isfinite(prior).all() and np.isfinite(value).all()):
            raise ValueError("an evaluator gave a prior or a value that is no finite number")
        if (prior < 0).any() or (prior.sum(-1) <= 0).any():
            raise ValueError("a prior must be probabilities: none negative, and not all 0")
        if found.action_values is not None:
            worth = np.asarray(found.action_values, dtype=np.float64)
            if worth.shape not in shapes:
                wanted = " or ".join(str(list(shape)) for shape in sorted(shapes))
                raise ValueError(
                    f"an evaluator must give action values {wanted}, got {list(worth.shape)}; were they made "
                    "for another codebook?"
                )
            bad = np.argwhere(~np.isfinite(worth) & self.episodes.action_mask[: worth.shape[1]])
            if len(bad):
                at, action = bad[0].tolist()
                raise ValueError(
                    f"an evaluator gave a value of action {action} that is no finite number, for the row at "
                    f"place {at} of its call"
                )
        ends = [ending.value for ending in found.endings or () if ending is not None]
        if not np.isfinite(ends).all():
            raise ValueError("an evaluator gave an ending whose value is no finite number")
        return prior, value

    # ---------------------------------------------------------------- what came of it

    def result(self, interrupted: bool) -> SearchResult:
        """What has been found so far."""
        found = [self._answer(tree) for tree in range(len(self.rows))]
        return SearchResult.of(
            self.forest,
            self.rows,
            self.num_actions,
            lines=[line for line, _ in found],
            answers=[answer for _, answer in found],
            endings=self.endings,
            simulations=self.done,
            new_tokens=self.new_tokens,
            forwarded=forwarded_since(self.forwarded_before, self.episodes),
            interrupted=interrupted,
        )

    def _answer(self, tree: int) -> tuple[tuple[int, ...], Ending | None]:
        endings = self.endings[tree]
        if self.config.answer == "visits" or not endings:
            node = self._most_visited(tree)
            return tuple(self.forest.actions(tree, node)) if node else (), self.ending_of[tree].get(node)
        chosen = vote(endings) if self.config.answer == "vote" else max(endings, key=lambda e: e.value)
        return chosen.actions, chosen

    def _most_visited(self, tree: int) -> int:
        """The node at the end of the line of most visits; of equals the one of higher value."""
        if not self.forest.size[tree]:
            return 0
        node = 0
        while True:
            visits = self.forest.visits[tree, node]
            if not visits.any():
                return node
            at = np.array([tree]), np.array([node])
            mean = self.forest.q(*at, self.config.unvisited)[0]
            edge = int(np.lexsort((mean, visits))[-1])
            node = int(self.forest.child[tree, node, edge])


def forwarded_since(before: int | None, episodes: Episodes) -> int | None:
    """Tokens that have gone through the language model beyond ``before``; None where nobody counts them."""
    total: int | None = getattr(episodes.session, "tokens_forwarded", None)
    return None if total is None or before is None else total - before


def merged(prior: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Priors [A] of which codes that give one token are summed at the likeliest of them, 0 elsewhere."""
    out = np.zeros_like(prior)
    for token in np.unique(tokens):
        codes = np.flatnonzero(tokens == token)
        out[codes[prior[codes].argmax()]] = prior[codes].sum()
    return out


def answer_of(ending: Ending) -> Hashable:
    """What endings are counted by in a vote: the answer that the task read out of the text, or the text."""
    answer = given_answer(ending.info)
    return ending.text.strip() if answer is None else answer


def vote(endings: Sequence[Ending]) -> Ending:
    """The ending of highest value among those with the most frequent answer; of ties the one found first.

    Source: self-consistency, Wang et al. 2022 (arXiv 2203.11171).
    """
    groups: dict[Hashable, list[Ending]] = {}
    for ending in endings:
        groups.setdefault(answer_of(ending), []).append(ending)
    most: list[Ending] = max(groups.values(), key=lambda group: len(group))
    return max(most, key=lambda ending: ending.value)
