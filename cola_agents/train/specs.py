"""Data as they are named on a command line or in a file, opened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from cola_agents.train.data.documents import Documents, Mixture
from cola_agents.train.data.formats import RowFormat
from cola_agents.train.data.sources import FileDocuments, GeneratedDocuments, StreamedDocuments
from cola_envs import jsonl
from cola_envs.jsonl import JsonObject

GENERATED, HUB, PARQUET = "generated", "hub:", ".parquet"
_ALWAYS = ("source", "weight", "name")
_FORMAT = ("text", "prompt", "response", "template")
#: What each kind of source can be told besides what all can.
_TOLD = {
    "generated": ("seed",),
    "hub": ("subset", "split", "epochs", *_FORMAT),
    "parquet": ("epochs", *_FORMAT),
    "file": ("unit", "epochs", *_FORMAT),
}


@dataclass(frozen=True)
class DataSpec:
    """One source of documents, described.

    Attributes:
        source: ``generated``, the corpus of the bundled models; ``hub:owner/name``, or ``hub:`` and a folder,
            which `datasets` streams; else a local file or folder: text, JSON lines or ``.parquet``.
        weight: its share of the rows where there are several sources, in proportion to the others'.
        name: what errors, logs and saved places call it; None for one made of ``source``.
        epochs: passes through finite data; None for without end.
        unit: of text files: see :class:`~cola_agents.train.data.sources.FileDocuments`.
        text, prompt, response, template: of objects: see :class:`~cola_agents.train.data.formats.RowFormat`.
        subset, split: of ``hub:``, where the split is "train" without one.
        seed: of ``generated``; None for the run's own.

    Raises:
        ValueError: for what this kind of source cannot be told, or a weight that is not a positive number.
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
        allowed = _ALWAYS + _TOLD[self.kind]
        for field in fields(self):
            if getattr(self, field.name) is not None and field.name not in allowed:
                raise ValueError(
                    f"data {self.source!r} ({self.kind}) take no {field.name!r}; they take "
                    f"{', '.join(allowed[1:])}"
                )
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"data {self.source!r}: a weight is a positive number, got {self.weight}")

    @property
    def kind(self) -> str:
        """ "generated", "hub", "parquet" or "file"."""
        if self.source == GENERATED:
            return "generated"
        if self.source.startswith(HUB):
            return "hub"
        path = Path(self.source)
        if path.suffix == PARQUET or (path.is_dir() and any(path.glob(f"*{PARQUET}"))):
            return "parquet"
        return "file"

    def open(self, seed: int) -> Documents:
        """The source at its beginning.

        Args:
            seed: of the generated corpus, where the description has none.

        Raises:
            OSError, ValueError, ImportError: where it cannot be opened.
        """
        kind = self.kind
        if kind == "generated":
            return GeneratedDocuments(seed if self.seed is None else self.seed, name=self.name or GENERATED)
        told: JsonObject = {name: getattr(self, name) for name in (*_TOLD[kind], "name")}
        told = {name: value for name, value in told.items() if value is not None}
        told["rows"] = RowFormat(**{name: told.pop(name) for name in _FORMAT if name in told})
        if kind == "hub":
            return StreamedDocuments(self.source.removeprefix(HUB), **told)
        if kind == "parquet":
            path = Path(self.source)
            files = [path] if path.suffix == PARQUET else sorted(path.glob(f"*{PARQUET}"))
            told.setdefault("name", path.name)
            return StreamedDocuments("parquet", files=[str(file) for file in files], **told)
        return FileDocuments(self.source, **told)


def parse_data(texts: Iterable[str]) -> list[DataSpec]:
    """Descriptions as they are given on a command line.

    Each is ``SOURCE[,key=value]...`` with the fields of :class:`DataSpec` as keys, or the path of a ``.json``
    file that holds a list of such objects; paths in it are relative to its folder.

    Raises:
        ValueError: for a description that cannot be read.
        OSError: for a file that cannot.
    """
    found: list[DataSpec] = []
    for text in texts:
        source, *pairs = text.split(",")
        if source.endswith(".json"):
            if pairs:
                raise ValueError(f"--data {text}: put {', '.join(pairs)} into the file")
            found += _read_file(Path(source))
            continue
        told: JsonObject = {"source": source}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or key in told:
                raise ValueError(
                    f"--data {text}: {pair!r} is not one key=value more; a source whose name holds a comma "
                    "goes into a .json file"
                )
            told[key] = value
        found.append(_described(told, f"--data {text}"))
    return found


def _read_file(path: Path) -> list[DataSpec]:
    listed = jsonl.parsed(path.read_bytes(), str(path))
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        raise ValueError(f"{path} must hold a list of objects, each with a 'source'")
    found = []
    for number, one in enumerate(listed):
        spec = _described(one, f"{path}, entry {number}")
        if spec.kind in ("file", "parquet"):
            spec = _described({**one, "source": str(path.parent / spec.source)}, f"{path}, entry {number}")
        found.append(spec)
    return found


_NUMBERS = {"weight": float, "epochs": int, "seed": int}


def _described(told: JsonObject, where: str) -> DataSpec:
    known = [field.name for field in fields(DataSpec)]
    unknown = [key for key in told if key not in known]
    if unknown or not told.get("source"):
        what = f"knows no {', '.join(map(repr, unknown))}" if unknown else "names no source"
        raise ValueError(f"{where} {what}; the fields are {', '.join(known)}")
    values = dict(told)
    for key, kind in _NUMBERS.items():
        if key in values:
            try:
                values[key] = kind(values[key])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{where}: {key}={values[key]!r} is not a number") from error
    wrong = [key for key, value in values.items() if key not in _NUMBERS and not isinstance(value, str)]
    if wrong:
        raise ValueError(f"{where}: {', '.join(wrong)} must be text")
    try:
        return DataSpec(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def open_data(specs: Sequence[DataSpec], seed: int) -> Documents | Mixture:
    """Sources, and a mixture where there are several.

    Args:
        specs: at least one description.
        seed: of the order of a mixture, and of generated corpora.
    """
    opened = [(spec.open(seed), spec.weight) for spec in specs]
    return opened[0][0] if len(opened) == 1 else Mixture(opened, seed)
