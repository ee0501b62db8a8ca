r"""Compare products of matrices, which do not commute.

Capitals commute: for lengths ``AB`` is ``BA``. They do not where one of them has the notation of a matrix
(``A^T``, or, beside another capital, ``A^{-1}``) or where one side has both orders (``AB - BA``).
Then two answers are equal only as polynomials in letters that do not commute, by
``(AB)^{-1} = B^{-1} A^{-1}``, ``(AB)^T = B^T A^T`` and ``A A^{-1} = I``; expressions without such a form are
unequal. In a gold answer that divides by a capital the capitals are numbers: ``PV/T`` is ``PVT^{-1}``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from cola_envs.grading.nodes import Expr, Node, Relation, Tree
from cola_envs.grading.trees import number, operands, parts, subtrees, terms

_CAPITAL = re.compile(r"[A-Z](?:_\w+)?")
_TRANSPOSE: Tree = ("v", "T")
#: Highest power that is multiplied out.
_HIGHEST = 6


@dataclass(frozen=True, slots=True)
class _Factor:
    letter: str
    transposed: bool = False
    inverse: bool = False


#: Powers of the letters that commute, and the capitals in order.
_Word = tuple[tuple[tuple[str, int], ...], tuple[_Factor, ...]]
_Sum = dict[_Word, Fraction]


class _NoForm(ValueError):
    """The expression is not a polynomial in capitals and their inverses."""


def same_in_order(gold: Node, answer: Node) -> bool | None:
    """Whether two answers are equal although their capitals do not commute; None where these commute."""
    trees: list[Tree] = []
    for node in (gold, answer):
        if isinstance(node, Relation) and node.is_equation:
            node = node.sides[-1]
        if not isinstance(node, Expr):
            return None
        trees.append(node.tree)
    several = len({letter for tree in trees for letter in _capitals(tree)}) > 1
    divides = any(part[0] == "/" and any(_capitals(part[2])) for part in subtrees(trees[0]))
    as_matrices = not divides and any(_as_matrices(tree, several) for tree in trees)
    if not as_matrices and not any(_mixes_orders(part) for tree in trees for part in subtrees(tree)):
        return None
    try:
        return _form(trees[0]) == _form(trees[1])
    except _NoForm:
        return False


def _is_capital(tree: Tree) -> bool:
    return tree[0] == "v" and _CAPITAL.fullmatch(tree[1]) is not None


def _capitals(tree: Tree) -> Iterator[str]:
    """Yield the capitals that stand for matrices, if any do: not those in exponents."""
    if _is_capital(tree):
        yield tree[1]
    for part in (tree[1],) if tree[0] == "^" else parts(tree):
        yield from _capitals(part)


def _made_of_capitals(tree: Tree) -> bool:
    """Whether a tree is a capital, or a sum or product of them, perhaps times numbers."""
    if tree[0] == "*":
        return _made_of_capitals(tree[2]) and (tree[1][0] == "n" or _made_of_capitals(tree[1]))
    if tree[0] == "^":
        return _made_of_capitals(tree[1])
    return _is_capital(tree) or (tree[0] in ("+", "neg") and all(map(_made_of_capitals, parts(tree))))


def _as_matrices(tree: Tree, several: bool) -> bool:
    """Whether a capital is transposed or, beside others, inverted: one alone commutes with its inverse."""
    return any(
        part[0] == "^"
        and (part[2] == _TRANSPOSE or (several and part[2][0] == "neg" and part[2][1][0] == "n"))
        and _made_of_capitals(part[1])
        for part in subtrees(tree)
    )


def _mixes_orders(tree: Tree) -> bool:
    """Whether a tree is a sum of which two terms have the same capitals in different orders."""
    if tree[0] != "+":
        return False
    factors = [operands(term, ("*",)) for term in terms(tree)]
    products = {tuple(part for part in product if any(_capitals(part))) for product in factors}
    return len({tuple(sorted(map(repr, product))) for product in products}) < len(products)


def _form(tree: Tree) -> _Sum:
    kind = tree[0]
    if kind == "n":
        return {((), ()): tree[1]} if tree[1] else {}
    if kind == "v":
        if _is_capital(tree):
            return {((), () if tree[1] == "I" else (_Factor(tree[1]),)): Fraction(1)}
        return {(((tree[1], 1),), ()): Fraction(1)}
    if kind == "neg":
        return _product(_form(number(-1)), _form(tree[1]))
    if kind == "+":
        total = _form(tree[1])
        for word, coefficient in _form(tree[2]).items():
            total[word] = total.get(word, Fraction(0)) + coefficient
        return {word: coefficient for word, coefficient in total.items() if coefficient}
    if kind == "*":
        return _product(_form(tree[1]), _form(tree[2]))
    if kind == "/" and tree[2][0] == "n" and tree[2][1]:
        return _product(_form(tree[1]), {((), ()): 1 / tree[2][1]})
    if kind == "^":
        return _power(_form(tree[1]), tree[2])
    raise _NoForm(kind)


def _product(a: _Sum, b: _Sum) -> _Sum:
    total: _Sum = {}
    for (scalars, left), first in a.items():
        for (others, right), second in b.items():
            powers = Counter(dict(scalars))
            powers.update(dict(others))
            word = (
                tuple(sorted((name, power) for name, power in powers.items() if power)),
                _joined(left, right),
            )
            total[word] = total.get(word, Fraction(0)) + first * second
    return {word: coefficient for word, coefficient in total.items() if coefficient}


def _joined(left: tuple[_Factor, ...], right: tuple[_Factor, ...]) -> tuple[_Factor, ...]:
    """Multiply two products; adjacent inverses cancel."""
    while left and right and left[-1] == _inverse(right[0]):
        left, right = left[:-1], right[1:]
    return left + right


def _inverse(factor: _Factor) -> _Factor:
    return replace(factor, inverse=not factor.inverse)


def _power(base: _Sum, exponent: Tree) -> _Sum:
    if exponent == _TRANSPOSE:
        return {
            (scalars, tuple(replace(f, transposed=not f.transposed) for f in reversed(word))): coefficient
            for (scalars, word), coefficient in base.items()
        }
    if exponent[0] == "neg":
        base, exponent = _inverted(base), exponent[1]
    if exponent[0] != "n" or exponent[1].denominator != 1 or exponent[1] > _HIGHEST:
        raise _NoForm("a power")
    total = _form(number(1))
    for _ in range(int(exponent[1])):
        total = _product(total, base)
    return total


def _inverted(base: _Sum) -> _Sum:
    if len(base) != 1:
        raise _NoForm("the inverse of a sum")
    (((scalars, word), coefficient),) = base.items()
    if len({factor.letter for factor in word}) < len({(f.letter, f.transposed) for f in word}):
        raise _NoForm("the inverse of X^T X, whose factors need not be square")
    powers = tuple((name, -power) for name, power in scalars)
    return {(powers, tuple(map(_inverse, reversed(word)))): 1 / coefficient}
