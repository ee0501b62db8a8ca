r"""From tokens to a small tree: numbers, expressions, lists, tuples, intervals, relations, matrices, words.

The grammar is that of short final answers, not of LaTeX. What is outside it raises :class:`ParseError`
and is left to math-verify; nothing is ever guessed here, and nothing is ever evaluated as code.

Expression trees are nested tuples: ``("n", Fraction)``, ``("v", name)``, ``("c", "pi" | "e" | "i")``,
``("+" | "*" | "/" | "^", a, b)``, ``("neg", a)``, ``("pm", a)`` (plus or minus), ``("mp", a)``,
``("deg", a)`` and ``("f", name, *arguments)``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from cola_envs.grading.lexer import FUNCTIONS, NOT_A_UNIT, UNIT_OF, ParseError, Token, clean, tokenise

Tree = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Expr:
    """An expression; ``unit`` is the canonical unit, "" for one that is unknown, None where there is none."""

    tree: Tree
    unit: str | None = None
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """Words."""

    words: str


@dataclass(frozen=True, slots=True)
class Infinity:
    """A signed infinity, as an interval's end."""

    sign: int


@dataclass(frozen=True, slots=True)
class Group:
    """Several items: ``kind`` is ``list`` (no brackets), ``{}``, or the two brackets as written, as ``(]``."""

    kind: str
    items: tuple[Node, ...]
    connective: str = ","


@dataclass(frozen=True, slots=True)
class Union:
    """A union of intervals and sets."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain ``side op side op side``; ``names[k]`` is the side's spelling where it can be what is asked for."""

    ops: tuple[str, ...]
    sides: tuple[Node, ...]
    names: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of expressions."""

    rows: tuple[tuple[Expr, ...], ...]


@dataclass(frozen=True, slots=True)
class Based:
    """Digits in a stated base."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """``a : b``, also a time of day; ``spelling`` tells the two apart."""

    items: tuple[Expr, ...]
    spelling: str


Node = Expr | Text | Infinity | Group | Union | Relation | Matrix | Based | Ratio
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
_NUMBER_WORDS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split()
    )
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
    value = _NUMBER_WORDS.get(words)
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
    return _expression(tokens)


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
    if tokens[0][0] != "op" or tokens[0][1] not in ("(", "[", "\\{") or _matching(tokens, 0) != len(tokens) - 1:
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
    base = [str(_NUMBER_WORDS.get(base[0].lower(), base[0]))]
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
    return Ratio(tuple(_expression(part) for part in parts), spelling)


def _matrix(tokens: Sequence[Token]) -> Node | None:
    begin = next((i for i, (kind, value) in enumerate(tokens) if kind == "cmd" and value.startswith("begin ")), -1)
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
        scale = _expression(prefix).tree
    rows = []
    lines, _ = _split(tokens[begin + 1 : end], lambda token: token == ("op", "¶"))
    for line in lines if lines[-1] else lines[:-1]:
        cells, _ = _split(line, lambda token: token == ("op", "&"))
        row = [_expression(cell) for cell in cells]
        rows.append(tuple(Expr(("*", scale, cell.tree)) if scale else cell for cell in row))
    if not rows or len({len(row) for row in rows}) != 1:
        raise ParseError("a ragged matrix")
    return Matrix(tuple(rows))


def _expression(tokens: Sequence[Token]) -> Expr:
    body = list(tokens)
    unit = _take_unit(body)
    percent = False
    if unit == "percent" or (body and body[-1] == ("op", "%")):
        percent = True
        if unit == "percent":
            unit = None
        else:
            body.pop()
    if ("op", "¤") in body[:2]:
        body.remove(("op", "¤"))
        unit = unit or "dollar"
    if len(body) > 1 and body[-1] == ("op", "°") and not any(value in FUNCTIONS for _, value in body):
        body.pop()
        unit = "degree"
    if not body:
        raise ParseError("nothing")
    reader = _Reader(body)
    tree = reader.sum()
    if reader.position != len(reader.tokens):
        raise ParseError("something after an expression")
    return Expr(tree, unit, percent)


def _take_unit(body: list[Token]) -> str | None:
    start = next((i for i, (kind, _) in enumerate(body) if kind == "text"), -1)
    if start < 0:
        return None
    if start == 0:
        raise ParseError("words before an expression")
    tail = body[start:]
    if any(kind not in ("text", "num") and value not in "^{}/-" for kind, value in tail):
        raise ParseError("something after a unit")
    words = re.findall(r"[a-z]+", " ".join(value for kind, value in tail if kind == "text").lower())
    if not words or NOT_A_UNIT.intersection(words) or len(words) > 5:
        raise ParseError("words that are no unit")
    numbers = [value for kind, value in tail if kind == "num"]
    if any(number not in ("1", "2", "3") for number in numbers):
        raise ParseError("a number after a unit")
    del body[start:]
    known = [word for word in words if word not in ("sq", "square", "cubic", "old", "long", "per")]
    return UNIT_OF.get(known[0], "") if len(known) == 1 else ""


class _Reader:
    """Recursive descent over one expression."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self.inside_bars = False

    def peek(self) -> Token:
        return self.tokens[self.position] if self.position < len(self.tokens) else ("end", "")

    def accept(self, *values: str) -> str | None:
        kind, value = self.peek()
        if kind in ("op", "cmd") and value in values:
            self.position += 1
            return value
        return None

    def expect(self, value: str) -> None:
        if not self.accept(value):
            raise ParseError(f"expected {value}")

    def sum(self) -> Tree:
        sign = self.accept("+", "-", "pm", "mp")
        tree = _signed(sign, self.product())
        while sign := self.accept("+", "-", "pm", "mp"):
            tree = ("+", tree, _signed(sign, self.product()))
        return tree

    def product(self) -> Tree:
        tree = self.factor()
        while True:
            operator = self.accept("*", "/")
            if operator:
                minus = self.accept("-")
                tree = (operator, tree, _signed(minus, self.factor()))
            elif self.starts_a_factor():
                tree = ("*", tree, self.factor())
            else:
                return tree

    def starts_a_factor(self) -> bool:
        kind, value = self.peek()
        if kind in ("num", "rep"):
            # Two numbers side by side are no product; a number may follow anything else (\sqrt{2} 3 is odd but clear).
            return self.tokens[self.position - 1][0] not in ("num", "rep")
        if kind == "sym":
            return True
        if kind == "cmd":
            return value in FUNCTIONS or value in ("frac", "binom", "pi", "lfloor", "lceil")
        return kind == "op" and (value in ("(", "[", "{") or (value == "|" and not self.inside_bars))

    def factor(self) -> Tree:
        return self.powers(self.primary())

    def powers(self, base: Tree) -> Tree:
        while True:
            if self.accept("^"):
                base = ("^", base, self.exponent())
            elif self.accept("!"):
                base = ("f", "factorial", base)
            elif self.accept("°"):
                base = ("deg", base)
            else:
                return base

    def exponent(self) -> Tree:
        sign = self.accept("-", "+")
        if self.accept("{"):
            tree = self.sum()
            self.expect("}")
        else:
            tree = self.single()
        return _signed(sign, tree)

    def single(self) -> Tree:
        """A primary that is not the whole part of a mixed number."""
        kind, value = self.peek()
        if kind == "num":
            self.position += 1
            return ("n", Fraction(value))
        return self.primary()

    def argument(self) -> Tree:
        r"""A macro's argument: a braced expression, one digit, one letter or one command (``\frac12``)."""
        if self.accept("{"):
            tree = self.sum()
            self.expect("}")
            return tree
        kind, value = self.peek()
        if kind == "num" and value.isdigit() and len(value) > 1:
            self.tokens = [*self.tokens[: self.position], ("num", value[0]), ("num", value[1:]),
                           *self.tokens[self.position + 1 :]]  # fmt: skip
        return self.single()

    def primary(self) -> Tree:
        kind, value = self.peek()
        if kind == "num":
            self.position += 1
            number = Fraction(value)
            return self.mixed(number) if value.isdigit() else ("n", number)
        if kind == "rep":
            self.position += 1
            return ("n", Fraction(value))
        if kind == "sym":
            self.position += 1
            return self.symbol(value)
        if kind == "op" and value in ("(", "[", "{"):
            self.position += 1
            tree = self.sum()
            self.expect({"(": ")", "[": "]", "{": "}"}[value])
            return tree
        if kind == "op" and value == "|":
            self.position += 1
            outside, self.inside_bars = self.inside_bars, True
            tree = self.sum()
            self.expect("|")
            self.inside_bars = outside
            return ("f", "abs", tree)
        if kind == "cmd":
            self.position += 1
            return self.command(value)
        raise ParseError(f"unexpected {value or 'end'}")

    def mixed(self, whole: Fraction) -> Tree:
        r"""``3\frac12`` and ``3 1/2`` are sums; a product of a number and a fraction needs its dot."""
        rest = self.tokens[self.position : self.position + 7]
        pattern = " ".join(kind if kind == "num" else value for kind, value in rest)
        part: tuple[str, str] | None = None
        length = 0
        if re.match(r"num / num( (?![\^!])|$)", pattern):
            part, length = (rest[0][1], rest[2][1]), 3
        elif pattern.startswith("frac { num } { num }"):
            part, length = (rest[2][1], rest[5][1]), 7
        elif pattern.startswith("frac num") and rest[1][1].isdigit() and len(rest[1][1]) == 2:
            part, length = (rest[1][1][0], rest[1][1][1]), 2
        elif pattern.startswith("frac num num") and len(rest[1][1]) == 1:
            part, length = (rest[1][1], rest[2][1]), 3
        elif pattern.startswith("frac num { num }") and len(rest[1][1]) == 1:
            part, length = (rest[1][1], rest[3][1]), 5
        elif pattern.startswith("frac { num } num") and len(rest[4][1]) == 1:
            part, length = (rest[2][1], rest[4][1]), 5
        if part and part[0].isdigit() and part[1].isdigit() and 0 < int(part[0]) < int(part[1]):
            self.position += length
            return ("n", whole + Fraction(int(part[0]), int(part[1])))
        return ("n", whole)

    def symbol(self, name: str) -> Tree:
        while self.accept("'"):
            name += "'"
        if self.accept("_"):
            if self.accept("{"):
                start = self.position
                while not self.accept("}"):
                    if self.peek()[0] == "end" or self.peek() == ("op", "{"):
                        raise ParseError("subscript")
                    self.position += 1
                name += "_" + "".join(value for _, value in self.tokens[start : self.position - 1])
            else:
                name += "_" + self.peek()[1]
                self.position += 1
        return ("c", name) if name in ("e", "i") else ("v", name)

    def command(self, name: str) -> Tree:
        if name == "pi":
            return ("c", "pi")
        if name == "frac":
            return ("/", self.argument(), self.argument())
        if name == "binom":
            return ("f", "binom", self.argument(), self.argument())
        if name == "sqrt":
            return self.root()
        if name in ("lfloor", "lceil"):
            tree = self.sum()
            self.expect("r" + name[1:])
            return ("f", name[1:], tree)
        if name in FUNCTIONS:
            return self.function(name)
        raise ParseError(f"unexpected {name}")

    def root(self) -> Tree:
        degree: Tree = ("n", Fraction(2))
        if self.accept("["):
            degree = self.sum()
            self.expect("]")
        # \sqrt13 is meant as the root of 13, whatever TeX sets.
        body = self.single() if self.peek()[0] == "num" else self.argument()
        return ("^", body, ("/", ("n", Fraction(1)), degree))

    def function(self, name: str) -> Tree:
        base: Tree | None = None
        power: Tree | None = None
        if name == "log" and self.accept("_"):
            base = self.argument()
        if self.accept("^"):
            power = self.exponent()
        if power == ("neg", ("n", Fraction(1))) and name in ("sin", "cos", "tan", "cot"):
            name, power = "arc" + name, None
        tree: Tree = ("f", name, *self.function_arguments())
        if name == "log":
            tree = ("f", "log", tree[2], base or ("n", Fraction(10)))
        return ("^", tree, power) if power else tree

    def function_arguments(self) -> list[Tree]:
        if self.accept("("):
            arguments = [self.sum()]
            while self.peek() == ("sep", ","):
                self.position += 1
                arguments.append(self.sum())
            self.expect(")")
            return arguments
        # Without brackets the argument runs over a product up to the next function: 2 \sin b \cos a.
        tree = self.factor()
        while self.starts_a_factor() and not (self.peek()[0] == "cmd" and self.peek()[1] in FUNCTIONS):
            tree = ("*", tree, self.factor())
        return [tree]


def _signed(sign: str | None, tree: Tree) -> Tree:
    if sign == "-":
        return ("neg", tree)
    return (sign, tree) if sign in ("pm", "mp") else tree
