r"""Compare sets of real numbers in their usual notations.

These are intervals, also with reversed brackets (``]2, 5[``), unions, intersections and differences
(``\mathbb{R} \setminus \{3\}``), finite sets, inequalities and chains of them, ``x \ne 3``, memberships, and
sets by a condition (``\{x \in \mathbb{R} \mid |x| < 2\}``). A comma between conditions means "and" where all
can hold together, else "or".

Two sets are compared on the real line, cut at the n points where one of them may change. There a set is
2n + 1 truth values (cells): of the gap before the first point, the first point, the gap behind it, and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from cola_envs.grading.conditions import NotASet, conditions
from cola_envs.grading.evaluate import real_value
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

Cells = tuple[bool, ...]
#: One end of an interval: the value's tree or an infinity, and whether the end belongs to the set.
End = tuple[Tree | Infinity, bool]


class _WrongWay(ValueError):
    """An interval ends before it begins."""


def is_interval(node: Node) -> bool:
    """Whether a node is written as an interval; it may also be a pair."""
    return isinstance(node, Group) and len(node.items) == 2 and node.kind in ("()", "(]", "[)", "[]")


def is_set_of_reals(node: Node) -> bool:
    """Whether a node can only be a set of reals, or a condition for one."""
    if isinstance(node, Union | Intersection | Difference | SetOf):
        return True
    if isinstance(node, Relation):
        return not node.is_equation
    if not isinstance(node, Group):
        return False
    if node.kind == "list":
        items = [item for item in _conditions_of(node) if isinstance(item, Relation)]
        return len(items) == len(node.items) and not all(item.is_equation for item in items)
    one_kind = node.kind in ("(]", "[)") or any(isinstance(item, Infinity) for item in node.items)
    return is_interval(node) and one_kind


class _Line:
    """The real line, cut at some constants.

    Args:
        points: the constants, in any order, perhaps repeated.

    Attributes:
        size: the number of cells.
        claims: unproven equalities of points, which the cells assume.

    Raises:
        NotASet: if one of them is not a real constant.
    """

    def __init__(self, points: list[Tree]) -> None:
        self.claims: list[Truth] = []
        self.points: list[Tree] = []
        sizes: dict[Tree, Fraction] = {}
        for point in points:
            size = real_value(point)
            if size is None:
                raise NotASet("an end that is not a real number")
            sizes[point] = size
        self._index: dict[Tree, int] = {}
        for point in sorted(sizes, key=sizes.__getitem__):
            truth = same(self.points[-1], point) if self.points else False
            if truth is False:
                self.points.append(point)
            elif truth is not True:
                self.claims.append(truth)
            self._index[point] = len(self.points) - 1
        self.size = 2 * len(self.points) + 1
        self._sizes = [sizes[point] for point in self.points]

    def interval(self, low: End, high: End) -> Cells:
        """Return an interval. Raises _WrongWay for one that ends before it begins."""
        for (end, closed), sign in ((low, -1), (high, 1)):
            if isinstance(end, Infinity) and (end.sign != sign or closed):
                raise _WrongWay
        first = 0 if isinstance(low[0], Infinity) else 2 * self._index[low[0]] + (1 if low[1] else 2)
        last = self.size - 1
        if not isinstance(high[0], Infinity):
            last = 2 * self._index[high[0]] + (1 if high[1] else 0)
        if first > last:
            raise _WrongWay
        return tuple(first <= cell <= last for cell in range(self.size))

    def finite(self, points: list[Tree]) -> Cells:
        """Return a set of points."""
        cells = {2 * self._index[point] + 1 for point in points}
        return tuple(cell in cells for cell in range(self.size))

    def inside(self, gap: int) -> Fraction:
        """Return a number in a gap."""
        if not self._sizes:
            return Fraction(1, 3)
        below = self._sizes[gap - 1] if gap else self._sizes[0] - 2
        above = self._sizes[gap] if gap < len(self._sizes) else self._sizes[-1] + 2
        return (below + above) / 2


@dataclass(frozen=True, slots=True)
class _Set:
    """A set: the letter of its condition, the points where it may change, and its cells on a line of them."""

    name: str | None
    points: list[Tree]
    cells: Callable[[_Line], Cells]


def compare_sets(gold: Node, answer: Node) -> Truth | None:
    """Whether two nodes are the same set of reals; None where either is not a set of reals."""
    try:
        first, second = _read(gold), _read(answer)
        if first.name and second.name and first.name != second.name:
            return False
        line = _Line([*first.points, *second.points])
        return every(line.claims) if first.cells(line) == second.cells(line) else False
    except _WrongWay:
        return None
    except NotASet:
        # The ends of two intervals may hold letters.
        left, right = _ends(gold), _ends(answer)
        return None if left is None or right is None else every(map(_same_end, left, right))


def _same_end(gold: End, answer: End) -> Truth:
    if gold[1] != answer[1]:
        return False
    if isinstance(gold[0], Infinity) or isinstance(answer[0], Infinity):
        return gold[0] == answer[0]
    return same(gold[0], answer[0])


def _ends(node: Node) -> tuple[End, End] | None:
    """Return the ends of an interval, or of a chain of two inequalities; None for other nodes."""
    if isinstance(node, Group) and is_interval(node):
        sides, closed = node.items, [bracket in "[]" for bracket in node.kind]
    elif isinstance(node, Relation) and len(node.sides) == 3 and node.names[1]:
        sides, closed = node.sides[::2], ["=" in op for op in node.ops]
        if set(node.ops) <= {">", ">="}:
            sides, closed = sides[::-1], closed[::-1]
        elif not set(node.ops) <= {"<", "<="}:
            return None
    else:
        return None
    values = [
        side.tree if isinstance(side, Expr) else side for side in sides if isinstance(side, Expr | Infinity)
    ]
    return ((values[0], closed[0]), (values[1], closed[1])) if len(values) == 2 else None


def _read(node: Node) -> _Set:
    """Read a node as a set of reals. Raises NotASet for other nodes."""
    match node:
        case Union():
            return _combined(node.parts, any)
        case Intersection():
            return _combined(node.parts, all)
        case Difference():
            return _combined((node.whole, node.removed), lambda cells: cells[0] and not cells[1])
        case SetOf():
            solutions = _combined(
                (node.condition,) if node.domain is None else (node.domain, node.condition), all
            )
            if solutions.name in (None, node.name):
                return replace(solutions, name=None)
        case Relation(ops=("in",) | ("not in",)):
            inner = _read(node.sides[1])
            if node.names[0] and not inner.name:
                if node.ops == ("in",):
                    return replace(inner, name=node.names[0])
                return _Set(
                    node.names[0], inner.points, lambda line: tuple(not cell for cell in inner.cells(line))
                )
        case Relation():
            return _solutions(node)
        case Group(kind="list"):
            return _joined(node)
        case Group(kind="{}"):
            points = [item.tree for item in node.items if isinstance(item, Expr)]
            if len(points) == len(node.items):
                return _Set(None, points, lambda line: line.finite(points))
        case Group():
            ends = _ends(node)
            if ends is not None:
                low, high = ends
                points = [end for end, _ in ends if not isinstance(end, Infinity)]
                return _Set(None, points, lambda line: line.interval(low, high))
    raise NotASet(f"a {type(node).__name__}")


def _combined(parts: tuple[Node, ...], join: Callable[[tuple[bool, ...]], bool]) -> _Set:
    sets = [_read(part) for part in parts]
    names = {part.name for part in sets if part.name}
    if len(names) > 1:
        raise NotASet("conditions for several letters")
    return _Set(
        names.pop() if names else None,
        [point for part in sets for point in part.points],
        lambda line: tuple(map(join, zip(*(part.cells(line) for part in sets), strict=True))),
    )


def _solutions(relation: Relation) -> _Set:
    name, parts = conditions(relation)

    def cells(line: _Line) -> Cells:
        return tuple(
            all(part.holds_at(line.points[cell // 2]) for part in parts)
            if cell % 2
            else all(part.holds_between(line.inside(cell // 2)) for part in parts)
            for cell in range(line.size)
        )

    return _Set(name, [root for part in parts for root in part.roots()], cells)


def _joined(group: Group) -> _Set:
    parts = tuple(_conditions_of(group))
    either, both = _combined(parts, any), _combined(parts, all)
    # After "and", conditions hold together; intervals one after the other are a union.
    if group.connective == "or" or (group.connective == "and" and not both.name):
        return either
    if group.connective == "and":
        return both

    def cells(line: _Line) -> Cells:
        together = both.cells(line)
        return together if any(together) else either.cells(line)

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
