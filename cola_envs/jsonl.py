"""JSON files and files of JSON lines: what is damaged is named by its place, and what is appended stays."""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

#: A JSON object: values that JSON holds, by name.
JsonObject = dict[str, Any]
#: Bytes of a compressed file that are read at once.
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file.

    Attributes:
        number: from 1 on.
        raw: its bytes with the newline, which only a last line that was not finished lacks.
        end: bytes of the file up to the line's end; None inside a compressed part, where a file cannot be
            cut.
    """

    number: int
    raw: bytes
    end: int | None

    @property
    def whole(self) -> bool:
        """Whether its newline was written."""
        return self.raw.endswith(b"\n")


def decoded(raw: bytes, where: str) -> str:
    """Text.

    Raises:
        ValueError: for bytes that are none, naming where.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 text: {error}") from error


def parsed(raw: bytes, where: str) -> Any:
    """A JSON value.

    Raises:
        ValueError: for bytes that are none, naming where.
    """
    text = decoded(raw, where)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}: {text.strip()!r:.60}") from error
    except RecursionError as error:
        raise ValueError(f"{where} is not JSON that can be read: it is nested too deeply") from error


def read_object(path: Path, *names: str) -> JsonObject:
    """The object that a JSON file holds.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: for a file that holds something else, or an object that lacks one of the names.
    """
    found = parsed(path.read_bytes(), str(path))
    missing = [name for name in names if not isinstance(found, dict) or name not in found]
    if missing or not isinstance(found, dict):
        wanted = f"an object with {', '.join(names)}" if names else "an object"
        raise ValueError(f"{path} is damaged: {wanted} is expected: {found!r:.60}")
    return found


def lines(path: Path) -> Iterator[Line]:
    """The lines of a file, one at a time; a compressed one (``.gz``) may break off anywhere.

    Raises:
        ValueError: for a compressed file with bytes that were not written so, naming the line before.
    """
    with path.open("rb") as file:
        if path.suffix == ".gz":
            yield from _unpacked(file, path)
            return
        end = 0
        for number, raw in enumerate(file, 1):
            end += len(raw)
            yield Line(number, raw, end)


def read(path: Path) -> Iterator[tuple[str, Any]]:
    """The values of a file's lines, each with what an error may call its place; blank lines are left out.

    Raises:
        ValueError: for a line that is not JSON, naming file and line, and for a compressed file that breaks
            off.
    """
    line = None
    for line in lines(path):
        if line.raw.strip():
            where = f"{path}, line {line.number}"
            yield where, parsed(line.raw, where)
    if path.suffix == ".gz" and path.stat().st_size != (line.end if line else 0):
        raise ValueError(f"{path} breaks off behind line {line.number if line else 0}: it is not whole")


def records(path: Path, check: Callable[[Any, int], None]) -> Iterator[tuple[Line, Any]]:
    """The records of a file that is appended to, up to where it breaks off.

    A last line that is cut off or damaged is left out: a kill or a power cut leaves such a line, and what it
    held is made again.

    Args:
        check: raises ValueError for a value that is no record, given the value and its line's number.

    Raises:
        ValueError: for a damaged line that others follow, naming file and line.
    """
    damage: ValueError | None = None
    for line in lines(path):
        if damage is not None:
            raise ValueError(
                f"{damage}. Other lines follow, so nothing was changed: mend this line, or take it out of a "
                "copy of the file"
            ) from damage
        if line.whole and not line.raw.strip():
            continue
        where = f"{path}, line {line.number}"
        try:
            value = parsed(line.raw, where)
        except ValueError as error:
            damage = error
            continue
        try:
            check(value, line.number)
        except ValueError as error:
            damage = ValueError(f"{where}: {error}")
            continue
        if line.whole:
            yield line, value


def encoded(path: Path, values: Sequence[object]) -> bytes:
    """A line for each value; for a compressed file (``.gz``) they are a member, whole without the others."""
    content = "".join(json.dumps(value) + "\n" for value in values).encode()
    return gzip.compress(content) if path.suffix == ".gz" else content


def append(path: Path, values: Sequence[object]) -> None:
    """Append a line for each value; they are on the disk when this returns.

    What was in the file stays as it is, whatever happens.

    Raises:
        OSError: where they cannot be written; the file may then end with a part of them.
    """
    content = encoded(path, values)
    with path.open("ab", buffering=0) as file:
        try:
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        except OSError as error:
            raise OSError(
                error.errno, f"{error.strerror}; what the file held before is still in it", str(path)
            ) from error


def cut(path: Path, end: int) -> None:
    """Cut off what a file holds behind its first ``end`` bytes; on the disk when this returns."""
    with path.open("rb+") as file:
        file.truncate(end)
        os.fsync(file.fileno())


def repacked(path: Path, last: int) -> bytes:
    """A compressed file's lines up to number ``last``, compressed anew into one member."""
    content = io.BytesIO()
    with gzip.open(content, "wb") as packed:
        packed.writelines(line.raw for line in islice(lines(path), last))
    return content.getvalue()


def _unpacked(file: BinaryIO, path: Path) -> Iterator[Line]:
    number, rest = 0, b""
    # A line is handed out when it is known whether a member ends with it.
    held: Line | None = None
    try:
        for piece, end in _members(file):
            *whole, rest = (rest + piece).split(b"\n")
            for raw in whole:
                if held:
                    yield held
                number += 1
                held = Line(number, raw + b"\n", None)
            if held and end is not None and not rest:
                yield replace(held, end=end)
                held = None
    except zlib.error as error:
        raise ValueError(
            f"{path} is damaged behind line {number} ({error}); `gzip -dc` shows what can still be read"
        ) from error
    if held:
        yield held
    if rest:
        yield Line(number + 1, rest, None)


def _members(file: BinaryIO) -> Iterator[tuple[bytes, int | None]]:
    """Pieces of what a gzip file holds; with the last one of a member the bytes of the file up to its end."""
    packed = b""
    while True:
        unpacker = zlib.decompressobj(wbits=31)
        begun = False
        while not unpacker.eof:
            packed = packed or file.read(_CHUNK)
            if not packed:
                return
            if not begun:
                packed = packed.lstrip(b"\0")  # zeros between members are padding, by gzip's own rule
                begun = bool(packed)
                continue
            piece = unpacker.decompress(packed)
            packed = unpacker.unused_data
            yield piece, file.tell() - len(packed) if unpacker.eof else None
