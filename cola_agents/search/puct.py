"""Tree search over the actions of Episodes: PUCT, many trees at a time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.error import ResetNeeded

from cola_agents.search.config import Ending, Evaluate, Evaluation, Follow, SearchConfig, SearchResult
from cola_agents.search.evaluators import RolloutEvaluator, unplayed
from cola_agents.search.forest import NONE, Forest
from cola_agents.search.playout import Outlook, streams
from cola_envs.checks import check_rows
from cola_envs.episodes import Episodes
from cola_envs.fields import given_answer
from cola_envs.spaces import reach
from cola_envs.state import State

#: (node, edge) pairs from a root; none for the root itself.
Path = list[tuple[int, int]]


def search(
    episodes: Episodes,
    rows: Sequence[int],
    evaluate: Evaluate,
    config: SearchConfig | None = None,
    *,
    follow: Follow | None = None,
    seed: int | Sequence[int] = 0,
) -> SearchResult:
    """Search from the states that rows are in, one tree a row, and leave the rows as they were found.

    In each round every tree selects a leaf; all leaves are stepped together and evaluated in one call. Where
    a :class:`~cola_agents.search.evaluators.RolloutEvaluator` plays the leaves on, it is not called but its
    player is: in each step every tree takes one action, on the way to its leaf's end or along a new edge, so
    that no tree waits for the longest episode (continuous batching: Yu et al. 2022, Orca, OSDI).

    Args:
        episodes: whose rows these are. Rows that are not searched are left alone.
        rows: whose episodes are running.
        evaluate: prior and value of the states that rows are in.
        config: see :class:`~cola_agents.search.config.SearchConfig`.
        follow: the policy that continues an edge; needed where ``span`` is more than 1.
        seed: of the root noise, and of the world's sampling where it has a temperature: the search then
            draws futures of its own and does not see the one to come. One, or one for each row.

    Returns:
        What was found; after Ctrl-C what had been found until then, marked ``interrupted``.

    Raises:
        gymnasium.error.ResetNeeded: for a row whose episode is over or has not begun.
        RuntimeError: for a task that cannot be put back, before anything is searched; where its replay said
            something else, all ``rows`` must then be reset.
        ValueError: for priors, values or action values that are not finite numbers, or of another size than
            the action space; for rows that there are not; for estimated rewards without anything that
            estimates them.
        FloatingPointError: where a RolloutEvaluator's policy or Q-function gives what is not finite, naming
            row and action.

    Whatever is raised while searching has what had been found until then as ``error.found``, and the rows
    are put back.
    """
    config = config or SearchConfig()
    rows = list(rows)
    if config.span > 1 and follow is None:
        raise ValueError(f"span={config.span} needs follow=, the policy that continues an edge")
    blind = isinstance(evaluate, RolloutEvaluator) and evaluate.player.q is None
    if config.rewards == "estimated" and blind:
        raise ValueError(
            'rewards="estimated" needs a RolloutEvaluator with q=: without it, its values are the very '
            "rewards that the search is not to see"
        )
    return conduct(episodes, rows, _Run(episodes, rows, evaluate, config, follow, seed))


class Search(Protocol):
    """A search under way."""

    def go(self, roots: Sequence[State]) -> None:
        """Search from the states that the rows are in, to its end."""

    def result(self, interrupted: bool) -> SearchResult:
        """What has been found so far."""


def conduct(episodes: Episodes, rows: Sequence[int], run: Search) -> SearchResult:
    """Carry a search out and put the rows back, come what may: an error has as ``found`` what was found.

    The rows are put back once beforehand: a task that cannot be is known before anything is searched.
    """
    states = running_states(episodes, rows)
    episodes.restore(rows, states)
    found: SearchResult | None = None
    try:
        interrupted = False
        try:
            run.go(states)
        except KeyboardInterrupt:
            interrupted = True
        except Exception as error:
            found = error.found = run.result(True)  # type: ignore[attr-defined]
            raise
        found = run.result(interrupted)
        return found
    finally:
        try:
            episodes.restore(rows, states)
        except Exception as error:
            error.found = found  # type: ignore[attr-defined]
            raise


def running_states(episodes: Episodes, rows: Sequence[int]) -> list[State]:
    """Snapshots of rows.

    Raises:
        gymnasium.error.ResetNeeded: for a row whose episode is over or has not begun.
        ValueError: for rows that there are not, or none.
    """
    for row in check_rows(rows, episodes.num_rows):
        if not episodes.running(row):
            raise ResetNeeded(f"there is nothing to search in row {row}: its episode is over")
    return [episodes.snapshot(row) for row in rows]


class _Move(NamedTuple):
    """The next action of rows that are played on, and what their player saw."""

    rows: list[int]
    actions: list[int]
    seen: Outlook


class _Run:
    """One search under way."""

    def __init__(
        self,
        episodes: Episodes,
        rows: list[int],
        evaluate: Evaluate,
        config: SearchConfig,
        follow: Follow | None,
        seed: int | Sequence[int],
    ) -> None:
        self.episodes, self.rows, self.evaluate = episodes, rows, evaluate
        self.config, self.follow = config, follow
        # Apart from the evaluator's, which may have been given the same seed.
        self.rngs = [stream.spawn(1)[0] for stream in streams(seed, len(rows))]
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
        #: What plays leaves on, where the evaluator does; the path to the leaf of each tree whose row is
        #: played on; and those of them whose leaf has no edges yet.
        self.player = evaluate.player if type(evaluate) is RolloutEvaluator else None
        self.playing: dict[int, Path] = {}
        self.unopened: list[int] = []
        self.done = np.zeros(len(rows), dtype=np.int64)
        self.new_tokens = np.zeros(len(rows), dtype=np.int64)
        self.forwarded_before = forwarded_since(0, episodes)

    # ---------------------------------------------------------------- growing

    def go(self, roots: Sequence[State]) -> None:
        self.plant(roots)
        self.grow()

    def plant(self, roots: Sequence[State]) -> None:
        """Make the roots and evaluate them."""
        if self.episodes.world_temperature > 0:
            seeds = [int(rng.integers(2**53)) for rng in self.rngs]
            self.episodes.restore(self.rows, roots, seeds)
            roots = [self.episodes.snapshot(row) for row in self.rows]
        for tree, root in enumerate(roots):
            self.forest.add(tree, root, ())
            self.paid[tree].append(0.0)
        self._evaluate({tree: [] for tree in range(len(roots))})

    def grow(self) -> None:
        """Simulate until every tree is done."""
        while True:
            move = self._move()
            fresh = self._leaves()
            if not fresh and not move:
                return
            self._step(fresh, move)

    def _leaves(self) -> dict[int, Path]:
        """Of each tree that is neither done nor waiting, the path to an edge that was not taken yet.

        A path that leads to the end of an episode is a simulation at once.
        """
        fresh: dict[int, Path] = {}
        idle = [tree for tree in range(len(self.rows)) if tree not in self.playing]
        while idle := [tree for tree in idle if tree not in fresh and not self._finished(tree)]:
            for tree, path in zip(idle, self._select(np.array(idle)), strict=True):
                if self._leaf(tree, path) == NONE:
                    fresh[tree] = path
                else:
                    self._settle(tree, path, 0.0)
        return fresh

    def _settle(self, tree: int, path: Path, value: float) -> None:
        """A simulation is over: its leaf is worth ``value``. That of a root is none."""
        if path:
            self.forest.back_up(tree, path, value, self.config.discount)
            self.done[tree] += 1

    def _leaf(self, tree: int, path: Path) -> int:
        return int(self.forest.child[tree, path[-1][0], path[-1][1]]) if path else 0

    def _finished(self, tree: int) -> bool:
        config, left = self.config, self.config.simulations - int(self.done[tree])
        if left <= 0 or (config.token_budget is not None and self.new_tokens[tree] >= config.token_budget):
            return True
        if config.early_stop:
            first, *others = sorted(self.forest.visits[tree, 0].tolist(), reverse=True)
            return bool(first - (others[0] if others else 0) > left)
        return False

    def _select(self, trees: np.ndarray) -> list[Path]:
        """Per tree the path to an edge not taken yet, or to the end of an episode."""
        config = self.config
        paths: list[Path] = [[] for _ in trees]
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

    def _step(self, fresh: dict[int, Path], move: _Move | None) -> None:
        """Take the last edge of each path and make the move of those that play; see where it led."""
        forest = self.forest
        rows = [self.rows[tree] for tree in fresh]
        ends = [path[-1] for path in fresh.values()]
        if rows:
            states = [forest.states[tree][node] for tree, (node, _) in zip(fresh, ends, strict=True)]
            self.episodes.restore(rows, states)
        before = {row: len(self.episodes.tokens(row)) for row in rows}
        edges = [int(forest.action[tree, *end]) for tree, end in zip(fresh, ends, strict=True)]
        stepped = self._take(rows, edges, move)
        going = {}
        for (tree, path), row, (node, edge) in zip(fresh.items(), rows, ends, strict=True):
            line, reward, paid, info = stepped[row]
            self.paid[tree].append(self.paid[tree][node] + paid)
            child = forest.add(tree, self.episodes.snapshot(row), line, node, edge)
            self.new_tokens[tree] += len(self.episodes.tokens(row)) - before[row]
            if self.episodes.running(row):
                forest.reward[tree, node, edge] = reward if self.config.rewards == "environment" else 0.0
                going[tree] = path
            else:
                worth = self._worth(tree, node, line, reward)
                forest.terminal[tree, child] = True
                forest.reward[tree, node, edge] = worth
                self._found(tree, child, Ending(info["text"], line, worth, paid, info), node)
                self._settle(tree, path, 0.0)
        if going:
            self._evaluate(going)

    def _take(
        self, rows: list[int], actions: list[int], move: _Move | None
    ) -> dict[int, tuple[tuple[int, ...], float, float, dict[str, Any]]]:
        """Take an edge in each row: its actions, their rewards discounted and as paid, the last info.

        The move goes with the first action of the edges.
        """
        lines: dict[int, list[int]] = {row: [] for row in rows}
        rewards, sums, infos = dict.fromkeys(rows, 0.0), dict.fromkeys(rows, 0.0), {}
        going, chosen = rows, actions
        for count in range(self.config.span):
            if count:
                assert self.follow is not None
                chosen = np.asarray(self.follow(going)).argmax(-1).tolist()
            also = None if count else move
            together = (going, chosen) if also is None else (going + also.rows, chosen + also.actions)
            _, paid, _, _, told = self.episodes.step(*together)
            for row, action, reward, info in zip(going, chosen, paid, told, strict=False):
                lines[row].append(action)
                rewards[row] += self.config.discount**count * float(reward)
                sums[row] += float(reward)
                infos[row] = info
            if also is not None:
                self._moved(also, paid[len(going) :], told[len(going) :])
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

    def _evaluate(self, paths: dict[int, Path]) -> None:
        """Judge the leaves that trees' rows are in: at once, or by playing them on from the next step on."""
        rows = [self.rows[tree] for tree in paths]
        if self.player is not None:
            self.player.begin(rows)
            self.playing |= paths
            self.unopened = list(paths)
            return
        before = [len(self.episodes.tokens(row)) for row in rows]
        same = self._same(rows)
        found = Evaluation(*self.evaluate(rows))
        self._open(paths, found, same)
        for i, (tree, path) in enumerate(paths.items()):
            self.new_tokens[tree] += len(self.episodes.tokens(rows[i])) - before[i]
            ending = found.endings[i] if found.endings is not None else None
            if ending is not None:
                self._found(tree, self._leaf(tree, path), ending, self._leaf(tree, path))
            self._settle(tree, path, float(found.value[i]))

    def _move(self) -> _Move | None:
        """The next action of every row that is played on; those leaves that are new are given their edges."""
        if self.player is None or not self.playing:
            return None
        rows = [self.rows[tree] for tree in self.playing]
        seen = self.player.look(rows)
        if self.unopened:
            new = {tree: self.playing[tree] for tree in self.unopened}
            at = [rows.index(self.rows[tree]) for tree in new]
            values = None if seen.values is None else seen.values[at]
            same = self._same([self.rows[tree] for tree in new])
            self._open(new, unplayed(Outlook(seen.logits[at], values)), same)
            self.unopened = []
        return _Move(rows, self.player.draw(rows, seen), seen)

    def _moved(self, move: _Move, rewards: np.ndarray, infos: Sequence[dict[str, Any]]) -> None:
        """End the simulations of those trees whose row has come to its end."""
        assert self.player is not None
        ended = self.player.took(*move, rewards, infos)
        for tree in [tree for tree in self.playing if self.rows[tree] in ended]:
            path, ending = self.playing.pop(tree), ended[self.rows[tree]]
            leaf = self._leaf(tree, path)
            self.new_tokens[tree] += ending.spent
            self.forest.value[tree, leaf] = ending.value
            self._found(tree, leaf, ending, leaf)
            self._settle(tree, path, ending.value)

    def _same(self, rows: list[int]) -> np.ndarray | None:
        """Of each row the token that each code gives, where equal ones are to be merged."""
        return self.episodes.session.outcomes(rows)[0][:, :, 0] if self.merge else None

    def _open(self, paths: dict[int, Path], found: Evaluation, same: np.ndarray | None) -> None:
        """Give leaves their edges and what is known of their worth."""
        prior, value = self._checked(found, len(paths))
        for i, (tree, path) in enumerate(paths.items()):
            node = self._leaf(tree, path)
            weights = prior[i] if same is None else merged(prior[i], same[i])
            actions = np.flatnonzero(weights > 0)
            self.forest.open(tree, node, actions, weights[actions], float(value[i]))
            if found.action_values is not None:
                self.action_values[tree][node] = np.asarray(found.action_values[i])
            if not path and self.config.noise > 0:
                edges = self.forest.action[tree, 0] != NONE
                noise = self.rngs[tree].dirichlet([self.config.noise] * int(edges.sum()))
                root = self.forest.prior[tree, 0]
                root[edges] += self.config.noise_share * (noise - root[edges])

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
        known = reach(self.episodes.action_mask)  # a token policy may leave out what no token stands for
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
