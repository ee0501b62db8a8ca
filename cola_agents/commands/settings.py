"""``KEY=VALUE`` arguments of the commands."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cola_envs.jsonl import JsonObject

#: Python's spelling of JSON's constants.
_WORDS = {"True": True, "False": False, "None": None}


def whole_number(text: str) -> int:
    """An argparse ``type`` for integers, which also takes 50_000 and 5e4."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, e.g. 50000 or 5e4")
    return int(number)


def positive(text: str) -> int:
    """An argparse ``type`` for counts: :func:`whole_number` of at least 1."""
    number = whole_number(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def settings(pairs: Sequence[str], flag: str) -> JsonObject:
    """``["level=2", "whiten=True"]`` as keyword arguments.

    A value is read as JSON or as Python's ``True``, ``False`` or ``None``, or else kept as text.

    Args:
        pairs: the values of the flag.
        flag: the name of the flag, for error messages.

    Raises:
        ValueError: for a value other than ``KEY=VALUE``, or a key that is given twice.
    """
    result: JsonObject = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key.isidentifier():
            raise ValueError(f"{flag} {pair!r} is no KEY=VALUE, e.g. level=2 or 'levels=[4,5]'")
        if key in result:
            raise ValueError(f"{flag} {key}=... comes twice")
        try:
            result[key] = _WORDS[value] if value in _WORDS else json.loads(value)
        except ValueError:
            result[key] = value
    return result
