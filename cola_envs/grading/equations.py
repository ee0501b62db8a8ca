"""Compare equations, and inequalities that are not solved for one unknown."""

from __future__ import annotations

from collections.abc import Callable

from cola_envs.grading.conditions import FLIPPED
from cola_envs.grading.nodes import Expr, Node, Relation, Tree
from cola_envs.grading.proof import proportional
from cola_envs.grading.trees import variables
from cola_envs.grading.verdicts import Truth, every, some

#: Compares two trees (:func:`cola_envs.grading.compare.equal`).
Equal = Callable[[Node, Node], Truth]


def asked_value(relation: Relation, equal: Equal, wide: bool) -> tuple[Node, Truth] | None:
    """Return the value in ``name = value`` (or ``value = name``, ``a = b = value``), and whether it holds.

    ``wide`` allows a compound name such as ``a + b``: an answer may repeat the expression in question, but
    a gold answer ``x + y = 1`` is an equation, for which None is returned.
    """
    names = [name if name and (wide or _is_simple(name)) else None for name in relation.names]
    values = [side for side, name in zip(relation.sides, names, strict=True) if not name]
    if not values:
        return (relation.sides[-1], True) if len(relation.sides) == 2 else None
    if len(values) == len(relation.sides) and not all(
        isinstance(value, Expr) and not variables(value.tree) for value in values
    ):
        return None
    if len(relation.sides) == 2 and names[0]:
        return relation.sides[1], True
    # Several values must be equal: 1 = 2 = 3 has no value.
    return values[-1], every(equal(values[-1], value) for value in values[:-1])


def _is_simple(name: str) -> bool:
    return not any(sign in name.split("(")[0] for sign in "+-*/^") or name.startswith("(")


def equations(gold: Relation, answer: Relation, equal: Equal) -> Truth:
    """Whether two equations are equivalent: equal values of one name, or constant multiples of each other."""
    if len(gold.sides) == len(answer.sides) == 2:
        named = some(
            equal(gold.sides[1 - g], answer.sides[1 - a])
            for g, a in ((0, 0), (0, 1), (1, 0), (1, 1))
            if gold.names[g] and gold.names[g] == answer.names[a]
        )
        differences = _difference(gold), _difference(answer)
        if named is True or differences[0] is None or differences[1] is None:
            return named
        return some([named, proportional(differences[0], differences[1])[0]])
    values = asked_value(gold, equal, wide=False), asked_value(answer, equal, wide=True)
    if values[0] is None or values[1] is None or gold.names[0] != answer.names[0]:
        return len(gold.sides) == len(answer.sides) and every(map(equal, gold.sides, answer.sides))
    return every([values[0][1], values[1][1], equal(values[0][0], values[1][0])])


def _difference(relation: Relation) -> Tree | None:
    left, right = relation.sides[0], relation.sides[1]
    if not isinstance(left, Expr) or not isinstance(right, Expr):
        return None
    return ("+", left.tree, ("neg", right.tree))


def inequalities(gold: Relation, answer: Relation, equal: Equal) -> Truth:
    """Whether two inequalities, or chains of them, are equivalent as written, in any number of letters."""
    if len(gold.ops) != len(answer.ops):
        return False
    if len(gold.ops) == 1:
        left, right = _difference(gold), _difference(answer)
        if left is None or right is None:
            return gold.ops == answer.ops and every(map(equal, gold.sides, answer.sides))
        truth, sign = proportional(left, right)
        op = answer.ops[0] if sign > 0 else FLIPPED.get(answer.ops[0], answer.ops[0])
        return truth if gold.ops[0] == op else False
    if all(FLIPPED.get(op) == other for op, other in zip(gold.ops, reversed(answer.ops), strict=True)):
        return every(map(equal, gold.sides, answer.sides[::-1]))
    return gold.ops == answer.ops and every(map(equal, gold.sides, answer.sides))
