"""Truth values that may depend on unproven claims.

A comparison of two answers is True, False, or a formula over claims: pairs of expressions that agree at every
sample, but whose equality is not proven yet. A worker tries to prove them, in :mod:`cola_envs.grading.pool`,
and :func:`settle` then evaluates the formula; an unproven claim counts as false.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from cola_envs.grading.nodes import Tree


@dataclass(frozen=True, slots=True)
class Claim:
    """That two expressions are equal."""

    left: Tree
    right: Tree


@dataclass(frozen=True, slots=True)
class Every:
    """That all parts hold."""

    parts: tuple[Truth, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """That one part holds."""

    parts: tuple[Truth, ...]


Truth = bool | Claim | Every | Some


def every(parts: Iterable[Truth]) -> Truth:
    """Return the conjunction; parts after a False one are not evaluated."""
    return _joined(parts, False)


def some(parts: Iterable[Truth]) -> Truth:
    """Return the disjunction; parts after a True one are not evaluated."""
    return _joined(parts, True)


def _joined(parts: Iterable[Truth], decisive: bool) -> Truth:
    unsure: list[Truth] = []
    for part in parts:
        if part is decisive:
            return decisive
        if not isinstance(part, bool):
            unsure.append(part)
    if len(unsure) < 2:
        return unsure[0] if unsure else not decisive
    return Some(tuple(unsure)) if decisive else Every(tuple(unsure))


def claims(truth: Truth) -> Iterator[Claim]:
    """Yield the claims of a truth value."""
    if isinstance(truth, Claim):
        yield truth
    elif isinstance(truth, Every | Some):
        for part in truth.parts:
            yield from claims(part)


def settle(truth: Truth, proven: Container[Claim]) -> bool:
    """Evaluate a truth value, given the proven claims."""
    if isinstance(truth, Claim):
        return truth in proven
    if isinstance(truth, Every):
        return all(settle(part, proven) for part in truth.parts)
    if isinstance(truth, Some):
        return any(settle(part, proven) for part in truth.parts)
    return truth
