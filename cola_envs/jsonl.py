"""Read and write JSON and JSON lines, with file and line in the errors; appended lines are synced to disk."""

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

#: A JSON object.
JsonObject = dict[str, Any]
#: The first bytes of a gzip file.
GZIP = b"\x1f\x8b"
_CHUNK = 1 << 16  # bytes of a compressed file per read
_MARK = "\ufeff"  # a byte order mark, which some programs write in front of UTF-8 text


def names_lines(path: Path) -> bool:
    """Whether a name is that of JSON lines: ``.jsonl``, ``.ndjson``, in any case, also with ``.gz``."""
    return path.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson"))


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file.

    Attributes:
        number: the first is 1.
        raw: its bytes, with the newline unless it is an unfinished last line.
        end: the file offset of the line's end; None inside a gzip member, where the file cannot be truncated.
    """

    number: int
    raw: bytes
    end: int | None

    @property
    def whole(self) -> bool:
        """Whether its newline was written."""
        return self.raw.endswith(b"\n")


def decoded(raw: bytes, where: str) -> str:
    """Decode UTF-8 text.

    Raises:
        ValueError: for other bytes, with ``where`` in the message.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 text: {error}") from error


def text_line(raw: bytes, path: Path, number: int) -> str:
    """Decode line ``number`` of a text file; a byte order mark in front of the first is left out.

    Raises:
        ValueError: for bytes that are not UTF-8, with file and line.
    """
    text = decoded(raw, f"{path}, line {number}")
    return text.removeprefix(_MARK) if number == 1 else text


def parsed(raw: bytes, where: str) -> Any:
    """Parse a JSON value; a byte order mark in front of it is left out.

    Raises:
        ValueError: for other bytes, with ``where`` in the message.
    """
    text = decoded(raw, where).removeprefix(_MARK)
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}: {text.strip()!r:.60}") from error
    except RecursionError as error:
        raise ValueError(f"{where} is JSON that is nested too deeply to be read") from error


def read_object(path: Path, *names: str) -> JsonObject:
    """Read a JSON object from a file.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it holds anything else, or the object lacks one of ``names``.
    """
    content = parsed(path.read_bytes(), str(path))
    missing = [name for name in names if not isinstance(content, dict) or name not in content]
    if missing or not isinstance(content, dict):
        wanted = f"an object with {', '.join(names)}" if names else "an object"
        raise ValueError(f"{path} is damaged: {wanted} is expected: {content!r:.60}")
    return content


def lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a file; a compressed one (``.gz``) may be truncated anywhere.

    Raises:
        ValueError: for a damaged compressed file, with the number of the last line before the damage.
    """
    with path.open("rb") as file:
        yield from _unpacked(file, path) if path.suffix.lower() == ".gz" else _plain(file)


def read(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the value of each line, with file and line number for error messages; blank lines are skipped.

    A file is compressed if its first bytes say so, whatever its name; a byte order mark is left out.

    Raises:
        ValueError: for a line that is not JSON, with file and line, and for a truncated compressed file.
    """
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
        file.seek(0)
        for line in _unpacked(file, path, whole=True) if packed else _plain(file):
            if not blank(line.raw):
                where = f"{path}, line {line.number}"
                yield where, parsed(line.raw, where)


def blank(raw: bytes) -> bool:
    """Whether a line holds nothing but spaces and a byte order mark."""
    return not raw.removeprefix(_MARK.encode()).strip()


def records(path: Path, check: Callable[[Any, int], None]) -> Iterator[tuple[Line, Any]]:
    """Yield the complete records of a file to which records are appended.

    A truncated or damaged last line, which a killed writer or a power cut leaves behind, is skipped.

    Args:
        check: called with a value and its line number; raises ValueError for a value that is not a record.

    Raises:
        ValueError: for a damaged line that is not the last, with file and line.
    """
    damage: ValueError | None = None
    for line in lines(path):
        if damage is not None:
            raise ValueError(
                f"{damage}. Other lines follow, so nothing was changed: repair this line, or remove it in a "
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
    """Encode one line for each value; for a compressed file (``.gz``), as one gzip member."""
    content = "".join(json.dumps(value) + "\n" for value in values).encode()
    return gzip.compress(content) if path.suffix.lower() == ".gz" else content


def append(path: Path, values: Sequence[object]) -> None:
    """Append one line for each value and sync the file to disk.

    Raises:
        OSError: if they cannot be written; a part of them may then follow the file's old content.
    """
    content = encoded(path, values)
    with path.open("ab", buffering=0) as file:
        try:
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        except OSError as error:
            raise OSError(
                error.errno, f"{error.strerror}; the file's old content is unchanged", str(path)
            ) from error


def cut(path: Path, end: int) -> None:
    """Truncate a file to its first ``end`` bytes and sync it to disk."""
    with path.open("rb+") as file:
        file.truncate(end)
        os.fsync(file.fileno())


def repacked(path: Path, last: int) -> bytes:
    """A compressed file's lines up to number ``last``, compressed again into one member."""
    content = io.BytesIO()
    with gzip.open(content, "wb") as packed:
        packed.writelines(line.raw for line in islice(lines(path), last))
    return content.getvalue()


def _plain(file: BinaryIO) -> Iterator[Line]:
    end = 0
    for number, raw in enumerate(file, 1):
        end += len(raw)
        yield Line(number, raw, end)


def _unpacked(file: BinaryIO, path: Path, whole: bool = False) -> Iterator[Line]:
    """The lines of a gzip file; with ``whole``, ValueError behind the last line of a truncated one."""
    number, rest, truncated = 0, b"", False
    end: int | None = None
    # A line is held back until it is known whether it is the last of its member.
    pending: Line | None = None
    try:
        for piece, end in _members(file):
            *complete, rest = (rest + piece).split(b"\n")
            for raw in complete:
                if pending:
                    yield pending
                number += 1
                pending = Line(number, raw + b"\n", None)
            if pending and end is not None and not rest:
                yield replace(pending, end=end)
                pending = None
    except EOFError:
        truncated = True
    except zlib.error as error:
        raise ValueError(
            f"{path} is damaged after line {number} ({error}); `gzip -dc` shows what can still be read"
        ) from error
    if pending:
        yield pending
    if whole and truncated:
        raise ValueError(f"{path} is truncated {f'after line {number}' if number else 'in its first line'}")
    if rest:
        yield Line(number + 1, rest, end)  # a whole member may end without a newline


def _members(file: BinaryIO) -> Iterator[tuple[bytes, int | None]]:
    """Yield uncompressed pieces of a gzip file, each with the file offset if it ends a member, else None.

    Raises:
        EOFError: if the file ends within a member.
    """
    packed = b""
    while True:
        unpacker = zlib.decompressobj(wbits=31)
        begun = False
        while not unpacker.eof:
            packed = packed or file.read(_CHUNK)
            if not packed and begun:
                raise EOFError
            if not packed:
                return
            if not begun:
                packed = packed.lstrip(b"\0")  # gzip allows zeros as padding between members
                begun = bool(packed)
                continue
            piece = unpacker.decompress(packed)
            packed = unpacker.unused_data
            yield piece, file.tell() - len(packed) if unpacker.eof else None
