"""Checks of arguments: settings, seeds, rows, actions, options of ``reset``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.error import InvalidAction

T = TypeVar("T")


class ArgumentError(TypeError):
    """A TypeError about an argument, whose text is its own.

    ``gym.make`` makes a TypeError of an environment again with all arguments in its text, among them whole
    data sets.
    """

    def __init__(self, text: object = "") -> None:
        super().__init__(str(text).partition(" was raised from the environment creator for ")[0])


class WrongType(ArgumentError, ValueError):
    """An argument of the wrong type; also a ValueError, which tasks raise for any invalid argument."""


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
    check_count("num_rows", num_rows)
    check_count("max_tokens", max_tokens)
    check_choice("budget_end", budget_end, ("terminate", "truncate"))
    check_choice("observation", observation, ("hidden", "features", "tokens"))
    check_choice("on_task_error", on_task_error, ("raise", "truncate"))
    check_number("world_temperature", world_temperature, 0.0)
    check_number("prior_coef", prior_coef)


def check_count(name: str, value: object, low: int | None = 1, high: int | None = None) -> int:
    """An integer argument, Python's or numpy's, as an int; with ``low`` and ``high`` None of any size.

    Raises:
        WrongType: for anything else, also for True and False.
        ValueError: for an integer below ``low`` or above ``high``.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise WrongType(f"{name} must be an integer, got {value!r:.80}")
    if low is not None and value < low:
        raise ValueError(f"{name} must be at least {low}, got {value}")
    if high is not None and value > high:
        raise ValueError(f"{name} must be at most {high}, got {value}")
    return int(value)


def check_number(name: str, value: object, low: float | None = None) -> float:
    """A finite number as a float.

    Args:
        name: of the argument.
        value: a number, Python's or numpy's.
        low: the smallest value that is allowed; None for no limit.

    Raises:
        WrongType: for anything else, also for True and False.
        ValueError: for NaN, infinity, or a number below ``low``.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise WrongType(f"{name} must be a number, got {value!r:.80}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or (low is not None and number < low):
        limit = "" if low is None else f", {low:g} or above"
        raise ValueError(f"{name} must be a finite number{limit}, got {value!r:.80}")
    return number


def check_truth(name: str, value: object) -> bool:
    """True or False, Python's or numpy's, as a bool; WrongType for anything else."""
    if not isinstance(value, (bool, np.bool_)):
        raise WrongType(f"{name} must be True or False, got {value!r:.80}")
    return bool(value)


def check_choice(name: str, value: object, allowed: Iterable[T]) -> T:
    """The one of ``allowed``, strings or integers, that the argument ``name`` is equal to.

    An integer may be numpy's; a float or a truth value is equal to none.

    Raises:
        ValueError: if there is none.
    """
    allowed = tuple(allowed)
    if isinstance(value, (str, int, np.integer)) and not isinstance(value, bool):
        for choice in allowed:
            if isinstance(choice, str) == isinstance(value, str) and choice == value:
                return choice
    raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r:.80}")


def check_list(name: str, values: object, form: str) -> list[Any]:
    """An argument with several values, such as a list or an array, as a list.

    Args:
        name: of the argument.
        values: its values.
        form: what they must be, in words, for the error message.

    Raises:
        WrongType: for a single value, a text or a mapping.
    """
    if isinstance(values, (list, tuple)):
        return list(values)
    single = isinstance(values, (str, bytes, Mapping)) or getattr(values, "ndim", 1) == 0
    if single or not isinstance(values, Iterable):
        raise WrongType(f"{name} must be {form}, got {values!r:.80}")
    return list(values)


def check_stop(name: str, stop: object) -> tuple[str, ...]:
    """The strings that end a segment, as a tuple; WrongType for anything but non-empty strings."""
    form = "a tuple of non-empty strings"
    strings = check_list(name, stop, form)
    if not all(isinstance(text, str) and text for text in strings):
        raise WrongType(f"{name} must be {form}, got {stop!r:.80}")
    return tuple(strings)


def check_game_settings(*, max_commands: int, invalid_penalty: float, admissible: str) -> tuple[int, float]:
    """Check the arguments that all text games share.

    Returns:
        ``max_commands`` and ``invalid_penalty`` as Python's numbers.

    Raises:
        ValueError: for a value outside what :class:`~cola_envs.engines.EngineTask` allows.
    """
    check_choice("admissible", admissible, ("none", "list"))
    return check_count("max_commands", max_commands), check_number("invalid_penalty", invalid_penalty, 0.0)


def check_seeds(name: str, seeds: Sequence[object], count: int) -> list[int]:
    """``seeds`` as a list of ints; ValueError unless they are ``count`` integers >= 0."""
    seeds = check_list(name, seeds, "a list with one seed a row")
    if len(seeds) != count:
        raise ValueError(f"{name} must hold one seed a row: got {len(seeds)} for {count} rows")
    checked: list[int] = []
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"{name} must be integers >= 0, got {seed!r}")
        checked.append(int(seed))
    return checked


def check_rows(rows: Sequence[int], num_rows: int) -> list[int]:
    """``rows`` as a list of ints.

    Raises:
        WrongType: for an index that is no integer.
        ValueError: unless they are one or more different indices below ``num_rows``.
    """
    checked = check_list("rows", rows, "a list of row indices")
    if set(map(type, checked)) != {int}:  # Python's own integers need no further look
        checked = [check_count("rows", row, None) for row in checked]
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
    """A copy of ``reset``'s options.

    Raises:
        WrongType: unless they are a mapping or None.
        ValueError: for an unknown one.
    """
    if options is not None and not isinstance(options, Mapping):
        raise WrongType(f"options must be a dict such as {{{allowed[0]!r}: ...}}, got {options!r:.80}")
    options = dict(options or {})
    for name in options:
        if name not in allowed:
            raise ValueError(f"reset has no option {name!r}; it takes {', '.join(map(repr, allowed))}")
    return options
