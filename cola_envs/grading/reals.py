"""Sets of real numbers: intervals, unions and the inequalities that say the same."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cmp_to_key
from typing import Any

from cola_envs.grading.evaluate import real_value, same, same_number, variables
from cola_envs.grading.nodes import Expr, Group, Infinity, Node, Relation, Tree, Union

FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
#: One end of an interval: the value's tree or an infinity, and whether the end belongs to the set.
End = tuple[Tree | Infinity, bool]


def every(verdicts: Sequence[bool | None]) -> bool | None:
    """False if any is False, else None if any is None, else True."""
    return False if False in verdicts else None if None in verdicts else True


def all_equations(relation: Relation) -> bool:
    """Whether a chain holds equality signs alone."""
    return all(op == "=" for op in relation.ops)


def unknowns(relation: Relation) -> frozenset[str]:
    """Return the names of the variables of a relation's expressions."""
    found: frozenset[str] = frozenset()
    for side in relation.sides:
        if isinstance(side, Expr):
            found |= variables(side.tree)
    return found


def is_real_set(node: Node) -> bool:
    """Whether a node is written as an interval (also a pair) or a union."""
    if isinstance(node, Union):
        return True
    return isinstance(node, Group) and len(node.items) == 2 and node.kind in ("(]", "[)", "[]", "()")


def compare_sets(gold: Node, answer: Node) -> bool | None:
    """Whether two nodes are the same set of reals; None where either is not read as one."""
    sets = [_intervals(node) for node in (gold, answer)]
    if sets[0] is None or sets[1] is None:
        # A union against something that is no set is wrong; two spellings that are not read are unknown.
        return False if (sets[0] is None) != (sets[1] is None) and not _unread(gold, answer, sets) else None
    first, second = (_merged(intervals) for intervals in sets if intervals is not None)
    if first is None or second is None:
        return None
    if len(first) != len(second):
        return False
    ends = [(g, a) for pair in zip(first, second, strict=True) for g, a in zip(*pair, strict=True)]
    return every([_same_end(g, a) for g, a in ends])


def _unread(gold: Node, answer: Node, sets: Sequence[Any]) -> bool:
    node = gold if sets[0] is None else answer
    return isinstance(node, Relation | Union) or (isinstance(node, Group) and node.kind != "list")


def _same_end(gold: End, answer: End) -> bool | None:
    if gold[1] != answer[1]:
        return False
    if isinstance(gold[0], Infinity) or isinstance(answer[0], Infinity):
        return gold[0] == answer[0]
    return same(gold[0], answer[0])


def _intervals(node: Node) -> list[tuple[End, End]] | None:
    """Return a set of reals as intervals, or None if it is not read as one."""
    if isinstance(node, Union):
        parts = [_intervals(part) for part in node.parts]
        return None if None in parts else [interval for part in parts if part for interval in part]
    if isinstance(node, Relation):
        return _solved(node)
    if isinstance(node, Group) and node.kind == "{}":
        points = [item.tree for item in node.items if isinstance(item, Expr)]
        return [((p, True), (p, True)) for p in points] if len(points) == len(node.items) else None
    if isinstance(node, Group) and len(node.items) == 2 and node.kind != "list":
        low, high = (_end(item, bracket in "[]") for item, bracket in zip(node.items, node.kind, strict=True))
        return None if low is None or high is None else [(low, high)]
    return None


def _end(node: Node, closed: bool) -> End | None:
    if isinstance(node, Infinity):
        return node, closed
    return (node.tree, closed) if isinstance(node, Expr) else None


def _solved(relation: Relation) -> list[tuple[End, End]] | None:
    """Solve a linear inequality in one unknown, or a chain of two round what is asked for."""
    if relation.ops == ("in",):
        return _intervals(relation.sides[1]) if relation.names[0] else None
    if len(relation.ops) == 2:
        return _between(relation)
    left, right = relation.sides[0], relation.sides[1]
    if (
        len(relation.ops) != 1
        or relation.ops[0] == "="
        or not isinstance(left, Expr)
        or not isinstance(right, Expr)
    ):
        return None
    difference = ("+", left.tree, ("neg", right.tree))
    unknown = variables(difference)
    if len(unknown) != 1:
        return None
    bound, slope = _linear_root(difference, next(iter(unknown)))
    if bound is None:
        return None
    op = relation.ops[0] if slope > 0 else FLIPPED.get(relation.ops[0], relation.ops[0])
    low, high = (Infinity(-1), False), (Infinity(1), False)
    if op == "!=":
        return [(low, (bound, False)), ((bound, False), high)]
    end = (bound, op in ("<=", ">="))
    return [(end, high)] if op in (">", ">=") else [(low, end)]


def _between(relation: Relation) -> list[tuple[End, End]] | None:
    ascending = relation.ops[0] in ("<", "<=")
    if (
        any((op in ("<", "<=")) != ascending or op not in FLIPPED for op in relation.ops)
        or not relation.names[1]
    ):
        return None
    low = _end(relation.sides[0], relation.ops[0] in ("<=", ">="))
    high = _end(relation.sides[2], relation.ops[1] in ("<=", ">="))
    if low is None or high is None:
        return None
    return [(low, high) if ascending else (high, low)]


def _linear_root(tree: Tree, name: str) -> tuple[Tree | None, int]:
    """Return a linear function's root and the sign of its slope; (None, 0) if it is not linear."""

    def at(value: int) -> Tree:
        return _substituted(tree, name, ("n", Fraction(value)))

    constant = at(0)
    slope = ("+", at(1), ("neg", constant))
    predicted = ("+", constant, ("*", ("n", Fraction(7)), slope))
    size = real_value(slope)
    if size is None or size == 0 or same(at(7), predicted) is not True:
        return None, 0
    return ("neg", ("/", constant, slope)), 1 if size > 0 else -1


def _substituted(tree: Tree, name: str, value: Tree) -> Tree:
    if tree == ("v", name):
        return value
    return tuple(_substituted(part, name, value) if isinstance(part, tuple) else part for part in tree)


def joined(group: Group) -> Node | None:
    """Read ``x < 2 or x > 3`` as a union and ``x > 2 and x < 3`` as an interval.

    A comma stands for either: for "and" where both can hold.
    """
    if not all(isinstance(item, Relation) and not all_equations(item) for item in group.items):
        return None
    if len({unknowns(item) for item in group.items if isinstance(item, Relation)}) != 1:
        return None
    pairs = [part[0] for part in map(_intervals, group.items) if part and len(part) == 1]
    if len(pairs) != len(group.items) or not all(_is_real(end) for pair in pairs for end in pair):
        return None
    union = Union(tuple(_as_group(low, high) for low, high in pairs))
    if group.connective == "or":
        return union
    low, high = pairs[0]
    for other_low, other_high in pairs[1:]:
        low = _tighter(low, other_low, 1)
        high = _tighter(high, other_high, -1)
    if group.connective == "," and _order_ends(low[0], high[0]) > 0:
        return union
    return _as_group(low, high)


def _tighter(a: End, b: End, direction: int) -> End:
    order = _order_ends(a[0], b[0]) * direction
    if order == 0:
        return a if not a[1] else b
    return a if order > 0 else b


def _as_group(low: End, high: End) -> Group:
    kind = ("[" if low[1] else "(") + ("]" if high[1] else ")")
    items = tuple(end[0] if isinstance(end[0], Infinity) else Expr(end[0]) for end in (low, high))
    return Group(kind, items)


def _order_ends(a: Tree | Infinity, b: Tree | Infinity) -> int:
    if isinstance(a, Infinity) or isinstance(b, Infinity):
        size_a = a.sign if isinstance(a, Infinity) else 0
        size_b = b.sign if isinstance(b, Infinity) else 0
        return (size_a > size_b) - (size_a < size_b)
    if same_number(a, b):
        return 0
    x, y = real_value(a), real_value(b)
    return 1 if x is not None and y is not None and x - y > 0 else -1


def _merged(intervals: list[tuple[End, End]]) -> list[tuple[End, End]] | None:
    """Sort intervals and join those that touch; None if the ends are not all real constants.

    A single interval is returned as it is.
    """
    if len(intervals) == 1:
        return intervals
    if not all(_is_real(end) for interval in intervals for end in interval):
        return None

    def by_low(p: tuple[End, End], q: tuple[End, End]) -> int:
        # Of two that begin at one point, the one that holds it comes first.
        return _order_ends(p[0][0], q[0][0]) or q[0][1] - p[0][1]

    ordered = sorted(intervals, key=cmp_to_key(by_low))
    merged = ordered[:1]
    for low, high in ordered[1:]:
        last_low, last_high = merged[-1]
        gap = _order_ends(low[0], last_high[0])
        if gap > 0 or (gap == 0 and not low[1] and not last_high[1]):
            merged.append((low, high))
        elif (_order_ends(high[0], last_high[0]) or high[1] - last_high[1]) > 0:
            merged[-1] = (last_low, high)
    return merged


def _is_real(end: End) -> bool:
    return isinstance(end[0], Infinity) or real_value(end[0]) is not None
