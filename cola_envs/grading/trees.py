"""Functions over expression trees: variables, subtrees, rational values, signs, substitution."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import product, repeat

from cola_envs.grading.nodes import Tree

#: Functions that bind their first argument, a letter, within the others.
BINDERS = ("sum", "prod", "int")
TRIGONOMETRIC = ("sin", "cos", "tan", "cot", "sec", "csc")
PI: Tree = ("c", "pi")


def number(value: int) -> Tree:
    """Return a whole number's tree."""
    return ("n", Fraction(value))


def parts(tree: Tree) -> Iterator[Tree]:
    """Yield the trees directly below a tree."""
    return (part for part in tree[1:] if isinstance(part, tuple))


@lru_cache(maxsize=8192)
def variables(tree: Tree) -> frozenset[str]:
    """Return the names of a tree's free variables."""
    if tree[0] == "v":
        return frozenset([tree[1]])
    names = frozenset[str]().union(*map(variables, parts(tree)))
    return names - {tree[2][1]} if tree[0] == "f" and tree[1] in BINDERS else names


def rebuilt(tree: Tree, function: Callable[[Tree], Tree]) -> Tree:
    """Return a tree with a function applied to each tree directly below it."""
    return tuple(function(part) if isinstance(part, tuple) else part for part in tree)


def subtrees(tree: Tree) -> Iterator[Tree]:
    """Yield a tree and all its subtrees."""
    yield tree
    for part in parts(tree):
        yield from subtrees(part)


def operands(tree: Tree, kinds: tuple[str, ...]) -> Iterator[Tree]:
    """Yield what operations of some kinds join: the terms of a sum, without their signs, or factors."""
    if tree[0] in kinds:
        for part in parts(tree):
            yield from operands(part, kinds)
    else:
        yield tree


def terms(tree: Tree) -> Iterator[Tree]:
    """Yield the terms of a sum, without their signs."""
    return operands(tree, ("+", "neg"))


def has_imaginary_unit(tree: Tree) -> bool:
    """Whether a tree holds ``i``."""
    return any(part == ("c", "i") for part in subtrees(tree))


def has_plus_minus(tree: Tree) -> bool:
    """Whether a tree stands for two values."""
    return any(part[0] in ("pm", "mp") for part in subtrees(tree))


def with_sign(tree: Tree, sign: int) -> Tree:
    """Return the tree with every plus-or-minus read as ``sign``."""
    return _with_signs(tree, repeat(sign))


def _with_signs(tree: Tree, signs: Iterator[int]) -> Tree:
    if tree[0] in ("pm", "mp"):
        sign = next(signs)
        inner = _with_signs(tree[1], signs)
        return inner if (tree[0] == "pm") == (sign > 0) else ("neg", inner)
    return rebuilt(tree, lambda part: _with_signs(part, signs))


def with_each_sign(tree: Tree) -> list[Tree]:
    """Return all readings of a tree with plus-or-minus signs; the tree alone where it has none.

    Several signs are independent (two of them give four readings), unless one is a minus-or-plus.
    """
    signs = [part[0] for part in subtrees(tree) if part[0] in ("pm", "mp")]
    if not signs:
        return [tree]
    if len(signs) == 1 or "mp" in signs:
        return [with_sign(tree, 1), with_sign(tree, -1)]
    return [_with_signs(tree, iter(choice)) for choice in product((1, -1), repeat=len(signs))]


def substituted(tree: Tree, name: str, value: Tree) -> Tree:
    """Return a tree with a value for a free variable, also where it is a subscript (``a_k``).

    Raises:
        ValueError: where the variable is part of a longer subscript (``a_{n-k}``), which is not parsed.
    """
    if tree == ("v", name):
        return value
    if tree[0] == "v" and "_" in tree[1]:
        stem, index = tree[1].split("_", 1)
        if index == name and value[0] == "n":
            return ("v", f"{stem}_{value[1]}")
        if name in re.findall(r"[A-Za-z]+", index):
            raise ValueError(f"{name} in the subscript of {tree[1]}")
        return tree
    if tree[0] == "f" and tree[1] in BINDERS and tree[2] == ("v", name):
        return tree  # a bound variable of the same name
    return rebuilt(tree, lambda part: substituted(part, name, value))


def renamed(tree: Tree, old: str, new: str) -> Tree:
    """Return a tree with another name for a letter, also within subscripts."""
    if tree in (("v", old), ("c", old)):
        return ("v", new)
    if tree[0] == "v" and "_" in tree[1]:
        stem, index = tree[1].split("_", 1)
        return ("v", stem + "_" + re.sub(rf"(?<![A-Za-z]){re.escape(old)}(?![A-Za-z])", new, index))
    return rebuilt(tree, lambda part: renamed(part, old, new))


def rational(tree: Tree) -> Fraction | None:
    """Return the value of a constant made of sums, products and quotients of numbers; None for others."""
    if tree[0] == "n":
        exact: Fraction = tree[1]
        return exact
    if tree[0] == "neg":
        return rational(("*", number(-1), tree[1]))
    if tree[0] not in ("+", "*", "/"):
        return None
    a, b = rational(tree[1]), rational(tree[2])
    if a is None or b is None or (tree[0] == "/" and b == 0):
        return None
    return a + b if tree[0] == "+" else a * b if tree[0] == "*" else a / b


def combination(tree: Tree, is_term: Callable[[Tree], bool]) -> list[tuple[Tree, Fraction]] | None:
    """Return the terms of a sum, each with its rational factor; None where there is another term."""
    if is_term(tree):
        return [(tree, Fraction(1))]
    if tree[0] == "+":
        first, second = combination(tree[1], is_term), combination(tree[2], is_term)
        return None if first is None or second is None else [*first, *second]
    products = {
        "neg": [(tree[1], number(-1))],
        "*": [tree[1:], tree[:0:-1]],
        "/": [(tree[1], ("/", number(1), tree[-1]))],
    }
    for part, factor in products.get(tree[0], []):
        scale, inner = rational(factor), combination(part, is_term)
        if scale is not None and inner is not None:
            return [(term, value * scale) for term, value in inner]
    return [] if rational(tree) == 0 else None


def known_sign(tree: Tree) -> int | None:
    """Return 1 for an expression that is nowhere negative for positive letters, -1 for nowhere positive."""
    kind = tree[0]
    if kind == "n":
        return 1 if tree[1] >= 0 else -1
    if kind == "v" or (kind == "c" and tree[1] in ("pi", "e")):
        return 1
    if kind == "neg":
        sign = known_sign(tree[1])
        return None if sign is None else -sign
    if kind in ("+", "*", "/"):
        a, b = known_sign(tree[1]), known_sign(tree[2])
        if a is None or b is None:
            return None
        return a * b if kind != "+" else a if a == b else None
    if kind == "^":
        exponent = rational(tree[2])
        if exponent is not None and (exponent.denominator % 2 == 0 or exponent.numerator % 2 == 0):
            return 1
        base = known_sign(tree[1])
        return base if exponent is not None or base == 1 else None
    return 1 if kind == "f" and tree[1] in ("abs", "exp", "factorial", "cosh") else None


def radicands(tree: Tree) -> list[Tree]:
    """Return the arguments of even roots and logarithms."""
    arguments = []
    for part in subtrees(tree):
        if part[0] == "^" and not variables(part[2]):
            exponent = rational(part[2])
            if exponent is not None and exponent.denominator % 2 == 0:
                arguments.append(part[1])
        elif part[0] == "f" and part[1] in ("log", "ln"):
            arguments.append(part[2])
    return arguments


def sign_sensitive(tree: Tree) -> frozenset[str]:
    """Return the letters whose sign may decide which branch of the expression holds.

    An expression without them is analytic: an identity that holds for positive letters holds everywhere.
    """
    letters: frozenset[str] = frozenset()
    for part in subtrees(tree):
        if part[0] == "^":
            exponent = rational(part[2])
            if exponent is None or exponent.denominator > 1:
                letters |= variables(part[1])
        elif part[0] == "f" and part[1] in ("log", "ln", "abs"):
            letters |= variables(part)
    return letters
