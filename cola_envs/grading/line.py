"""Sets of reals as truth values on the pieces of the real line, cut at a few points.

With n points in order, a set that changes only at them is 2n + 1 truth values: of the gap before the first
point, the first point, the gap behind it, and so on. Union, intersection and complement work piece by piece.
"""

from __future__ import annotations

from fractions import Fraction

from cola_envs.grading.conditions import Condition
from cola_envs.grading.evaluate import real_value
from cola_envs.grading.nodes import Infinity, Tree
from cola_envs.grading.proof import same
from cola_envs.grading.verdicts import Claim, Every, Some

Cells = tuple[bool, ...]
#: One end of an interval: the value's tree or an infinity, and whether the end belongs to the set.
End = tuple[Tree | Infinity, bool]


class NotReal(ValueError):
    """A point is no real constant."""


class Line:
    """The line cut at some constants.

    Args:
        points: the constants, in any order, perhaps repeated.

    Attributes:
        claims: unproven equalities of points, which the cells assume.

    Raises:
        NotReal: if one of them is not a real constant.
    """

    def __init__(self, points: list[Tree]) -> None:
        self.claims: list[Claim | Every | Some] = []
        self.points: list[Tree] = []
        sizes: dict[Tree, Fraction] = {}
        for point in points:
            size = real_value(point)
            if size is None:
                raise NotReal("an end that is no real number")
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

    def interval(self, low: End, high: End) -> Cells | None:
        """Return an interval; None for one that ends before it begins."""
        first = 0 if isinstance(low[0], Infinity) else 2 * self._index[low[0]] + (1 if low[1] else 2)
        last = (
            self.size - 1
            if isinstance(high[0], Infinity)
            else 2 * self._index[high[0]] + (1 if high[1] else 0)
        )
        wrong_way = any(
            isinstance(end, Infinity) and (end.sign != sign or closed)
            for (end, closed), sign in ((low, -1), (high, 1))
        )
        if wrong_way or first > last:
            return None
        return tuple(first <= cell <= last for cell in range(self.size))

    def among(self, points: list[Tree]) -> Cells:
        """Return a set of points."""
        cells = {2 * self._index[point] + 1 for point in points}
        return tuple(cell in cells for cell in range(self.size))

    def where(self, condition: Condition) -> Cells:
        """Return the set where a condition holds, all of whose roots are points."""
        return tuple(
            condition.holds_at(self.points[cell // 2])
            if cell % 2
            else condition.holds_between(self._inside(cell // 2))
            for cell in range(self.size)
        )

    def _inside(self, gap: int) -> Fraction:
        """Return a number in a gap."""
        if not self._sizes:
            return Fraction(1, 3)
        if gap == 0:
            return self._sizes[0] - 1
        if gap == len(self._sizes):
            return self._sizes[-1] + 1
        return (self._sizes[gap - 1] + self._sizes[gap]) / 2
