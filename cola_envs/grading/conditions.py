"""Equations and inequalities in one unknown: their roots, and whether they hold at a number.

The roots are known where the difference of the sides is linear or quadratic in the unknown, after each
absolute value is read with either sign. An equal normal form proves the degree, so that no root is missed.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from fractions import Fraction

from cola_envs.grading.evaluate import LAST_BITS, TooBig, Undefined, Unevaluable, real_value, value_of
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


class NotASet(ValueError):
    """An answer is not a set of reals, or not one that can be computed."""


@dataclass(frozen=True, slots=True)
class Condition:
    """``tree op 0`` in one unknown."""

    tree: Tree
    op: str
    unknown: str

    def roots(self) -> list[Tree]:
        """Return constants that include all roots. Raises NotASet where the roots are unknown."""
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


def conditions(relation: Relation) -> tuple[str, list[Condition]]:
    """Return a chain's unknown and its conditions, all of which must hold.

    Raises:
        NotASet: for a relation of several letters or none, or of other things than expressions.
    """
    sides: list[Tree | Infinity] = []
    for side, name in zip(relation.sides, relation.names, strict=True):
        if not isinstance(side, Infinity | Expr):
            raise NotASet("a relation of other things than expressions")
        if isinstance(side, Infinity):
            sides.append(side)
        else:  # 0 < f(x) < 1: the unknown is f(x)
            image = name and re.fullmatch(r"[A-Za-z]\([A-Za-z]\)", name)
            sides.append(("v", name) if image else side.tree)
    unknown = frozenset[str]().union(*(variables(side) for side in sides if not isinstance(side, Infinity)))
    if len(unknown) != 1 or not set(relation.ops) <= set(_HOLDS):
        raise NotASet("a relation without a single unknown")
    (name,) = unknown
    parts = []
    for left, op, right in zip(sides, relation.ops, sides[1:], strict=False):
        if isinstance(left, Infinity) or isinstance(right, Infinity):
            signs = [-left.sign] if isinstance(left, Infinity) else []
            signs += [right.sign] if isinstance(right, Infinity) else []
            if signs != [{"<": 1, ">": -1}.get(op)]:
                raise NotASet("a comparison with infinity that does not hold for every number")
        else:
            both = op == "!=" and has_plus_minus(right)
            values = [with_sign(right, sign) for sign in (1, -1)] if both else [right]
            parts += [Condition(("+", left, ("neg", value)), op, name) for value in values]
    return name, parts


def _roots(tree: Tree, name: str) -> list[Tree]:
    absolute = _absolute_values(tree, name)
    if not absolute:
        return _polynomial_roots(tree, name)
    inner = absolute[0][2]
    if len(set(absolute)) > _MOST_ABSOLUTE_VALUES or _absolute_values(inner, name):
        raise NotASet("too many absolute values")
    roots = _polynomial_roots(inner, name)
    for signed in (inner, ("neg", inner)):
        roots = [*roots, *_roots(_replaced(tree, absolute[0], signed), name)]
    return roots


def _absolute_values(tree: Tree, name: str) -> list[Tree]:
    return [part for part in subtrees(tree) if part[:2] == ("f", "abs") and name in variables(part)]


def _replaced(tree: Tree, old: Tree, new: Tree) -> Tree:
    return new if tree == old else rebuilt(tree, lambda part: _replaced(part, old, new))


def _polynomial_roots(tree: Tree, name: str) -> list[Tree]:
    """Return the real roots of a function that is at most quadratic. Raises NotASet for others."""
    if name not in variables(tree):
        return []
    # The normal form of x / x does not show where it is undefined.
    if name in sign_sensitive(tree) or any(
        part[0] == "/" and name in variables(part[2]) for part in subtrees(tree)
    ):
        raise NotASet("not a polynomial")
    c, up, down = (substituted(tree, name, number(value)) for value in (0, 1, -1))
    half: Tree = ("n", Fraction(1, 2))
    a: Tree = ("+", ("*", half, ("+", up, down)), ("neg", c))
    b: Tree = ("*", half, ("+", up, ("neg", down)))
    unknown: Tree = ("v", name)
    quadratic: Tree = ("+", ("+", ("*", a, ("^", unknown, number(2))), ("*", b, unknown)), c)
    try:
        if not proves_equal(tree, quadratic) or any(real_value(part) is None for part in (a, b, c)):
            raise NotASet("not a quadratic polynomial")
        if same(a, number(0)) is True:
            return [] if same(b, number(0)) is True else [("neg", ("/", c, b))]
        discriminant: Tree = ("+", ("^", b, number(2)), ("neg", ("*", number(4), ("*", a, c))))
        size = real_value(discriminant)
    except (Undefined, Unevaluable, TooBig) as error:
        raise NotASet("a coefficient without a value") from error
    if size is None:
        raise NotASet("a discriminant without a value")
    twice: Tree = ("*", number(2), a)
    if same(discriminant, number(0)) is True:
        return [("/", ("neg", b), twice)]
    root: Tree = ("^", discriminant, half)
    return [] if size < 0 else [("/", ("+", ("neg", b), signed), twice) for signed in (root, ("neg", root))]
