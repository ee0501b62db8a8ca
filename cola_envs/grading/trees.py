"""Functions over expression trees: variables, subtrees, signs, substitution."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import product, repeat

from cola_envs.grading.nodes import Tree

#: Functions that bind their first argument, a letter, within the others.
BINDERS = ("sum", "prod", "int")


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


def subtrees(tree: Tree) -> Iterator[Tree]:
    """Yield a tree and all its subtrees."""
    yield tree
    for part in parts(tree):
        yield from subtrees(part)


def terms(tree: Tree) -> Iterator[Tree]:
    """Yield the terms of a sum, without their signs."""
    if tree[0] in ("+", "neg"):
        for part in parts(tree):
            yield from terms(part)
    else:
        yield tree


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
    return tuple(_with_signs(part, signs) if isinstance(part, tuple) else part for part in tree)


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
    return tuple(substituted(part, name, value) if isinstance(part, tuple) else part for part in tree)


def renamed(tree: Tree, old: str, new: str) -> Tree:
    """Return a tree with another name for a letter, also within subscripts."""
    if tree in (("v", old), ("c", old)):
        return ("v", new)
    if tree[0] == "v" and "_" in tree[1]:
        stem, index = tree[1].split("_", 1)
        return ("v", stem + "_" + re.sub(rf"(?<![A-Za-z]){re.escape(old)}(?![A-Za-z])", new, index))
    return tuple(renamed(part, old, new) if isinstance(part, tuple) else part for part in tree)
