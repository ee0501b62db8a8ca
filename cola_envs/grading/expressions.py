"""Parse tokens to expressions, by recursive descent over the arithmetic of a final answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from cola_envs.grading.lexer import ParseError, Token
from cola_envs.grading.nodes import Expr, Tree, Unit
from cola_envs.grading.trees import number, renamed
from cola_envs.grading.units import take_unit
from cola_envs.grading.vocabulary import CURRENCIES, FUNCTIONS

#: The deepest nesting of sums, products and integrals.
_MOST_SUMS = 3
_COMMANDS_OF_FACTORS = FUNCTIONS | {"frac", "binom", "pi", "lfloor", "lceil", "sum", "prod", "int"}
#: The fraction of a mixed number, as the values of its tokens.
_MIXED = re.compile(
    r"(\d+) / (\d+)(?=$| [^!^])|frac (?:\{ (\d+) \} \{ (\d+) \}|(\d)(\d)(?![^ ])|(\d) (\d+)(?![^ ])"
    r"|(\d) \{ (\d+) \}|\{ (\d+) \} (\d)(?![^ ]))"
)


def expression(tokens: Sequence[Token]) -> Expr:
    """Parse one expression with its unit.

    Raises:
        ParseError: where it is outside the grammar.
    """
    body = list(tokens)
    unit, scale = take_unit(body)
    percent = unit == Unit((("percent", 1),))
    if percent:
        unit = None
    elif body and body[-1] == ("op", "%"):
        percent = True
        body.pop()
    for sign, currency in CURRENCIES.items():
        if ("op", sign) in body[:2]:  # \$18, \$18/hour, \$18 dollars
            body.remove(("op", sign))
            unit = unit or Unit()
            unit = replace(unit, powers=tuple(sorted({currency: 1, **dict(unit.powers)}.items())))
    if len(body) > 1 and body[-1] == ("op", "°") and not any(value in FUNCTIONS for _, value in body):
        body.pop()
        unit = unit or Unit((("degree", 1),))
    if not body:
        raise ParseError("nothing")
    reader = _Reader(body)
    tree = reader.whole()
    if reader.position != len(reader.tokens):
        raise ParseError("something after an expression")
    return Expr(tree if scale == 1 else ("*", ("n", scale), tree), unit, percent)


class _Reader:
    """Recursive descent over one expression."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self.inside_bars = False
        self.depth = 0  # of sums within sums

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
            minus = self.accept("-") if sign in "+-" else None  # 6+-5
            tree = ("+", tree, _signed(sign, _signed(minus, self.product())))
        return tree

    def whole(self) -> Tree:
        r"""All of a group or of the expression: a sum, or two with TeX's \over or \choose between them."""
        tree = self.sum()
        infix = self.accept("choose", "over")
        if infix is None:
            return tree
        below = self.sum()
        return ("f", "binom", tree, below) if infix == "choose" else ("/", tree, below)

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
            return value in _COMMANDS_OF_FACTORS
        return kind == "op" and (value in ("(", "[", "{") or (value == "|" and not self.inside_bars))

    def factor(self) -> Tree:
        base = self.primary()
        while True:
            if self.accept("^"):
                base = ("^", base, self.exponent())
            elif self.accept("!"):
                double = self.accept("!")
                if double and self.accept("!"):
                    raise ParseError("three factorial signs")
                base = ("f", "doublefactorial" if double else "factorial", base)
            elif self.accept("°"):
                base = ("deg", base)
            else:
                return base

    def exponent(self) -> Tree:
        sign = self.accept("-", "+")
        return _signed(sign, self.braced() or self.primary(mixed=False))

    def braced(self) -> Tree | None:
        if not self.accept("{"):
            return None
        tree = self.sum()
        self.expect("}")
        return tree

    def argument(self) -> Tree:
        r"""A macro's argument: a braced expression, one digit, one letter or one command (``\frac12``)."""
        tree = self.braced()
        if tree:
            return tree
        kind, value = self.peek()
        if kind == "num" and value.isdigit() and len(value) > 1:
            rest = self.tokens[self.position + 1 :]
            self.tokens = [*self.tokens[: self.position], ("num", value[0]), ("num", value[1:]), *rest]
        return self.primary(mixed=False)

    def primary(self, mixed: bool = True) -> Tree:
        """Read a number, a letter, a bracket or a command; ``mixed`` lets a number begin a mixed one."""
        kind, value = self.peek()
        if kind in ("num", "rep"):
            self.position += 1
            begins = mixed and kind == "num" and value.isdigit()
            return self.mixed(Fraction(value)) if begins else ("n", Fraction(value))
        if kind == "sym":
            self.position += 1
            return self.symbol(value)
        if kind == "op" and value in ("(", "[", "{"):
            self.position += 1
            tree = self.whole()
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
        match = _MIXED.match(" ".join(value for _, value in self.tokens[self.position : self.position + 7]))
        if match:
            above, below = (int(part) for part in match.groups() if part)
            if 0 < above < below:
                self.position += match[0].count(" ") + 1
                whole += Fraction(above, below)
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
        if name == "C" and self.peek() == ("op", "("):
            start = self.position
            arguments = self.arguments()
            if len(arguments) > 2:
                raise ParseError("C of more than two")
            if len(arguments) == 2:
                return ("f", "binom", *arguments)
            self.position = start  # a bracket with one value is a factor
        return ("c", name) if name in ("e", "i") else ("v", name)

    def arguments(self) -> list[Tree]:
        """The expressions in brackets."""
        self.expect("(")
        arguments = [self.sum()]
        while self.peek() == ("sep", ","):
            self.position += 1
            arguments.append(self.sum())
        self.expect(")")
        return arguments

    def command(self, name: str) -> Tree:
        if name == "pi":
            return ("c", "pi")
        if name == "frac":
            above, below = self.argument(), self.argument()
            return _derivative(above, below) or ("/", above, below)
        if name == "binom":
            return ("f", "binom", self.argument(), self.argument())
        if name == "sqrt":
            return self.root()
        if name in ("lfloor", "lceil"):
            tree = self.sum()
            self.expect("r" + name[1:])
            return ("f", name[1:], tree)
        if name in ("sum", "prod"):
            return self.repeated(name)
        if name == "int":
            return self.integral()
        if name in FUNCTIONS:
            return self.function(name)
        raise ParseError(f"unexpected {name}")

    def repeated(self, name: str) -> Tree:
        r"""``\sum_{k=1}^{n}`` of the product that follows."""
        if not (self.accept("_") and self.accept("{")):
            raise ParseError("a sum without its letter")
        kind, letter = self.peek()
        self.position += 1
        if kind != "sym" or self.peek() != ("rel", "="):
            raise ParseError("a sum without its letter")
        self.position += 1
        low = self.sum()
        self.expect("}")
        self.expect("^")
        high = self.bound()
        self.depth += 1
        if self.depth > _MOST_SUMS:
            raise ParseError("sums within sums")
        body = self.product()
        self.depth -= 1
        # The letter is bound: its name does not matter (and i is not the imaginary unit there).
        bound = "index" + "abcd"[self.depth]
        return ("f", name, ("v", bound), low, high, renamed(body, letter, bound))

    def integral(self) -> Tree:
        r"""``\int_{a}^{b} f \, dx`` of everything up to the dx; bounds are required."""
        self.expect("_")
        low = self.bound()
        self.expect("^")
        high = self.bound()
        rest = self.tokens[self.position :]
        length = next(
            (i for i, token in enumerate(rest) if token == ("sym", "d") and rest[i + 1 : i + 2]), None
        )
        if length is None or rest[length + 1][0] != "sym" or self.depth == _MOST_SUMS:
            raise ParseError("an integral without its letter, or too deep in others")
        inner = _Reader(rest[:length])
        inner.depth = self.depth + 1
        body = inner.sum() if length else number(1)
        if inner.position != length:
            raise ParseError("something after an integrand")
        self.position += length + 2
        bound = "index" + "abcd"[inner.depth]
        return ("f", "int", ("v", bound), low, high, renamed(body, rest[length + 1][1], bound))

    def bound(self) -> Tree:
        braces = self.accept("{")
        self.accept("+")
        if self.accept("infty"):
            tree: Tree = ("c", "oo")
        else:
            tree = self.sum() if braces else self.primary(mixed=False)
        if braces:
            self.expect("}")
        return tree

    def root(self) -> Tree:
        degree: Tree = number(2)
        if self.accept("["):
            degree = self.sum()
            self.expect("]")
        # \sqrt13 is meant as the root of 13, whatever TeX sets.
        body = self.primary(mixed=False) if self.peek()[0] == "num" else self.argument()
        return ("^", body, ("/", number(1), degree))

    def function(self, name: str) -> Tree:
        base: Tree | None = None
        power: Tree | None = None
        if name == "log" and self.accept("_"):
            base = self.argument()
        if self.accept("^"):
            power = self.exponent()
        if power == ("neg", number(1)) and name in ("sin", "cos", "tan", "cot"):
            name, power = "arc" + name, None
        if self.peek() == ("op", "("):
            arguments = self.arguments()
        else:  # the argument runs over a product up to the next function: 2 \sin b \cos a
            arguments = [self.factor()]
            while self.starts_a_factor() and not (self.peek()[0] == "cmd" and self.peek()[1] in FUNCTIONS):
                arguments = [("*", arguments[0], self.factor())]
        if len(arguments) > 1 and name not in ("gcd", "lcm", "max", "min"):
            raise ParseError(f"{name} of several arguments")
        tree: Tree = ("f", name, *arguments)
        if name == "log":
            tree = ("f", "log", tree[2], base or number(10))
        return ("^", tree, power) if power else tree


def _derivative(above: Tree, below: Tree) -> Tree | None:
    """Return dy/dx as one letter, since it is not a fraction of products; None for other fractions.

    Raises:
        ParseError: for d/dx, which applies to the next expression.
    """
    d: Tree = ("v", "d")
    if below[:2] != ("*", d) or below[2][0] != "v":
        return None
    if above == d:
        raise ParseError("a derivative")
    return ("v", f"d{above[2][1]}/d{below[2][1]}") if above[:2] == ("*", d) and above[2][0] == "v" else None


def _signed(sign: str | None, tree: Tree) -> Tree:
    if sign == "-":
        return ("neg", tree)
    return (sign, tree) if sign in ("pm", "mp") else tree
