"""The targets of a benchmark beside its measurements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cola_agents.common.markdown import table


def judged(targets: Iterable[tuple[str, Any, bool]]) -> list[dict[str, Any]]:
    """Targets as (words, figure, whether it passes), for JSON; ``met`` is None where there is no figure."""
    return [
        {"target": text, "measured": value, "met": None if value is None else bool(passes)}
        for text, value, passes in targets
    ]


def targets_table(targets: Sequence[dict[str, Any]]) -> str:
    """What :func:`judged` returns, as Markdown."""
    words = {True: "met", False: "missed", None: "not measured"}
    return table(["target", "measured", ""], [[t["target"], t["measured"], words[t["met"]]] for t in targets])
