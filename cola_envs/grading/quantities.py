"""Compare expressions with their units, and ratios and times of day, which are written alike."""

from __future__ import annotations

from fractions import Fraction

from cola_envs.grading.evaluate import real_value
from cola_envs.grading.nodes import Expr, Node, Ratio, Tree, Unit
from cola_envs.grading.proof import same
from cola_envs.grading.trees import PI, number, substituted, subtrees, terms, variables
from cola_envs.grading.units import agree, size_ratio
from cola_envs.grading.verdicts import Truth, every, some

#: How a constant of integration may be called.
_CONSTANTS = ("c", "C", "k", "K", "C_1", "c_1")


def same_quantity(gold: Expr, answer: Expr) -> Truth:
    """Whether two expressions are equal with their units, percent signs and constants of integration."""
    angles = [_angle_unit(node) for node in (gold, answer)]
    if set(angles) == {"degree", "radian"}:
        degrees, radians = (gold, answer) if angles[0] == "degree" else (answer, gold)
        turned = same(("/", ("*", degrees.tree, PI), number(180)), radians.tree)
        if turned is not False:
            return turned
    if not agree(gold.unit, answer.unit):
        ratio = size_ratio(gold.unit, answer.unit)
        return ratio is not None and same(gold.tree, ("*", ("n", ratio), answer.tree))
    if gold.percent != answer.percent:
        if gold.unit or answer.unit:
            return False
        part, other = (gold, answer) if gold.percent else (answer, gold)
        hundredth = ("/", part.tree, number(100))
        value = real_value(gold.tree) if answer.percent else None
        if value is not None and abs(value) <= 1:
            return same(hundredth, other.tree)
        return some([same(part.tree, other.tree), same(hundredth, other.tree)])
    return same(gold.tree, _with_constant_of(gold.tree, answer.tree))


def _angle_unit(node: Expr) -> str | None:
    """Return ``degree`` or ``radian``; None for an expression that is not an angle."""
    if node.unit is None:
        return "radian" if PI in subtrees(node.tree) else None
    return next((name for name in ("degree", "radian") if node.unit == Unit(((name, 1),))), None)


def _with_constant_of(gold: Tree, answer: Tree) -> Tree:
    """Return the answer with the gold answer's constant of integration: ``+ c`` and ``+ k`` mean ``+ C``."""
    others = variables(gold) - {"C"}
    added = [term[1] for term in terms(answer) if term[0] == "v" and term[1] in _CONSTANTS]
    has_constant = ("v", "C") in terms(gold) and others and not any(name[0].isupper() for name in others)
    if not has_constant or len(added) != 1 or added[0] in others:
        return answer
    return substituted(answer, added[0], ("v", "C"))


def same_ratio(gold: Node, answer: Node) -> Truth:
    """Whether two ratios, two times of day, or a ratio and a number are equal."""
    units = [node.unit if isinstance(node, Ratio | Expr) else None for node in (gold, answer)]
    if not agree(*units):
        return False
    times = [_time(node) for node in (gold, answer)]
    if times[0] and times[1]:
        return times[0] == times[1]
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
        parts = tuple(item.tree[1] for item in node.items if item.tree[0] == "n")
        return parts if len(parts) == len(node.items) == 2 and _like_a_time(node) else None
    if isinstance(node, Expr) and node.tree[0] == "n" and node.unit and {"am", "pm"} & set(node.unit.marks):
        return node.tree[1], Fraction(0)
    return None
