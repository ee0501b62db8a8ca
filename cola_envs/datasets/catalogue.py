"""The published files of problems, with their pinned hashes and their paths on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: The environment variable with the folder of fetched files; by default ``~/.cache/cola-rl``.
FOLDER_VARIABLE = "COLA_DATA"


@dataclass(frozen=True)
class Pin:
    """The sha256 and size of a file's uncompressed bytes, and its number of problems."""

    sha256: str
    size: int
    count: int


@dataclass(frozen=True)
class DataFile:
    """One published file of problems, JSON lines.

    Attributes:
        dataset: the name that ``cola data fetch`` takes.
        title: the name of the set in ``info["dataset"]`` and in every report.
        split: ``"train"`` or ``"test"``.
        pins: the accepted contents, the preferred one first.
        hub: (repository, revision, file) on the Hugging Face hub, if it is published there.
        url: of the authors' publication, at a fixed commit.
        terms: the licence that the authors state, with notes.
    """

    dataset: str
    title: str
    split: Literal["train", "test"]
    pins: tuple[Pin, ...]
    hub: tuple[str, str, str] | None
    url: str
    terms: str

    @property
    def path(self) -> Path:
        """The path of the fetched file."""
        return cache_folder() / self.dataset / f"{self.split}.jsonl"


_PRM800K = "https://media.githubusercontent.com/media/openai/prm800k/7ecc794703b2877f63226f2477a49b34f9b25163"
_GSM8K = "https://raw.githubusercontent.com/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c"
_MATH_TERMS = (
    "MIT as its authors state (hendrycks/math, openai/prm800k). Art of Problem Solving claims the texts and "
    "had another copy taken down: keep them for your own use and do not publish them again."
)
_GSM8K_TERMS = "MIT (openai/grade-school-math)."

#: All files. ``math`` is PRM800K's training split of MATH: the 12,000 problems that are not in MATH-500, or
#: the 7,500 of them in MATH's own training split.
FILES = (
    DataFile(
        "math500",
        "MATH-500",
        "test",
        (Pin("35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132", 446_564, 500),),
        ("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "test.jsonl"),
        f"{_PRM800K}/prm800k/math_splits/test.jsonl",
        _MATH_TERMS,
    ),
    DataFile(
        "math",
        "MATH-train",
        "train",
        (
            Pin("90d96daeac3fe343ebb1e22ce93dd99690f75983e957f88de42f87cffe1e8076", 10_896_985, 12_000),
            Pin("bb78ad30e9546b6803643575c786817c7fbad27fa5458da9ac3846862a62658f", 6_967_629, 7_500),
        ),
        None,
        f"{_PRM800K}/prm800k/math_splits/train.jsonl",
        _MATH_TERMS,
    ),
    DataFile(
        "gsm8k",
        "GSM8K",
        "train",
        (Pin("17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465", 4_166_206, 7_473),),
        None,
        f"{_GSM8K}/grade_school_math/data/train.jsonl",
        _GSM8K_TERMS,
    ),
    DataFile(
        "gsm8k",
        "GSM8K",
        "test",
        (Pin("3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14", 749_738, 1_319),),
        None,
        f"{_GSM8K}/grade_school_math/data/test.jsonl",
        _GSM8K_TERMS,
    ),
)
NAMES = tuple(dict.fromkeys(file.dataset for file in FILES))


def cache_folder() -> Path:
    """The folder of fetched files: ``$COLA_DATA``, by default ``~/.cache/cola-rl``."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "cola-rl"


def files_of(dataset: str) -> tuple[DataFile, ...]:
    """The files of a data set.

    Raises:
        ValueError: for an unknown name.
    """
    if dataset not in NAMES:
        raise ValueError(f"there is no data set {dataset!r}; there are {', '.join(NAMES)}")
    return tuple(file for file in FILES if file.dataset == dataset)


def identify(sha256: str) -> DataFile | None:
    """The published file with this sha256, or None."""
    return next((file for file in FILES if any(pin.sha256 == sha256 for pin in file.pins)), None)
