"""Verify the files of a fetched data set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cola_envs.datasets.catalogue import DataFile, files_of
from cola_envs.datasets.problems import is_pinned, math500_keys, problem_key, read_problems


@dataclass(frozen=True)
class Verified:
    """The result of :func:`verify` for one file.

    Attributes:
        title, split, path: of the file.
        status: ``"ok"``, ``"absent"``, ``"wrong hash"``, ``"wrong count"`` or ``"test problems in it"``.
        sha256: of the file; None if it is absent. The fields below are also None if the hash is wrong.
        problems: number of problems with an answer.
        unanswered: number of problems without an answer, which the tasks leave out.
        duplicates: number of problems that repeat an earlier text (up to spacing, case and dollar signs).
        overlap: number of training problems that are also in the test set (for ``math``, in MATH-500); None
            for a test file, and for GSM8K if its test file is absent or wrong.
    """

    title: str
    split: str
    path: Path
    status: str
    sha256: str | None = None
    problems: int | None = None
    unanswered: int | None = None
    duplicates: int | None = None
    overlap: int | None = None


def verify(dataset: str) -> list[Verified]:
    """Check the files of a data set: hash, number of problems, duplicates, overlap with the test set.

    Raises:
        ValueError: for an unknown data set.
    """
    return [_verified(file) for file in files_of(dataset)]


def _verified(file: DataFile) -> Verified:
    about = (file.title, file.split, file.path)
    if not file.path.is_file():
        return Verified(*about, "absent")
    sha256 = hashlib.sha256(file.path.read_bytes()).hexdigest()
    pin = next((pin for pin in file.pins if pin.sha256 == sha256), None)
    if pin is None:
        return Verified(*about, "wrong hash", sha256)
    read = read_problems(file.path)
    keys = [problem_key(item["problem"]) for item in read.items]
    test = _test_keys(file) if file.split == "train" else None
    overlap = None if test is None else sum(key in test for key in keys)
    complete = len(keys) + read.unanswered == pin.count
    status = "wrong count" if not complete else "test problems in it" if overlap else "ok"
    return Verified(*about, status, sha256, len(keys), read.unanswered, len(keys) - len(set(keys)), overlap)


def _test_keys(file: DataFile) -> frozenset[str] | None:
    """The keys of the test problems of a training file's data set; None if they have not been fetched."""
    if file.dataset == "math":
        return math500_keys()
    (test,) = (other for other in files_of(file.dataset) if other.split == "test")
    if not is_pinned(test, test.path):
        return None
    return frozenset(problem_key(item["problem"]) for item in read_problems(test.path).items)
