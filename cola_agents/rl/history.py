"""The history file of a saved agent: the records of its updates, to which each save appends the new ones.

Each line is a record as JSON with a checksum of itself and all lines before it, so that in a damaged file the
lines before the damage are known to be whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cola_agents.common.files import flush

Record = dict[str, float]
#: The key of the checksum in each line.
CHECK = "check"


@dataclass(frozen=True)
class Place:
    """The part of a history file that belongs to a save.

    Attributes:
        file: the file's name.
        records, bytes: the number of records, and of bytes, from the start of the file.
        check: the checksum of the last record, which covers all of them.
    """

    file: str
    records: int
    bytes: int
    check: str


class Ledger:
    """Writes the lines of a growing list of records.

    A list that was replaced or shortened is recognised by its length and by its last known record.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._known: list[Record] = []
        self._ends, self._checks = [0], [""]

    def write(self, folder: Path, history: Sequence[Record], last: Place | None, name: str) -> Place:
        """Write the records to the disk; append to the last save's file if they begin with its records.

        Args:
            last: the place of the last save, whose file lies in ``folder``; None for none.
            name: of a new file, where there is none to append to.

        Raises:
            OSError: where it cannot be written; :func:`cut` undoes a partial write.
        """
        self._follow(history)
        start = last if last is not None and self._begins(folder, last) else Place(name, 0, 0, "")
        path = folder / start.file
        with path.open("r+b" if start is last else "xb") as file:
            file.truncate(start.bytes)
            file.seek(start.bytes)
            check = start.check
            for at in range(start.records, len(history)):
                line, check = _line(history[at], check)
                file.write(line)
        flush(path)
        return Place(start.file, len(history), self._ends[-1], self._checks[-1])

    def _begins(self, folder: Path, last: Place) -> bool:
        """Whether the records begin with those of a place."""
        path = folder / last.file
        return (
            last.records < len(self._checks)
            and (last.bytes, last.check) == (self._ends[last.records], self._checks[last.records])
            and path.is_file()
            and path.stat().st_size >= last.bytes
        )

    def _follow(self, history: Sequence[Record]) -> None:
        known = len(self._known)
        if known and (len(history) < known or history[known - 1] is not self._known[-1]):
            self._forget()
        for at in range(len(self._known), len(history)):
            line, check = _line(history[at], self._checks[-1])
            self._known.append(history[at])
            self._ends.append(self._ends[-1] + len(line))
            self._checks.append(check)


def cut(folder: Path, place: Place) -> None:
    """Truncate a file to a place."""
    if (folder / place.file).is_file():
        os.truncate(folder / place.file, place.bytes)


def read_history(folder: Path, place: Place) -> tuple[list[Record], bool]:
    """The whole records of a place, and whether they are all of them."""
    try:
        with (folder / place.file).open("rb") as file:
            content = file.read(place.bytes)
    except OSError:
        return [], place.records == 0
    records: list[Record] = []
    check = ""
    for line in content.splitlines(keepends=True):
        try:
            record: Any = json.loads(line)
            del record[CHECK]
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        expected, following = _line(record, check)
        if expected != line:
            break
        records.append(record)
        check = following
    return records, (len(records), check) == (place.records, place.check)


def _line(record: Record, check: str) -> tuple[bytes, str]:
    """A record as a line, and its checksum; ``check`` is that of the line before."""
    check = hashlib.sha256((check + json.dumps(record)).encode()).hexdigest()[:16]
    return json.dumps({**record, CHECK: check}).encode() + b"\n", check
