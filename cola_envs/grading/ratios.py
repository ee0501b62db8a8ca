"""Compare ratios and times of day, which are written alike."""

from __future__ import annotations

from fractions import Fraction

from cola_envs.grading.evaluate import real_value
from cola_envs.grading.nodes import Expr, Node, Ratio
from cola_envs.grading.proof import same
from cola_envs.grading.units import agree
from cola_envs.grading.verdicts import Truth, every


def same_ratio(gold: Node, answer: Node) -> Truth:
    times = [_time(node) for node in (gold, answer)]
    units = [node.unit if isinstance(node, Ratio | Expr) else None for node in (gold, answer)]
    if times[0] and times[1]:
        return times[0] == times[1] and agree(*units)
    if not agree(*units):
        return False
    for ratio, other in ((gold, answer), (answer, gold)):
        if isinstance(ratio, Ratio) and isinstance(other, Expr):
            value = real_value(other.tree)
            if _like_a_time(ratio) or len(ratio.items) > 2 or (value is not None and value.denominator == 1):
                return False  # 3:1 may be a score or odds, and is not 3
            return same(("/", ratio.items[0].tree, ratio.items[1].tree), other.tree)
    if not (isinstance(gold, Ratio) and isinstance(answer, Ratio)):
        return False
    if gold.spelling == answer.spelling:
        return True
    if len(gold.items) != len(answer.items) or _like_a_time(gold):
        return False
    first = (gold.items[0].tree, answer.items[0].tree)
    return every(
        same(("*", first[1], g.tree), ("*", first[0], a.tree))
        for g, a in zip(gold.items, answer.items, strict=True)
    )


def _like_a_time(ratio: Ratio) -> bool:
    parts = ratio.spelling.split(":")
    return len(parts) > 1 and all(len(part) == 2 for part in parts[1:])


def _time(node: Node) -> tuple[Fraction, ...] | None:
    """Return hours and minutes of a time of day: ``5:00``, and ``5 p.m.``."""
    if isinstance(node, Ratio):
        parts = [item.tree[1] for item in node.items if item.tree[0] == "n"]
        return tuple(parts) if len(parts) == len(node.items) == 2 and _like_a_time(node) else None
    half_day = isinstance(node, Expr) and node.unit and {"am", "pm"} & set(node.unit.marks)
    return (
        (node.tree[1], Fraction(0)) if half_day and isinstance(node, Expr) and node.tree[0] == "n" else None
    )
