"""Sources of documents: local text, JSON lines, the generated corpus, and data that `datasets` can stream.

Every source is a stream of documents (:class:`~cola_agents.train.data.documents.Documents`) that can be
resumed exactly. The order of the documents is that of the data, without shuffling.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from cola_agents.model.loading import stream_dataset
from cola_agents.train.bundled.corpus import documents as generated
from cola_agents.train.bundled.settings import CorpusConfig
from cola_agents.train.data.documents import AnyDocument, Document
from cola_agents.train.data.formats import RowFormat
from cola_envs import jsonl
from cola_envs.jsonl import JsonObject

#: The part of a text file that is a document: a line, the text between blank lines, or the file.
Unit = Literal["line", "paragraph", "file"]
#: The number of bytes at the start and at the end of a file by which it is identified.
_ENDS = 1 << 16
#: Names of text files in a folder.
TEXT = (".txt", ".text", ".md")


class Source(ABC):
    """Finite data, read for a number of epochs or endlessly.

    Args:
        name: name in errors and logs.
        epochs: passes through the data; None for endlessly many.

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
        self._pass: Iterator[AnyDocument] | None = None

    @abstractmethod
    def _begin(self, position: Any) -> Iterator[AnyDocument]:
        """The documents of a pass from a position on (None for the start), including blank ones."""

    @abstractmethod
    def _position(self) -> object:
        """The position after the last document, as JSON values."""

    def _identity(self) -> object:
        """JSON values that identify the data: a position is valid only in the same data."""
        return None

    def __iter__(self) -> Iterator[AnyDocument]:
        return self

    def __next__(self) -> AnyDocument:
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
            "place": None if self._pass is None else self._position(),
        }

    def load_state_dict(self, state: JsonObject) -> None:
        """Resume at a position that :meth:`state_dict` returned.

        Raises:
            ValueError: for a position in other data.
        """
        current = {"name": self.name, "identity": self._identity()}
        saved = {key: state[key] for key in current}
        if saved != current:
            raise ValueError(
                f"{self.name} has changed since the run was stopped: then {saved}, now {current}. Restore "
                "the data, or start again in another folder"
            )
        self.epoch, self._drawn = state["epoch"], state["drawn"]
        self._pass = None if state["place"] is None else self._begin(state["place"])


class FileDocuments(Source):
    """Documents of local text and JSON-lines files, one file after the other.

    A document is a line, a paragraph or all of a text file (``unit``), without trailing line breaks, or an
    object in a line of a JSON-lines file (:func:`cola_envs.jsonl.names_lines`). Blank documents are skipped.
    All files are UTF-8; those whose name ends in ``.gz`` are unpacked.

    Args:
        path: a file, or a folder whose text and JSON-lines files (chosen by suffix, also in subfolders) are
            read in the order of their names.
        rows: the format of JSON objects.
        unit: the part of a text file that is a document; None for a line.
        name: None for the path's last part.
        epochs: as in :class:`Source`.

    Raises:
        FileNotFoundError: where there is no such file, or the folder has none.
        ValueError: for an unknown ``unit``, a template for text files, or a ``unit`` or fields where there
            are no files that they are for; while iterating, for a line without a document, naming file and
            line.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        rows: RowFormat | None = None,
        unit: Unit | None = None,
        name: str | None = None,
        epochs: int | None = None,
    ) -> None:
        path = Path(path)
        super().__init__(name or path.name, epochs)
        if unit is not None and unit not in get_args(Unit):
            raise ValueError(f"unit={unit!r} is not one of {get_args(Unit)}")
        self._files = [path] if path.is_file() else _files_in(path)
        self._rows, self._unit = rows or RowFormat(), unit or "line"
        self._check_options(unit)
        self._at = (0, 0, 0)

    def _check_options(self, unit: Unit | None) -> None:
        """Raise ValueError for options that some or all files do not take."""
        text = [file for file in self._files if not jsonl.names_lines(file)]
        if text and self._rows.template != "plain":
            raise ValueError(
                f"{text[0]} is a text file, without prompts that template={self._rows.template!r} could lay "
                "out: leave the template out, or give JSON lines with prompts and responses"
            )
        if unit is not None and not text:
            raise ValueError(
                f"{self.name}: unit={unit!r} is a part of a text file, and of JSON lines each object is a "
                "document: leave unit out"
            )
        if len(text) == len(self._files) and self._rows != RowFormat():
            raise ValueError(
                f"{text[0]} is a text file, without the fields that text=, prompt= and response= name: leave "
                "these out, or give JSON lines"
            )

    def _position(self) -> list[int]:
        return list(self._at)

    def _identity(self) -> object:
        return {"files": self._content, "unit": self._unit, "format": asdict(self._rows)}

    @cached_property
    def _content(self) -> list[list[object]]:
        return [file_identity(file) for file in self._files]

    def _begin(self, position: Sequence[int] | None) -> Iterator[AnyDocument]:
        first, offset, line = position or (0, 0, 0)
        self._at = (first, offset, line)
        for number in range(first, len(self._files)):
            path = self._files[number]
            with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
                try:
                    file.seek(offset)
                    for document, lines in self._read(path, file, line):
                        self._at = (number, file.tell(), lines)
                        yield document
                except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                    raise ValueError(
                        f"{path} is truncated or damaged after line {self._at[2]}: {error}"
                    ) from error
            offset = line = 0
            self._at = (number + 1, 0, 0)

    def _read(self, path: Path, file: Any, line: int) -> Iterator[tuple[AnyDocument, int]]:
        """The documents of an open file after its first ``line`` lines, each with the lines read so far."""
        if jsonl.names_lines(path):
            for number, raw in enumerate(iter(file.readline, b""), line + 1):
                if not jsonl.blank(raw):
                    where = f"{path}, line {number}"
                    yield self._rows.document(jsonl.parsed(raw, where), where), number
            return
        block: list[str] = []
        number = line
        for number, raw in enumerate(iter(file.readline, b""), line + 1):
            text = jsonl.text_line(raw, path, number)
            between = self._unit == "paragraph" and not text.strip()
            if not between:
                block.append(text)
            if between or self._unit == "line":
                yield Document("", "".join(block).rstrip("\r\n")), number
                block = []
        yield Document("", "".join(block).rstrip("\r\n")), number


def file_identity(path: Path) -> list[object]:
    """The identity of a file: its name, its size, and a digest of its first and last 64 KiB."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_ENDS))
        file.seek(max(0, size - _ENDS))
        digest.update(file.read(_ENDS))
    return [path.name, size, digest.hexdigest()[:16]]


def is_text(path: Path) -> bool:
    """Whether a name is that of a text or JSON-lines file."""
    return path.name.lower().endswith(TEXT) or jsonl.names_lines(path)


def _files_in(folder: Path) -> list[Path]:
    """The text and JSON-lines files in a folder and its subfolders, sorted by name.

    Raises:
        FileNotFoundError: where there are none, or there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no file or folder {folder} to read documents from")
    files = sorted(path for path in folder.rglob("*") if is_text(path) and path.is_file())
    if not files:
        raise FileNotFoundError(f"{folder} holds no file that ends in {', '.join(TEXT)}, .jsonl, .ndjson")
    return files


class GeneratedDocuments:
    """The generated corpus of the bundled models, endless.

    Resuming generates all earlier documents again.

    Args:
        seed, config: as in :func:`cola_agents.train.bundled.corpus.documents`.
        name: name in errors and logs.
    """

    def __init__(self, seed: int, config: CorpusConfig | None = None, *, name: str = "generated") -> None:
        self.name = name
        self._seed, self._config = seed, config or CorpusConfig()
        self._drawn = 0
        self._stream = generated(seed, self._config)

    def __iter__(self) -> Iterator[AnyDocument]:
        return self

    def __next__(self) -> AnyDocument:
        self._drawn += 1
        return next(self._stream)

    def state_dict(self) -> JsonObject:
        """The position after the last document, as JSON values."""
        return {"seed": self._seed, "config": repr(self._config), "drawn": self._drawn}

    def load_state_dict(self, state: JsonObject) -> None:
        """Resume at a position that :meth:`state_dict` returned.

        Raises:
            ValueError: for another seed or configuration.
        """
        current = self.state_dict()
        for key in ("seed", "config"):
            if state[key] != current[key]:
                raise ValueError(
                    f"{self.name}: the run was stopped in a corpus of {key} {state[key]}, not {current[key]}"
                )
        self._drawn = state["drawn"]
        self._stream = islice(generated(self._seed, self._config), self._drawn, None)


class StreamedDocuments(Source):
    """Documents of rows that the `datasets` library streams from the hub, a folder, or files.

    Data sets are not downloaded completely, and their code is not run. For resuming, local ``files`` must be
    unchanged; data on the hub or in a folder are assumed to be.

    Args:
        path: hub id (owner/name), a folder of data files, or the name of a builder ("parquet", "json").
        subset, split: the part of the data.
        files: data files, for a builder.
        rows, name, epochs: as in :class:`FileDocuments`; the default name is ``path``.

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
        with _explained(f"{self.name} cannot be streamed"):
            self._data = stream_dataset(path, subset, split, files and sorted(files))
        self._current, self._rows_read = self._data, 0

    def _begin(self, position: JsonObject | None) -> Iterator[AnyDocument]:
        self._current, self._rows_read = copy.deepcopy(self._data), 0
        if position is not None:
            self._current.load_state_dict(copy.deepcopy(position["data"]))
            self._rows_read = position["rows"]
        rows = iter(self._current)
        while True:
            with _explained(f"{self.name} cannot be read after row {self._rows_read}"):
                row = next(rows, None)
            if row is None:
                return
            self._rows_read += 1
            yield self._rows.document(row, f"{self.name}, row {self._rows_read}")

    def _position(self) -> JsonObject:
        return {"data": copy.deepcopy(self._current.state_dict()), "rows": self._rows_read}

    @cached_property
    def _content(self) -> list[list[object]]:
        return [file_identity(Path(file)) for file in self._settings["files"] or () if Path(file).is_file()]

    def _identity(self) -> object:
        return {**self._settings, "content": self._content}


@contextmanager
def _explained(problem: str) -> Iterator[None]:
    """Put ``problem`` before the message of an OSError or ValueError."""
    try:
        yield
    except (OSError, ValueError) as error:
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{problem}: {error}") from error
