"""Checks of arguments: settings, seeds, rows, actions, options of ``reset``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import InvalidAction


def check_settings(
    *,
    num_rows: int,
    max_tokens: int,
    budget_end: str,
    world_temperature: float,
    observation: str,
    prior_coef: float,
    on_task_error: str,
) -> None:
    """Check the settings of :class:`~cola_envs.episodes.Episodes`.

    Raises:
        TypeError: for a value of the wrong type.
        ValueError: for a value that is not allowed.
    """
    for name, count in (("num_rows", num_rows), ("max_tokens", max_tokens)):
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)):
            raise TypeError(f"{name} must be an integer, got {count!r}")
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    check_choice("budget_end", budget_end, ("terminate", "truncate"))
    check_choice("observation", observation, ("hidden", "features", "tokens"))
    check_choice("on_task_error", on_task_error, ("raise", "truncate"))
    for name, number in (("world_temperature", world_temperature), ("prior_coef", prior_coef)):
        if isinstance(number, bool) or not isinstance(number, (int, float, np.number)):
            raise TypeError(f"{name} must be a number, got {number!r}")
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number}")
    if world_temperature < 0:
        raise ValueError(f"world_temperature must be at least 0, got {world_temperature}")


def check_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Raise ValueError for an argument ``name`` whose value is none of ``allowed``."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")


def check_game_settings(*, max_commands: int, invalid_penalty: float, admissible: str) -> None:
    """Check the arguments that all text games share.

    Raises:
        ValueError: for a value outside what :class:`~cola_envs.engines.EngineTask` allows.
    """
    if not isinstance(max_commands, int) or isinstance(max_commands, bool) or max_commands < 1:
        raise ValueError(f"max_commands must be an integer of at least 1, got {max_commands!r}")
    if not (math.isfinite(invalid_penalty) and invalid_penalty >= 0):
        raise ValueError(f"invalid_penalty must be a finite number, 0 or above, got {invalid_penalty!r}")
    check_choice("admissible", admissible, ("none", "list"))


def check_seeds(name: str, seeds: Sequence[object], count: int) -> list[int]:
    """``seeds`` as a list of ints; ValueError unless they are ``count`` integers >= 0."""
    seeds = list(seeds)
    if len(seeds) != count:
        raise ValueError(f"{name} must hold one seed a row: got {len(seeds)} for {count} rows")
    checked: list[int] = []
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"{name} must be integers >= 0, got {seed!r}")
        checked.append(int(seed))
    return checked


def check_rows(rows: Sequence[int], num_rows: int) -> list[int]:
    """``rows`` as a list; ValueError unless they are one or more different indices below ``num_rows``."""
    checked = [int(row) for row in rows]
    if not checked:
        raise ValueError("rows is empty: pass at least one row")
    if min(checked) < 0 or max(checked) >= num_rows or len(set(checked)) != len(checked):
        raise ValueError(f"rows must be different indices from 0 to {num_rows - 1}, got {checked}")
    return checked


#: One action for each row.
Actions = Sequence[int | np.integer] | np.ndarray
#: The options of ``reset``.
Options = dict[str, Any]


class ActionCheck:
    """Converts actions to Python ints, or raises :class:`gymnasium.error.InvalidAction`.

    Args:
        space: the action space, printed in messages.
        mask: the allowed actions, [A] bool.

    Attributes:
        hint: appended to the message about an action that is too large.
    """

    def __init__(self, space: gym.Space[np.int64], mask: np.ndarray) -> None:
        self.space = space
        self.hint = ""
        self._size = len(mask)
        self._allowed: list[bool] | None = None if mask.all() else mask.tolist()

    def __call__(self, actions: Actions, count: int) -> list[int]:
        try:
            array = np.asarray(actions)
        except ValueError as error:
            raise InvalidAction(f"expected {count} integer actions, got {actions!r}") from error
        if array.dtype.kind not in "iu":
            for action in array.ravel().tolist():
                if isinstance(action, bool) or not isinstance(action, int):
                    raise InvalidAction(
                        f"action {action!r} ({type(action).__name__}) is not an integer; "
                        f"actions are elements of {self.space}"
                    )
        if array.shape != (count,):
            raise InvalidAction(f"expected {count} integer action(s), got shape {array.shape}: {actions!r}")
        codes: list[int] = array.tolist()
        if min(codes) < 0 or max(codes) >= self._size:
            bad = next(code for code in codes if not 0 <= code < self._size)
            hint = self.hint if bad >= self._size else ""
            raise InvalidAction(f"action {bad} is outside {self.space}{hint}")
        if self._allowed is not None:
            for code in codes:
                if not self._allowed[code]:
                    raise InvalidAction(
                        f"action {code} is not allowed in {self.space}: action_masks() shows the "
                        f"{sum(self._allowed)} actions that are"
                    )
        return codes


def check_options(options: Options | None, allowed: Sequence[str]) -> Options:
    """A copy of ``reset``'s options; ValueError for an unknown one."""
    options = dict(options or {})
    for name in options:
        if name not in allowed:
            raise ValueError(f"reset has no option {name!r}; it takes {', '.join(map(repr, allowed))}")
    return options
