"""Call the tasks of rows, check their answers, and separate the rows whose task fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from cola_envs.contract import checked_fields, checked_text, checked_turn, failed_turn, one_each, one_line
from cola_envs.fields import Info
from cola_envs.order import check_prompts, chosen_problems, order_of
from cola_envs.state import PROBLEM
from cola_envs.task import TaskBatch, Turn

OnTaskError = Literal["raise", "truncate"]
#: The most rows that an error of a reset names.
_MOST_NAMED = 4


class Answers:
    """Calls the rows' tasks and checks their answers with :mod:`cola_envs.contract`.

    Args:
        tasks: the rows' tasks.
        on_error: for a ``step`` that raises or returns a malformed turn: ``"raise"`` raises the error, and
            ``"truncate"`` truncates the row's episode, with the cause in ``info["error"]``.
    """

    def __init__(self, tasks: TaskBatch, on_error: OnTaskError) -> None:
        self._tasks = tasks
        self._raises = on_error == "raise"

    def begin(
        self, rows: Sequence[int], seeds: Sequence[int], problem_seeds: Sequence[int | None]
    ) -> tuple[list[str], list[int]]:
        """Start an episode in each of B rows; return the prompts and the problem seeds.

        Args:
            seeds: the row seeds [B].
            problem_seeds: [B]; for None, :func:`cola_envs.order.chosen_problems` chooses the seed.

        Raises:
            TypeError: for a prompt that is not text, also with ``"truncate"``.
            ValueError: for a wrong number of prompts, and for two different prompts of one problem seed.
        """
        problems = chosen_problems(self._tasks, seeds, problem_seeds)
        rngs = [np.random.default_rng([problem, PROBLEM]) for problem in problems]
        reset: Callable[..., object] = self._tasks.reset
        try:
            returned = reset(rows, rngs) if order_of(self._tasks) is None else reset(rows, rngs, problems)
        except Exception as error:
            error.add_note(f"raised by task.reset for {_places(rows, problems)}")
            raise
        prompts = [
            checked_text(prompt, f"the prompt that task.reset returns in {_place(row, problem)}")
            for row, problem, prompt in zip(
                rows, problems, one_each(returned, rows, "what task.reset returns"), strict=True
            )
        ]
        check_prompts(self._tasks, problem_seeds, prompts)
        return prompts, problems

    def turns(self, rows: Sequence[int], problem_seeds: Sequence[int], texts: Sequence[str]) -> list[Turn]:
        """Give each of B rows its finished segment; return B turns."""
        places = [_place(row, seed) for row, seed in zip(rows, problem_seeds, strict=True)]
        try:
            answers = one_each(self._tasks.step(rows, texts), rows, "what task.step returns")
        except Exception as error:
            answers = getattr(error, "row_answers", [])
            if len(answers) != len(rows):
                answers = [error] * len(rows)
            if self._raises:
                failed = [p for p, answer in zip(places, answers, strict=True) if answer is error]
                error.add_note(f"raised by the task of {', '.join(failed)}")
                raise
        return [self._turn(answer, place) for answer, place in zip(answers, places, strict=True)]

    def _turn(self, answer: object, place: str) -> Turn:
        if isinstance(answer, Exception):
            if self._raises:
                answer.add_note(f"returned by task.step for {place}")
                raise answer
            return failed_turn(answer)
        try:
            return checked_turn(answer, place)
        except Exception as error:
            if self._raises:
                raise
            return failed_turn(error)

    def fields(self, row: int, problem_seed: int) -> Info:
        """The task's fields about the row's problem.

        Raises:
            TypeError, ValueError: as :func:`.contract.checked_fields`, also with ``"truncate"``.
        """
        return checked_fields(self._tasks.info(row), "task.info", _place(row, problem_seed))

    def last_fields(self, row: int, problem_seed: int) -> Info:
        """:meth:`fields` at the end of an episode; with ``"truncate"`` an error is returned in ``error``."""
        try:
            return self.fields(row, problem_seed)
        except Exception as error:
            if self._raises:
                raise
            return {"error": one_line(error)}


def _places(rows: Sequence[int], problem_seeds: Sequence[int]) -> str:
    """The first of some rows, with their problems, and the number of the others."""
    named = ", ".join(map(_place, rows[:_MOST_NAMED], problem_seeds[:_MOST_NAMED]))
    return named if len(rows) <= _MOST_NAMED else f"{named} and {len(rows) - _MOST_NAMED} other rows"


def _place(row: int, problem_seed: int) -> str:
    return f"row {row} (problem seed {problem_seed})"
