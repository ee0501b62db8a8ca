"""Check the values that a task returns, and describe its errors.

An error names the field, the returned value and what is allowed; the caller adds the row and its problem.
"""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Iterable, Sequence

import numpy as np

from cola_envs.fields import EPISODES, SUCCESS, Info
from cola_envs.task import Turn

#: The most characters of an error's text in ``info["error"]``.
LONGEST_ERROR = 500

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80


def shown(value: object) -> str:
    """A short, one-line representation of a value for an error message."""
    return _short.repr(value)


def checked_turn(turn: object, where: str) -> Turn:
    """A task's turn, checked, with plain Python numbers in its fields.

    Args:
        turn: the value that ``step`` returned.
        where: the row and its problem, for the error message.

    Raises:
        TypeError: for a value that is not a :class:`Turn`, or a field of another type.
        ValueError: for a reward that is not finite, or a text that is not Unicode.
    """
    if not isinstance(turn, Turn):
        raise TypeError(f"task.step must return a cola_envs.Turn, got {shown(turn)} in {where}")
    return Turn(
        text=checked_text(turn.text, f"Turn.text in {where}"),
        reward=finite_number(turn.reward, f"Turn.reward in {where}"),
        done=_truth(turn.done, f"Turn.done in {where}"),
        truncated=_truth(turn.truncated, f"Turn.truncated in {where}"),
        info=checked_fields(turn.info, "Turn.info", where),
    )


def finite_number(value: object, name: str) -> float:
    """Convert a finite number to a float: Python's, numpy's, or an array or tensor without dimensions.

    Raises:
        TypeError: for any other value.
        ValueError: for NaN, infinity, or an integer too large for a float.
    """
    number = _scalar(value) if hasattr(value, "__array__") else value
    if not isinstance(number, numbers.Real):
        raise TypeError(f"{name} must be a finite number, got {shown(value)} ({type(value).__name__})")
    try:
        converted = float(number)
    except OverflowError:
        converted = math.inf
    if not math.isfinite(converted):
        raise ValueError(f"{name} must be a finite number, got {shown(value)}")
    return converted


def checked_text(value: object, name: str) -> str:
    """Return ``value`` if it is a string that can be encoded.

    Raises:
        TypeError: for a value that is not a string.
        ValueError: for a lone surrogate in it, which neither a tokenizer nor a file takes.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {shown(value)} ({type(value).__name__})")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not Unicode text: {error.reason} in {shown(value)}") from error
    return value


def checked_fields(value: object, name: str, where: str) -> Info:
    """A copy of a task's ``info``, with a Python bool as ``success``.

    Args:
        value: what the task gave.
        name: ``Turn.info`` or ``task.info``, for the error message.
        where: the row and its problem, likewise.

    Raises:
        TypeError: for a value that is not a dict, a key that is not a string, or a ``success`` that is not
            True or False.
        ValueError: for a field that the episode writes itself.
    """
    if not isinstance(value, dict):
        raise TypeError(f"{name} in {where} must be a dict, got {shown(value)} ({type(value).__name__})")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{name} in {where} must have strings as keys, got {shown(key)}")
        if key in EPISODES:
            raise ValueError(
                f"{name} in {where} has a field {key!r}, which the episode writes itself: give it another "
                f"name than {', '.join(EPISODES)}"
            )
    fields = dict(value)
    if SUCCESS.name in fields:
        fields[SUCCESS.name] = _truth(fields[SUCCESS.name], f"{name}['success'] in {where}")
    return fields


def one_each(values: object, rows: Sequence[int], name: str) -> list[object]:
    """``values`` as a list with one entry for each row.

    Raises:
        TypeError: for a single value, or values without an order.
        ValueError: for a wrong number of values.
    """
    place = f"{name} for row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows))}"
    unordered = isinstance(values, str | bytes | dict | set | frozenset)
    if unordered or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise TypeError(
            f"{place} must be a list with one entry a row, got {shown(values)} ({type(values).__name__})"
        )
    entries = list(values)
    if len(entries) != len(rows):
        raise ValueError(f"{place} must have one entry a row: got {len(entries)} for {len(rows)}")
    return entries


def failed_turn(error: Exception) -> Turn:
    """The turn of a row whose task failed: truncated, reward 0, with the cause in ``info["error"]``."""
    return Turn(done=False, truncated=True, info={"error": one_line(error), "success": False})


def one_line(error: Exception) -> str:
    """An error as one line of at most :data:`LONGEST_ERROR` characters, with control characters escaped."""
    text = f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return escaped[:LONGEST_ERROR]


def _truth(value: object, name: str) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {shown(value)} ({type(value).__name__})")
    return bool(value)


def _scalar(value: object) -> object:
    """The number in a numpy scalar, or in an array or tensor without dimensions; None for anything else."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # a tensor that needs a gradient, or on another device
        return None
    return array.item() if array.ndim == 0 and array.dtype.kind in "biuf" else None
