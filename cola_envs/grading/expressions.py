"""From tokens to expressions: recursive descent over the arithmetic of a final answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from cola_envs.grading.lexer import ParseError, Token
from cola_envs.grading.nodes import Expr, Tree
from cola_envs.grading.vocabulary import FUNCTIONS, NOT_A_UNIT, UNIT_OF


def expression(tokens: Sequence[Token]) -> Expr:
    """Parse one expression with its unit.

    Raises:
        ParseError: where it is outside the grammar.
    """
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
            # Two numbers side by side are no product; after anything else a number is one (\sqrt{2} 3).
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
