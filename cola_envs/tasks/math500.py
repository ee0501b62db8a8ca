r"""Competition mathematics, graded by the final answer: the task of ``CoLA-Math500-v0``."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cola_envs.grading import Verdict, grade_batch
from cola_envs.task import Turn
from cola_envs.tasks import substitute

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}.\n\n"
#: The prompt of the CoLA paper's code; ``{}`` takes the instruction and the problem.
PROMPT = "User: {}\nAssistant: "
SUBJECTS = substitute.SUBJECTS
LEVELS = substitute.LEVELS
#: Where the 500 test problems live on the Hugging Face hub, and the file's name there.
HUB_ID, HUB_FILE = "HuggingFaceH4/MATH-500", "test.jsonl"
#: The file's sha256: the split of openai/prm800k (``prm800k/math_splits/test.jsonl``), byte for byte.
MATH500_SHA256 = "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132"

_FIELDS = ("problem", "solution", "answer", "subject", "level", "unique_id")
_SUBSTITUTE_TRAIN_SIZE = 1_000_000
_LOOKS_LIKE_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_warned = False


class SubstituteWarning(UserWarning):
    """The real problems are not on this machine, so problems of our own stand in for them."""


@dataclass(frozen=True)
class _Source:
    name: str
    sha256: str | None
    is_substitute: bool
    items: Sequence[Mapping[str, Any]]


class _GeneratedTrain:
    """The substitute's training items, made when they are asked for."""

    def __init__(self, subjects: Sequence[str] | None, levels: Sequence[int] | None) -> None:
        self.subjects, self.levels = subjects, levels
        substitute.train_item(0, 0, subjects, levels)  # complains about an unknown filter now, not at a reset

    def __len__(self) -> int:
        return _SUBSTITUTE_TRAIN_SIZE

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return substitute.train_item(0, index, self.subjects, self.levels)


class Math500:
    r"""Mathematical problems with a checkable final answer.

    **Prompt.** ``User: Please reason step by step, and put your final answer within \boxed{}.``, a blank
    line, the problem, and on a new line ``Assistant:`` and a space: the text of the CoLA paper's code.

    **Episode.** One segment: the agent writes until the model's end-of-sequence token or the token budget.
    There are no stop strings.

    **Reward.** 1.0 if the last complete ``\boxed{}`` of the segment equals the gold answer as
    :mod:`cola_envs.grading` compares them, else 0.0; what cannot be graded (no box, refused, timed out) is
    0.0. The rows of a vector step are graded together.

    **Fields.** ``info(row)`` has ``subject``, ``level``, ``unique_id``, ``split`` (None where it is unknown),
    ``dataset`` and ``dataset_sha256``; the last :class:`~cola_envs.task.Turn` adds ``success``, ``answer``
    (None without a box), ``gold`` and
    ``status`` (see :class:`cola_envs.grading.Verdict`).

    **Data.** ``split="test"`` is MATH-500 (Lightman et al. 2023, from MATH, Hendrycks et al. 2021), looked
    for in the local Hugging Face cache (``HuggingFaceH4/MATH-500``) and never fetched. The authors publish
    MATH under the MIT licence; the texts are claimed by Art of Problem Solving, so none of them is part of
    this package. Where the cache does not hold them, and for ``split="train"``, an embedded set of our own
    over the same subjects and levels stands in (Apache-2.0, :mod:`cola_envs.tasks.substitute`): 140 test
    items or 1,000,000 generated training items. Then ``is_substitute`` is true, ``dataset`` is
    ``"cola-substitute-v1"`` and a :class:`SubstituteWarning` is given once per process: results are not
    results on MATH-500.

    **Versions.** v0: first version.

    Args:
        num_rows: how many rows (episodes side by side) there are.
        split: ``"train"`` or ``"test"``; with ``problems=`` it has no effect.
        problems: a path to a JSON-lines file (``.jsonl`` or ``.jsonl.gz``) with MATH's fields problem,
            solution, answer, subject, level and unique_id, or an iterable of such mappings.
        subjects: keep these subjects alone.
        levels: keep these levels alone.
        sequential: take the problems in order, each once before any comes again, whichever row asks; an
            evaluation plays a whole set so. Otherwise each is drawn from the row's generator.

    Attributes:
        dataset: the name of the problem set.
        dataset_sha256: of the file's uncompressed bytes; None for an iterable and for generated items.
        is_substitute: whether our own problems stand in for the real ones.
        num_problems: how many problems an episode may draw from.

    Raises:
        FileNotFoundError: if ``problems`` names no file on this machine.
        ValueError: for an unknown split, subject or level, a line that is no problem, or no problem left.
    """

    stop: tuple[str, ...] = ()

    def __init__(
        self,
        num_rows: int,
        *,
        split: Literal["train", "test"] = "train",
        problems: str | Path | Iterable[Mapping[str, Any]] | None = None,
        subjects: Sequence[str] | None = None,
        levels: Sequence[int] | None = None,
        sequential: bool = False,
    ) -> None:
        if num_rows < 1:
            raise ValueError(f"num_rows must be at least 1, got {num_rows}")
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        for name, value in (("subjects", subjects), ("levels", levels)):
            if isinstance(value, str | int):
                raise ValueError(f"{name} must be a sequence such as [{value!r}], got {value!r}")
        self._items: Sequence[Mapping[str, Any]] | _GeneratedTrain
        if problems is None and split == "train":
            source = _Source(substitute.NAME, None, True, ())
            self._items = _GeneratedTrain(subjects, levels)
        else:
            source = _given(problems) if problems is not None else _cached_test() or _substitute_test()
            self._items = _filtered(source, subjects, levels)
        if source.is_substitute:
            _warn_once(split)
        self.dataset = source.name
        self.dataset_sha256 = source.sha256
        self.is_substitute = source.is_substitute
        self.num_problems = len(self._items)
        self.split: str | None = split if problems is None else None
        if self.dataset == "MATH-500":
            self.split = "test"
            if split == "train":
                warnings.warn(
                    "these are MATH-500's test problems and split is 'train': what is trained on them "
                    "cannot be evaluated on them; pass split='test' for an evaluation",
                    UserWarning,
                    stacklevel=2,
                )
        self._sequential = sequential
        self._next = 0
        self._index: list[int | None] = [None] * num_rows

    def reset(self, rows: Sequence[int], rngs: Sequence[np.random.Generator]) -> list[str]:
        """Draw a problem for each row from its own generator and return the prompts."""
        prompts = []
        for row, rng in zip(rows, rngs, strict=True):
            drawn = self._next if self._sequential else int(rng.integers(self.num_problems))
            self._next = (self._next + 1) % self.num_problems
            self._index[row] = drawn
            prompts.append(PROMPT.format(INSTRUCTION + self._item(row)["problem"]))
        return prompts

    def step(self, rows: Sequence[int], texts: Sequence[str]) -> list[Turn]:
        """Grade the rows' answers, all at once."""
        golds = [self._item(row)["answer"] for row in rows]
        verdicts = grade_batch(golds, texts)
        return [self._turn(row, verdict) for row, verdict in zip(rows, verdicts, strict=True)]

    def _turn(self, row: int, verdict: Verdict) -> Turn:
        fields = self.info(row) | {
            "success": verdict.correct,
            "answer": verdict.answer,
            "gold": self._item(row)["answer"],
            "status": verdict.status,
        }
        return Turn(reward=float(verdict.correct), done=True, info=fields)

    def info(self, row: int) -> dict[str, Any]:
        """Return the fields of the row's problem."""
        item = self._item(row)
        return {
            "subject": item["subject"],
            "level": item["level"],
            "unique_id": item["unique_id"],
            "split": self.split,
            "dataset": self.dataset,
            "dataset_sha256": self.dataset_sha256,
        }

    def snapshot(self, row: int) -> object:
        """Return the index of the row's problem: the whole of its state."""
        return self._index[row]

    def restore(self, row: int, state: object) -> None:
        """Put a row back to the problem that :meth:`snapshot` named."""
        if state is not None and not (isinstance(state, int) and 0 <= state < self.num_problems):
            raise ValueError(f"state {state!r} names none of {self.num_problems} problems")
        self._index[row] = state

    def close(self) -> None:
        """Nothing is held: the grading workers belong to the process and end with it."""

    def _item(self, row: int) -> Mapping[str, Any]:
        index = self._index[row]
        if index is None:
            raise RuntimeError(f"row {row} has no problem yet; reset it first")
        return self._items[index]


def _given(problems: str | Path | Iterable[Mapping[str, Any]]) -> _Source:
    if isinstance(problems, str | Path):
        return _from_file(Path(problems).expanduser(), str(problems))
    if isinstance(problems, Mapping | bytes) or not isinstance(problems, Iterable):
        raise ValueError(f"problems must be a path or an iterable of mappings, got {type(problems).__name__}")
    items = [_checked(item, f"problems[{index}]") for index, item in enumerate(problems)]
    return _Source("problems", None, False, items)


def _from_file(path: Path, spelling: str, name: str | None = None) -> _Source:
    if not path.is_file():
        if _LOOKS_LIKE_HUB_ID.fullmatch(spelling) and not spelling.endswith((".jsonl", ".gz")):
            raise FileNotFoundError(
                f"problems={spelling!r} is no file on this machine. If it is a data set on the Hugging Face "
                "hub, fetch it first, for nothing is downloaded here: "
                f"hf download --repo-type dataset {spelling}; then pass the file: problems=path"
            )
        raise FileNotFoundError(
            f"problems={spelling!r} is no file on this machine; pass the path of a .jsonl or .jsonl.gz file"
        )
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError) as error:
            raise ValueError(f"{path}: a damaged gzip file: {error}") from error
    items = []
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            item = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where}: not a line of JSON: {error}") from error
        items.append(_checked(item, where))
    sha256 = hashlib.sha256(raw).hexdigest()
    if name is None:
        # The bytes decide, not the file's name: one id is one problem set.
        name = "MATH-500" if sha256 == MATH500_SHA256 else path.name
    return _Source(name, sha256, False, items)


def _checked(item: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise ValueError(f"{where}: a problem must be an object with {', '.join(_FIELDS)}, got {item!r:.80}")
    for field in _FIELDS:
        if field not in item:
            raise ValueError(f"{where}: the field {field!r} is missing; a problem has {', '.join(_FIELDS)}")
        if field != "level" and not isinstance(item[field], str):
            raise ValueError(f"{where}: the field {field!r} must be a string, got {item[field]!r:.80}")
    level = item["level"]
    if not (level is None or (isinstance(level, int) and not isinstance(level, bool))):
        raise ValueError(f"{where}: the field 'level' must be a whole number or null, got {level!r:.80}")
    return item


def _cached_test() -> _Source | None:
    """Return MATH-500 from the local Hugging Face cache, or None; nothing is ever downloaded."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(HUB_ID, HUB_FILE, repo_type="dataset")
    if not isinstance(path, str):
        return None
    source = _from_file(Path(path), path)
    count = len(source.items)
    if count != 500:
        raise ValueError(f"{path} holds {count} problems, MATH-500 has 500: remove it and fetch it again")
    return _Source("MATH-500", source.sha256, False, source.items)


def _substitute_test() -> _Source:
    sha256 = hashlib.sha256(substitute.TEST_FILE.read_bytes()).hexdigest()
    return _Source(substitute.NAME, sha256, True, substitute.test_items())


def _filtered(
    source: _Source, subjects: Sequence[str] | None, levels: Sequence[int] | None
) -> Sequence[Mapping[str, Any]]:
    items = source.items
    for field, wanted in (("subject", subjects), ("level", levels)):
        if wanted is None:
            continue
        known = sorted({item[field] for item in source.items if item[field] is not None})
        for value in wanted:
            if value not in known:
                raise ValueError(
                    f"no problem of {source.name} has the {field} {value!r}; "
                    f"its {field}s are {', '.join(map(str, known))}"
                )
        items = [item for item in items if item[field] in wanted]
    if not items:
        raise ValueError(f"no problem of {source.name} is left with subjects={subjects} and levels={levels}")
    return items


def _warn_once(split: str) -> None:
    global _warned
    if _warned:
        return
    _warned = True
    cure = (
        f"run `hf download --repo-type dataset {HUB_ID}` or pass problems=path"
        if split == "test"
        else "pass problems=path; MATH-500 itself holds test problems alone (split='test')"
    )
    warnings.warn(
        f"The {split} problems are not on this machine, so {substitute.NAME}, a set of our own, stands in "
        f"for them: results are not results on MATH or MATH-500. For real ones, {cure}.",
        SubstituteWarning,
        stacklevel=4,
    )
