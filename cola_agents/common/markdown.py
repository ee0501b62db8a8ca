"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: bool = False) -> str:
    """A Markdown table of ``str(cell)``; ``numbers`` aligns all columns but the first to the right.

    Raises:
        ValueError: for a row with more or fewer cells than the head.
    """
    lines = [_row(head), "|---" + ("|---:" if numbers else "|---") * (len(head) - 1) + "|"]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"a row of this table needs {len(head)} cells, as its head has; got {row}")
        lines.append(_row(row))
    return "\n".join(lines)


def _row(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"
