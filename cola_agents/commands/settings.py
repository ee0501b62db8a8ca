"""``KEY=VALUE`` arguments of the commands."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cola_envs.jsonl import JsonObject

#: Python's constants as JSON writes them.
_CONSTANTS = {"True": "true", "False": "false", "None": "null"}
#: A number as Python and people write it, also where JSON does not: .5, 5., +1, 50_000, inf. A whole number
#: that begins with 0 is none, as it may be a name.
_NUMBER = re.compile(r"[+-]?((?!0\d)(?=\.?\d)(\d{1,3}(_\d{3})+|\d*)(\.\d*)?([eE][+-]?\d+)?|inf|nan)")
#: The strings and the other words of JSON.
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s\[\]{},:"]+')


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


def check_out(out: Path, kind: str, flag: str = "--out") -> None:
    """Check that a file or a folder can be written, without making anything.

    Args:
        out: the value of the option.
        kind: of file, for the error messages: ``"JSON"``; ``"folder"`` for a folder, which may exist.
        flag: the name of the option.

    Raises:
        IsADirectoryError: for a folder where a file is to be written.
        NotADirectoryError: for a file where a folder is to be written, and for a path below a file.
        PermissionError: for one in a folder that cannot be written in.
    """
    if kind == "folder":
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(f"{flag} {out} is a file: name a folder")
    elif out.is_dir():
        raise IsADirectoryError(f"{flag} {out} is a folder: name the {kind} file to write")
    places = [out.absolute(), *out.absolute().parents]
    above = next(folder for folder in places[kind != "folder" :] if folder.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{flag} {out}: {above} is a file, not a folder: name another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{flag} {out}: nothing can be written in {above}: name another place")


def settings(pairs: Sequence[str], flag: str) -> JsonObject:
    """``["level=2", "whiten=True"]`` as keyword arguments.

    A value is read as JSON, in which numbers (``.5``, ``+1``, ``50_000``) and ``True``, ``False`` and
    ``None`` may be as Python writes them, or else kept as text.

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
            result[key] = json.loads(_WORD.sub(_as_json, value))
        except ValueError:
            result[key] = value
    return result


def _as_json(word: re.Match[str]) -> str:
    """A word of a value as JSON writes it; unchanged if it is neither a number nor a constant of Python's."""
    text = word[0]
    if not _NUMBER.fullmatch(text):
        return _CONSTANTS.get(text, text)
    try:
        return json.dumps(int(text))
    except ValueError:
        return json.dumps(float(text))
