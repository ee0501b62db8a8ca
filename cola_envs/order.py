"""Problem seeds: the problem that an episode begins, drawn by its seed or the next in order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cola_envs.task import TaskBatch


class Order:
    """The order of a finite set of problems, for tasks with ``sequential=True``.

    Problem seed p is problem p of the set, modulo its size. Without a problem seed a row gets the next
    problem; each problem is played once before any is repeated.

    Args:
        size: number of problems in the set.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._next = 0

    def seeds(self, given: Sequence[int | None]) -> list[int]:
        """The problem seeds, with the next ones in place of None."""
        seeds = []
        for seed in given:
            if seed is None:
                seed, self._next = self._next, self._next + 1
            seeds.append(int(seed))
        return seeds


def draw(size: int, order: Order | None, rng: np.random.Generator, problem_seed: int | None = None) -> int:
    """The number of the problem, of ``size``, that a row begins.

    Args:
        order: None to draw the problem from ``rng``.
        problem_seed: used with an order; None for the next problem in it.
    """
    if order is None:
        return int(rng.integers(size))
    return order.seeds([problem_seed])[0] % size


def order_of(tasks: TaskBatch) -> Order | None:
    """The order of a task's problems; None where they are drawn by their seeds."""
    order = getattr(tasks, "order", None)
    return order if isinstance(order, Order) else None


def chosen_problems(tasks: TaskBatch, seeds: Sequence[int], given: Sequence[int | None]) -> list[int]:
    """The problem seeds of new episodes, one a row.

    Args:
        tasks: the rows' tasks.
        seeds: the row seeds, used in place of missing problem seeds unless the problems have an order.
        given: the problem seeds, or None.
    """
    order = order_of(tasks)
    if order is not None:
        return order.seeds(given)
    return [row if problem is None else int(problem) for row, problem in zip(seeds, given, strict=True)]


def check_prompts(tasks: TaskBatch, problem_seeds: Sequence[int | None], prompts: Sequence[object]) -> None:
    """Raise ValueError for different prompts of one problem seed, whose answers must not be compared.

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
                f"{prompt!r:.80}: answers to different problems must not be compared. A task's reset must "
                "draw its problem from the generator that it is given, and from nothing else"
            )
