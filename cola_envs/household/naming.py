"""Names in the text for the ids of a PDDL problem, by ALFWorld's rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

_MARKS = (("_bar_", "|"), ("_minus_", "-"), ("_plus_", "+"), ("_dot_", "."), ("_comma_", ","))


def display_names(ids: Iterable[str]) -> dict[str, str]:
    """Names such as ``mug 2`` for lower-case ids.

    The name is the text before the first ``_bar_``, with ``basin`` added if the id contains it; entities with
    the same name are numbered in descending order of their ids. An id without ``_bar_`` is not an object and
    keeps its text, followed by a space.
    """
    ordered = sorted(ids)
    numbers = Counter(_kind(entity) for entity in ordered if "_bar_" in entity)
    names = {}
    for entity in ordered:
        if "_bar_" in entity:
            kind = _kind(entity)
            names[entity] = f"{kind} {numbers[kind]}"
            numbers[kind] -= 1
        else:
            text = entity
            for mark, plain in _MARKS:
                text = text.replace(mark, plain)
            names[entity] = f"{text} "
    return names


def _kind(entity: str) -> str:
    kind = entity.split("_bar_", 1)[0]
    return kind + "basin" if "basin" in entity else kind
