"""PUCT tree search over the actions of Episodes, many trees at a time."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from gymnasium.error import ResetNeeded

from cola_agents.search.config import Ending, Evaluate, Evaluation, Follow, SearchConfig, SearchResult
from cola_agents.search.evaluators import RolloutEvaluator, prior_evaluation
from cola_agents.search.forest import NONE, Forest
from cola_agents.search.playout import ActionScores, judged_endings, streams
from cola_envs.checks import check_rows
from cola_envs.episodes import Episodes
from cola_envs.fields import given_answer
from cola_envs.spaces import widths
from cola_envs.state import State

#: (node, edge) pairs from a root; empty for the root itself.
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
    """Search from the current states of rows, one tree per row, and restore the rows afterwards.

    In each round every tree selects a leaf; all leaves are stepped together and evaluated in one call. With a
    :class:`~cola_agents.search.evaluators.RolloutEvaluator` each step advances every tree by one action,
    along a new edge or in a rollout, so that no tree waits for the longest episode (continuous batching: Yu
    et al. 2022, Orca, OSDI).

    Args:
        episodes: the environments of ``rows``; other rows do not change.
        rows: rows whose episodes are running.
        evaluate: gives prior and value of the current states of rows.
        config: see :class:`~cola_agents.search.config.SearchConfig`.
        follow: the policy that continues an edge; needed for a ``span`` above 1.
        seed: one seed, or one per row, of the root noise and of the world's sampling where it has a
            temperature: the search draws its own futures and does not see what the episode will draw.

    Returns:
        The result; after Ctrl-C the result so far, marked ``interrupted``.

    Raises:
        gymnasium.error.ResetNeeded: for a row whose episode is over or has not begun.
        RuntimeError: before the search, for a task that cannot be restored; or where a replay differed from
            the first run: then all ``rows`` must be reset.
        ValueError: for priors, values or action values that are not finite or whose size is not that of the
            action space; for rows that do not exist; for estimated rewards without an estimate.
        FloatingPointError: where the policy or Q-function of a RolloutEvaluator gives a value that is not
            finite, naming row and action.

    An exception raised during the search carries the result so far as ``error.partial_result``; the rows are
    restored.
    """
    config = config or SearchConfig()
    rows = list(rows)
    if config.span > 1 and follow is None:
        raise ValueError(f"span={config.span} needs follow=, the policy that continues an edge")
    if config.rewards == "estimated" and isinstance(evaluate, RolloutEvaluator):
        if evaluate.player.q is None and evaluate.player.judge is None:
            raise ValueError(
                'rewards="estimated" needs a RolloutEvaluator with q= or judge=: without them, its values '
                "are the task's rewards, which the search must not read"
            )
    elif isinstance(evaluate, RolloutEvaluator) and evaluate.player.judge is not None:
        raise ValueError('a judge gives the values of endings: it needs rewards="estimated"')
    return run_search(episodes, rows, _PUCT(episodes, rows, evaluate, config, follow, seed))


class Search(Protocol):
    """A search algorithm that :func:`run_search` runs."""

    def run(self, roots: Sequence[State]) -> None:
        """Search from ``roots``, the current states of the rows, to the end."""

    def result(self, interrupted: bool) -> SearchResult:
        """The result so far."""


def run_search(episodes: Episodes, rows: Sequence[int], algorithm: Search) -> SearchResult:
    """Run a search and restore the rows, also after an error, which carries the result so far.

    The rows are also restored before the search, so that a task that cannot be restored fails at once.
    """
    states = running_states(episodes, rows)
    episodes.restore(rows, states)
    result: SearchResult | None = None
    try:
        interrupted = False
        try:
            algorithm.run(states)
        except KeyboardInterrupt:
            interrupted = True
        except Exception as error:
            result = error.partial_result = algorithm.result(True)  # type: ignore[attr-defined]
            raise
        result = algorithm.result(interrupted)
        return result
    finally:
        try:
            episodes.restore(rows, states)
        except Exception as error:
            error.partial_result = result  # type: ignore[attr-defined]
            raise


def running_states(episodes: Episodes, rows: Sequence[int]) -> list[State]:
    """Snapshots of rows.

    Raises:
        gymnasium.error.ResetNeeded: for a row whose episode is over or has not begun.
        ValueError: for no rows, or rows that do not exist.
    """
    for row in check_rows(rows, episodes.num_rows):
        if not episodes.running(row):
            has = "has not begun: reset it" if episodes.seed(row) is None else "is over: reset it, or restore"
            raise ResetNeeded(f"there is nothing to search in row {row}: its episode {has} first")
    return [episodes.snapshot(row) for row in rows]


def resampled_roots(
    episodes: Episodes, rows: Sequence[int], roots: Sequence[State], rngs: Sequence[np.random.Generator]
) -> Sequence[State]:
    """The roots, with new world seeds: a search must not see the draws that the episodes will make."""
    if not episodes.world_temperature:
        return roots
    episodes.restore(rows, roots, [int(rng.integers(2**53)) for rng in rngs])
    return [episodes.snapshot(row) for row in rows]


class _RolloutStep(NamedTuple):
    """The next actions of the rows in rollouts, and the scores that they were drawn from."""

    rows: list[int]
    actions: list[int]
    scores: ActionScores


class _EdgeStep(NamedTuple):
    """A step along an edge.

    Attributes:
        line: its actions.
        value, reward: the discounted and the undiscounted sum of their rewards.
        info: the last info.
        last_state: the state before the last of several actions; None where rewards are the environment's.
    """

    line: tuple[int, ...]
    value: float
    reward: float
    info: dict[str, Any]
    last_state: Any


class _PUCT:
    """The state of one search: trees, endings and counts."""

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
        # Spawned, because the evaluator's streams may have the same seed.
        self.rngs = [stream.spawn(1)[0] for stream in streams(seed, len(rows))]
        self.num_actions = int(episodes.action_space.n)
        width = min(config.width or self.num_actions, int(episodes.action_mask.sum()))
        # Unvisited edges are visited by falling prior, at most one a simulation: no others can have a visit.
        # Noise changes that order at the root.
        kept = width if config.noise > 0 else min(width, config.simulations)
        self.forest = Forest(len(rows), config.simulations + 1, kept, width)
        # The first token of a code that lasts several does not tell what the code writes.
        alike = episodes.world_temperature == 0 and getattr(episodes.session, "draws", 1) == 1
        self.merge = config.merge and episodes.backbone.level == "latent" and alike
        #: Per tree and node the sum of the task's rewards from the root, for the endings' ``reward``.
        self.reward_sums: list[list[float]] = [[] for _ in rows]
        #: Per tree and node the evaluator's values of the edges' actions, used where rewards are estimated.
        self.action_values: list[dict[int, np.ndarray]] = [{} for _ in rows]
        self.endings: list[list[Ending]] = [[] for _ in rows]
        #: Per tree and node the ending in the node or of the rollout from it.
        self.ending_of: list[dict[int, Ending]] = [{} for _ in rows]
        #: The player of a RolloutEvaluator; the path to the leaf of each tree in a rollout; and those of
        #: these trees whose leaf has no edges yet.
        self.player = evaluate.player if type(evaluate) is RolloutEvaluator else None
        self.rollouts: dict[int, Path] = {}
        self.unexpanded: list[int] = []
        self.simulations = np.zeros(len(rows), dtype=np.int64)
        self.new_tokens = np.zeros(len(rows), dtype=np.int64)
        self.forwarded_before = forwarded_since(0, episodes)

    def run(self, roots: Sequence[State]) -> None:
        for tree, root in enumerate(resampled_roots(self.episodes, self.rows, roots, self.rngs)):
            self.forest.add(tree, root, ())
            self.reward_sums[tree].append(0.0)
        self._evaluate({tree: [] for tree in range(len(roots))})
        while True:
            rollout_step = self._draw_rollout_step()
            paths = self._select_edges()
            if not paths and not rollout_step:
                return
            self._step(paths, rollout_step)

    def _select_edges(self) -> dict[int, Path]:
        """For each tree that is neither finished nor in a rollout, the path to an unvisited edge.

        A path that ends in a finished episode completes a simulation at once.
        """
        paths: dict[int, Path] = {}
        idle = [tree for tree in range(len(self.rows)) if tree not in self.rollouts]
        while idle := [tree for tree in idle if tree not in paths and not self._finished(tree)]:
            for tree, path in zip(idle, self._descend(np.array(idle)), strict=True):
                if self._leaf(tree, path) == NONE:
                    paths[tree] = path
                else:
                    self._end_simulation(tree, path, 0.0)
        return paths

    def _end_simulation(self, tree: int, path: Path, value: float) -> None:
        """Back up the value of a leaf and count the simulation; the root's evaluation is not one."""
        if path:
            self.forest.back_up(tree, path, value, self.config.discount)
            self.simulations[tree] += 1

    def _leaf(self, tree: int, path: Path) -> int:
        """The node at the end of a path."""
        return int(self.forest.child[tree, path[-1][0], path[-1][1]]) if path else 0

    def _finished(self, tree: int) -> bool:
        """Whether a tree gets no further simulation."""
        config, left = self.config, self.config.simulations - int(self.simulations[tree])
        if left <= 0 or (config.token_budget is not None and self.new_tokens[tree] >= config.token_budget):
            return True
        if config.early_stop:
            first, *others = sorted(self.forest.visits[tree, 0].tolist(), reverse=True)
            return bool(first - (others[0] if others else 0) > left)
        return False

    def _descend(self, trees: np.ndarray) -> list[Path]:
        """For each tree the path of highest pUCT scores, to an unvisited edge or a finished episode."""
        config = self.config
        paths: list[Path] = [[] for _ in trees]
        nodes = np.zeros(len(trees), dtype=np.int64)
        active = np.arange(len(trees))
        while len(active):
            active_trees, parents = trees[active], nodes[active]
            edges = self.forest.puct(
                active_trees, parents, c_init=config.c_init, c_base=config.c_base, unvisited=config.unvisited
            ).argmax(-1)
            for i, node, edge in zip(active.tolist(), parents.tolist(), edges.tolist(), strict=True):
                paths[i].append((node, edge))
            children = self.forest.child[active_trees, parents, edges]
            nodes[active] = children
            active = active[(children != NONE) & ~self.forest.terminal[active_trees, children]]
        return paths

    def _step(self, paths: dict[int, Path], rollout_step: _RolloutStep | None) -> None:
        """Step along the last edge of each path, together with the rollouts; add the new nodes."""
        forest = self.forest
        rows = [self.rows[tree] for tree in paths]
        ends = [path[-1] for path in paths.values()]
        if rows:
            states = [forest.states[tree][node] for tree, (node, _) in zip(paths, ends, strict=True)]
            self.episodes.restore(rows, states)
        before = {row: len(self.episodes.tokens(row)) for row in rows}
        actions = [int(forest.action[tree, *end]) for tree, end in zip(paths, ends, strict=True)]
        steps = self._step_edges(rows, actions, rollout_step)
        over = [row for row in rows if not self.episodes.running(row)]
        children = {row: self.episodes.snapshot(row) for row in rows}
        new_tokens = {row: len(self.episodes.tokens(row)) - before[row] for row in rows}
        estimates = {}
        if self.player is not None and self.player.judge is not None:
            estimates = judged_endings(self.player.judge, over)
        elif self.config.rewards == "estimated":
            several = {row: steps[row] for row in over if len(steps[row].line) > 1}
            for row, (value, spent) in self._last_values(several).items():
                estimates[row] = value
                new_tokens[row] += spent
        running = {}
        for (tree, path), row, (node, edge) in zip(paths.items(), rows, ends, strict=True):
            line, value, reward, info, _ = steps[row]
            self.reward_sums[tree].append(self.reward_sums[tree][node] + reward)
            child = forest.add(tree, children[row], line, node, edge)
            self.new_tokens[tree] += new_tokens[row]
            if row not in over:
                forest.reward[tree, node, edge] = value if self.config.rewards == "environment" else 0.0
                running[tree] = path
            else:
                if self.config.rewards == "estimated":
                    values = self.action_values[tree].get(node)
                    of_node = float(forest.value[tree, node] if values is None else values[edge])
                    value = self.config.discount ** (len(line) - 1) * estimates.get(row, of_node)
                forest.terminal[tree, child] = True
                forest.reward[tree, node, edge] = value
                self._add_ending(tree, child, Ending(info["text"], line, value, reward, info), node)
                self._end_simulation(tree, path, 0.0)
        if running:
            self._evaluate(running)

    def _step_edges(
        self, rows: list[int], actions: list[int], rollout_step: _RolloutStep | None
    ) -> dict[int, _EdgeStep]:
        """Step each row along an edge of up to ``span`` actions; the rollouts share the first step."""
        lines: dict[int, list[int]] = {row: [] for row in rows}
        returns, sums, last_infos = dict.fromkeys(rows, 0.0), dict.fromkeys(rows, 0.0), {}
        last_states: dict[int, State] = {}
        running = rows
        for count in range(self.config.span):
            if count:
                assert self.follow is not None
                actions = np.asarray(self.follow(running)).argmax(-1).tolist()
                rollout_step = None
                if self.config.rewards == "estimated":
                    last_states |= {row: self.episodes.snapshot(row) for row in running}
            also = ([], []) if rollout_step is None else (rollout_step.rows, rollout_step.actions)
            _, rewards, _, _, infos = self.episodes.step(running + also[0], actions + also[1])
            for row, action, reward, info in zip(running, actions, rewards, infos, strict=False):
                lines[row].append(action)
                returns[row] += self.config.discount**count * float(reward)
                sums[row] += float(reward)
                last_infos[row] = info
            if rollout_step is not None:
                self._record_rollout_step(rollout_step, rewards[len(running) :], infos[len(running) :])
            running = [row for row in running if self.episodes.running(row)]
            if not running:
                break
        return {
            row: _EdgeStep(tuple(lines[row]), returns[row], sums[row], last_infos[row], last_states.get(row))
            for row in rows
        }

    def _last_values(self, steps: Mapping[int, _EdgeStep]) -> dict[int, tuple[float, int]]:
        """The evaluator's value of the last action of edges of several actions, and the tokens that it took.

        It is asked in the states before these actions, where the rows stay.
        """
        if not steps:
            return {}
        rows = list(steps)
        self.episodes.restore(rows, [step.last_state for step in steps.values()])
        before = [len(self.episodes.tokens(row)) for row in rows]
        if self.player is None:
            evaluation = _evaluation(self.evaluate(rows))
        else:
            evaluation = prior_evaluation(self.player.score(rows))
        _, state_values = self._checked(evaluation, len(rows))
        values = {}
        for i, row in enumerate(rows):
            last, spent = steps[row].line[-1], len(self.episodes.tokens(row)) - before[i]
            of_actions = evaluation.action_values
            values[row] = float(state_values[i] if of_actions is None else of_actions[i][last]), spent
        return values

    def _evaluate(self, paths: dict[int, Path]) -> None:
        """Evaluate the leaves at the ends of paths: at once, or by rollouts that begin with the next step."""
        rows = [self.rows[tree] for tree in paths]
        if self.player is not None:
            self.player.begin(rows)
            self.rollouts |= paths
            self.unexpanded = list(paths)
            return
        before = [len(self.episodes.tokens(row)) for row in rows]
        tokens = self._code_tokens(rows)
        evaluation = _evaluation(self.evaluate(rows))
        self._expand(paths, evaluation, tokens)
        for i, (tree, path) in enumerate(paths.items()):
            self.new_tokens[tree] += len(self.episodes.tokens(rows[i])) - before[i]
            ending = evaluation.endings[i] if evaluation.endings is not None else None
            if ending is not None:
                leaf = self._leaf(tree, path)
                self._add_ending(tree, leaf, ending, leaf)
            self._end_simulation(tree, path, float(evaluation.value[i]))

    def _draw_rollout_step(self) -> _RolloutStep | None:
        """Draw the next action of every row in a rollout; expand the leaves whose rollout begins."""
        if self.player is None or not self.rollouts:
            return None
        rows = [self.rows[tree] for tree in self.rollouts]
        scores = self.player.score(rows)
        if self.unexpanded:
            new = {tree: self.rollouts[tree] for tree in self.unexpanded}
            indices = [rows.index(self.rows[tree]) for tree in new]
            values = None if scores.values is None else scores.values[indices]
            tokens = self._code_tokens([self.rows[tree] for tree in new])
            self._expand(new, prior_evaluation(ActionScores(scores.logits[indices], values)), tokens)
            self.unexpanded = []
        return _RolloutStep(rows, self.player.draw(rows, scores), scores)

    def _record_rollout_step(
        self, step: _RolloutStep, rewards: np.ndarray, infos: Sequence[dict[str, Any]]
    ) -> None:
        """End the simulations of the trees whose rollout is over."""
        assert self.player is not None
        endings = self.player.record(*step, rewards, infos)
        for tree in [tree for tree in self.rollouts if self.rows[tree] in endings]:
            path, ending = self.rollouts.pop(tree), endings[self.rows[tree]]
            leaf = self._leaf(tree, path)
            self.new_tokens[tree] += ending.spent
            self.forest.value[tree, leaf] = ending.value
            self._add_ending(tree, leaf, ending, leaf)
            self._end_simulation(tree, path, ending.value)

    def _code_tokens(self, rows: list[int]) -> np.ndarray | None:
        """The token that each code gives, [B, A]; None where codes are not merged."""
        return self.episodes.session.outcomes(rows)[0][:, :, 0] if self.merge else None

    def _expand(self, paths: dict[int, Path], evaluation: Evaluation, tokens: np.ndarray | None) -> None:
        """Expand leaves: set their edges, values and action values."""
        prior, value = self._checked(evaluation, len(paths))
        for i, (tree, path) in enumerate(paths.items()):
            node = self._leaf(tree, path)
            weights = prior[i] if tokens is None else merged(prior[i], tokens[i])
            actions = np.flatnonzero(weights > 0)
            self.forest.open(tree, node, actions, weights[actions], float(value[i]))
            if evaluation.action_values is not None:
                edges = self.forest.action[tree, node]
                self.action_values[tree][node] = np.asarray(evaluation.action_values[i])[edges[edges != NONE]]
            if not path and self.config.noise > 0:
                edges = self.forest.action[tree, 0] != NONE
                noise = self.rngs[tree].dirichlet([self.config.noise] * int(edges.sum()))
                root = self.forest.prior[tree, 0]
                root[edges] += self.config.noise_share * (noise - root[edges])

    def _add_ending(self, tree: int, node: int, ending: Ending, since: int) -> None:
        """Record at ``node`` an ending that is counted from the node ``since``, converted to the root."""
        value = ending.value
        for parent, edge in reversed(self.forest.path(tree, since)):
            length = len(self.forest.lines[tree][int(self.forest.child[tree, parent, edge])])
            value = float(self.forest.reward[tree, parent, edge]) + self.config.discount**length * value
        from_root = Ending(
            ending.text,
            (*self.forest.actions(tree, since), *ending.actions),
            value,
            self.reward_sums[tree][since] + ending.reward,
            ending.info,
            int(self.new_tokens[tree]),
        )
        self.endings[tree].append(from_root)
        self.ending_of[tree][node] = from_root

    def _checked(self, evaluation: Evaluation, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The prior [B, A] and value [B] of an evaluation; ValueError for a malformed evaluation."""
        prior = np.asarray(evaluation.prior, dtype=np.float64)
        value = np.asarray(evaluation.value, dtype=np.float64)
        shapes = [(count, width) for width in widths(self.episodes.action_mask)]
        allowed = " or ".join(str(list(shape)) for shape in shapes)
        if prior.shape not in shapes or value.shape != (count,):
            raise ValueError(
                f"an evaluator must give a prior {allowed} and a value [{count}], got "
                f"{list(prior.shape)} and {list(value.shape)}; was it made for another codebook?"
            )
        prior = np.pad(prior, ((0, 0), (0, self.num_actions - prior.shape[1])))
        prior[:, ~self.episodes.action_mask] = 0.0
        if not (np.isfinite(prior).all() and np.isfinite(value).all()):
            raise ValueError("an evaluator gave a prior or a value that is not a finite number")
        if (prior < 0).any() or (prior.sum(-1) <= 0).any():
            raise ValueError("a prior must be probabilities: none negative, and not all 0")
        if evaluation.action_values is not None:
            values = np.asarray(evaluation.action_values, dtype=np.float64)
            if values.shape not in shapes:
                raise ValueError(
                    f"an evaluator must give action values {allowed}, got {list(values.shape)}; were they "
                    "made for another codebook?"
                )
            invalid = np.argwhere(~np.isfinite(values) & self.episodes.action_mask[: values.shape[1]])
            if len(invalid):
                at, action = invalid[0].tolist()
                raise ValueError(
                    f"an evaluator gave a value of action {action} that is not a finite number, for the row "
                    f"at place {at} of its call"
                )
        endings = [ending.value for ending in evaluation.endings or () if ending is not None]
        if not np.isfinite(endings).all():
            raise ValueError("an evaluator gave an ending whose value is not a finite number")
        return prior, value

    def result(self, interrupted: bool) -> SearchResult:
        answers = [self._answer(tree) for tree in range(len(self.rows))]
        return SearchResult.of(
            self.forest,
            self.rows,
            self.num_actions,
            lines=[line for line, _ in answers],
            answers=[answer for _, answer in answers],
            endings=self.endings,
            simulations=self.simulations,
            new_tokens=self.new_tokens,
            forwarded=forwarded_since(self.forwarded_before, self.episodes),
            interrupted=interrupted,
        )

    def _answer(self, tree: int) -> tuple[tuple[int, ...], Ending | None]:
        """The actions of a tree's answer, and its ending or None."""
        endings = self.endings[tree]
        if self.config.answer == "visits" or not endings:
            node = self._most_visited(tree)
            return tuple(self.forest.actions(tree, node)) if node else (), self.ending_of[tree].get(node)
        if self.config.answer == "value":
            chosen = max(endings, key=lambda ending: ending.value)
        else:
            chosen = vote(endings, weighted=self.config.answer == "weighted")
        return chosen.actions, chosen

    def _most_visited(self, tree: int) -> int:
        """The node at the end of the most visited line; ties go to the higher mean return, then the prior."""
        if not self.forest.size[tree]:
            return 0
        node = 0
        while True:
            visits = self.forest.visits[tree, node]
            if not visits.any():
                return node
            means = self.forest.q(np.array([tree]), np.array([node]), self.config.unvisited)[0]
            # Edges come by falling prior, and the last of equals is taken.
            edge = int(np.lexsort((-np.arange(len(visits)), means, visits))[-1])
            node = int(self.forest.child[tree, node, edge])


def _evaluation(given: object) -> Evaluation:
    """What an evaluator returned; TypeError for anything but a tuple of an Evaluation's fields."""
    if not isinstance(given, tuple) or not 2 <= len(given) <= len(Evaluation._fields):
        raise TypeError(
            f"an evaluator must return an Evaluation, or a tuple of prior and value, got {given!r:.80}"
        )
    return Evaluation(*given)


def forwarded_since(before: int | None, episodes: Episodes) -> int | None:
    """Tokens that the language model has processed beyond ``before``; None where they are not counted."""
    total: int | None = getattr(episodes.session, "tokens_forwarded", None)
    return None if total is None or before is None else total - before


def merged(prior: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The priors [A] in which the likeliest code of each token has the sum of its codes, and the others 0."""
    result = np.zeros_like(prior)
    for token in np.unique(tokens):
        codes = np.flatnonzero(tokens == token)
        result[codes[prior[codes].argmax()]] = prior[codes].sum()
    return result


def answer_of(ending: Ending) -> Hashable:
    """The answer that an ending votes for: the one that the task read from its text, else the text."""
    answer = given_answer(ending.info)
    return ending.text.strip() if answer is None else answer


def vote(endings: Sequence[Ending], *, weighted: bool = False) -> Ending:
    """The ending of highest value among those with the most frequent answer; the first of equals.

    Args:
        weighted: an ending counts with its value in place of once; a value below 0 counts 0, and where none
            is above 0 each counts once.

    Source: self-consistency, Wang et al. 2022 (arXiv 2203.11171).
    """
    groups: dict[Hashable, list[Ending]] = {}
    for ending in endings:
        groups.setdefault(answer_of(ending), []).append(ending)

    weighted = weighted and any(ending.value > 0 for ending in endings)

    def weight(group: list[Ending]) -> float:
        return math.fsum(max(0.0, ending.value) for ending in group) if weighted else len(group)

    majority: list[Ending] = max(groups.values(), key=weight)
    return max(majority, key=lambda ending: ending.value)
