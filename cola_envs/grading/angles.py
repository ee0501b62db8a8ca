r"""Prove equations of inverse trigonometric functions: ``\arctan \frac12 + \arctan \frac13 = \frac{\pi}{4}``.

Such a sum A of algebraic numbers has an algebraic e^{iA}, in which every inverse function is a root:
``e^{i \arctan r} = (1 + ir) / \sqrt{1 + r^2}``. A is 0 exactly where e^{iA} is 1 and A is less than a turn.
"""

from __future__ import annotations

from fractions import Fraction
from math import lcm

from cola_envs.grading.nodes import Tree
from cola_envs.grading.trees import PI, combination, number

_INVERSE_FUNCTIONS = ("arcsin", "arccos", "arctan")


def turn_of(tree: Tree) -> tuple[Tree, int] | None:
    """Return e^{idA} for an angle A, and the d that makes it one of roots; None for other expressions."""
    terms = combination(
        tree, lambda part: part == PI or part[:2] in [("f", name) for name in _INVERSE_FUNCTIONS]
    )
    if terms is None or all(angle == PI for angle, _ in terms):
        return None
    scale = lcm(*(factor.denominator for _, factor in terms))
    product = number(1)
    for angle, factor in terms:
        turn = number(-1) if angle == PI else _turn(angle[1], angle[2])
        product = ("*", product, ("^", turn, ("n", factor * scale)))
    return product, scale


def _turn(name: str, r: Tree) -> Tree:
    """Return e^{iA} for the inverse of a trigonometric function at r."""
    imaginary: Tree = ("*", ("c", "i"), r)
    square: Tree = ("^", r, number(2))
    half: Tree = ("n", Fraction(1, 2))
    if name == "arctan":
        return ("/", ("+", number(1), imaginary), ("^", ("+", number(1), square), half))
    other: Tree = ("^", ("+", number(1), ("neg", square)), half)
    return ("+", other, imaginary) if name == "arcsin" else ("+", r, ("*", ("c", "i"), other))
