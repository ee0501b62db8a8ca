r"""Normal forms of expression trees: a proof of equality in exact arithmetic.

A tree becomes a quotient of two polynomials in the generators of :mod:`cola_envs.grading.algebra`. Roots of
products are products of roots, logarithms of products are sums, ``a^b`` is ``e^{b \ln a}`` and sines and
cosines are exponentials, so that the identities of a school book become equal polynomials. These rules hold
where every letter is positive and both sides are real; the caller substitutes other signs
(:mod:`cola_envs.grading.proof`).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from cola_envs.grading.algebra import OutOfReach, Poly, frozen
from cola_envs.grading.evaluate import TooBig, Undefined, Unevaluable, constant_value
from cola_envs.grading.nodes import Tree
from cola_envs.grading.quotients import Quotient, Quotients, constant
from cola_envs.grading.trees import (
    PI,
    TRIGONOMETRIC,
    has_imaginary_unit,
    known_sign,
    number,
    rational,
    substituted,
    variables,
)

_LONGEST_SUM = 120


def proves_equal(a: Tree, b: Tree) -> bool:
    """Whether two trees have one normal form, for positive letters, or their squares or cubes have.

    The powers decide roots of sums, such as sqrt(3 + 2 sqrt 2) = 1 + sqrt 2: two numbers whose squares are
    equal differ at most in sign. The caller compares the signs of constants; that of expressions with letters
    must be the same for all letters. In the same way exponentials decide logarithms of sums.
    """
    try:
        form = _Normaliser()
        left, right = form(a), form(b)
        if form.equal(left, right):
            return True
        kinds = form.kinds()
        if {"sum", "log"} <= kinds and not (has_imaginary_unit(a) or has_imaginary_unit(b)):
            # Real numbers are equal where their exponentials are.
            return form.equal(form.exponential(left), form.exponential(right))
        sign = known_sign(a)
        signs_agree = (sign is not None and sign == known_sign(b)) or not (variables(a) or variables(b))
        if "sum" in kinds and signs_agree:
            return any(
                form.equal(form.whole_power(left, exponent), form.whole_power(right, exponent))
                for exponent in (2, 3, 6)
            )
    except (OutOfReach, Undefined, Unevaluable, TooBig):
        pass  # no normal form, so no proof
    return False


class _Normaliser(Quotients):
    """Turns trees into quotients over one table of generators."""

    def __call__(self, tree: Tree) -> Quotient:
        kind = tree[0]
        if kind == "n":
            return self.number(tree[1])
        if kind == "v":
            return self.single(self.generator("variable", tree[1]))
        if kind == "c":
            if tree[1] == "i":
                return self.single(self.generator("turn"), Fraction(1, 2))
            return self.single(self.generator(tree[1]))
        if kind == "neg":
            return self.negative(self(tree[1]))
        if kind == "deg":
            return self(tree[1])
        if kind == "+":
            return self.sum(self(tree[1]), self(tree[2]))
        if kind in ("*", "/"):
            a, b = self(tree[1]), self(tree[2])
            return self.product(a, b if kind == "*" else self.inverse(b))
        if kind == "^":
            return self.power_of(tree[1], tree[2])
        if kind == "f":
            return self.function(tree[1], tree[2:])
        raise OutOfReach(kind)

    def power_of(self, base: Tree, exponent: Tree) -> Quotient:
        """Return a power; where it is real, the even root of a^(2k+1) is a^k times that of a."""
        degree = rational(exponent)
        if degree is not None and degree.denominator % 2 == 0 and base[0] == "^":
            inner = rational(base[2])
            if inner is not None and inner.denominator == 1 and inner > 1 and inner.numerator % 2:
                product = inner * degree
                whole = self.rational_power(self(base[1]), Fraction(product.numerator // product.denominator))
                return self.product(whole, self.general_power(self(base[1]), self.number(product % 1)))
        return self.general_power(self(base), self(exponent))

    def function(self, name: str, arguments: tuple[Tree, ...]) -> Quotient:
        if name in (*TRIGONOMETRIC, "sinh", "cosh", "tanh"):
            return self.trigonometric(name, arguments[0])
        if name == "ln":
            return self.logarithm(self(arguments[0]))
        if name == "log":
            base = self.logarithm(self(arguments[1]))
            return self.product(self.logarithm(self(arguments[0])), self.inverse(base))
        if name == "exp":
            return self.exponential(self(arguments[0]))
        if name == "abs":
            return self.absolute(arguments[0])
        if name == "factorial":
            return self.factorial(arguments[0])
        if name == "binom":
            return self.binomial(*arguments)
        if name == "int":
            raise OutOfReach("an integral, over letters that need not be positive")
        if name == "sum":
            return self.repeated(self.sum, self.number(0), arguments)
        if name == "prod":
            return self.repeated(self.product, self.number(1), arguments)
        return self.opaque(name, arguments)

    def opaque(self, name: str, arguments: tuple[Tree, ...]) -> Quotient:
        """Return a function without rules as a generator; for a rational constant, its value."""
        tree: Tree = ("f", name, *arguments)
        if not variables(tree):
            value = constant_value(tree)
            if isinstance(value, Fraction):
                return self.number(value)
        forms = [self(argument) for argument in arguments]
        return self.single(
            self.generator("function", name, *((frozen(q.above), frozen(q.below)) for q in forms))
        )

    def trigonometric(self, name: str, argument: Tree) -> Quotient:
        angle = self(argument)
        if argument[0] == "deg":
            angle = self(("/", ("*", argument, PI), number(180)))
        hyperbolic = name.endswith("h")
        turn = self.number(1) if hyperbolic else self(("c", "i"))
        up = self.exponential(self.product(turn, angle))
        down = self.inverse(up)
        half = self.number(Fraction(1, 2))
        cosine = self.product(self.sum(up, down), half)
        sine = self.product(self.product(self.sum(up, self.negative(down)), half), self.inverse(turn))
        above, below = {
            "sin": (sine, self.number(1)),
            "cos": (cosine, self.number(1)),
            "tan": (sine, cosine),
            "cot": (cosine, sine),
            "sec": (self.number(1), cosine),
            "csc": (self.number(1), sine),
        }[name.removesuffix("h") if hyperbolic else name]
        return self.product(above, self.inverse(below))

    def absolute(self, argument: Tree) -> Quotient:
        """|a| is the root of a^2; of a complex constant, the root of its product with its conjugate."""
        inner = self(argument)
        if self.has_complex_term(inner):
            if variables(argument):
                raise OutOfReach("absolute value of a complex function")
            conjugate = Quotient(self.conjugate(inner.above), self.conjugate(inner.below))
            return self.root(self.product(inner, conjugate), 2)
        return self.root(self.whole_power(inner, 2), 2)

    def conjugate(self, a: Poly) -> Poly:
        total: Poly = {}
        for monomial, coefficient in a.items():
            if any(self._is_complex(g) and self.kind(g) != "turn" for g, _ in monomial):
                raise OutOfReach("conjugate")
            if any(self.kind(g) in ("sum", "function", "log") for g, _ in monomial):
                raise OutOfReach("conjugate of what need not be real")
            turned = self.reduced({g: -e if self.kind(g) == "turn" else e for g, e in monomial})
            total = self.add(total, self.scale(turned, coefficient))
        return total

    def factorial(self, argument: Tree) -> Quotient:
        """(n + k)! is n! times (n + 1) ... (n + k), where n! was met before."""
        if not variables(argument):
            return self.opaque("factorial", (argument,))
        inner = self(argument)
        for generator in range(len(self._keys)):
            key = self._keys[generator]
            if key[:2] != ("function", "factorial"):
                continue
            base = Quotient(*(dict(part) for part in key[2]))  # type: ignore[attr-defined]
            shift = constant(self.sum(inner, self.negative(base)))
            if shift is not None and shift.denominator == 1 and abs(shift) <= 30:
                factor = self.number(1)
                for step in range(min(shift.numerator, 0) + 1, max(shift.numerator, 0) + 1):
                    factor = self.product(factor, self.sum(base, self.number(step)))
                return self.product(self.single(generator), factor if shift > 0 else self.inverse(factor))
        return self.opaque("factorial", (argument,))

    def binomial(self, n: Tree, k: Tree) -> Quotient:
        if not variables(n) and not variables(k):
            return self.opaque("binom", (n, k))
        count = constant(self(k))
        if count is not None and count.denominator == 1 and 0 <= count <= 30:
            result = self.number(1)
            for step in range(count.numerator):
                result = self.product(result, self(("/", ("+", n, number(-step)), number(step + 1))))
            return result
        below = self.product(self.factorial(k), self.factorial(("+", n, ("neg", k))))
        return self.product(self.factorial(n), self.inverse(below))

    def repeated(
        self, join: Callable[[Quotient, Quotient], Quotient], start: Quotient, parts: tuple[Tree, ...]
    ) -> Quotient:
        """Return a sum or product between whole bounds.

        Raises:
            OutOfReach: for other bounds, or too many terms.
        """
        name, low, high, body = parts
        ends = [None if end == ("c", "oo") else constant(self(end)) for end in (low, high)]
        if ends[0] is None or ends[1] is None:
            raise OutOfReach("a sum without end")
        if not ends[0].denominator == ends[1].denominator == 1 or ends[1] - ends[0] > _LONGEST_SUM:
            raise OutOfReach("a long sum")
        for value in range(ends[0].numerator, ends[1].numerator + 1):
            start = join(start, self(substituted(body, name[1], number(value))))
        return start
