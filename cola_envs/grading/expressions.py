"""Parse tokens to expressions, by recursive descent over the arithmetic of a final answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from cola_envs.grading.lexer import ParseError, Token
from cola_envs.grading.nodes import Expr, Tree, Unit
from cola_envs.grading.trees import renamed
from cola_envs.grading.units import take_unit
from cola_envs.grading.vocabulary import CURRENCIES, FUNCTIONS


def expression(tokens: Sequence[Token]) -> Expr:
    """Parse one expression with its unit.

    Raises:
        ParseError: where it is outside the grammar.
    """
    body = list(tokens)
    unit, scale = take_unit(body)
    percent = unit == _PERCENT
    if percent:
        unit = None
    elif body and body[-1] == ("op", "%"):
        percent = True
        body.pop()
    for sign, currency in CURRENCIES.items():
        if ("op", sign) in body[:2]:
            body.remove(("op", sign))
            unit = _in_currency(unit, currency)
    if len(body) > 1 and body[-1] == ("op", "°") and not any(value in FUNCTIONS for _, value in body):
        body.pop()
        unit = unit or Unit((("degree", 1),))
    if not body:
        raise ParseError("nothing")
    reader = _Reader(body)
    tree = reader.sum()
    if reader.position != len(reader.tokens):
        raise ParseError("something after an expression")
    return Expr(tree if scale == 1 else ("*", ("n", scale), tree), unit, percent)


_PERCENT = Unit((("percent", 1),))


def _in_currency(unit: Unit | None, currency: str) -> Unit:
    r"""Return the unit of an amount with its sign before it: \$18, \$18/hour, \$18 dollars."""
    powers = dict(unit.powers) if unit else {}
    powers.setdefault(currency, 1)
    return Unit(tuple(sorted(powers.items())), unit.words if unit else (), unit.marks if unit else ())


_MOST_SUMS = 3


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
            return value in FUNCTIONS or value in (
                "frac",
                "binom",
                "pi",
                "lfloor",
                "lceil",
                "sum",
                "prod",
                "int",
            )
        return kind == "op" and (value in ("(", "[", "{") or (value == "|" and not self.inside_bars))

    def factor(self) -> Tree:
        return self.powers(self.primary())

    def powers(self, base: Tree) -> Tree:
        while True:
            if self.accept("^"):
                base = ("^", base, self.exponent())
            elif self.accept("!"):
                base = ("f", self.factorial(), base)
            elif self.accept("°"):
                base = ("deg", base)
            else:
                return base

    def factorial(self) -> str:
        if not self.accept("!"):
            return "factorial"
        if self.accept("!"):
            raise ParseError("three factorial signs")
        return "doublefactorial"

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
            infix = self.accept("choose", "over") if value == "{" else None
            if infix:
                below = self.sum()
                tree = ("f", "binom", tree, below) if infix == "choose" else ("/", tree, below)
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
        if name == "C" and self.peek() == ("op", "("):
            return self.choice() or ("v", name)
        return ("c", name) if name in ("e", "i") else ("v", name)

    def choice(self) -> Tree | None:
        """Return C(n, k); None for a bracket with one value, which is a factor."""
        start = self.position
        self.position += 1
        n = self.sum()
        if not self.accept_separator():
            self.position = start
            return None
        k = self.sum()
        self.expect(")")
        return ("f", "binom", n, k)

    def accept_separator(self) -> bool:
        is_separator = self.peek() == ("sep", ",")
        self.position += is_separator
        return is_separator

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
        body = inner.sum() if length else ("n", Fraction(1))
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
            tree = self.sum() if braces else self.single()
        if braces:
            self.expect("}")
        return tree

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
        arguments = self.function_arguments()
        if len(arguments) > 1 and name not in ("gcd", "lcm", "max", "min"):
            raise ParseError(f"{name} of several arguments")
        tree: Tree = ("f", name, *arguments)
        if name == "log":
            tree = ("f", "log", tree[2], base or ("n", Fraction(10)))
        return ("^", tree, power) if power else tree

    def function_arguments(self) -> list[Tree]:
        if self.accept("("):
            arguments = [self.sum()]
            while self.accept_separator():
                arguments.append(self.sum())
            self.expect(")")
            return arguments
        # Without brackets the argument runs over a product up to the next function: 2 \sin b \cos a.
        tree = self.factor()
        while self.starts_a_factor() and not (self.peek()[0] == "cmd" and self.peek()[1] in FUNCTIONS):
            tree = ("*", tree, self.factor())
        return [tree]


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
