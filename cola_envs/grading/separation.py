r"""Lower bounds on the size of an algebraic constant that is not zero (root separation bounds).

The bound is that of Burnikel, Funke, Mehlhorn, Schirra and Schmitt (2001). Every constant built from whole
numbers by sums, products, quotients and roots is U / L for algebraic integers U and L of a field of degree at
most D, the product of the roots' degrees. With u and l bounds on the conjugates of U and L, a U that is not
zero has a norm of at least 1, so the constant is 0 or at least 1 / (u^(D-1) l) in size. Sines and cosines of
rational parts of pi are half sums of roots of unity. So evaluating the constant to that many bits decides
whether it is zero.

An equation of inverse trigonometric functions, ``\arctan \frac12 + \arctan \frac13 = \frac{\pi}{4}``, is
decided in the same way (:func:`turn_of`). Such a sum A of algebraic numbers has an algebraic e^{iA}, in which
every inverse function is a root: ``e^{i \arctan r} = (1 + ir) / \sqrt{1 + r^2}``. A is 0 exactly where e^{iA}
is 1 and A is less than a turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm, log2

from cola_envs.grading.nodes import Tree
from cola_envs.grading.trees import PI, TRIGONOMETRIC, combination, number, rational

#: The largest number of bits for which an evaluation is worth its time.
MOST_BITS = 12_000


class NotAlgebraic(ValueError):
    """The constant is outside the form that the bound covers."""


#: The key among the radicals for the order of a root of unity that generates all others.
_UNITY = "unity"


@dataclass(frozen=True, slots=True)
class _Size:
    """Base-2 logarithms of bounds on the conjugates of numerator and denominator."""

    above: float
    below: float


def bits_to_zero(tree: Tree) -> int | None:
    """Return the bits at which a constant that is not zero shows it; None where unknown or too many."""
    radicals: dict[object, int] = {}
    try:
        size = _size(tree, radicals)
    except (NotAlgebraic, OverflowError):
        return None
    order = radicals.pop(_UNITY, 1)
    degree = sum(gcd(k, order) == 1 for k in range(1, order + 1))  # the totient of the order
    for radical in radicals.values():
        degree *= radical
        if degree > MOST_BITS:
            return None
    bits = (degree - 1) * max(size.above, 0.0) + max(size.below, 0.0)
    return None if bits > MOST_BITS else int(bits) + 2


def _size(tree: Tree, radicals: dict[object, int]) -> _Size:
    kind = tree[0]
    if kind == "n":
        return _Size(log2(max(1, abs(tree[1].numerator))), log2(tree[1].denominator))
    if kind == "c" and tree[1] == "i":
        _add_root_of_unity(radicals, 4)
        return _Size(0.0, 0.0)
    if kind in ("neg", "deg"):
        return _size(tree[1], radicals)
    if kind == "+":
        a, b = _size(tree[1], radicals), _size(tree[2], radicals)
        return _Size(1 + max(a.above + b.below, b.above + a.below), a.below + b.below)
    if kind in "*/":
        a, b = _size(tree[1], radicals), _size(tree[2], radicals)
        if kind == "/":
            b = _Size(b.below, b.above)
        return _Size(a.above + b.above, a.below + b.below)
    if kind == "^":
        return _power(tree, radicals)
    if kind == "f" and tree[1] in TRIGONOMETRIC:
        return _trigonometric(tree, radicals)
    raise NotAlgebraic(kind)


def _power(tree: Tree, radicals: dict[object, int]) -> _Size:
    exponent = rational(tree[2])
    base = _size(tree[1], radicals)
    if exponent is None:
        raise NotAlgebraic("exponent")
    if exponent < 0:
        base, exponent = _Size(base.below, base.above), -exponent
    degree = exponent.denominator
    if degree > 1:
        radicals[tree[1], degree] = degree
        # The root of U / L is the root of U L^(k-1) over L, or U over the root of U^(k-1) L.
        if base.above >= base.below:
            base = _Size((base.above + (degree - 1) * base.below) / degree, base.below)
        else:
            base = _Size(base.above, ((degree - 1) * base.above + base.below) / degree)
    return _Size(base.above * exponent.numerator, base.below * exponent.numerator)


def _trigonometric(tree: Tree, radicals: dict[object, int]) -> _Size:
    turns = _half_turns(tree[2])
    if turns is None:
        raise NotAlgebraic("angle")
    _add_root_of_unity(radicals, lcm(4, 2 * turns.denominator))  # with i, for the sine
    bound = 2.0 if tree[1] in ("tan", "cot") else 1.0
    return _Size(bound, bound)


def _add_root_of_unity(radicals: dict[object, int], order: int) -> None:
    radicals[_UNITY] = lcm(radicals.get(_UNITY, 1), order)
    if radicals[_UNITY] > MOST_BITS:
        raise NotAlgebraic("a root of unity of high order")


def _half_turns(tree: Tree) -> Fraction | None:
    """Return an angle over pi where that is rational."""
    terms = combination(tree, lambda part: part == PI or part[0] == "deg")
    total = Fraction(0)
    for term, factor in terms or ():
        angle = Fraction(1) if term == PI else rational(("/", term[1], number(180)))
        if angle is None:
            return None
        total += angle * factor
    return None if terms is None else total


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
