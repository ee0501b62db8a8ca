"""The options of a PUCT search, the interface of an evaluator, and the result of a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from cola_agents.common.checks import check_fields
from cola_agents.search.forest import NONE, Forest, Tree


@dataclass(frozen=True)
class SearchConfig:
    """Options of a PUCT search.

    Attributes:
        simulations: the largest number of simulations per tree.
        token_budget: a tree gets no further simulation after this many new tokens (of edges and
            evaluations, the task's text included); None for no limit.
        c_init, c_base: constants of the pUCT rule (:meth:`~cola_agents.search.forest.Forest.puct`); the
            defaults are AlphaZero's.
        unvisited: Q of an unvisited edge: ``"zero"``, as published, or ``"parent"``, the mean return of its
            node.
        discount: discount factor per action. The estimated value of a finished episode counts as a reward of
            its last action.
        width: edges per node, for the likeliest actions; None for all actions.
        span: actions per edge: the first identifies the edge, the others are the policy's likeliest. An edge
            ends early where the episode does. (``CoLAConfig.span`` is the number of tokens of an action.)
        merge: merge codes that give the same token into one edge; only without world temperature, and never
            codes that last several tokens.
        noise, noise_share: concentration (0 for none) and share of the Dirichlet noise on the root's priors.
        rewards: ``"environment"``: the search reads the task's rewards, as in training. ``"estimated"``: it
            does not; the value of a finished episode is the evaluator's value of its last action (of an
            evaluator without action values, that of the state before it), or that of a judge
            (:mod:`cola_agents.search.judges`). Use ``"estimated"`` to evaluate a model: the task's rewards
            reveal which answers are right.
        answer: how the answer is chosen: the most visited line (``"visits"``), the ending of highest value
            (``"value"``), the majority of all endings (``"vote"``), or the answer whose endings have the
            largest sum of values (``"weighted"``).
        early_stop: end a tree when no remaining simulation could change its most visited edge. The other
            ways to choose an answer read all endings, so that they may choose another one then.
    """

    simulations: int = 64
    token_budget: int | None = None
    c_init: float = 1.25
    c_base: float = 19_652.0
    unvisited: Literal["zero", "parent"] = "zero"
    discount: float = 1.0
    width: int | None = None
    span: int = 1
    merge: bool = True
    noise: float = 0.0
    noise_share: float = 0.25
    rewards: Literal["environment", "estimated"] = "environment"
    answer: Literal["visits", "value", "vote", "weighted"] = "visits"
    early_stop: bool = False

    def __post_init__(self) -> None:
        check_fields(
            self,
            counts=("simulations", "token_budget", "width", "span"),
            numbers=("c_init", "discount", "noise", "noise_share"),
            positive=("c_base",),
            flags=("merge", "early_stop"),
            optional=("token_budget", "width"),
        )
        for name, allowed in (
            ("unvisited", ("zero", "parent")),
            ("rewards", ("environment", "estimated")),
            ("answer", ("visits", "value", "vote", "weighted")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("discount", "noise_share"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must be at most 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Ending:
    """A finished episode of a search.

    Attributes:
        text: all text that the agent wrote.
        actions: the actions from the search's root to the end.
        value: the return from the root, or the evaluator's estimate of it.
        reward: the undiscounted sum of the task's rewards from the root to the end; a search with estimated
            rewards does not use it.
        info: the info of the last step.
        spent: tokens that the search had generated for this problem by the end of this episode.
    """

    text: str
    actions: tuple[int, ...]
    value: float
    reward: float
    info: dict[str, Any] = field(repr=False)
    spent: int = 0


class Evaluation(NamedTuple):
    """Priors and values of the states of B rows.

    Attributes:
        prior: probabilities over the actions, [B, A].
        value: the expected return from each state, [B].
        action_values: the expected return after each action, [B, A]; None without a Q-function.
        endings: the end of each row's rollout, with actions, value and reward counted from this state; None
            without rollouts.
    """

    prior: np.ndarray
    value: np.ndarray
    action_values: np.ndarray | None = None
    endings: Sequence[Ending | None] | None = None


class Evaluate(Protocol):
    """Estimates priors and values of rows' current states; it may step the rows, which are restored."""

    def __call__(self, rows: Sequence[int], /) -> Evaluation | tuple[np.ndarray, np.ndarray]:
        """Return an :class:`Evaluation`, or only prior [B, A] and value [B]."""


#: Maps rows to action logits or probabilities [B, A]; continues an edge of several actions.
Follow = Callable[[Sequence[int]], np.ndarray]


@dataclass(frozen=True)
class SearchResult:
    """The result of a search over R rows, with one tree per row.

    Attributes:
        rows: the searched rows.
        visits, values: visit counts and mean returns of the root's actions, [R, A]; merged codes are counted
            at the likeliest of them; a value is 0 without visits.
        actions: the first action of each answer, [R]; -1 for an empty one.
        lines: all actions of each answer, as far as the tree reaches.
        answers: the chosen ending of each tree; None where the most visited line stops before the end of its
            episode and has no rollout.
        endings: every ending of every tree.
        simulations: number of simulations of each tree, [R].
        new_tokens: tokens that each tree's simulations generated, [R].
        forwarded: tokens that the language model processed in the whole search, recomputed ones included;
            None where the session does not count them.
        interrupted: whether the search was stopped before its end.
        trees: the search trees, for printing and drawing.
    """

    rows: list[int]
    visits: np.ndarray
    values: np.ndarray
    actions: np.ndarray
    lines: list[tuple[int, ...]]
    answers: list[Ending | None]
    endings: list[list[Ending]]
    simulations: np.ndarray
    new_tokens: np.ndarray
    forwarded: int | None
    interrupted: bool
    trees: list[Tree] = field(repr=False)

    @classmethod
    def of(cls, forest: Forest, rows: list[int], num_actions: int, **fields: Any) -> SearchResult:
        """Build a result: the roots' statistics from the trees, the other attributes from ``fields``."""
        visits = np.zeros((len(rows), num_actions), dtype=np.int64)
        values = np.zeros((len(rows), num_actions))
        for tree in range(len(rows)):
            if forest.size[tree]:
                edges = forest.action[tree, 0] != NONE
                actions, counts = forest.action[tree, 0, edges], forest.visits[tree, 0, edges]
                visits[tree, actions] = counts
                values[tree, actions] = forest.value_sum[tree, 0, edges] / np.maximum(counts, 1)
        first = np.array([line[0] if line else NONE for line in fields["lines"]])
        trees = [Tree(forest, number) for number in range(len(rows))]
        return cls(rows=rows, visits=visits, values=values, actions=first, trees=trees, **fields)

    @classmethod
    def joined(cls, results: Sequence[SearchResult]) -> SearchResult:
        """Concatenate the results of several searches."""
        fields: dict[str, Any] = {}
        for name in ("visits", "values", "actions", "simulations", "new_tokens"):
            fields[name] = np.concatenate([getattr(result, name) for result in results])
        for name in ("rows", "lines", "answers", "endings", "trees"):
            fields[name] = [item for result in results for item in getattr(result, name)]
        counts = [result.forwarded for result in results if result.forwarded is not None]
        forwarded = sum(counts) if len(counts) == len(results) else None
        return cls(**fields, forwarded=forwarded, interrupted=any(result.interrupted for result in results))
