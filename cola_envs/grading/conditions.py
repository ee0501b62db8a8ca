"""Equations and inequalities in one unknown: their roots, and whether they hold at a number.

The roots are known where the difference of the sides is linear or quadratic in the unknown, after each
absolute value is read with either sign. An equal normal form proves the degree, so that no root is missed.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from fractions import Fraction

from cola_envs.grading.evaluate import (
    LAST_BITS,
    TooBig,
    Undefined,
    Unevaluable,
    real_value,
    value_of,
)
from cola_envs.grading.nodes import Expr, Infinity, Relation, Tree
from cola_envs.grading.normal import proves_equal
from cola_envs.grading.proof import same
from cola_envs.grading.trees import (
    has_plus_minus,
    number,
    rebuilt,
    sign_sensitive,
    substituted,
    subtrees,
    variables,
    with_sign,
)

FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_HOLDS = {
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge, "=": operator.eq,
    "!=": operator.ne,
}  # fmt: skip
_MOST_ABSOLUTE_VALUES = 3


@dataclass(frozen=True, slots=True)
class Condition:
    """``tree op 0`` in one unknown."""

    tree: Tree
    op: str
    unknown: str

    def candidates(self) -> list[Tree] | None:
        """Return constants that include all roots; None where the roots are unknown."""
        return _roots(self.tree, self.unknown)

    def holds_at(self, value: Tree) -> bool:
        """Whether it holds at a constant, which may be a root."""
        at = substituted(self.tree, self.unknown, value)
        if same(at, number(0)) is True:
            return "=" in self.op and self.op != "!="
        size = real_value(at)
        return size is not None and bool(_HOLDS[self.op](size, 0))

    def holds_between(self, value: Fraction) -> bool:
        """Whether it holds at a number that is not a root."""
        try:
            size = value_of(self.tree, {self.unknown: value}, True, LAST_BITS)
        except Undefined:
            return False
        return bool(_HOLDS[self.op](size, 0))


def conditions(relation: Relation) -> tuple[str, list[Condition]] | None:
    """Return a chain's unknown and its conditions, all of which must hold; None without a single unknown."""
    sides: list[Tree | Infinity] = []
    for side, name in zip(relation.sides, relation.names, strict=True):
        if isinstance(side, Infinity):
            sides.append(side)
        elif not isinstance(side, Expr):
            return None
        else:
            # 0 < f(x) < 1: the unknown is f(x).
            sides.append(("v", name) if name and _IMAGE.fullmatch(name) else side.tree)
    unknown = frozenset[str]().union(*(variables(side) for side in sides if not isinstance(side, Infinity)))
    if len(unknown) != 1 or not set(relation.ops) <= set(_HOLDS):
        return None
    (name,) = unknown
    parts = []
    for left, op, right in zip(sides, relation.ops, sides[1:], strict=False):
        if isinstance(left, Infinity) or isinstance(right, Infinity):
            if not _always_holds(left, op, right):
                return None
        else:
            values = (
                (with_sign(right, 1), with_sign(right, -1))
                if op == "!=" and has_plus_minus(right)
                else (right,)
            )
            parts += [Condition(("+", left, ("neg", value)), op, name) for value in values]
    return name, parts


_IMAGE = re.compile(r"[A-Za-z]\([A-Za-z]\)")


def _always_holds(left: Tree | Infinity, op: str, right: Tree | Infinity) -> bool:
    """Whether a comparison with an infinity holds for every number."""
    if isinstance(left, Infinity):
        return not isinstance(right, Infinity) and op in ("<", ">") and (left.sign < 0) == (op == "<")
    return isinstance(right, Infinity) and op in ("<", ">") and (right.sign > 0) == (op == "<")


def _roots(tree: Tree, name: str) -> list[Tree] | None:
    absolute = _absolute_values(tree, name)
    if len(set(absolute)) > _MOST_ABSOLUTE_VALUES:
        return None
    if not absolute:
        return _polynomial_roots(tree, name)
    inner = absolute[0][2]
    roots = _polynomial_roots(inner, name) if not _absolute_values(inner, name) else None
    for signed in (inner, ("neg", inner)):
        more = None if roots is None else _roots(_replaced(tree, absolute[0], signed), name)
        if roots is None or more is None:
            return None
        roots = [*roots, *more]
    return roots


def _absolute_values(tree: Tree, name: str) -> list[Tree]:
    return [part for part in subtrees(tree) if part[:2] == ("f", "abs") and name in variables(part)]


def _replaced(tree: Tree, old: Tree, new: Tree) -> Tree:
    return new if tree == old else rebuilt(tree, lambda part: _replaced(part, old, new))


def _polynomial_roots(tree: Tree, name: str) -> list[Tree] | None:
    """Return the real roots of a function that is at most quadratic; None for others."""
    if name not in variables(tree):
        return []
    if name in sign_sensitive(tree) or any(
        part[0] == "/" and name in variables(part[2]) for part in subtrees(tree)
    ):
        return None  # the normal form of x / x does not show where it is undefined

    def at(value: int) -> Tree:
        return substituted(tree, name, number(value))

    unknown: Tree = ("v", name)
    c, up, down = at(0), at(1), at(-1)
    half: Tree = ("n", Fraction(1, 2))
    a: Tree = ("+", ("*", half, ("+", up, down)), ("neg", c))
    b: Tree = ("*", half, ("+", up, ("neg", down)))
    rebuilt: Tree = ("+", ("+", ("*", a, ("^", unknown, number(2))), ("*", b, unknown)), c)
    try:
        if not proves_equal(tree, rebuilt):
            return None
        sizes = [real_value(part) for part in (a, b, c)]
        if any(size is None for size in sizes):
            return None
        if same(a, number(0)) is True:
            return [] if same(b, number(0)) is True else [("neg", ("/", c, b))]
        discriminant: Tree = ("+", ("^", b, number(2)), ("neg", ("*", number(4), ("*", a, c))))
        size = real_value(discriminant)
    except (Undefined, Unevaluable, TooBig):
        return None
    if size is None:
        return None
    if same(discriminant, number(0)) is True:
        return [("/", ("neg", b), ("*", number(2), a))]
    if size < 0:
        return []
    root: Tree = ("^", discriminant, half)
    return [("/", ("+", ("neg", b), signed), ("*", number(2), a)) for signed in (root, ("neg", root))]
