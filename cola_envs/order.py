"""Which problem an episode is about: what a problem seed means, also where problems come in order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cola_envs.task import TaskBatch


class Order:
    """The order of a finite set of problems, of a task that was made with ``sequential=True``.

    Problem seed p is problem p of the set, counted round and round. Where no problem seed is given the next
    problem is taken, each once before any comes again, whichever row asks.

    Args:
        size: how many problems the set has.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._next = 0

    def seeds(self, given: Sequence[int | None]) -> list[int]:
        """Problem seeds as they were given, and the next ones in place of None."""
        found = []
        for seed in given:
            if seed is None:
                seed, self._next = self._next, self._next + 1
            found.append(int(seed))
        return found


def draw(size: int, order: Order | None, rng: np.random.Generator, problem_seed: int | None = None) -> int:
    """The number of the problem that a row of a task of ``size`` problems begins.

    Args:
        order: None to draw the problem from ``rng``.
        problem_seed: read where there is an order; None for the next in it.
    """
    if order is None:
        return int(rng.integers(size))
    return order.seeds([problem_seed])[0] % size


def order_of(tasks: TaskBatch) -> Order | None:
    """The order that a task's problems come in; None where their seeds draw them."""
    order = getattr(tasks, "order", None)
    return order if isinstance(order, Order) else None


def chosen_problems(tasks: TaskBatch, seeds: Sequence[int], given: Sequence[int | None]) -> list[int]:
    """The problem seeds of new episodes, one a row.

    Args:
        tasks: the rows' tasks.
        seeds: the row seeds, which stand in for problem seeds that were not given. Where problems come in
            order, the next ones do.
        given: the problem seeds, or None.
    """
    order = order_of(tasks)
    if order is not None:
        return order.seeds(given)
    return [seed if own is None else int(own) for seed, own in zip(seeds, given, strict=True)]


def check_prompts(tasks: TaskBatch, problem_seeds: Sequence[int | None], prompts: Sequence[object]) -> None:
    """Refuse different prompts of one problem seed: answers to them must not be compared.

    A task that says of itself that its texts change from play to play (``repeatable`` is False) is not asked.

    Args:
        problem_seeds: None where none was given: that row is compared with no other.
        prompts: texts or tokens, one for each seed.

    Raises:
        ValueError: naming the problem seed and both prompts.
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
