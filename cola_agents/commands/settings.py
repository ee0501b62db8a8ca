"""``KEY=VALUE`` arguments of the commands."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from cola_envs.jsonl import JsonObject

#: Python's names of what JSON writes in small letters.
_WORDS = {"True": True, "False": False, "None": None}


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add ``--set``: arguments of the environment, any number of them."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a further argument of the environment, its value as JSON or else as text; may be repeated: "
        "--set 'levels=[4,5]' --set max_tokens=256",
    )


def settings(pairs: Sequence[str], flag: str = "--set") -> JsonObject:
    """``["level=2", "whiten=True"]`` as keyword arguments.

    A value is JSON, or one of Python's ``True``, ``False`` and ``None``, and text where it is neither.

    Args:
        pairs: what was given.
        flag: what it was given to, for the errors.

    Raises:
        ValueError: for what is no ``KEY=VALUE``, or a key that comes twice.
    """
    found: JsonObject = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key.isidentifier():
            raise ValueError(f"{flag} {pair!r} is no KEY=VALUE, e.g. level=2 or 'levels=[4,5]'")
        if key in found:
            raise ValueError(f"{flag} {key}=... comes twice")
        try:
            found[key] = _WORDS[value] if value in _WORDS else json.loads(value)
        except ValueError:
            found[key] = value
    return found
