"""Arithmetic of fractions of polynomials: powers, roots, exponentials and logarithms.

The rules are those of positive numbers; :mod:`cola_envs.grading.normal` uses them in proofs.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from cola_envs.grading.algebra import Algebra, Monomial, OutOfReach, Poly, frozen
from cola_envs.grading.evaluate import Undefined

ONE: Poly = {(): Fraction(1)}
_TRIAL_DIVISORS = 2000


@dataclass(frozen=True, slots=True)
class Quotient:
    """A fraction of polynomials."""

    above: Poly
    below: Poly


class Quotients(Algebra):
    """Arithmetic of quotients over one table of generators."""

    def number(self, value: Fraction | int) -> Quotient:
        return Quotient({(): Fraction(value)} if value else {}, ONE)

    def single(self, generator: int, exponent: Fraction | int = 1) -> Quotient:
        """Return a generator to a power; one of a sum may have a negative power here."""
        if self.kind(generator) == "sum" and exponent < 0:
            return self.inverse(self.single(generator, -exponent))
        return Quotient(self.reduced({generator: exponent}), ONE)

    def negative(self, a: Quotient) -> Quotient:
        return Quotient(self.scale(a.above, Fraction(-1)), a.below)

    def sum(self, a: Quotient, b: Quotient) -> Quotient:
        if a.below == b.below:
            return Quotient(self.add(a.above, b.above), a.below)
        above = self.add(self.multiply(a.above, b.below), self.multiply(b.above, a.below))
        return self.quotient(above, self.multiply(a.below, b.below))

    def product(self, a: Quotient, b: Quotient) -> Quotient:
        return self.quotient(self.multiply(a.above, b.above), self.multiply(a.below, b.below))

    def inverse(self, a: Quotient) -> Quotient:
        if not a.above:
            raise Undefined("division by zero")
        return self.quotient(a.below, a.above)

    def quotient(self, above: Poly, below: Poly) -> Quotient:
        """Return above / below; divide by a divisor of one term, make the first term of others positive."""
        if not above or below == ONE:
            return Quotient(above, ONE)
        if above == below:
            return Quotient(ONE, ONE)
        if len(below) == 1:
            ((monomial, coefficient),) = below.items()
            if not any(self.kind(generator) == "sum" for generator, _ in monomial):
                inverse = self.scale(self.reduced({g: -e for g, e in monomial}), 1 / coefficient)
                return Quotient(self.multiply(above, inverse), ONE)
        if min(below.items())[1] < 0:
            above, below = self.scale(above, Fraction(-1)), self.scale(below, Fraction(-1))
        return Quotient(above, below)

    def equal(self, a: Quotient, b: Quotient) -> bool:
        return not self.add(
            self.multiply(a.above, b.below), self.scale(self.multiply(b.above, a.below), Fraction(-1))
        )

    # Powers and roots

    def general_power(self, base: Quotient, exponent: Quotient) -> Quotient:
        value = constant(exponent)
        if value is not None:
            return self.rational_power(base, value)
        if len(base.above) == 1 and base.below == ONE and min(base.above.values()) < 0:
            sign = self.power_of_minus_one(exponent)
            return self.product(sign, self.general_power(self.negative(base), exponent))
        return self.exponential(self.product(exponent, self.logarithm(base)))

    def rational_power(self, base: Quotient, exponent: Fraction) -> Quotient:
        if not base.above:
            if exponent <= 0:
                raise Undefined("power of zero")
            return base
        if exponent < 0:
            return self.inverse(self.rational_power(base, -exponent))
        return self.whole_power(self.root(base, exponent.denominator), exponent.numerator)

    def whole_power(self, base: Quotient, exponent: int) -> Quotient:
        if base.below == ONE and len(base.above) == 1:
            ((monomial, coefficient),) = base.above.items()
            bits = coefficient.numerator.bit_length() + coefficient.denominator.bit_length()
            if exponent * bits > 20_000:
                raise OutOfReach("a high power")
            scaled = self.reduced({g: e * exponent for g, e in monomial})
            return Quotient(self.scale(scaled, coefficient**exponent), ONE)
        return self.quotient(self.power(base.above, exponent), self.power(base.below, exponent))

    def root(self, base: Quotient, degree: int) -> Quotient:
        if degree == 1:
            return base
        self.refuse_complex_fraction(base)
        above, below = (self.root_of_polynomial(part, degree) for part in (base.above, base.below))
        return self.product(above, self.inverse(below))

    def has_complex_term(self, a: Quotient) -> bool:
        return any(self.is_complex(monomial) for part in (a.above, a.below) for monomial in part)

    def refuse_complex_fraction(self, a: Quotient) -> None:
        """Raise OutOfReach for a complex fraction, whose root need not be the fraction of the roots."""
        if a.below != ONE and self.has_complex_term(a):
            raise OutOfReach("root or logarithm of a complex fraction")

    def root_of_polynomial(self, a: Poly, degree: int) -> Quotient:
        number, monomial, rest = self.content(a)
        result = self.prime_power(number, Fraction(1, degree))
        # Exponents of generators may be divided: they are positive.
        powers = self.reduced({g: Fraction(e) / degree for g, e in monomial})
        result = self.product(result, Quotient(powers, ONE))
        if len(rest) == 1:
            ((turn, sign),) = rest.items()
            return self.product(result, self.root_of_turn(turn, sign, degree))
        if degree % 2 and min(rest.items())[1] < 0:
            result, rest = self.negative(result), self.scale(rest, Fraction(-1))
        return self.product(result, self.single(self.generator("sum", frozen(rest)), Fraction(1, degree)))

    def root_of_turn(self, turn: Monomial, sign: Fraction, degree: int) -> Quotient:
        """Return the root of 1, -1 or a power of -1: the principal one, but the real one of -1."""
        if not turn:
            if sign > 0:
                return self.number(1)
            return self.number(-1) if degree % 2 else self.single(self.generator("turn"), Fraction(1, degree))
        if len(turn) > 1 or self.kind(turn[0][0]) != "turn":
            raise OutOfReach("root of a complex number")
        angle = Fraction(turn[0][1]) + (1 if sign < 0 else 0)
        return self.single(turn[0][0], (angle if angle <= 1 else angle - 2) / degree)

    def prime_power(self, number: Fraction, exponent: Fraction) -> Quotient:
        exponents = {self.generator("prime", prime): count * exponent for prime, count in _factors(number)}
        return Quotient(self.reduced(dict(exponents)), ONE)

    def power_of_minus_one(self, exponent: Quotient) -> Quotient:
        """Return (-1)^exponent for an exponent that is whole wherever its letters are."""
        if exponent.below != ONE:
            raise OutOfReach("a negative number to a broken power")
        exponents: dict[int, Fraction | int] = {}
        odd = 0
        for monomial, coefficient in exponent.above.items():
            whole = coefficient.denominator == 1 and all(
                e > 0 and Fraction(e).denominator == 1 and self.kind(g) == "variable" for g, e in monomial
            )
            if not whole:
                raise OutOfReach("a negative number to a broken power")
            if monomial:
                exponents[self.generator("sign", frozen({monomial: Fraction(1)}))] = coefficient.numerator % 2
            else:
                odd = coefficient.numerator % 2
        return Quotient(self.scale(self.reduced(exponents), Fraction(-1 if odd else 1)), ONE)

    # Exponentials and logarithms

    def logarithm(self, a: Quotient) -> Quotient:
        if not a.above:
            raise Undefined("logarithm of zero")
        self.refuse_complex_fraction(a)
        return self.sum(self.log_of_polynomial(a.above), self.negative(self.log_of_polynomial(a.below)))

    def log_of_polynomial(self, a: Poly) -> Quotient:
        number, monomial, rest = self.content(a)
        total: Poly = {}
        for prime, count in _factors(number):
            log = self.generator("log", self.generator("prime", prime))
            total = self.add(total, {((log, 1),): Fraction(count)})
        result = Quotient(total, ONE)
        for generator, exponent in monomial:
            result = self.sum(result, self.product(self.log_of_generator(generator), self.number(exponent)))
        if len(rest) > 1:
            inner = self.generator("sum", frozen(rest))
            return self.sum(result, self.log_of_generator(inner))
        if rest != ONE:
            raise OutOfReach("logarithm of a number that is not positive")
        return result

    def log_of_generator(self, generator: int) -> Quotient:
        key = self._keys[generator]
        if key[0] == "e":
            return self.number(1)
        if key[0] == "exp":
            return Quotient(dict(key[1]), dict(key[2]))  # type: ignore[call-overload]
        return self.single(self.generator("log", generator))

    def exponential(self, a: Quotient) -> Quotient:
        if a.below != ONE:
            number, monomial, rest = self.content(a.above)
            if min(rest.items())[1] < 0:
                number, rest = -number, self.scale(rest, Fraction(-1))
            inner = self.multiply(rest, {monomial: Fraction(1)})
            return self.single(self.generator("exp", frozen(inner), frozen(a.below)), number)
        result = self.number(1)
        for monomial, coefficient in a.above.items():
            result = self.product(result, self.exponential_of_term(monomial, coefficient))
        return result

    def exponential_of_term(self, monomial: Monomial, coefficient: Fraction) -> Quotient:
        kinds = {self.kind(generator): exponent for generator, exponent in monomial}
        if not monomial:
            return self.single(self.generator("e"), coefficient)
        if len(monomial) == 1 and monomial[0][1] == 1 and "log" in kinds:
            inner = self._keys[monomial[0][0]][1]
            assert isinstance(inner, int)
            return self.single(inner, coefficient)
        if len(monomial) == 2 and kinds == {"pi": 1, "turn": Fraction(1, 2)}:
            return self.single(self.generator("turn"), coefficient)
        return self.single(self.generator("exp", frozen({monomial: Fraction(1)}), frozen(ONE)), coefficient)


def constant(a: Quotient) -> Fraction | None:
    """Return a quotient's value where that is a rational number."""
    if not a.above:
        return Fraction(0)
    if a.below == ONE and len(a.above) == 1 and () in a.above:
        return a.above[()]
    return None


def _factors(number: Fraction) -> list[tuple[int, int]]:
    """Return the prime factors of a positive number; a large factor counts as a prime."""
    factors: list[tuple[int, int]] = []
    for value, sign in ((number.numerator, 1), (number.denominator, -1)):
        divisor = 2
        while divisor <= _TRIAL_DIVISORS and divisor * divisor <= value:
            count = 0
            while value % divisor == 0:
                value //= divisor
                count += 1
            if count:
                factors.append((divisor, sign * count))
            divisor += 1 + divisor % 2
        if value > 1:
            root = round(value**0.5) if value < 1 << 100 else 0
            factors.append((root, 2 * sign) if root * root == value else (value, sign))
    return factors
