r"""Competition mathematics, graded by the final answer: the task of ``CoLA-Math500-v0``."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, overload

from cola_envs.checks import check_choice, check_count, check_list
from cola_envs.datasets.catalogue import files_of
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
from cola_envs.tasks.problem_set import INSTRUCTION, PROMPT, ProblemSet, split_of, training_part

__all__ = ["INSTRUCTION", "PROMPT", "Math500", "SubstituteWarning"]

_SUBSTITUTE_TRAIN_SIZE = 1_000_000
_HASHED_OF_GENERATED = 100
_warned = False


class SubstituteWarning(UserWarning):
    """The published problems are not on this machine, so the substitute set is used."""


class _GeneratedTrain(Sequence[Item]):
    """The substitute's training items, generated on access."""

    def __init__(self, subjects: Sequence[str] | None, levels: Sequence[int] | None) -> None:
        self.subjects, self.levels = subjects, levels
        substitute.train_item(0, 0, subjects, levels)  # raises for an unknown subject or level

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
    r"""Competition mathematics problems with a checkable final answer.

    **Prompt.** ``User: Please reason step by step, and put your final answer within \boxed{}.``, a blank
    line, the problem, and on a new line ``Assistant:`` and a space: the prompt of the CoLA paper's code.

    **Prompt formats.** Plain text: ``"User: Please reason step by step, and put your final answer within
    \\boxed{}.\n\nWhat is $2+3$?\nAssistant: "``. In a chat, the user's message: ``"Please reason step by
    step, and put your final answer within \\boxed{}.\n\nWhat is $2+3$?"``.

    **Actions.** The whole answer, one segment, up to the model's end-of-text token or the token budget.

    **Observation.** The prompt and the agent's text; the task adds nothing.

    **Reward.** 1.0 if the last complete ``\boxed{}`` equals the gold answer by :mod:`cola_envs.grading`, else
    0.0, also for an answer that cannot be graded (no box, refused, timed out). The rows of a vector step are
    graded together.

    **Episode end.** Terminated after the segment. A segment that fills the token budget is graded too,
    unless ``budget_end="truncate"``.

    **Info.** At reset and at the end ``subject`` and ``level`` (``""`` and -1 if a problem has none),
    ``unique_id``, ``split`` (``""`` if unknown), ``dataset``, ``dataset_sha256`` (``""`` without a file),
    ``set_hash`` (of the set's problems and answers; for generated ones, of the first 100) and ``set_size``.
    At the end also ``success``, ``answer`` (``""`` for a missing or empty box), ``gold`` and ``status`` (see
    :class:`cola_envs.grading.Verdict`).

    **Data and licence.** ``split="test"`` is MATH-500 (Lightman et al. 2023, from MATH, Hendrycks et al.
    2021). ``split="train"`` (``dataset`` "MATH-train") is PRM800K's training split, the 12,000 other problems
    of MATH, or the 7,500 of them in MATH's own training split. Problems without an answer (two of the 7,500)
    and problems whose text is in MATH-500 (none) are left out. ``cola data fetch math500`` and ``cola data
    fetch math`` download them to ``$COLA_DATA``, by default ``~/.cache/cola-rl``, where this task reads them;
    it also reads MATH-500 from the local Hugging Face cache (``HuggingFaceH4/MATH-500``). It downloads
    nothing. The authors publish MATH under the MIT licence; Art of Problem Solving claims the texts, so none
    of them is part of this package.

    **Substitute.** If the problems are not on this machine, the task uses an embedded set of our own over the
    same subjects and levels (Apache-2.0, :mod:`cola_envs.tasks.substitute`), with 500 test items and
    1,000,000 generated training items. ``is_substitute`` is then True, ``dataset`` is
    ``"cola-substitute-v2"``, and a :class:`SubstituteWarning` is given once per process: results are not
    results on MATH-500.

    **Versions.** v0: first version. Its substitute was ``cola-substitute-v1`` (140 test items) before v2.

    Args:
        num_rows: number of rows.
        split: ``"train"`` or ``"test"``; ignored with ``problems=``.
        problems: the path of a JSON-lines file (``.jsonl`` or ``.jsonl.gz``) or an iterable of mappings, with
            the fields problem and answer (or a solution with a box), and optionally subject, level and
            unique_id. GSM8K's question and answer are accepted too.
        subjects: use only these subjects.
        levels: use only these levels.
        sequential: play the problems in order, each once before any is repeated, for an evaluation of a whole
            set; by default each problem is drawn from the row's generator.

    Attributes:
        dataset: the name of the problem set.
        dataset_sha256: of the file's uncompressed bytes; None for an iterable and for generated items.
        is_substitute: whether the substitute set is used.
        num_problems: number of problems.

    Raises:
        FileNotFoundError: if ``problems`` is not a file on this machine.
        ValueError: for an unknown split, subject or level, a line that is not a problem, a fetched file with
            other bytes than the published one, or no problems.
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
        check_choice("split", split, ("train", "test"))
        if subjects is not None:
            subjects = check_list("subjects", subjects, "a sequence such as ['Algebra']")
        if levels is not None:
            levels = check_list("levels", levels, "a sequence such as [1, 2]")
            levels = [check_count("levels", level, None) for level in levels]
        if problems is not None:
            source: Problems | None = given_problems(problems)
        else:
            source = _published_train() if split == "train" else _published_test()
        self.is_substitute = source is None
        if source is None:
            source = _substitute(split, subjects, levels)
            _warn_once(split)
        else:
            source = dataclasses.replace(source, items=_filtered(source, subjects, levels))
        endless = isinstance(source.items, _GeneratedTrain)
        super().__init__(
            num_rows,
            source,
            split=split if problems is None else split_of(source, split),
            sequential=sequential,
            hash_first=_HASHED_OF_GENERATED if endless else None,
        )
        self._given = (source, split) if problems is not None else None
        self._cells = (subjects, levels)

    def training_problems(self) -> Problems:
        """The problems of the train split with the task's subjects and levels."""
        if self.is_substitute:
            return _substitute("train", *self._cells)
        source = _fetched_train() if self._given is None else training_part(*self._given, _fetched_train)
        return dataclasses.replace(source, items=_filtered(source, *self._cells))


def _published_test() -> Problems | None:
    """MATH-500 from the folder of fetched files or the local Hugging Face cache; None if it is in neither."""
    (file,) = files_of("math500")
    fetched = read_fetched(file)
    if fetched is not None:
        return fetched
    from huggingface_hub import try_to_load_from_cache

    assert file.hub is not None
    repository, _, name = file.hub
    path = try_to_load_from_cache(repository, name, repo_type="dataset")
    if not isinstance(path, str):
        return None
    problems = read_problems(Path(path))
    if problems.file is not file:
        raise ValueError(
            f"{path} has the sha256 {problems.sha256}, which is not MATH-500's: remove it, or run `cola data "
            "fetch math500`, whose file is used instead"
        )
    return problems


def _published_train() -> Problems | None:
    """MATH's training problems without those of MATH-500; None if they have not been fetched."""
    (file,) = files_of("math")
    problems = read_fetched(file)
    if problems is None:
        return None
    test = math500_keys()
    items = [item for item in problems.items if problem_key(item["problem"]) not in test]
    return dataclasses.replace(problems, items=items)


def _fetched_train() -> Problems:
    """:func:`_published_train`; raises FileNotFoundError where it has not been fetched."""
    problems = _published_train()
    if problems is None:
        raise FileNotFoundError("MATH's train problems are not on this machine: run `cola data fetch math`")
    return problems


def _substitute(split: str, subjects: Sequence[str] | None, levels: Sequence[int] | None) -> Problems:
    if split == "train":
        return Problems(substitute.NAME, None, _GeneratedTrain(subjects, levels))
    sha256 = hashlib.sha256(substitute.TEST_FILE.read_bytes()).hexdigest()
    problems = Problems(substitute.NAME, sha256, substitute.test_items())
    return dataclasses.replace(problems, items=_filtered(problems, subjects, levels))


def _filtered(
    source: Problems, subjects: Sequence[str] | None, levels: Sequence[int] | None
) -> Sequence[Item]:
    items = source.items
    for field, values in (("subject", subjects), ("level", levels)):
        if values is None:
            continue
        known = sorted({item[field] for item in source.items if item[field] is not None})
        for value in values:
            if value not in known:
                raise ValueError(
                    f"no problem of {source.title} has the {field} {value!r}; "
                    f"its {field}s are {', '.join(map(str, known)) or 'unknown'}"
                )
        items = [item for item in items if item[field] in values]
    if not items:
        raise ValueError(f"no problem of {source.title} is left with subjects={subjects} and levels={levels}")
    return items


def _warn_once(split: str) -> None:
    global _warned
    if _warned:
        return
    _warned = True
    warnings.warn(
        f"The {split} problems are not on this machine, so the generated set {substitute.NAME} is used: "
        "results are not results on MATH or MATH-500. For the published problems, run "
        f"`cola data fetch {'math500' if split == 'test' else 'math'}` or pass problems=path.",
        SubstituteWarning,
        stacklevel=3,
    )
