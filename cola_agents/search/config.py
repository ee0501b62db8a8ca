"""What a search is told, is given by an evaluator, and returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from cola_agents.search.forest import NONE, Forest, Tree


def check_count(name: str, value: Any, *, optional: bool = False) -> None:
    """Refuse what is no integer of at least 1, with ValueError; None passes where it is ``optional``."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False, with ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


@dataclass(frozen=True)
class SearchConfig:
    """How a search goes.

    Attributes:
        simulations: leaves per tree, at most.
        token_budget: new model tokens per tree (its edges' and its evaluations', text of the task
            included), after which a tree gets no further simulation; None for no limit.
        c_init, c_base: of the pUCT rule (:meth:`~cola_agents.search.forest.Forest.puct`); AlphaZero's.
        unvisited: what an edge not taken yet is worth: ``"zero"``, as published, or ``"parent"``, the mean
            return of its node.
        discount: of a return, per action.
        width: edges per node, the likeliest; None for all actions.
        span: actions per edge: the first is the edge's, the others are the policy's likeliest.
        merge: make one edge of codes that give the same token; only without world temperature.
        noise, noise_share: Dirichlet noise on the root's priors: its concentration (0 for none) and share.
        rewards: ``"environment"``: what the task pays is seen, as in training. ``"estimated"``: it is
            not; the end of an episode is worth what the evaluator's action values say of the action that
            led there. An evaluation that searches with the task's own rewards has read the solutions.
        answer: how the answer is chosen: the line of most ``"visits"``, the ending of highest
            ``"value"``, or the ``"vote"`` of all endings.
        early_stop: end a tree when no remaining simulation could change its most visited edge.
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
    answer: Literal["visits", "value", "vote"] = "visits"
    early_stop: bool = False

    def __post_init__(self) -> None:
        for name in ("simulations", "token_budget", "width", "span"):
            check_count(name, getattr(self, name), optional=name in ("token_budget", "width"))
        for name in ("merge", "early_stop"):
            check_flag(name, getattr(self, name))
        for name, allowed in (
            ("unvisited", ("zero", "parent")),
            ("rewards", ("environment", "estimated")),
            ("answer", ("visits", "value", "vote")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("c_init", "c_base", "discount", "noise", "noise_share"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {value!r}")
        if self.discount > 1 or self.noise_share > 1 or self.c_base == 0:
            raise ValueError(f"discount and noise_share are at most 1 and c_base is positive, got {self}")


@dataclass(frozen=True)
class Ending:
    """A finished episode that a search came by.

    Attributes:
        text: everything the agent wrote.
        actions: from the root of the search on.
        value: what it is worth to the search: the return from the root, or the evaluator's estimate of it.
        reward: the sum of what the task paid from the root on, not discounted; where rewards are estimated
            the search does not look at it.
        info: the last step's.
        spent: new model tokens that the search had spent on this problem when it had found it.
    """

    text: str
    actions: tuple[int, ...]
    value: float
    reward: float
    info: dict[str, Any] = field(repr=False)
    spent: int = 0


class Evaluation(NamedTuple):
    """What an evaluator says of B rows.

    Attributes:
        prior: probabilities over the actions, [B, A].
        value: the return to be expected from here on, [B].
        action_values: the same after each action, [B, A]; None where it knows none.
        endings: per row how it played on to the end, its value and reward counted from here; None where it
            did not.
    """

    prior: np.ndarray
    value: np.ndarray
    action_values: np.ndarray | None = None
    endings: Sequence[Ending | None] | None = None


class Evaluate(Protocol):
    """Judges the states that rows are in; may play them on, for they are put back afterwards."""

    def __call__(self, rows: Sequence[int], /) -> Evaluation | tuple[np.ndarray, np.ndarray]:
        """An :class:`Evaluation`, or plainly prior [B, A] and value [B]."""


#: Rows to action logits or probabilities [B, A]: what continues an edge of several actions.
Follow = Callable[[Sequence[int]], np.ndarray]


@dataclass(frozen=True)
class SearchResult:
    """What a search found, a tree a row.

    Attributes:
        rows: the rows that were searched.
        visits, values: of the root's actions, [R, A]; a merged code's stand at the likeliest of its codes,
            values are 0 where there are no visits.
        actions: the root's action that the answer begins with, [R].
        lines: all actions of the answer, as far as it was searched.
        answers: the chosen ending; None where the line of most visits ends before its episode does and was
            not played on.
        endings: every ending of every tree.
        simulations: done in each tree, [R].
        new_tokens: tokens that each tree's simulations added, [R].
        forwarded: tokens that went through the language model in the whole search, those computed again
            included; None where the session does not count them.
        interrupted: whether it was stopped before it was done.
        trees: the trees themselves, to be printed, drawn and looked into.
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
    def of(cls, forest: Forest, rows: list[int], num_actions: int, **found: Any) -> SearchResult:
        """A result whose root figures are read from the trees; ``found`` are the other fields."""
        visits = np.zeros((len(rows), num_actions), dtype=np.int64)
        values = np.zeros((len(rows), num_actions))
        for tree in range(len(rows)):
            if forest.size[tree]:
                edges = forest.action[tree, 0] != NONE
                actions, seen = forest.action[tree, 0, edges], forest.visits[tree, 0, edges]
                visits[tree, actions] = seen
                values[tree, actions] = forest.value_sum[tree, 0, edges] / np.maximum(seen, 1)
        first = np.array([line[0] if line else NONE for line in found["lines"]])
        trees = [Tree(forest, number) for number in range(len(rows))]
        return cls(rows=rows, visits=visits, values=values, actions=first, trees=trees, **found)

    @classmethod
    def joined(cls, results: Sequence[SearchResult]) -> SearchResult:
        """One result of several searches, their trees in turn."""
        found: dict[str, Any] = {}
        for name in ("visits", "values", "actions", "simulations", "new_tokens"):
            found[name] = np.concatenate([getattr(result, name) for result in results])
        for name in ("rows", "lines", "answers", "endings", "trees"):
            found[name] = [item for result in results for item in getattr(result, name)]
        counts = [result.forwarded for result in results]
        known = [count for count in counts if count is not None]
        found["forwarded"] = sum(known) if len(known) == len(counts) else None
        return cls(**found, interrupted=any(result.interrupted for result in results))
