r"""A task over problems with boxed answers: the base of ``CoLA-Math500-v0`` and ``CoLA-GSM8K-v0``."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from cola_envs.datasets.problems import Item, Problems, math500_keys, problem_key
from cola_envs.fields import Info
from cola_envs.grading import Verdict, grade_batch
from cola_envs.order import Order, draw
from cola_envs.task import Turn

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}.\n\n"
#: The prompt of the CoLA paper's code; ``{}`` takes the instruction and the problem.
PROMPT = "User: {}\nAssistant: "
#: ``info["level"]`` of a problem without one: a field has one type in all episodes.
NO_LEVEL = -1


class ProblemSet:
    """A task whose rows each answer one problem of a set; a subclass provides the set.

    Args:
        num_rows: number of rows.
        source: the problems.
        split: their split; None where it is unknown.
        sequential: play the problems in order, each once before any is repeated; a problem seed is then a
            place in that order (:class:`~cola_envs.order.Order`).
        hash_first: hash only so many of the problems, for endless generated sets.

    Attributes:
        dataset, dataset_sha256: name and hash of the source.
        set_hash: see :func:`hash_of`.
        num_problems: number of problems.
        order: of the problems, if ``sequential``.

    Raises:
        ValueError: without a row.
    """

    stop: tuple[str, ...] = ()

    def __init__(
        self,
        num_rows: int,
        source: Problems,
        *,
        split: str | None,
        sequential: bool = False,
        hash_first: int | None = None,
    ) -> None:
        if num_rows < 1:
            raise ValueError(f"num_rows must be at least 1, got {num_rows}")
        self.split = split
        self.dataset = source.name
        self.dataset_sha256 = source.sha256
        self.num_problems = len(source.items)
        self.items = source.items
        self.set_hash = hash_of(islice(source.items, hash_first))
        self.order = Order(self.num_problems) if sequential else None
        self._index: list[int | None] = [None] * num_rows

    def reset(
        self,
        rows: Sequence[int],
        rngs: Sequence[np.random.Generator],
        problem_seeds: Sequence[int] | None = None,
    ) -> list[str]:
        """Draw a problem for each row from its generator, or by its seed in order; return the prompts."""
        seeds: Sequence[int | None] = problem_seeds or [None] * len(rows)
        for row, rng, seed in zip(rows, rngs, seeds, strict=True):
            self._index[row] = draw(self.num_problems, self.order, rng, seed)
        return [PROMPT.format(INSTRUCTION + self._item(row)["problem"]) for row in rows]

    def step(self, rows: Sequence[int], texts: Sequence[str]) -> list[Turn]:
        """Grade the rows' answers, all at once."""
        golds = [self._item(row)["answer"] for row in rows]
        verdicts = grade_batch(golds, texts)
        return [self._turn(row, verdict) for row, verdict in zip(rows, verdicts, strict=True)]

    def _turn(self, row: int, verdict: Verdict) -> Turn:
        fields = self.info(row) | {
            "success": verdict.correct,
            "answer": verdict.answer or "",
            "gold": self._item(row)["answer"],
            "status": verdict.status,
        }
        return Turn(reward=float(verdict.correct), done=True, info=fields)

    def info(self, row: int) -> Info:
        """Return the fields of the row's problem; an unknown text is ``""``, an unknown level -1."""
        item = self._item(row)
        return {
            "subject": item["subject"] or "",
            "level": NO_LEVEL if item["level"] is None else item["level"],
            "unique_id": item["unique_id"],
            "split": self.split or "",
            "dataset": self.dataset,
            "dataset_sha256": self.dataset_sha256 or "",
            "set_hash": self.set_hash,
            "set_size": self.num_problems,
        }

    def snapshot(self, row: int) -> object:
        """Return the index of the row's problem, its whole state."""
        return self._index[row]

    def restore(self, row: int, state: object) -> None:
        """Restore a row to the problem that :meth:`snapshot` returned."""
        if state is not None and not (isinstance(state, int) and 0 <= state < self.num_problems):
            raise ValueError(f"state {state!r} names none of {self.num_problems} problems")
        self._index[row] = state

    def close(self) -> None:
        """Do nothing: the grading workers belong to the process and end with it."""

    def _item(self, row: int) -> Item:
        index = self._index[row]
        if index is None:
            raise RuntimeError(f"row {row} has no problem yet; reset it first")
        return self.items[index]


def hash_of(items: Iterable[Item]) -> str:
    """The sha256 of the problems and their answers, in order; it identifies a set under any name."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item["problem"], item["answer"]]).encode() + b"\n")
    return digest.hexdigest()


def check_split(split: str) -> None:
    """Raise ValueError for a split other than ``"train"`` and ``"test"``."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")


def split_of(source: Problems, split: str) -> str | None:
    """The split of a user's problems: that of a published file with the same bytes, else None.

    Warns where ``split`` is ``"train"`` and they are a published test set, or include problems of MATH-500.
    """
    which = ""
    if source.file is not None and source.file.split == "test":
        which = f"these are {source.file.title}'s test problems"
    elif source.file is None and split == "train":
        keys = math500_keys()
        shared = sum(problem_key(item["problem"]) in keys for item in source.items)
        which = f"{shared} of these problems are MATH-500's test problems" if shared else ""
    if which and split == "train":
        warnings.warn(
            f"{which} and split is 'train': a model trained on them cannot be evaluated on them; pass "
            "split='test' for an evaluation",
            UserWarning,
            stacklevel=3,
        )
    return None if source.file is None else source.file.split
