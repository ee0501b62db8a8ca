r"""From tokens to a small tree: numbers, expressions, lists, tuples, intervals, relations, matrices, words.

The grammar is that of short final answers, not of LaTeX. What is outside it raises
:class:`~cola_envs.grading.lexer.ParseError` and is left to math-verify; nothing is ever guessed here, and
nothing is ever evaluated as code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from cola_envs.grading.expressions import expression
from cola_envs.grading.lexer import ParseError, Token, clean, tokenise
from cola_envs.grading.nodes import (
    Based,
    Expr,
    Group,
    Infinity,
    Matrix,
    Node,
    Ratio,
    Relation,
    Text,
    Tree,
    Union,
)
from cola_envs.grading.vocabulary import NUMBER_WORDS

REALS = Group("()", (Infinity(-1), Infinity(1)))
EMPTY = Group("{}", ())
_OPEN, _CLOSE = ("(", "[", "{", "\\{"), (")", "]", "}", "\\}")
_PHRASES = {
    "all real numbers": REALS,
    "all reals": REALS,
    "no solution": EMPTY,
    "no solutions": EMPTY,
    "no real solution": EMPTY,
    "no real solutions": EMPTY,
    "empty set": EMPTY,
}


@lru_cache(maxsize=16384)
def parse(text: str, grouped: bool = True) -> Node | None:
    """Return the tree of a final answer, or None where it is outside the grammar."""
    try:
        return parse_tokens(tokenise(clean(text), grouped))
    except (ParseError, RecursionError):
        return None


def number_of_words(words: str) -> Expr | None:
    """Return ``two`` as 2; None for other words."""
    value = NUMBER_WORDS.get(words)
    return None if value is None else Expr(("n", Fraction(value)))


def parse_tokens(tokens: Sequence[Token]) -> Node:
    """Parse a whole answer.

    Raises:
        ParseError: where it is outside the grammar.
    """
    parts, connectives = _split(tokens, lambda token: token[0] == "sep")
    parts = _without_doubled_separators(parts)
    if len(parts) == 1:
        return _item(parts[0])
    words = {connective for connective in connectives if connective != ","}
    if len(words) > 1:
        raise ParseError("both and and or")
    return Group("list", tuple(_item(part) for part in parts), words.pop() if words else ",")


def _without_doubled_separators(parts: list[Sequence[Token]]) -> list[Sequence[Token]]:
    # "2, 3, and 4" has an empty part between the comma and the word.
    kept = [part for index, part in enumerate(parts) if part or index in (0, len(parts) - 1)]
    if not all(kept):
        raise ParseError("an empty item")
    return kept


def _split(tokens: Sequence[Token], at: Any) -> tuple[list[Sequence[Token]], list[str]]:
    parts: list[Sequence[Token]] = []
    found: list[str] = []
    depth = begin = bars = 0
    for index, token in enumerate(tokens):
        kind, value = token
        if kind == "op":
            if value in _OPEN:
                depth += 1
            elif value in _CLOSE:
                depth -= 1
            elif value == "|" and depth == 0:
                bars ^= 1
        elif kind == "cmd":
            depth += 1 if value.startswith("begin ") else -1 if value.startswith("end ") else 0
        if depth < 0:
            raise ParseError("a bracket that closes nothing")
        if depth == 0 and not bars and at(token):
            parts.append(tokens[begin:index])
            found.append(value)
            begin = index + 1
    if depth:
        raise ParseError("an open bracket")
    parts.append(tokens[begin:])
    return parts, found


def _item(tokens: Sequence[Token]) -> Node:
    sides, ops = _split(tokens, lambda token: token[0] == "rel")
    if len(sides) == 1:
        return _side(tokens)
    if not sides[-1] or not sides[0]:
        raise ParseError("half a relation")
    return Relation(tuple(ops), tuple(_side(side) for side in sides), tuple(_name(side) for side in sides))


def _name(tokens: Sequence[Token]) -> str | None:
    """Return how a side is spelt if it may stand for the unknown (x, f(x), (x,y), AB, a + b), else None.

    Numbers may only occur in subscripts and in brackets: ``2x`` and ``x + 1`` are no names.
    """
    depth = 0
    letters = False
    for index, (kind, value) in enumerate(tokens):
        if kind == "op" and value in _OPEN:
            depth += 1
        elif kind == "op" and value in _CLOSE:
            depth -= 1
        elif kind in ("num", "rep"):
            subscript = index and tokens[index - 1] == ("op", "_")
            if not subscript and (depth == 0 or not letters):
                return None
        elif kind in ("sym", "text"):
            letters = True
    return "".join(value for _, value in tokens if value not in "{}") if letters else None


def _side(tokens: Sequence[Token]) -> Node:
    while len(tokens) > 2 and tokens[0] == ("op", "{") and _matching(tokens, 0) == len(tokens) - 1:
        inner = tokens[1:-1]
        if len(_split(inner, lambda token: token[0] == "sep")[0]) > 1:
            return Group("{}", _items(inner))
        tokens = inner
    if not tokens:
        raise ParseError("nothing")
    parts, _ = _split(tokens, lambda token: token == ("cmd", "cup"))
    if len(parts) > 1:
        return Union(tuple(_side(part) for part in parts))
    for read in (_matrix, _bracketed, _words, _special, _based, _ratio):
        node = read(tokens)
        if node is not None:
            return node
    return expression(tokens)


def _items(tokens: Sequence[Token]) -> tuple[Node, ...]:
    parts, _ = _split(tokens, lambda token: token[0] == "sep")
    return tuple(_side(part) for part in _without_doubled_separators(parts))


def _matching(tokens: Sequence[Token], start: int) -> int:
    depth = 0
    for index in range(start, len(tokens)):
        kind, value = tokens[index]
        if kind == "op":
            depth += 1 if value in _OPEN else -1 if value in _CLOSE else 0
            if depth == 0:
                return index
    raise ParseError("an open bracket")


def _bracketed(tokens: Sequence[Token]) -> Node | None:
    if (
        tokens[0][0] != "op"
        or tokens[0][1] not in ("(", "[", "\\{")
        or _matching(tokens, 0) != len(tokens) - 1
    ):
        return None
    opening, closing = tokens[0][1], tokens[-1][1]
    inner = tokens[1:-1]
    if opening == "\\{":
        if closing != "\\}":
            raise ParseError("a set that does not close")
        if len(inner) > 2 and inner[0][0] == "sym" and inner[1] in (("op", "|"), ("op", ":")):
            return _set_builder(inner[2:])
        return Group("{}", _items(inner)) if inner else EMPTY
    if closing not in (")", "]"):
        raise ParseError("brackets")
    items = _items(inner)
    if len(items) == 1:
        # (3/4) and [5] are brackets around a value; ((1,2)) keeps the inner pair.
        return items[0] if opening + closing in ("()", "[]") else None
    return Group(opening + closing, items)


def _set_builder(condition: Sequence[Token]) -> Node:
    node = parse_tokens(condition)
    if isinstance(node, Relation) or (isinstance(node, Group) and node.connective != ","):
        return node
    raise ParseError("a set by a condition that is no inequality")


def _words(tokens: Sequence[Token]) -> Node | None:
    if any(kind != "text" for kind, _ in tokens):
        return None
    words = re.sub(r"\s+", " ", " ".join(value for _, value in tokens)).strip().lower().rstrip(".")
    return _PHRASES.get(words, Text(words))


def _special(tokens: Sequence[Token]) -> Node | None:
    sign = -1 if tokens[0] == ("op", "-") else 1
    rest = tokens[1:] if tokens[0] in (("op", "-"), ("op", "+")) else tokens
    if tuple(rest) == (("cmd", "infty"),):
        return Infinity(sign)
    if len(tokens) == 1 and tokens[0] == ("cmd", "emptyset"):
        return EMPTY
    if len(tokens) == 1 and tokens[0] == ("cmd", "reals"):
        return REALS
    return None


def _based(tokens: Sequence[Token]) -> Node | None:
    index = next((i for i, token in enumerate(tokens) if token == ("op", "_")), 0)
    base = [value for _, value in tokens[index + 1 :] if value not in "{}"]
    if not index or len(base) != 1:
        return None
    base = [str(NUMBER_WORDS.get(base[0].lower(), base[0]))]
    if not base[0].isdigit() or len(base[0]) > 2:
        return None
    sign = "-" if tokens[0] == ("op", "-") else ""
    body = [token for token in tokens[len(sign) : index] if token[1] not in ("(", ")", "{", "}")]
    digits = "".join(value for _, value in body).upper()
    if any(kind not in ("num", "sym", "text") for kind, _ in body) or not re.fullmatch(r"[0-9A-Z]+", digits):
        return None
    radix = int(base[0])
    if not 2 <= radix <= 36 or any(int(digit, 36) >= radix for digit in digits):
        return None
    if not any(digit.isdigit() for digit in digits) and (radix < 11 or len(digits) < 2):
        return None  # a_1 is a variable
    return Based(sign + (digits.lstrip("0") or "0"), radix)


def _ratio(tokens: Sequence[Token]) -> Node | None:
    parts, _ = _split(tokens, lambda token: token == ("op", ":"))
    if len(parts) == 1:
        return None
    while parts[-1] and parts[-1][-1][0] == "text":
        parts[-1] = parts[-1][:-1]  # the "p.m." of a time
    spelling = ":".join("".join(value for _, value in part) for part in parts)
    return Ratio(tuple(expression(part) for part in parts), spelling)


def _matrix(tokens: Sequence[Token]) -> Node | None:
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
    lines, _ = _split(tokens[begin + 1 : end], lambda token: token == ("op", "¶"))
    for line in lines if lines[-1] else lines[:-1]:
        cells, _ = _split(line, lambda token: token == ("op", "&"))
        row = [expression(cell) for cell in cells]
        rows.append(tuple(Expr(("*", scale, cell.tree)) if scale else cell for cell in row))
    if not rows or len({len(row) for row in rows}) != 1:
        raise ParseError("a ragged matrix")
    return Matrix(tuple(rows))
