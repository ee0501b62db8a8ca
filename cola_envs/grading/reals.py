r"""Compare sets of real numbers in their usual notations.

These are intervals, also with reversed brackets (``]2, 5[``), unions, intersections and differences
(``\mathbb{R} \setminus \{3\}``), finite sets, inequalities and chains of them, ``x \ne 3``, memberships, and
sets by a condition (``\{x \in \mathbb{R} \mid |x| < 2\}``). A comma between conditions means "and" where all
can hold together, else "or".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cola_envs.grading.conditions import conditions
from cola_envs.grading.line import Cells, End, Line, NotReal
from cola_envs.grading.nodes import (
    Difference,
    Expr,
    Group,
    Infinity,
    Intersection,
    Node,
    Relation,
    SetOf,
    Tree,
    Union,
)
from cola_envs.grading.proof import same
from cola_envs.grading.verdicts import Truth, every

_INTERVALS = ("()", "(]", "[)", "[]")


def all_equations(relation: Relation) -> bool:
    """Whether all signs of a chain are equality signs."""
    return all(op == "=" for op in relation.ops)


def is_interval(node: Node) -> bool:
    """Whether a node is written as an interval; it may also be a pair."""
    return isinstance(node, Group) and len(node.items) == 2 and node.kind in _INTERVALS


def is_set_of_reals(node: Node) -> bool:
    """Whether a node can only be a set of reals, or a condition for one."""
    if isinstance(node, Union | Intersection | Difference | SetOf):
        return True
    if isinstance(node, Relation):
        return not all_equations(node)
    if isinstance(node, Group) and node.kind == "list":
        items = [item for item in _conditions_of(node) if isinstance(item, Relation)]
        return len(items) == len(node.items) and not all(map(all_equations, items))
    return (
        is_interval(node)
        and isinstance(node, Group)
        and (node.kind in ("(]", "[)") or any(isinstance(item, Infinity) for item in node.items))
    )


@dataclass(slots=True)
class _Set:
    """A set: the letter of its condition, the points where it changes, and its cells on a line of them."""

    name: str | None
    points: list[Tree]
    cells: Callable[[Line], Cells | None]


def compare_sets(gold: Node, answer: Node) -> Truth | None:
    """Whether two nodes are the same set of reals; None where either is not a set of reals."""
    first, second = _read(gold), _read(answer)
    if first is None or second is None:
        return _with_letters(gold, answer)
    if first.name and second.name and first.name != second.name:
        return False
    try:
        line = Line([*first.points, *second.points])
    except NotReal:
        return _with_letters(gold, answer)
    cells = first.cells(line), second.cells(line)
    if cells[0] is None or cells[1] is None:
        return None
    return every(line.claims) if cells[0] == cells[1] else False


def _with_letters(gold: Node, answer: Node) -> Truth | None:
    """Compare two intervals whose ends hold letters, end by end."""
    ends = [_ends(node) for node in (gold, answer)]
    if ends[0] is None or ends[1] is None:
        return None
    return every(_same_end(g, a) for g, a in zip(*ends, strict=True))


def _same_end(gold: End, answer: End) -> Truth:
    if gold[1] != answer[1]:
        return False
    if isinstance(gold[0], Infinity) or isinstance(answer[0], Infinity):
        return gold[0] == answer[0]
    return same(gold[0], answer[0])


def _ends(node: Node) -> tuple[End, End] | None:
    if isinstance(node, Group) and is_interval(node):
        low, high = (_end(item, bracket in "[]") for item, bracket in zip(node.items, node.kind, strict=True))
        return None if low is None or high is None else (low, high)
    if isinstance(node, Relation) and len(node.sides) == 3 and node.names[1]:
        ascending = set(node.ops) <= {"<", "<="}
        if not ascending and not set(node.ops) <= {">", ">="}:
            return None
        low = _end(node.sides[0], "=" in node.ops[0])
        high = _end(node.sides[2], "=" in node.ops[1])
        if low is None or high is None:
            return None
        return (low, high) if ascending else (high, low)
    return None


def _end(node: Node, closed: bool) -> End | None:
    if isinstance(node, Infinity):
        return node, closed
    return (node.tree, closed) if isinstance(node, Expr) else None


def _read(node: Node) -> _Set | None:
    if isinstance(node, Union):
        return _combined(node.parts, any)
    if isinstance(node, Intersection):
        return _combined(node.parts, all)
    if isinstance(node, Difference):
        return _combined((node.whole, node.removed), lambda cells: cells[0] and not cells[1])
    if isinstance(node, SetOf):
        parts = (node.condition,) if node.domain is None else (node.domain, node.condition)
        solutions = _combined(parts, all)
        if solutions is None or solutions.name not in (None, node.name):
            return None
        return _Set(None, solutions.points, solutions.cells)
    if isinstance(node, Relation):
        return _relation(node)
    if isinstance(node, Group):
        return _group(node)
    return None


def _combined(parts: tuple[Node, ...], join: Callable[[tuple[bool, ...]], bool]) -> _Set | None:
    read = [_read(part) for part in parts]
    sets = [part for part in read if part is not None]
    names = {part.name for part in sets if part.name}
    if len(sets) != len(parts) or len(names) > 1:
        return None

    def cells(line: Line) -> Cells | None:
        pieces = [part.cells(line) for part in sets]
        known = [piece for piece in pieces if piece is not None]
        return tuple(map(join, zip(*known, strict=True))) if len(known) == len(pieces) else None

    return _Set(names.pop() if names else None, [point for part in sets for point in part.points], cells)


def _relation(relation: Relation) -> _Set | None:
    if relation.ops in (("in",), ("not in",)):
        inner = _read(relation.sides[1])
        name = relation.names[0]
        if inner is None or not name or inner.name:
            return None
        outside = relation.ops == ("not in",)

        def members(line: Line) -> Cells | None:
            cells = inner.cells(line)
            return tuple(not cell for cell in cells) if outside and cells is not None else cells

        return _Set(name, inner.points, members)
    solved = conditions(relation)
    if solved is None:
        return None
    name, parts = solved
    points: list[Tree] = []
    for part in parts:
        roots = part.candidates()
        if roots is None:
            return None
        points += roots

    def solutions(line: Line) -> Cells:
        pieces = [line.where(part) for part in parts]
        return tuple(all(piece[cell] for piece in pieces) for cell in range(line.size))

    return _Set(name, points, solutions)


def _group(group: Group) -> _Set | None:
    if group.kind == "{}":
        points = [item.tree for item in group.items if isinstance(item, Expr)]
        if len(points) < len(group.items):
            return None
        return _Set(None, points, lambda line: line.among(points))
    if group.kind == "list":
        return _joined(group)
    ends = _ends(group)
    if ends is None:
        return None
    low, high = ends
    points = [end for end, _ in ends if not isinstance(end, Infinity)]
    return _Set(None, points, lambda line: line.interval(low, high))


def _joined(group: Group) -> _Set | None:
    parts = tuple(_conditions_of(group))
    either, both = _combined(parts, any), _combined(parts, all)
    if either is None or both is None or group.connective == "or":
        return either
    if group.connective == "and":
        # Conditions hold together; intervals one after the other are a union.
        return both if both.name else either

    def cells(line: Line) -> Cells | None:
        together = both.cells(line)
        return together if together is None or any(together) else either.cells(line)

    return _Set(both.name, both.points, cells)


def _conditions_of(group: Group) -> list[Node]:
    r"""Return the items, with ``x \ne 1, 2`` read as ``x \ne 1, x \ne 2``."""
    items: list[Node] = []
    for item in group.items:
        before = items[-1] if items else None
        if isinstance(item, Expr) and isinstance(before, Relation) and before.ops == ("!=",):
            item = Relation(("!=",), (before.sides[0], item), (before.names[0], None))
        items.append(item)
    return items
