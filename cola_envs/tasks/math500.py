r"""Competition mathematics, graded by the final answer: the task of ``CoLA-Math500-v0``."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, overload

from cola_envs.datasets.catalogue import FILES, DataFile
from cola_envs.datasets.problems import (
    Item,
    Problems,
    given_problems,
    math500_keys,
    problem_key,
    read_fetched,
    read_problems,
)
from cola_envs.tasks import substitute
from cola_envs.tasks.problem_set import INSTRUCTION, PROMPT, ProblemSet, check_split, split_of

__all__ = ["INSTRUCTION", "LEVELS", "PROMPT", "SUBJECTS", "Math500", "SubstituteWarning"]

SUBJECTS = substitute.SUBJECTS
LEVELS = substitute.LEVELS

_SUBSTITUTE_TRAIN_SIZE = 1_000_000
_HASHED_OF_GENERATED = 100
_warned = False


class SubstituteWarning(UserWarning):
    """The real problems are not on this machine, so the substitute set is used."""


class _GeneratedTrain(Sequence[Item]):
    """The substitute's training items, generated on access."""

    def __init__(self, subjects: Sequence[str] | None, levels: Sequence[int] | None) -> None:
        self.subjects, self.levels = subjects, levels
        substitute.train_item(0, 0, subjects, levels)  # raises for an unknown filter now, not at a reset

    def __len__(self) -> int:
        return _SUBSTITUTE_TRAIN_SIZE

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return substitute.train_item(0, index, self.subjects, self.levels)

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))


class Math500(ProblemSet):
    r"""Mathematical problems with a checkable final answer.

    **Prompt.** ``User: Please reason step by step, and put your final answer within \boxed{}.``, a blank
    line, the problem, and on a new line ``Assistant:`` and a space: the text of the CoLA paper's code.

    **Episode.** One segment: the agent writes until the model's end-of-sequence token or the token budget.
    There are no stop strings.

    **Reward.** 1.0 if the last complete ``\boxed{}`` of the segment equals the gold answer as
    :mod:`cola_envs.grading` compares them, else 0.0; what cannot be graded (no box, refused, timed out) is
    0.0. The rows of a vector step are graded together.

    **Fields.** ``info(row)`` has ``subject`` and ``level`` (``""`` and -1 where a problem has none),
    ``unique_id``, ``split`` (``""`` where it is unknown), ``dataset``, ``dataset_sha256`` (``""`` where there
    is no file), ``set_hash`` (of the problems and answers in play; of generated ones, of the first 100) and
    ``set_size``; the last :class:`~cola_envs.task.Turn` adds ``success``, ``answer`` (``""`` without a box or
    with an empty one), ``gold`` and ``status`` (see :class:`cola_envs.grading.Verdict`).

    **Data.** ``split="test"`` is MATH-500 (Lightman et al. 2023, from MATH, Hendrycks et al. 2021), and
    ``split="train"`` (``dataset`` "MATH-train") are the problems of MATH that are not among these 500, as
    PRM800K splits them: 12,000, or the 7,500 that MATH itself trains on; problems without an answer are left
    out (two of the 7,500), and so is any whose text is one of the 500's (none is). ``cola data fetch
    math500`` and ``cola data fetch math`` bring them into the folder where they are looked for
    (``$COLA_DATA``, or else ``~/.cache/cola-rl``); the 500 are also looked for in the local Hugging Face
    cache (``HuggingFaceH4/MATH-500``). This class never fetches. The authors publish MATH under the MIT
    licence; the texts are claimed by Art of Problem Solving, so none of them is part of this package.

    Where they are absent, an embedded set of our own over the same subjects and levels stands in
    (Apache-2.0, :mod:`cola_envs.tasks.substitute`): 500 test items or 1,000,000 generated training items.
    Then ``is_substitute`` is true, ``dataset`` is ``"cola-substitute-v2"`` and a :class:`SubstituteWarning`
    is given once per process: results are not results on MATH-500.

    **Versions.** v0: first version. Its substitute was ``cola-substitute-v1`` (140 test items) before v2.

    Args:
        num_rows: how many rows (episodes side by side) there are.
        split: ``"train"`` or ``"test"``; with ``problems=`` it has no effect.
        problems: a path to a JSON-lines file (``.jsonl`` or ``.jsonl.gz``) or an iterable of mappings, with
            the fields problem and answer, or solution with a box in place of the answer; subject, level and
            unique_id may be there. GSM8K's question and answer will do too.
        subjects: keep these subjects alone.
        levels: keep these levels alone.
        sequential: take the problems in order, each once before any comes again, whichever row asks; an
            evaluation plays a whole set so. Otherwise each is drawn from the row's generator.

    Attributes:
        dataset: the name of the problem set.
        dataset_sha256: of the file's uncompressed bytes; None for an iterable and for generated items.
        is_substitute: whether the substitute set is used in place of the real one.
        num_problems: number of problems.

    Raises:
        FileNotFoundError: if ``problems`` names no file on this machine.
        ValueError: for an unknown split, subject or level, a line that is no problem, a fetched file with
            other bytes than the published one, or no problem left.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        split: Literal["train", "test"] = "train",
        problems: str | Path | Iterable[Mapping[str, object]] | None = None,
        subjects: Sequence[str] | None = None,
        levels: Sequence[int] | None = None,
        sequential: bool = False,
    ) -> None:
        check_split(split)
        for name, value in (("subjects", subjects), ("levels", levels)):
            if isinstance(value, str | int):
                raise ValueError(f"{name} must be a sequence such as [{value!r}], got {value!r}")
        problem_set = (
            given_problems(problems)
            if problems is not None
            else _fetched_train()
            if split == "train"
            else _fetched_test()
        )
        self.is_substitute = problem_set is None
        if problem_set is None:
            source = _substitute(split, subjects, levels)
            _warn_once(split)
        else:
            source = dataclasses.replace(problem_set, items=_filtered(problem_set, subjects, levels))
        endless = isinstance(source.items, _GeneratedTrain)
        super().__init__(
            num_rows,
            source,
            split=split if problems is None else split_of(source, split),
            sequential=sequential,
            hash_first=_HASHED_OF_GENERATED if endless else None,
        )


def _published(dataset: str) -> DataFile:
    (file,) = (file for file in FILES if file.dataset == dataset)
    return file


def _fetched_test() -> Problems | None:
    """MATH-500 from the folder of fetched files or the local Hugging Face cache; None where it is absent."""
    return read_fetched(_published("math500")) or _cached_test()


def _cached_test() -> Problems | None:
    from huggingface_hub import try_to_load_from_cache

    file = _published("math500")
    assert file.hub is not None
    repository, _, name = file.hub
    path = try_to_load_from_cache(repository, name, repo_type="dataset")
    if not isinstance(path, str):
        return None
    problems = read_problems(Path(path))
    if problems.file is not file:
        raise ValueError(
            f"{path} has the sha256 {problems.sha256}, which is not MATH-500's: remove it, or run `cola data "
            "fetch math500`, whose file is read first"
        )
    return problems


def _fetched_train() -> Problems | None:
    """MATH's training problems without those of MATH-500; None where they have not been fetched."""
    problems = read_fetched(_published("math"))
    if problems is None:
        return None
    test = math500_keys()
    items = [item for item in problems.items if problem_key(item["problem"]) not in test]
    return dataclasses.replace(problems, items=items)


def _substitute(split: str, subjects: Sequence[str] | None, levels: Sequence[int] | None) -> Problems:
    if split == "train":
        return Problems(substitute.NAME, None, _GeneratedTrain(subjects, levels))
    sha256 = hashlib.sha256(substitute.TEST_FILE.read_bytes()).hexdigest()
    whole = Problems(substitute.NAME, sha256, substitute.test_items())
    return dataclasses.replace(whole, items=_filtered(whole, subjects, levels))


def _filtered(
    source: Problems, subjects: Sequence[str] | None, levels: Sequence[int] | None
) -> Sequence[Item]:
    items = source.items
    for field, wanted in (("subject", subjects), ("level", levels)):
        if wanted is None:
            continue
        known = sorted({item[field] for item in source.items if item[field] is not None})
        for value in wanted:
            if value not in known:
                raise ValueError(
                    f"no problem of {source.name} has the {field} {value!r}; "
                    f"its {field}s are {', '.join(map(str, known)) or 'not told'}"
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
    warnings.warn(
        f"The {split} problems are not on this machine, so {substitute.NAME}, a set of our own, stands in "
        "for them: results are not results on MATH or MATH-500. For real ones, run "
        f"`cola data fetch {'math500' if split == 'test' else 'math'}` or pass problems=path.",
        SubstituteWarning,
        stacklevel=3,
    )
