r"""Read and check problems from files and iterables, and compute keys that identify a problem by its text."""

from __future__ import annotations

import gzip
import hashlib
import re
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cola_envs import jsonl
from cola_envs.checks import check_list
from cola_envs.contract import checked_text
from cola_envs.datasets.catalogue import DataFile, identify
from cola_envs.grading.extract import MAX_LENGTH, MAX_NESTING, extract_boxed, unreadable

_KEYS_FILE = Path(__file__).resolve().parents[1] / "data" / "math500_keys.txt"
_LOOKS_LIKE_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
#: The name of problems that were passed as an iterable.
_PASSED = "problems"
_LEVEL = re.compile(r"Level (\d+)")
_SPELLINGS = re.compile(r"\s+|\$|\\left\b|\\right\b|\\[,;:! ]|~")

#: A calculation that GSM8K's solutions mark for a calculator, ``<<48/2=24>>``.
_CALCULATION = re.compile(r"<<[^<>]*>>")

#: One number with thousands separators, and what follows it (a unit): not a list, and in no brackets.
_GROUPED = re.compile(r"([-+\\$ ]*[0-9]{1,3}(?:,[0-9]{3})+)((?:[^0-9,()\[\]{}][^,()\[\]{}]*)?)")

#: A problem with the keys problem (text), answer (the gold one), solution (worked out, "" where there is
#: none), subject, level and unique_id; subject and level may be None.
Item = Mapping[str, Any]


class Unanswered(ValueError):
    """A problem whose answer is empty."""


@dataclass(frozen=True)
class Problems:
    """A set of problems.

    Attributes:
        name: of the set.
        sha256: of the file's uncompressed bytes; None without a file.
        items: the problems.
        file: the published file with exactly these bytes; else None.
        unanswered: number of a published file's problems that were left out because their answer is empty (in
            any other file, an empty answer is an error).
    """

    name: str
    sha256: str | None
    items: Sequence[Item]
    file: DataFile | None = None
    unanswered: int = 0

    @property
    def title(self) -> str:
        """The name in a sentence."""
        return "the problems that were passed" if self.name == _PASSED else self.name


def given_problems(problems: str | Path | Iterable[Mapping[str, object]]) -> Problems:
    """Read a task's argument ``problems=``, the path of a file or an iterable of mappings.

    Raises:
        FileNotFoundError: if there is no such file on this machine.
        ValueError: for another argument, an item that is not a problem, or no problems.
    """
    if isinstance(problems, str | Path):
        given = _named_file(str(problems))
    else:
        listed = check_list("problems", problems, "a path or an iterable of mappings")
        items = [checked(item, f"problems[{i}]", f"problems/{i}") for i, item in enumerate(listed)]
        given = Problems(_PASSED, None, items)
    if not given.items:
        raise ValueError(f"{given.name} holds no problem")
    return given


def _named_file(name: str) -> Problems:
    path = Path(name).expanduser()
    if path.is_file():
        return read_problems(path)
    if _LOOKS_LIKE_HUB_ID.fullmatch(name) and not name.endswith((".jsonl", ".gz")):
        raise FileNotFoundError(
            f"problems={name!r} is no file on this machine. If it is a data set on the Hugging Face "
            "hub, fetch it first (this task downloads nothing): "
            f"hf download --repo-type dataset {name}; then pass the file: problems=path"
        )
    raise FileNotFoundError(
        f"problems={name!r} is no file on this machine; pass the path of a .jsonl or .jsonl.gz file"
    )


def read_plain(path: Path) -> bytes:
    """A file's bytes, uncompressed.

    Raises:
        ValueError: for a damaged gzip file.
    """
    raw = path.read_bytes()
    if not raw.startswith(jsonl.GZIP):
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: a damaged gzip file: {error}") from error


def read_problems(path: Path) -> Problems:
    """Read a file of JSON lines with one problem in each line; compressed or plain.

    Raises:
        ValueError: if a line is not a problem, with file and line.
    """
    raw = read_plain(path)
    sha256 = hashlib.sha256(raw).hexdigest()
    # Identified by its bytes, not its name, so that an id always means the same problem.
    file = identify(sha256)
    name = path.name if file is None else file.title
    prefix = name if file is None else f"{name}/{file.split}"
    items: list[Item] = []
    unanswered = 0
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if jsonl.blank(line):
            continue
        where = f"{path}, line {number}"
        item = jsonl.parsed(line, where)
        try:
            items.append(checked(item, where, f"{prefix}/{len(items)}"))
        except Unanswered:
            if file is None:
                raise
            unanswered += 1
    return Problems(name, sha256, items, file, unanswered)


def is_pinned(file: DataFile, path: Path) -> bool:
    """Whether ``path`` is a file with one of the published contents."""
    if not path.is_file():
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() in [pin.sha256 for pin in file.pins]


def read_fetched(file: DataFile) -> Problems | None:
    """The problems of a fetched published file; None if it has not been fetched.

    Raises:
        ValueError: if its bytes are not the pinned ones.
    """
    if not file.path.is_file():
        return None
    problems = read_problems(file.path)
    if problems.file is not file:
        raise ValueError(
            f"{file.path} has the sha256 {problems.sha256}, which is not {file.title}'s: it was damaged or "
            f"changed. Remove it and run `cola data fetch {file.dataset}`"
        )
    return problems


def checked(item: object, where: str, unique_id: str) -> Item:
    r"""Check an item and convert it to the fields of :data:`Item`.

    It needs ``problem`` (or GSM8K's ``question``) and ``answer`` (or a ``solution`` with a ``\boxed{}``). Of
    an answer with ``####``, the part after the last one is the answer, without the thousands separators of a
    single number, and the part before it the solution.
    ``level`` may be an integer or ``"Level 3"``, and ``subject`` may be called ``type``.

    Args:
        item: the item.
        where: its place, for error messages.
        unique_id: its default id.

    Warns of an answer that is beyond what the grader reads (:mod:`cola_envs.grading.extract`).

    Raises:
        ValueError: if it is not such a mapping.
    """
    if not isinstance(item, Mapping):
        raise ValueError(f"{where}: a problem must be an object with problem and answer, got {item!r:.80}")
    for name in ("problem", "question", "answer", "solution", "subject", "type", "unique_id"):
        if item.get(name) is None:
            continue
        if not isinstance(item[name], str):
            raise ValueError(f"{where}: the field {name!r} must be a string, got {item[name]!r:.80}")
        checked_text(item[name], f"{where}: the field {name!r}")
    text = item.get("problem") or item.get("question")
    if not text:
        raise ValueError(f"{where}: the field 'problem' is missing; a problem has problem and answer")
    if not text.strip():
        raise ValueError(f"{where}: the problem is blank: {text!r:.80}")
    return {
        "problem": text,
        "answer": _gold(item, where),
        "solution": _solution(item),
        "subject": item.get("subject") or item.get("type"),
        "level": _level(item.get("level"), where),
        "unique_id": item.get("unique_id") or unique_id,
    }


def _gold(item: Item, where: str) -> str:
    answer = item.get("answer")
    if answer is None:
        answer = extract_boxed(item.get("solution") or "")
        if answer is None:
            raise ValueError(
                f"{where}: the field 'answer' is missing, and there is no solution with a \\boxed{{}} either"
            )
    if "####" in answer:
        answer = answer.rpartition("####")[2].strip()
        grouped = _GROUPED.fullmatch(answer)
        if grouped:
            answer = grouped[1].replace(",", "") + grouped[2]
    if not answer.strip():
        raise Unanswered(f"{where}: the answer is empty")
    if unreadable(answer):
        warnings.warn(
            f"{where}: the answer {answer!r:.60} is more than the grader reads ({MAX_LENGTH} characters, "
            f"{MAX_NESTING} brackets within brackets, no control characters): its own text and shorter forms "
            "can win, other texts like it are refused",
            stacklevel=2,
        )
    return str(answer)


def _solution(item: Item) -> str:
    """The worked solution; of GSM8K's format the text before ``####``, without its calculator marks."""
    worked, sign, _ = (item.get("answer") or "").rpartition("####")
    solution: str = item.get("solution") or (_CALCULATION.sub("", worked) if sign else "")
    return solution.strip()


def _level(level: object, where: str) -> int | None:
    if level is None or (isinstance(level, int) and not isinstance(level, bool)):
        return level
    if level == "Level ?":  # of two problems of MATH
        return None
    match = _LEVEL.fullmatch(level) if isinstance(level, str) else None
    if match is None:
        raise ValueError(
            f"{where}: the field 'level' must be a whole number, 'Level 3' or null, got {level!r:.80}"
        )
    return int(match[1])


def problem_key(problem: str) -> str:
    """A problem's key, 16 hexadecimal digits; spacing, case and dollar signs of its text do not matter."""
    plain = _SPELLINGS.sub("", problem).lower().replace("dfrac", "frac").replace("tfrac", "frac")
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


@cache
def math500_keys() -> frozenset[str]:
    """The keys of MATH-500's problems, to keep them out of training data without having their text."""
    return frozenset(_KEYS_FILE.read_text(encoding="ascii").split())
