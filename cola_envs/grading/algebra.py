r"""Polynomials over the rationals in generators with rational exponents, exactly.

A generator is a variable, a prime under a root, pi, e, a power of -1 (``i`` is its half power), a sum under
a root, a logarithm, an exponential, or a function without rules. A monomial is a sorted tuple of (generator,
exponent), a polynomial maps monomials to rational coefficients. Every product applies the relations between
generators: a prime's exponent is within [0, 1), the square of a root of a sum is the sum. So a polynomial
without terms is zero; one with terms may still be zero.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from fractions import Fraction

Exponent = int | Fraction
Monomial = tuple[tuple[int, Exponent], ...]
Poly = dict[Monomial, Fraction]
#: A polynomial as a dictionary key.
Frozen = tuple[tuple[Monomial, Fraction], ...]
#: A generator: its kind ("variable", "prime", "sum", ...), and its parameters.
Key = tuple[Hashable, ...]

#: The most products of coefficients in one normal form; some tens of milliseconds.
_BUDGET = 60_000
_MAX_BITS = 20_000
_UNIT: Monomial = ()
#: The cosine of k * 15 degrees: the factor of each square root.
_COSINES = {
    1: {6: Fraction(1, 4), 2: Fraction(1, 4)},
    2: {3: Fraction(1, 2)},
    3: {2: Fraction(1, 2)},
    4: {1: Fraction(1, 2)},
    5: {6: Fraction(1, 4), 2: Fraction(-1, 4)},
}


class OutOfReach(ValueError):
    """There is no normal form, for lack of rules or of time; equality stays undecided."""


class Algebra:
    """Polynomials that share one table of generators."""

    def __init__(self) -> None:
        self._keys: list[Key] = []
        self._index: dict[Key, int] = {}
        self._spent = 0

    # Generators

    def generator(self, *key: Hashable) -> int:
        """Return the number of a generator; add it if it is new."""
        if key not in self._index:
            self._index[key] = len(self._keys)
            self._keys.append(key)
        return self._index[key]

    def kind(self, generator: int) -> str:
        """Return the kind of a generator."""
        return str(self._keys[generator][0])

    def kinds(self) -> set[Hashable]:
        """Return the kinds of all generators."""
        return {key[0] for key in self._keys}

    def is_complex(self, monomial: Monomial) -> bool:
        """Whether a monomial has a factor that need not be real and positive."""
        return any(self._is_complex(generator) for generator, _ in monomial)

    def _is_complex(self, generator: int) -> bool:
        key = self._keys[generator]
        if key[0] == "exp":
            return any(self.is_complex(monomial) for monomial, _ in key[1])  # type: ignore[attr-defined]
        return key[0] in ("turn", "sign")

    def _is_positive(self, generator: int, exponent: Exponent) -> bool:
        """Whether a power of a generator is not negative where it is real, for positive letters."""
        key = self._keys[generator]
        if key[0] == "sum":
            return Fraction(exponent).denominator % 2 == 0
        if key[0] == "function":
            return key[1] == "factorial"
        return key[0] != "log" and not self._is_complex(generator)

    # Arithmetic

    def spend(self, amount: int) -> None:
        """Count work.

        Raises:
            OutOfReach: where it is more than one normal form may take.
        """
        self._spent += amount
        if self._spent > _BUDGET:
            raise OutOfReach("too much work")

    def add(self, a: Poly, b: Poly) -> Poly:
        """Return a + b."""
        total = dict(a)
        self.spend(len(b))
        for monomial, coefficient in b.items():
            value = total.get(monomial, 0) + coefficient
            if value:
                total[monomial] = value
            else:
                total.pop(monomial, None)
        return total

    def scale(self, a: Poly, factor: Fraction) -> Poly:
        """Return a times a number."""
        return {monomial: coefficient * factor for monomial, coefficient in a.items()} if factor else {}

    def multiply(self, a: Poly, b: Poly) -> Poly:
        """Return a * b."""
        if len(a) > len(b):
            a, b = b, a
        self.spend(len(a) * len(b))
        total: Poly = {}
        for m, c in a.items():
            for n, d in b.items():
                if m and n:
                    exponents = dict(m)
                    for generator, exponent in n:
                        exponents[generator] = exponents.get(generator, 0) + exponent
                    product = self.reduced(exponents)
                else:
                    product = {m or n: Fraction(1)}
                for monomial, factor in product.items():
                    value = total.get(monomial, Fraction(0)) + c * d * factor
                    if value.numerator.bit_length() + value.denominator.bit_length() > _MAX_BITS:
                        raise OutOfReach("large coefficients")
                    total[monomial] = value
        return {monomial: coefficient for monomial, coefficient in total.items() if coefficient}

    def power(self, a: Poly, exponent: int) -> Poly:
        """Return a to a whole power, 0 or more."""
        if exponent > 4000:
            raise OutOfReach("a high power")
        result: Poly = {_UNIT: Fraction(1)}
        while exponent:
            if exponent & 1:
                result = self.multiply(result, a)
            exponent >>= 1
            if exponent:
                a = self.multiply(a, a)
        return result

    def reduced(self, exponents: dict[int, Exponent]) -> Poly:
        """Return a product of powers of generators with the relations between them applied.

        Raises:
            OutOfReach: for a sum to a negative power, which is no polynomial.
        """
        coefficient = Fraction(1)
        powers: list[tuple[int, Exponent]] = []
        factors: list[Poly] = []
        for generator, exponent in sorted(exponents.items()):
            kind = self._keys[generator][0]
            if kind in ("prime", "sum", "turn", "sign"):
                whole = math.floor(exponent)
                exponent -= whole
                if kind == "prime" and whole:
                    prime = self._keys[generator][1]
                    assert isinstance(prime, int)
                    if abs(whole) * prime.bit_length() > _MAX_BITS:
                        raise OutOfReach("a high power")
                    coefficient *= Fraction(prime) ** whole
                elif kind == "turn" and whole % 2:
                    coefficient = -coefficient
                elif kind == "sign":  # (-1)^n for a whole n: its exponent counts modulo 2
                    exponent += whole % 2
                elif kind == "sum" and whole:
                    if whole < 0:
                        raise OutOfReach("a sum below a fraction bar")
                    factors.append(self.power(dict(self._keys[generator][1]), whole))  # type: ignore[call-overload]
            if exponent:
                if isinstance(exponent, Fraction) and exponent.denominator == 1:
                    exponent = exponent.numerator
                if kind == "turn" and (12 * exponent).denominator == 1 and exponent != Fraction(1, 2):
                    factors.append(self._turn(exponent))
                else:
                    powers.append((generator, exponent))
        result: Poly = {tuple(powers): coefficient}
        for factor in factors:
            result = self.multiply(result, factor)
        return result

    def _turn(self, exponent: Exponent) -> Poly:
        """Return (-1)^exponent by square roots, for a multiple of 1/12 that is not 1/2."""
        half = Fraction(1, 2)
        steps = int(12 * exponent)
        sign, steps = (1, steps) if steps < 6 else (-1, 12 - steps)
        total: Poly = {}
        for cosine, factor, tail in (
            (_COSINES[steps], sign, []),
            (_COSINES[6 - steps], 1, [(self.generator("turn"), half)]),
        ):
            for radicand, coefficient in cosine.items():
                primes = [(self.generator("prime", prime), half) for prime in (2, 3) if radicand % prime == 0]
                total[tuple(sorted([*primes, *tail]))] = coefficient * factor
        return total

    def content(self, a: Poly) -> tuple[Fraction, Monomial, Poly]:
        """Split a polynomial that is not zero into a positive number, a monomial and a primitive part.

        The monomial holds generators alone that are not negative; the primitive part keeps the sign.
        """
        numbers = a.values()
        number = Fraction(
            math.gcd(*(c.numerator for c in numbers)), math.lcm(*(c.denominator for c in numbers))
        )
        common: dict[int, Exponent] | None = None
        for monomial in a:
            here = {g: e for g, e in monomial if self._is_positive(g, e)}
            if common is None:
                common = here
            else:
                common = {g: min(common.get(g, 0), here.get(g, 0)) for g in common.keys() | here.keys()}
        shared = tuple(sorted((g, e) for g, e in (common or {}).items() if e))
        return number, shared, {_without(m, shared): c / number for m, c in a.items()}


def _without(monomial: Monomial, shared: Monomial) -> Monomial:
    if not shared:
        return monomial
    exponents = dict(monomial)
    for generator, exponent in shared:
        exponents[generator] = exponents.get(generator, 0) - exponent
    return tuple(sorted((g, e) for g, e in exponents.items() if e))


def frozen(a: Poly) -> Frozen:
    """Return a polynomial as a key."""
    return tuple(sorted(a.items()))
