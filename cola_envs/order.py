"""Problem seeds: which problem an episode gets, drawn by its seed or the next one in order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from cola_envs.checks import check_count, check_truth
from cola_envs.task import TaskBatch, foreign_state


class Order:
    """The order of a finite set of problems, for tasks with ``sequential=True``.

    Problem seed p is problem p of the set, modulo its size. Without a problem seed a row gets the next
    problem; each problem is played once before any is repeated. A problem that a call names for one row is
    not also the next one for another row of the call.

    Args:
        size: number of problems in the set.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._next = 0

    def seeds(self, problem_seeds: Sequence[int | None]) -> list[int]:
        """``problem_seeds`` with each None replaced by the next problem's."""
        named = {int(seed) % self.size for seed in problem_seeds if seed is not None}
        return [self._following(named) if seed is None else int(seed) for seed in problem_seeds]

    def restart(self) -> None:
        """Begin again: the next problem is the first."""
        self._next = 0

    def _following(self, named: set[int]) -> int:
        """The next problem's seed; problems in ``named`` are passed over once and taken out of it."""
        while (place := self._next % self.size) in named:
            named.remove(place)
            self._next += 1
        self._next += 1
        return self._next - 1


def draw(size: int, order: Order | None, rng: np.random.Generator, problem_seed: int | None = None) -> int:
    """The index, below ``size``, of the problem that a row gets.

    Args:
        order: None to draw the problem from ``rng``.
        problem_seed: used with an order; None for the next problem in it.
    """
    if order is None:
        return int(rng.integers(size))
    return order.seeds([problem_seed])[0] % size


class FiniteTask(ABC):
    """Base of a :class:`~cola_envs.task.TaskBatch` in which each row gets one problem of a finite set.

    Args:
        num_rows: number of rows.
        num_problems: number of problems.
        sequential: play the problems in order (:class:`Order`) instead of drawing them.

    Attributes:
        num_problems: number of problems.
        order: the order of the problems if ``sequential``, else None.

    Raises:
        TypeError: unless ``num_rows`` is an integer and ``sequential`` True or False.
        ValueError: for fewer than one row.
    """

    def __init__(self, num_rows: int, num_problems: int, sequential: bool) -> None:
        self.num_problems = num_problems
        self.order = Order(num_problems) if check_truth("sequential", sequential) else None
        self._indices: list[int | None] = [None] * check_count("num_rows", num_rows)

    @abstractmethod
    def _prompt(self, row: int) -> str:
        """The prompt of the row's problem."""

    def _problem(self, index: int) -> tuple[str, ...]:
        """What makes the problem at ``index`` this one: its text, and what its answer is graded by.

        A snapshot holds it, so that it is not restored as another set's problem. Empty: sets are not told
        apart.
        """
        return ()

    def reset(
        self,
        rows: Sequence[int],
        rngs: Sequence[np.random.Generator],
        problem_seeds: Sequence[int] | None = None,
    ) -> list[str]:
        """Draw a problem for each row, or take it by its seed in order; return the prompts."""
        seeds: Sequence[int | None] = problem_seeds or [None] * len(rows)
        for row, rng, seed in zip(rows, rngs, seeds, strict=True):
            self._indices[row] = draw(self.num_problems, self.order, rng, seed)
        return [self._prompt(row) for row in rows]

    def snapshot(self, row: int) -> object:
        """The row's state: the index of its problem and the problem; None before the first reset."""
        index = self._indices[row]
        return None if index is None else (index, self._problem(index))

    def check_state(self, state: object) -> None:
        """Refuse a state that is no snapshot of a problem of this set.

        Raises:
            TypeError: for what is no snapshot.
            ValueError: for a snapshot of another problem.
        """
        if state is None:
            return
        if not (isinstance(state, tuple) and len(state) == 2 and isinstance(state[0], int)):
            raise TypeError(f"restore takes what snapshot of the same task returned, got {state!r:.80}")
        index, there = state
        here = self._problem(index) if 0 <= index < self.num_problems else None
        if here != there:
            place = f"problem {index} of {self.num_problems}"
            raise foreign_state(
                f"the problem {there!r:.120}", f"{place}, {here!r:.120}" if here else f"no {place}"
            )

    def restore(self, row: int, state: object) -> None:
        """Restore the problem of which :meth:`snapshot` returned the state; raises as :meth:`check_state`."""
        self.check_state(state)
        self._indices[row] = state[0] if isinstance(state, tuple) else None

    def close(self) -> None:  # noqa: B027 (a default, not an abstract method)
        """Do nothing: there is nothing to release."""

    def _index(self, row: int) -> int:
        """The index of the row's problem; RuntimeError before its first reset."""
        index = self._indices[row]
        if index is None:
            raise RuntimeError(f"row {row} has no problem yet; reset it first")
        return index


def order_of(tasks: TaskBatch) -> Order | None:
    """The order of a task's problems; None if they are drawn by their seeds."""
    order = getattr(tasks, "order", None)
    return order if isinstance(order, Order) else None


def chosen_problems(tasks: TaskBatch, seeds: Sequence[int], problem_seeds: Sequence[int | None]) -> list[int]:
    """The problem seeds of new episodes, one for each row.

    Args:
        tasks: the rows' tasks.
        seeds: the row seeds, which replace missing problem seeds unless the problems have an order.
        problem_seeds: the problem seeds, None where they are missing.
    """
    order = order_of(tasks)
    if order is not None:
        return order.seeds(problem_seeds)
    pairs = zip(seeds, problem_seeds, strict=True)
    return [row_seed if problem is None else int(problem) for row_seed, problem in pairs]


def check_prompts(tasks: TaskBatch, problem_seeds: Sequence[int | None], prompts: Sequence[object]) -> None:
    """Raise ValueError if rows with one problem seed have different prompts.

    A task with ``repeatable`` False, whose texts differ from play to play, is not checked.

    Args:
        problem_seeds: None for a row that is not compared.
        prompts: texts or tokens, one for each seed.
    """
    if not getattr(tasks, "repeatable", True):
        return
    known: dict[int, object] = {}
    for seed, prompt in zip(problem_seeds, prompts, strict=True):
        if seed is not None and known.setdefault(seed, prompt) != prompt:
            raise ValueError(
                f"{type(tasks).__name__} gave two prompts for problem seed {seed}, {known[seed]!r:.80} and "
                f"{prompt!r:.80}: answers to different problems must not be compared. Let the task's reset "
                "draw its problem only from the generator that it is given"
            )
