r"""Grade-school word problems, graded by the final answer: the task of ``CoLA-GSM8K-v0``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from cola_envs.checks import check_choice
from cola_envs.datasets.catalogue import files_of
from cola_envs.datasets.problems import Problems, given_problems, read_fetched
from cola_envs.tasks.problem_set import ProblemSet, split_of, training_part


class GSM8K(ProblemSet):
    r"""Grade-school word problems with integer answers that take two to eight steps.

    **Prompt.** ``User: Please reason step by step, and put your final answer within \boxed{}.``, a blank
    line, the problem, and on a new line ``Assistant:`` and a space, as for Math500.

    **Prompt formats.** Plain text: ``"User: Please reason step by step, and put your final answer within
    \\boxed{}.\n\nTom has 3 boxes of 4 pens. How many pens has he?\nAssistant: "``. In a chat, the user's
    message: ``"Please reason step by step, and put your final answer within \\boxed{}.\n\nTom has 3 boxes
    of 4 pens. How many pens has he?"``.

    **Actions.** The whole answer, one segment, up to the model's end-of-text token or the token budget.

    **Observation.** The prompt and the agent's text; the task adds nothing.

    **Reward.** 1.0 if the last complete ``\boxed{}`` equals the gold answer (the text after the last ``####``
    of the published solution) by :mod:`cola_envs.grading`, else 0.0.

    **Episode end.** Terminated after the segment. A segment that fills the token budget is graded too,
    unless ``budget_end="truncate"``.

    **Info.** The fields of ``CoLA-Math500-v0``. ``subject`` is ``""``, ``level`` is -1, and ``unique_id`` is
    for example ``"GSM8K/test/17"``, with the line's number in its file, from 0.

    **Data and licence.** GSM8K (Cobbe et al. 2021), 7,473 training and 1,319 test problems, MIT licence, not
    part of this package. ``cola data fetch gsm8k`` downloads them to ``$COLA_DATA``, by default
    ``~/.cache/cola-rl``, where this task reads them. There is no substitute.

    **Versions.** v0: first version.

    Args:
        num_rows: number of rows.
        split: ``"train"`` or ``"test"``; ignored with ``problems=``.
        problems: the path of a JSON-lines file (``.jsonl`` or ``.jsonl.gz``) or an iterable of mappings, with
            the fields question and answer, or those of Math500.
        sequential: play the problems in order, each once before any is repeated.

    Raises:
        FileNotFoundError: if the problems have not been fetched, or ``problems`` is not a file.
        ValueError: for an unknown split, a line that is not a problem, a damaged file, or no problems.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        split: Literal["train", "test"] = "train",
        problems: str | Path | Iterable[Mapping[str, object]] | None = None,
        sequential: bool = False,
    ) -> None:
        check_choice("split", split, ("train", "test"))
        source = given_problems(problems) if problems is not None else _fetched(split)
        super().__init__(num_rows, source, split=split_of(source, split), sequential=sequential)
        self._given = (source, split) if problems is not None else None

    def training_problems(self) -> Problems:
        if self._given is None:
            return _fetched("train")
        return training_part(*self._given, lambda: _fetched("train"))


def _fetched(split: str) -> Problems:
    (file,) = (file for file in files_of("gsm8k") if file.split == split)
    source = read_fetched(file)
    if source is None:
        raise FileNotFoundError(
            f"GSM8K's {split} problems are not on this machine ({file.path}): run `cola data fetch gsm8k`, "
            "or pass problems=path"
        )
    return source
