"""Tokens that several rows are about to compute alike: one row computes them, the others copy.

The rows of one prompt have all tokens in common, those of one task a system text and worked examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

#: The fewest new tokens of a row that are copied from a row with the same tokens instead of computed again.
WORTH_A_COPY = 32


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of tokens that two rows begin alike with."""
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return min(len(a), len(b))


def any_long(tokens: Sequence[list[int]], held: Sequence[int], rows: Iterable[int]) -> bool:
    """Whether a row has enough new tokens for copies to be worth it; see :func:`without_twins`."""
    return any(len(tokens[row]) - held[row] >= WORTH_A_COPY for row in rows)


def without_twins(
    tokens: Sequence[list[int]], held: Sequence[int], rows: Iterable[int]
) -> tuple[list[int], dict[int, list[int]]]:
    """Leave out rows that will hold the same tokens as another.

    Args:
        tokens: those of every row of a session.
        held: of every row the number of tokens that are computed.
        rows: the rows with new tokens.

    Returns:
        the rows to compute, and by row those that hold the same.
    """
    firsts: dict[tuple[int, tuple[int, ...]], int] = {}
    computed: list[int] = []
    copies: dict[int, list[int]] = {}
    for row in rows:
        first = row
        if len(tokens[row]) - held[row] >= WORTH_A_COPY:
            first = firsts.setdefault((held[row], tuple(tokens[row])), row)
        if first == row:
            computed.append(row)
        else:
            copies.setdefault(first, []).append(row)
    return computed, copies


def beginnings(
    tokens: Sequence[list[int]], held: Sequence[int], rows: Iterable[int]
) -> Iterator[tuple[int, list[int], int]]:
    """What rows of different texts have in common; arguments as in :func:`without_twins`.

    Yields:
        a row, the other rows that hold the same tokens from ``held`` on, and the number of all their tokens
        up to where they part; each row has at least one token behind.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for row in rows:
        if len(tokens[row]) - held[row] > WORTH_A_COPY:
            start = tokens[row][: held[row] + WORTH_A_COPY]
            groups.setdefault((held[row], *start), []).append(row)
    for members in groups.values():
        if len(members) > 1:
            texts = [tokens[row] for row in members]
            end = min(common_prefix(min(texts), max(texts)), min(map(len, texts)) - 1)
            yield members[0], members[1:], end
