"""The verdict on a claim, and the results that it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.compare.records import Comparison

HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"
NOT_HERE, NO_DATA = "not testable here", "no data"


@dataclass(frozen=True)
class Finding:
    """The verdict on a claim.

    Attributes:
        verdict: :data:`HOLDS`, :data:`FAILS`, :data:`OPEN`, :data:`NOT_HERE` or :data:`NO_DATA`.
        ours: the figure, in words.
        interval: of the figure; empty where there is none.
        cause: what the control arms and the starting points show; empty where nothing was measured.
        figures: what the verdict was made from, JSON-ready.
    """

    verdict: str
    ours: str = ""
    interval: str = ""
    cause: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Inputs:
    """The results at hand: comparisons by task, and the JSON of other benchmarks by name."""

    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def comparison(self, tasks: Sequence[str], more: str = "") -> Comparison:
        """The comparison on the first of the tasks that has one.

        Raises:
            MissingInput: without any.
        """
        for task in tasks:
            if task in self.comparisons:
                return self.comparisons[task]
        raise MissingInput(
            f"a comparison on {tasks[0]}: `python -m benchmarks compare --task {tasks[0]}{more} "
            "--models MODELS --out DIR`"
        )

    def result(self, name: str) -> Mapping[str, Any]:
        """The results of ``python -m benchmarks <name>``.

        Raises:
            MissingInput: without them.
        """
        if name not in self.results:
            work = " --work DIR" if name == "search" else ""
            raise MissingInput(f"{name}.json: `python -m benchmarks {name}{work}`")
        return self.results[name]


class MissingInput(Exception):
    """A result that a claim needs is missing; names the command that makes it."""
