r"""Base of the tasks over problems with boxed answers, ``CoLA-Math500-v0`` and ``CoLA-GSM8K-v0``."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np

from cola_envs.datasets.problems import Item, Problems, math500_keys, problem_key
from cola_envs.fields import Info
from cola_envs.grading import grade_batch
from cola_envs.grading.extract import extract_boxed
from cola_envs.order import FiniteTask
from cola_envs.task import Turn

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}.\n\n"
#: The prompt of the CoLA paper's code; ``{}`` takes the instruction and the problem.
PROMPT = "User: {}\nAssistant: "
#: ``info["level"]`` of a problem without a level, because a field has one type in all episodes.
NO_LEVEL = -1


class ProblemSet(FiniteTask):
    """A task in which each row answers one problem of a set; a subclass provides the set.

    A subclass also defines ``training_problems``, the set that worked examples are drawn from.

    Args:
        num_rows: number of rows.
        source: the problems.
        split: their split; None if it is unknown.
        sequential: play the problems in order, each once before any is repeated; a problem seed is then a
            place in that order (:class:`~cola_envs.order.Order`).
        hash_first: the number of problems to hash, for very large generated sets; None hashes all.

    Attributes:
        dataset, dataset_sha256: name and hash of the source.
        set_hash: see :func:`hash_of`.

    Raises:
        ValueError: for fewer than one row.
    """

    stop: tuple[str, ...] = ()
    plain_frame = ("User: ", "\nAssistant: ")

    def __init__(
        self,
        num_rows: int,
        source: Problems,
        *,
        split: str | None,
        sequential: bool = False,
        hash_first: int | None = None,
    ) -> None:
        super().__init__(num_rows, len(source.items), sequential)
        self.split = split
        self.dataset = source.name
        self.dataset_sha256 = source.sha256
        self.items = source.items
        self._chosen: list[tuple[int, Item] | None] = [None] * len(self._indices)
        self.set_hash = hash_of(islice(source.items, hash_first))

    def training_problems(self) -> Problems:
        """The problems of the train split.

        Raises:
            FileNotFoundError, ValueError: where there are none.
        """
        raise ValueError(f"{type(self).__name__} has no train split")

    def worked_example(self, rng: np.random.Generator) -> tuple[str, str]:
        """A prompt of the train split, and its worked solution with the answer in a box.

        Raises:
            ValueError: without a train split, or for one without worked solutions.
        """
        try:
            source = self.training_problems()
        except FileNotFoundError as error:
            lacking = str(error).removesuffix(", or pass problems=path")
            raise ValueError(f"worked examples are drawn from the train split, and {lacking}") from error
        first = int(rng.integers(len(source.items)))
        for step in range(len(source.items)):
            item = source.items[(first + step) % len(source.items)]
            if answer := boxed_solution(item):
                return PROMPT.format(INSTRUCTION + item["problem"]), answer
        raise ValueError(f"no problem of {source.title} has a worked solution that ends in its answer")

    def _prompt(self, row: int) -> str:
        return PROMPT.format(INSTRUCTION + self._item(row)["problem"])

    def _problem(self, index: int) -> tuple[str, ...]:
        item = self.items[index]
        return item["problem"], item["answer"]

    def step(self, rows: Sequence[int], texts: Sequence[str]) -> list[Turn]:
        """Grade the rows' answers in one batch."""
        golds = [self._item(row)["answer"] for row in rows]
        turns = []
        for row, gold, verdict in zip(rows, golds, grade_batch(golds, texts), strict=True):
            fields = self.info(row) | {
                "success": verdict.correct,
                "answer": verdict.answer or "",
                "gold": gold,
                "status": verdict.status,
            }
            turns.append(Turn(reward=float(verdict.correct), info=fields))
        return turns

    def info(self, row: int) -> Info:
        """The fields of the row's problem; an unknown text is ``""``, an unknown level -1."""
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

    def _item(self, row: int) -> Item:
        """The row's problem, kept as long as the row has it: an item of a generated set is made anew."""
        index, chosen = self._index(row), self._chosen[row]
        if chosen is None or chosen[0] != index:
            chosen = self._chosen[row] = index, self.items[index]
        return chosen[1]


def boxed_solution(item: Item) -> str | None:
    """An item's worked solution, with its answer in a box; None without one, or for another answer."""
    solution: str = item["solution"]
    if not solution:
        return None
    boxed = extract_boxed(solution)
    if boxed is None:
        return f"{solution} The answer is $\\boxed{{{item['answer']}}}$."
    return solution if boxed == item["answer"] else None


def training_part(given: Problems, split: str, published: Callable[[], Problems]) -> Problems:
    """The train split beside the problems that a user passed as ``problems=``.

    Args:
        given: the problems that are played.
        split: the task's argument of this name.
        published: returns the published train split, for problems of the published test file.

    Raises:
        ValueError: for problems to be tested on whose train split is unknown.
    """
    if given.file is not None and given.file.split == "test":
        return published()
    if split == "test":
        raise ValueError(f"with split='test' there is no train split beside {given.title}")
    return given


def hash_of(items: Iterable[Item]) -> str:
    """The sha256 of the problems and their answers, in order, which identifies a set under any name."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps([item["problem"], item["answer"]]).encode() + b"\n")
    return digest.hexdigest()


def split_of(source: Problems, split: str) -> str | None:
    """The split of a user's problems: that of a published file with the same bytes, else None.

    Warns if ``split`` is ``"train"`` and the problems are a published test set, or some are MATH-500's.
    """
    overlap = ""
    if source.file is not None and source.file.split == "test":
        overlap = f"these are {source.file.title}'s test problems"
    elif source.file is None and split == "train":
        keys = math500_keys()
        shared = sum(problem_key(item["problem"]) in keys for item in source.items)
        overlap = f"{shared} of these problems are MATH-500's test problems" if shared else ""
    if overlap and split == "train":
        warnings.warn(
            f"{overlap} and split is 'train': a model trained on them cannot be evaluated on them; pass "
            "split='test' for an evaluation",
            UserWarning,
            stacklevel=3,
        )
    return None if source.file is None else source.file.split
