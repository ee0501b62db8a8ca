"""The signs of expressions, and the letters whose sign matters for a proof."""

from __future__ import annotations

from cola_envs.grading.nodes import Tree
from cola_envs.grading.separation import rational
from cola_envs.grading.trees import subtrees, variables


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
