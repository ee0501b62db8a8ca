"""Matrices and column vectors, with a factor before them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from cola_envs.grading.expressions import expression
from cola_envs.grading.lexer import ParseError, Token
from cola_envs.grading.nodes import Expr, Matrix, Tree
from cola_envs.grading.splitting import split


def matrix(tokens: Sequence[Token]) -> Matrix | None:
    """Read a matrix; None where there is none. Raises ParseError for one that is not whole."""
    begin = next(
        (i for i, (kind, value) in enumerate(tokens) if kind == "cmd" and value.startswith("begin ")), -1
    )
    if begin < 0:
        return None
    name = tokens[begin][1][6:]
    if name not in ("pmatrix", "bmatrix", "matrix", "array", "smallmatrix", "Bmatrix"):
        raise ParseError(f"environment {name}")
    end = next((i for i, token in enumerate(tokens) if token == ("cmd", f"end {name}")), -1)
    prefix, suffix = list(tokens[:begin]), list(tokens[end + 1 :])
    if name in ("array", "matrix", "smallmatrix") and prefix and suffix:
        if (prefix.pop(), suffix.pop(0)) not in ((("op", "["), ("op", "]")), (("op", "("), ("op", ")"))):
            raise ParseError("brackets of an array")
    elif name == "array":
        raise ParseError("an array without brackets")
    if end < 0 or suffix:
        raise ParseError("something after a matrix")
    scale: Tree | None = None
    if prefix == [("op", "-")]:
        scale = ("n", Fraction(-1))
    elif prefix:
        while prefix[-1] == ("op", "*"):
            prefix.pop()
        scale = expression(prefix).tree
    rows = []
    lines, _ = split(tokens[begin + 1 : end], lambda token: token == ("op", "¶"))
    for line in lines if lines[-1] else lines[:-1]:
        cells, _ = split(line, lambda token: token == ("op", "&"))
        row = [expression(cell) for cell in cells]
        rows.append(tuple(Expr(("*", scale, cell.tree)) if scale else cell for cell in row))
    if not rows or len({len(row) for row in rows}) != 1:
        raise ParseError("a ragged matrix")
    return Matrix(tuple(rows))
