r"""Word problems of primary school, graded by the final answer: the task of ``CoLA-GSM8K-v0``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from cola_envs.datasets.catalogue import FILES
from cola_envs.datasets.problems import Problems, given_problems, read_fetched
from cola_envs.tasks.problem_set import ProblemSet, check_split, split_of


class GSM8K(ProblemSet):
    r"""Word problems whose answers are whole numbers, two to eight steps away.

    **Prompt, episode, reward.** Those of :class:`~cola_envs.tasks.math500.Math500`: the instruction to reason
    and to answer in a ``\boxed{}``, then the problem; one segment; 1.0 if the last complete box equals the
    gold answer, the text after the last ``####`` of the published solution.

    **Fields.** Those of Math500; ``subject`` is ``""``, ``level`` -1, and ``unique_id`` is
    ``"GSM8K/test/17"``, the number of the line in its file, from 0 on.

    **Data.** GSM8K (Cobbe et al. 2021): 7,473 training and 1,319 test problems, MIT licence, not part of this
    package. ``cola data fetch gsm8k`` brings them into the folder where they are looked for
    (``$COLA_DATA``, or else ``~/.cache/cola-rl``); nothing stands in for them.

    **Versions.** v0: first version.

    Args:
        num_rows: how many rows (episodes side by side) there are.
        split: ``"train"`` or ``"test"``; with ``problems=`` it has no effect.
        problems: a path to a JSON-lines file (``.jsonl`` or ``.jsonl.gz``) or an iterable of mappings, with
            the fields question and answer, or those of Math500.
        sequential: take the problems in order, each once before any comes again, whichever row asks.

    Raises:
        FileNotFoundError: if the problems have not been fetched, or ``problems`` names no file.
        ValueError: for an unknown split, a line that is no problem, a damaged file, or no problem at all.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        split: Literal["train", "test"] = "train",
        problems: str | Path | Iterable[Mapping[str, object]] | None = None,
        sequential: bool = False,
    ) -> None:
        check_split(split)
        source = given_problems(problems) if problems is not None else _fetched(split)
        if not source.items:
            raise ValueError(f"{source.name} holds no problem")
        super().__init__(num_rows, source, split=split_of(source, split), sequential=sequential)


def _fetched(split: str) -> Problems:
    (file,) = (file for file in FILES if (file.dataset, file.split) == ("gsm8k", split))
    source = read_fetched(file)
    if source is None:
        raise FileNotFoundError(
            f"GSM8K's {split} problems are not on this machine ({file.path}): run `cola data fetch gsm8k`, "
            "or pass problems=path"
        )
    return source
