"""Folders that appear whole or not at all, and files that do not leave them."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(path: Path, replaces: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """A new folder beside ``path`` that takes its name when the block ends well, and vanishes otherwise.

    Its files are on the disk before it takes the name, so that a machine that stops leaves the old
    folder or the new one.

    Args:
        path: the name to take; its parents are made.
        replaces: says of what already has the name whether it may be replaced; None for an empty folder
            alone.

    Raises:
        FileExistsError: where something has the name that may not be replaced; before anything is written.
    """
    empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not empty and not (replaces and replaces(path)):
        raise FileExistsError(f"{path} is not an empty folder: nothing was written")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    beside.mkdir()
    try:
        yield beside
        for file in beside.rglob("*"):
            if file.is_file():
                _flush(file)
        if path.exists():
            old = beside.with_name(beside.name + "-old")
            os.replace(path, old)
            os.replace(beside, path)
            shutil.rmtree(old)
        else:
            os.replace(beside, path)
        _flush(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def inside(folder: Path, name: str) -> Path:
    """The path of a file that is said to lie in a folder.

    Raises:
        ValueError: for a name that leads out of the folder, by itself or through a link.
    """
    home = folder.resolve()
    if home.parent.name == "snapshots":
        home = home.parent.parent  # in the hub's cache a repository's files are links to its own blobs
    if Path(name).name != name or not (folder / name).resolve().is_relative_to(home):
        raise ValueError(
            f"the file {name!r} does not lie in {folder}; only plain names of files that lie there are "
            "followed, and no links out of it: copy the file into the folder"
        )
    return folder / name


def _flush(path: Path) -> None:
    """Have the system write a file, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
