r"""Prove equations of inverse trigonometric functions: ``\arctan \frac12 + \arctan \frac13 = \frac{\pi}{4}``.

Such a sum A of algebraic numbers has an algebraic e^{iA}, in which every inverse function is a root:
``e^{i \arctan r} = (1 + ir) / \sqrt{1 + r^2}``. A is 0 exactly where e^{iA} is 1 and A is less than a turn.
"""

from __future__ import annotations

from fractions import Fraction
from math import lcm

from cola_envs.grading.nodes import Tree
from cola_envs.grading.separation import rational
from cola_envs.grading.trees import number

#: Angles in a sum: of each, e^{iB} and the factor before B.
Terms = list[tuple[Tree, Fraction]]

_I: Tree = ("c", "i")
_HALF: Tree = ("n", Fraction(1, 2))


def turn_of(tree: Tree) -> tuple[Tree, int] | None:
    """Return e^{idA} for an angle A, and the d that makes it one of roots; None for other expressions."""
    terms = _terms(tree)
    if terms is None or all(turn == number(-1) for turn, _ in terms):
        return None
    scale = lcm(*(factor.denominator for _, factor in terms))
    product = number(1)
    for turn, factor in terms:
        product = ("*", product, ("^", turn, ("n", factor * scale)))
    return product, scale


def _terms(tree: Tree) -> Terms | None:
    """Return the angles in a sum of them."""
    if tree == ("c", "pi"):
        return [(number(-1), Fraction(1))]
    if tree[0] == "f" and tree[1] in _TURNS:
        return [(_TURNS[tree[1]](tree[2]), Fraction(1))]
    if tree[0] == "neg":
        return _scaled(_terms(tree[1]), Fraction(-1))
    if tree[0] == "+":
        first, second = _terms(tree[1]), _terms(tree[2])
        return None if first is None or second is None else [*first, *second]
    if tree[0] == "*":
        for angle, factor in ((tree[1], tree[2]), (tree[2], tree[1])):
            value = rational(factor)
            if value is not None:
                return _scaled(_terms(angle), value)
    if tree[0] == "/":
        value = rational(tree[2])
        return _scaled(_terms(tree[1]), 1 / value) if value else None
    return [] if rational(tree) == 0 else None


def _scaled(terms: Terms | None, factor: Fraction) -> Terms | None:
    return None if terms is None else [(turn, value * factor) for turn, value in terms]


def _root(tree: Tree) -> Tree:
    return ("^", tree, _HALF)


def _square(tree: Tree) -> Tree:
    return ("^", tree, number(2))


def _of_tangent(r: Tree) -> Tree:
    return ("/", ("+", number(1), ("*", _I, r)), _root(("+", number(1), _square(r))))


def _of_sine(r: Tree) -> Tree:
    return ("+", _root(("+", number(1), ("neg", _square(r)))), ("*", _I, r))


def _of_cosine(r: Tree) -> Tree:
    return ("+", r, ("*", _I, _root(("+", number(1), ("neg", _square(r))))))


_TURNS = {"arctan": _of_tangent, "arcsin": _of_sine, "arccos": _of_cosine}
