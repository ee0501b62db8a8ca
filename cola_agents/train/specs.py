"""Descriptions of training data: parsing them from a command line or a file, and opening the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from cola_agents.train.data.documents import Documents, Mixture
from cola_agents.train.data.formats import RowFormat
from cola_agents.train.data.sources import (
    FileDocuments,
    GeneratedDocuments,
    StreamedDocuments,
    is_text,
)
from cola_envs import jsonl
from cola_envs.jsonl import JsonObject

GENERATED, HUB, PARQUET = "generated", "hub:", ".parquet"
_ALWAYS = ("source", "weight", "name")
_FORMAT = ("text", "prompt", "response", "template")
#: The options of each kind of source, besides those of every source.
_OPTIONS = {
    "generated": ("seed",),
    "hub": ("subset", "split", "epochs", *_FORMAT),
    "parquet": ("epochs", *_FORMAT),
    "file": ("unit", "epochs", *_FORMAT),
}


@dataclass(frozen=True)
class DataSpec:
    """The description of one source of documents.

    Attributes:
        source: ``generated``, the corpus of the bundled models; ``hub:owner/name``, or ``hub:`` and a folder,
            which `datasets` streams; else a local file or folder: text, JSON lines or ``.parquet``.
        weight: its share of the rows relative to the weights of the other sources.
        name: name in errors, logs and checkpoints; None for one derived from ``source``.
        epochs: passes through finite data; None for endlessly many.
        unit: for text files: see :class:`~cola_agents.train.data.sources.FileDocuments`.
        text, prompt, response, template: for objects: see
            :class:`~cola_agents.train.data.formats.RowFormat`.
        subset, split: for ``hub:``; the default split is "train".
        seed: for ``generated``; None for the run's own.

    Raises:
        ValueError: for an option of another kind of source, a weight that is not a positive number, or epochs
            or a seed that are not whole numbers.
    """

    source: str
    weight: float = 1.0
    name: str | None = None
    epochs: int | None = None
    unit: str | None = None
    text: str | None = None
    prompt: str | None = None
    response: str | None = None
    template: str | None = None
    subset: str | None = None
    split: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        allowed = _ALWAYS + _OPTIONS[self.kind]
        for field in fields(self):
            if getattr(self, field.name) is not None and field.name not in allowed:
                raise ValueError(
                    f"data {self.source!r} ({self.kind}) take no {field.name!r}; they take "
                    f"{', '.join(allowed[1:])}"
                )
        for name in ("epochs", "seed"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"data {self.source!r}: {name} must be a whole number, got {value!r}")
        number = isinstance(self.weight, (int, float)) and not isinstance(self.weight, bool)
        if not (number and 0 < self.weight < float("inf")):
            raise ValueError(f"data {self.source!r}: the weight must be a positive number, got {self.weight}")

    @property
    def kind(self) -> str:
        """ "generated", "hub", "parquet" or "file"."""
        if self.source == GENERATED:
            return "generated"
        if self.source.startswith(HUB):
            return "hub"
        path = Path(self.source)
        if path.suffix == PARQUET or (path.is_dir() and any(path.rglob(f"*{PARQUET}"))):
            return "parquet"
        return "file"

    def open(self, seed: int) -> Documents:
        """Open the source at its beginning.

        Args:
            seed: seed of the generated corpus, if ``self.seed`` is None.

        Raises:
            OSError, ValueError, ImportError: where it cannot be opened.
        """
        kind = self.kind
        if kind == "generated":
            return GeneratedDocuments(seed if self.seed is None else self.seed, name=self.name or GENERATED)
        options: JsonObject = {name: getattr(self, name) for name in (*_OPTIONS[kind], "name")}
        options = {name: value for name, value in options.items() if value is not None}
        options["rows"] = RowFormat(**{name: options.pop(name) for name in _FORMAT if name in options})
        if kind == "hub":
            return StreamedDocuments(self.source.removeprefix(HUB), **options)
        if kind == "parquet":
            path = Path(self.source)
            files = [path] if path.suffix == PARQUET else sorted(path.rglob(f"*{PARQUET}"))
            others = [one.name for one in path.rglob("*") if is_text(one)]
            if others:
                raise ValueError(
                    f"data {self.source!r} hold {files[0].name} and {others[0]}: give Parquet files and text "
                    "in folders of their own"
                )
            options.setdefault("name", path.name)
            return StreamedDocuments("parquet", files=[str(file) for file in files], **options)
        return FileDocuments(self.source, **options)


def parse_data(texts: Iterable[str]) -> list[DataSpec]:
    """Parse the descriptions on a command line.

    Each is ``SOURCE[,key=value]...`` with the fields of :class:`DataSpec` as keys, or the path of a ``.json``
    file that holds a list of such objects; paths in it are relative to its folder.

    Raises:
        ValueError: for a malformed description.
        OSError: for a file that cannot be read.
    """
    specs: list[DataSpec] = []
    for text in texts:
        source, *pairs = text.split(",")
        if source.endswith(".json"):
            if pairs:
                raise ValueError(f"--data {text}: put {', '.join(pairs)} into the file")
            specs += _read_file(Path(source))
            continue
        description: JsonObject = {"source": source}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or key in description:
                raise ValueError(
                    f"--data {text}: {pair!r} is not another key=value; describe a source whose name has a "
                    "comma in a .json file"
                )
            description[key] = value
        specs.append(_parsed(description, f"--data {text}"))
    return specs


def _read_file(path: Path) -> list[DataSpec]:
    entries = jsonl.parsed(path.read_bytes(), str(path))
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
        raise ValueError(f"{path} must hold a list of objects, each with a 'source'")
    specs = []
    for number, entry in enumerate(entries):
        spec = _parsed(entry, f"{path}, entry {number}")
        if spec.kind in ("file", "parquet"):
            spec = _parsed({**entry, "source": str(path.parent / spec.source)}, f"{path}, entry {number}")
        specs.append(spec)
    return specs


_NUMBERS = {"weight": float, "epochs": int, "seed": int}


def _parsed(description: JsonObject, where: str) -> DataSpec:
    known = [field.name for field in fields(DataSpec)]
    unknown = [key for key in description if key not in known]
    if unknown or not description.get("source"):
        problem = f"unknown {', '.join(map(repr, unknown))}" if unknown else "no source"
        raise ValueError(f"{where}: {problem}; the fields are {', '.join(known)}")
    values = dict(description)
    for key, kind in _NUMBERS.items():
        if isinstance(values.get(key), str):
            try:
                values[key] = kind(values[key])
            except ValueError as error:
                raise ValueError(f"{where}: {key}={values[key]!r} is not a number") from error
    wrong = [key for key, value in values.items() if key not in _NUMBERS and not isinstance(value, str)]
    if wrong:
        raise ValueError(f"{where}: {', '.join(wrong)} must be strings")
    try:
        return DataSpec(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def once(specs: Iterable[DataSpec]) -> list[DataSpec]:
    """The descriptions of data to measure on: of finite data one pass, whatever their epochs."""
    return [spec if spec.kind == "generated" else replace(spec, epochs=1) for spec in specs]


def open_data(specs: Sequence[DataSpec], seed: int) -> Documents | Mixture:
    """Open a single source, or a mixture of several.

    Args:
        specs: at least one description.
        seed: seed of the order of a mixture and of generated corpora.
    """
    opened = [(spec.open(seed), spec.weight) for spec in specs]
    return opened[0][0] if len(opened) == 1 else Mixture(opened, seed)
