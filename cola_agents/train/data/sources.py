"""Sources of documents: local text, JSON lines, the generated corpus, and whatever `datasets` can stream.

Every source is a stream of documents (:class:`~cola_agents.train.data.documents.Documents`) that resumes
exactly. Documents come in the order of the data, without shuffling.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from cola_agents.model.loading import stream_dataset
from cola_agents.train.bundled.corpus import CorpusConfig
from cola_agents.train.bundled.corpus import documents as generated
from cola_agents.train.data.documents import Document
from cola_agents.train.data.formats import RowFormat
from cola_envs import jsonl
from cola_envs.jsonl import JsonObject

#: One document of a text file: a line, the text between blank lines, or the whole file.
Unit = Literal["line", "paragraph", "file"]
#: Bytes at either end of a file that identify it.
_ENDS = 1 << 16
TEXT, LINES = (".txt", ".text", ".md"), (".jsonl", ".ndjson", ".jsonl.gz")


class Source(ABC):
    """Finite data, read for a number of epochs or endlessly.

    Args:
        name: in errors and logs.
        epochs: passes through the data; None for endless.

    Attributes:
        epoch: the current pass, counted from 1.

    Raises:
        ValueError: for fewer than one epoch; while iterating, for data without any document.
    """

    def __init__(self, name: str, epochs: int | None = None) -> None:
        if epochs is not None and epochs < 1:
            raise ValueError(f"{name}: epochs must be at least 1, or None for without end, got {epochs}")
        self.name = name
        self.epochs = epochs
        self.epoch = 1
        self._drawn = 0
        self._pass: Iterator[Document] | None = None

    @abstractmethod
    def _begin(self, place: Any) -> Iterator[Document]:
        """The documents of a pass from a position on, blank ones included; None is the beginning."""

    @abstractmethod
    def _place(self) -> object:
        """The position after the last document, as JSON values."""

    def _identity(self) -> object:
        """What identifies the data, as JSON values: a position holds only in the same data."""
        return None

    def __iter__(self) -> Iterator[Document]:
        return self

    def __next__(self) -> Document:
        while self.epochs is None or self.epoch <= self.epochs:
            if self._pass is None:
                self._pass = self._begin(None)
            for document in self._pass:
                if document.text.strip():
                    self._drawn += 1
                    return document
            if not self._drawn:
                raise ValueError(f"{self.name} holds no document with any text")
            if self.epoch == self.epochs:
                break
            self.epoch, self._drawn, self._pass = self.epoch + 1, 0, None
        raise StopIteration

    def state_dict(self) -> JsonObject:
        """The position after the last document, as JSON values."""
        return {
            "name": self.name,
            "identity": self._identity(),
            "epoch": self.epoch,
            "drawn": self._drawn,
            "place": None if self._pass is None else self._place(),
        }

    def load_state_dict(self, state: JsonObject) -> None:
        """Resume at such a position.

        Raises:
            ValueError: for a position in other data.
        """
        here = {"name": self.name, "identity": self._identity()}
        saved = {key: state[key] for key in here}
        if saved != here:
            raise ValueError(
                f"{self.name} is not what it was when the run was stopped: then {saved}, now {here}. Put the "
                "data back, or start anew in another folder"
            )
        self.epoch, self._drawn = state["epoch"], state["drawn"]
        self._pass = None if state["place"] is None else self._begin(state["place"])


class FileDocuments(Source):
    """Local text and JSON-lines files, one after the other.

    Text files hold a document a line, a paragraph or a file (``unit``), without the line ends at its end.
    JSON-lines files (``.jsonl``, ``.ndjson``, ``.jsonl.gz``) hold an object a line. Blank documents are
    skipped. Everything is UTF-8.

    Args:
        path: a file, or a folder whose text and JSON-lines files (by suffix, and in those below it) are read
            in the order of their names.
        rows: the format of JSON objects.
        unit: one document of a text file.
        name: None for the path's last part.
        epochs: as in :class:`Source`.

    Raises:
        FileNotFoundError: where there is no such file, or none in the folder.
        ValueError: for an unknown ``unit``; while iterating, for a line that is not of this form, naming
            file and line.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        rows: RowFormat | None = None,
        unit: Unit = "line",
        name: str | None = None,
        epochs: int | None = None,
    ) -> None:
        path = Path(path)
        super().__init__(name or path.name, epochs)
        if unit not in get_args(Unit):
            raise ValueError(f"unit={unit!r} is not one of {get_args(Unit)}")
        self._files = [path] if path.is_file() else _files_in(path)
        self._rows, self._unit = rows or RowFormat(), unit
        self._at = (0, 0, 0)

    def _place(self) -> list[int]:
        return list(self._at)

    def _identity(self) -> object:
        return {
            "files": self._known,
            "unit": self._unit,
            "format": asdict(self._rows),
        }

    @cached_property
    def _known(self) -> list[list[object]]:
        return [known_by(file) for file in self._files]

    def _begin(self, place: Sequence[int] | None) -> Iterator[Document]:
        first, offset, line = place or (0, 0, 0)
        self._at = (first, offset, line)
        for number in range(first, len(self._files)):
            path = self._files[number]
            with _open(path) as file:
                try:
                    file.seek(offset)
                    for document, lines in self._read(path, file, line):
                        self._at = (number, file.tell(), lines)
                        yield document
                except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                    raise ValueError(
                        f"{path} breaks off, or is damaged, behind line {self._at[2]}: {error}"
                    ) from error
            offset = line = 0
            self._at = (number + 1, 0, 0)

    def _read(self, path: Path, file: BinaryIO, line: int) -> Iterator[tuple[Document, int]]:
        """The documents from a position in a file on, each with the number of lines read so far."""
        if path.name.endswith(LINES):
            for number, raw in enumerate(iter(file.readline, b""), line + 1):
                if raw.strip():
                    where = f"{path}, line {number}"
                    yield self._rows.document(jsonl.parsed(raw, where), where), number
            return
        block: list[str] = []
        number = line
        for number, raw in enumerate(iter(file.readline, b""), line + 1):
            text = jsonl.decoded(raw, f"{path}, line {number}")
            ends = self._unit == "line" or (self._unit == "paragraph" and not text.strip())
            block.append(text)
            if ends:
                yield Document("", "".join(block).rstrip("\r\n")), number
                block = []
        yield Document("", "".join(block).rstrip("\r\n")), number


def known_by(path: Path) -> list[object]:
    """The identity of a file: its name, its size, and a digest of its first and last 64 KiB."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_ENDS))
        file.seek(max(0, size - _ENDS))
        digest.update(file.read(_ENDS))
    return [path.name, size, digest.hexdigest()[:16]]


def _files_in(folder: Path) -> list[Path]:
    """The text and JSON-lines files in a folder and below, by name.

    Raises:
        FileNotFoundError: where there are none, or there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no file or folder {folder} to read documents from")
    files = sorted(path for path in folder.rglob("*") if path.name.endswith(TEXT + LINES) and path.is_file())
    if not files:
        raise FileNotFoundError(f"{folder} holds no file that ends in {', '.join(TEXT + LINES)}")
    return files


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


class GeneratedDocuments:
    """The generated corpus of the bundled models, endless. Resuming generates all documents up to there.

    Args:
        seed, config: as in :func:`cola_agents.train.bundled.corpus.documents`.
        name: in errors and logs.
    """

    def __init__(self, seed: int, config: CorpusConfig | None = None, *, name: str = "generated") -> None:
        self.name = name
        self._seed, self._config = seed, config or CorpusConfig()
        self._drawn = 0
        self._stream = generated(seed, self._config)

    def __iter__(self) -> Iterator[Document]:
        return self

    def __next__(self) -> Document:
        self._drawn += 1
        return next(self._stream)

    def state_dict(self) -> JsonObject:
        """The position after the last document, as JSON values."""
        return {"seed": self._seed, "config": repr(self._config), "drawn": self._drawn}

    def load_state_dict(self, state: JsonObject) -> None:
        """Resume at such a position.

        Raises:
            ValueError: for another seed or configuration.
        """
        here = self.state_dict()
        for key in ("seed", "config"):
            if state[key] != here[key]:
                raise ValueError(
                    f"{self.name}: the run was stopped in a corpus of {key} {state[key]}, not {here[key]}"
                )
        self._drawn = state["drawn"]
        self._stream = islice(generated(self._seed, self._config), self._drawn, None)


class StreamedDocuments(Source):
    """Rows that the `datasets` library streams: from the hub, a folder, or files that it can read.

    No data set is downloaded as a whole, and no code of a data set is run. When resumed, local ``files`` must
    be unchanged; data on the hub or in a folder are trusted to be the same.

    Args:
        path: hub id (owner/name), a folder of data files, or the name of a builder ("parquet", "json").
        subset, split: the part of the data.
        files: data files, for a builder.
        rows, name, epochs: as in :class:`FileDocuments`; the name is ``path`` without one.

    Raises:
        ImportError: without `datasets`.
        ValueError: for a split or subset that does not exist; while iterating, for a row without a document.
        OSError: where the data cannot be found or reached.
    """

    def __init__(
        self,
        path: str,
        *,
        subset: str | None = None,
        split: str = "train",
        files: Sequence[str] | None = None,
        rows: RowFormat | None = None,
        name: str | None = None,
        epochs: int | None = None,
    ) -> None:
        super().__init__(name or path, epochs)
        self._rows = rows or RowFormat()
        self._settings = {
            "path": path,
            "subset": subset,
            "split": split,
            "files": files and sorted(files),
            "format": asdict(self._rows),
        }
        try:
            self._data = stream_dataset(path, subset, split, files and sorted(files))
        except (OSError, ValueError) as error:
            kind = OSError if isinstance(error, OSError) else ValueError
            raise kind(f"{self.name} cannot be streamed: {error}") from error
        self._reading, self._read = self._data, 0

    def _begin(self, place: JsonObject | None) -> Iterator[Document]:
        self._reading, self._read = copy.deepcopy(self._data), 0
        if place is not None:
            self._reading.load_state_dict(copy.deepcopy(place["data"]))
            self._read = place["rows"]
        rows = iter(self._reading)
        while True:
            try:
                row = next(rows, None)
            except (OSError, ValueError) as error:
                kind = OSError if isinstance(error, OSError) else ValueError
                raise kind(f"{self.name} cannot be read on after row {self._read}: {error}") from error
            if row is None:
                return
            self._read += 1
            yield self._rows.document(row, f"{self.name}, row {self._read}")

    def _place(self) -> JsonObject:
        return {"data": copy.deepcopy(self._reading.state_dict()), "rows": self._read}

    @cached_property
    def _known(self) -> list[list[object]]:
        return [known_by(Path(file)) for file in self._settings["files"] or () if Path(file).is_file()]

    def _identity(self) -> object:
        return {**self._settings, "content": self._known}
