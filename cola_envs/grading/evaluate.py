r"""The value of an expression tree at a point: exact where it is rational, else to a number of bits.

Rational arithmetic is exact, so that rounded answers differ. Roots, pi, e, complex numbers and elementary
functions are evaluated by mpmath. A definite integral has no value here; :func:`integrals_differ` refutes by
quadrature. All work is bounded: too large numbers and too costly evaluations raise :class:`TooBig`.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from cola_envs.grading.nodes import Tree
from cola_envs.grading.trees import TRIGONOMETRIC, substituted, variables

if TYPE_CHECKING:
    from mpmath import mpc, mpf
    from mpmath.ctx_mp import MPContext

    Float: TypeAlias = mpf | mpc
    Number: TypeAlias = Fraction | mpf | mpc
    N = TypeVar("N", Fraction, Number)

#: Largest exact number, in bits; 2^2004 and 500! are within it.
_MAX_BITS = 40_000
#: The limit of one evaluation's cost, in bits, and the cost of a node: some ten milliseconds.
_MAX_COST = 2_000_000
_NODE_COST = 60
_LONGEST_SUM = 2_000
#: Bits of a usual evaluation, and of a second one that decides whether a difference is rounding.
WORK_BITS, CHECK_BITS = 200, 600
#: Bits of a numerical integral, which can only refute.
_QUADRATURE_BITS = 80
#: Bits at which numbers differ if the longest possible answers to them differ in a digit.
LAST_BITS = 2600
_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child would have the lock that another thread holds, for good
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class TooBig(ValueError):
    """A value, or an intermediate one, is larger than any final answer needs."""


class Undefined(ValueError):
    """Division by zero, the logarithm of zero and their like."""


class Unevaluable(ValueError):
    """The value is not computed here: an infinite sum, a sum up to a letter, an integral."""


@cache
def _mp() -> MPContext:
    # A separate context: its precision is set under _LOCK, and other users of mpmath do not see it.
    import mpmath

    context = mpmath.mp.clone()
    context.prec = WORK_BITS
    return context


@contextmanager
def precision(bits: int) -> Iterator[MPContext]:
    """Give mpmath's context at a number of bits, to one thread at a time."""
    with _LOCK, _mp().workprec(bits):
        yield _mp()


class Evaluator:
    """Evaluates trees at one assignment of the variables.

    Args:
        assignment: the variables' values.
        real: whether a value that is not real, also an intermediate one, counts as undefined.
    """

    def __init__(self, assignment: Mapping[str, Fraction], real: bool) -> None:
        self.assignment = assignment
        self.real = real
        self.cost = 0

    def __call__(self, tree: Tree) -> Number:
        self.spend(_NODE_COST)
        value = self.evaluate(tree)
        if self.real and not isinstance(value, Fraction):
            mp = _mp()
            if mp.im(value) != 0:
                raise Undefined("not real")
            return mp.re(value)
        return value

    def evaluate(self, tree: Tree) -> Number:
        kind = tree[0]
        if kind == "n":
            return tree[1]
        if kind == "v":
            return self.assignment[tree[1]]
        if kind == "c":
            if tree[1] == "oo":
                raise Unevaluable("infinity is no number")
            mp = _mp()
            return {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1)}[tree[1]]
        if kind in ("neg", "deg"):
            value = self(tree[1])
            return -value if kind == "neg" else value
        if kind == "f":
            return self.function(tree[1], tree[2:])
        if kind in ("pm", "mp"):
            raise Unevaluable("a plus-or-minus has two values")
        a, b = self(tree[1]), self(tree[2])
        if kind == "^":
            return self.power(a, b)
        if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
            a, b = as_float(a), as_float(b)
        if kind == "/":
            if b == 0:
                raise Undefined("division by zero")
            return self.checked(a / b)
        return self.checked(a + b if kind == "+" else a * b)

    def checked(self, value: N) -> N:
        if isinstance(value, Fraction):
            bits = value.numerator.bit_length() + value.denominator.bit_length()
            if bits > _MAX_BITS:
                raise TooBig("number")
            self.spend(bits)
        return value

    def spend(self, cost: int) -> None:
        self.cost += cost
        if self.cost > _MAX_COST:
            raise TooBig("the work for a value")

    def power(self, a: Number, b: Number) -> Number:
        if isinstance(b, Fraction) and isinstance(a, Fraction):
            if a == 0:
                if b <= 0:
                    raise Undefined("power of zero")
                return a
            if b.denominator == 1:
                bits = a.numerator.bit_length() + a.denominator.bit_length()
                if abs(b) * (bits if abs(a) != 1 else 1) > _MAX_BITS:
                    raise TooBig("power")
                return self.checked(a ** int(b))
        mp = _mp()
        base = as_float(a)
        if base == 0:
            if mp.re(as_float(b)) <= 0:
                raise Undefined("power of zero")
            return base
        if isinstance(b, Fraction) and b.denominator % 2 and mp.im(base) == 0 and mp.re(base) < 0:
            # The real root, as school mathematics has it: the cube root of -8 is -2.
            magnitude = self.real_power(-mp.re(base), b)
            return -magnitude if b.numerator % 2 else magnitude
        return self.real_power(base, b)

    def real_power(self, base: Float, b: Number) -> Float:
        mp = _mp()
        if abs(as_float(b)) * abs(mp.log(abs(base))) > 1e6:
            raise TooBig("power")
        return mp.sqrt(base) if b == Fraction(1, 2) else mp.power(base, as_float(b))

    def function(self, name: str, arguments: tuple[Tree, ...]) -> Number:
        if name in ("sum", "prod"):
            return self.repeated(name, arguments)
        if name == "int":
            raise Unevaluable("an integral")
        values = [self(argument) for argument in arguments]
        if name in TRIGONOMETRIC and arguments[0][0] == "deg":
            values = [as_float(values[0]) * _mp().pi / 180]
        x = values[0]
        if name == "abs":
            return abs(x)
        if name in ("floor", "ceil"):
            return self.rounded(name, x)
        if name in ("factorial", "doublefactorial"):
            return self.factorial(x, 1 if name == "factorial" else 2)
        if name == "binom":
            return self.binomial(x, values[1])
        if name in ("gcd", "lcm"):
            if not all(isinstance(value, Fraction) and value.denominator == 1 for value in values):
                raise Undefined(name)
            return Fraction((math.gcd if name == "gcd" else math.lcm)(*(int(value) for value in values)))
        if name in ("max", "min"):
            if any(_mp().im(as_float(value)) != 0 for value in values):
                raise Undefined(name)
            return (max if name == "max" else min)(values, key=as_float)
        if len(values) > (2 if name == "log" else 1):
            raise Undefined(f"{name} of several arguments")
        return self.elementary(name, [as_float(value) for value in values])

    def repeated(self, name: str, arguments: tuple[Tree, ...]) -> Number:
        index, low, high, body = arguments
        first, last = self(low), self(high)  # an end that is infinite is not evaluated
        if not all(isinstance(end, Fraction) and end.denominator == 1 for end in (first, last)):
            raise Undefined("a sum to an end that is no whole number")
        if last < first - 1:
            raise Undefined("a sum that ends before it begins")
        if last - first > _LONGEST_SUM:
            raise Unevaluable("a long sum")
        total: Number = Fraction(0 if name == "sum" else 1)
        for value in range(int(first), int(last) + 1):
            try:
                term = self(substituted(body, index[1], ("n", Fraction(value))))
            except (ValueError, KeyError) as error:
                if isinstance(error, TooBig | Undefined | Unevaluable):
                    raise
                raise Unevaluable(str(error)) from error  # a letter as a subscript
            if not (isinstance(total, Fraction) and isinstance(term, Fraction)):
                total, term = as_float(total), as_float(term)
            total = self.checked(total + term if name == "sum" else total * term)
        return total

    def rounded(self, name: str, x: Number) -> Fraction:
        if isinstance(x, Fraction):
            return Fraction(math.floor(x) if name == "floor" else math.ceil(x))
        mp = _mp()
        if mp.im(x) != 0 or abs(x) > 1e30:
            raise Undefined(name)
        if abs(x - mp.nint(mp.re(x))) < 1e-30:
            raise Unevaluable(f"{name} of what may be a whole number")
        return Fraction(int(mp.floor(mp.re(x)) if name == "floor" else mp.ceil(mp.re(x))))

    def factorial(self, x: Number, step: int) -> Number:
        """Return x! for a step of 1, x!! for one of 2."""
        if not isinstance(x, Fraction) or x.denominator != 1:
            if step == 1:
                return self.gamma(as_float(x) + 1)
            raise Undefined("double factorial")
        if x < 1 - step:
            raise Undefined("factorial")
        if x > 999:
            raise TooBig("factorial")
        return self.checked(Fraction(math.prod(range(int(x), 0, -step))))

    def gamma(self, x: Float) -> Float:
        if abs(x) > 1000:
            raise TooBig("factorial")
        return _mp().gamma(x)

    def binomial(self, n: Number, k: Number) -> Number:
        if all(isinstance(value, Fraction) and value.denominator == 1 for value in (n, k)) and n >= 0:
            if n > 5000:
                raise TooBig("binomial")
            return Fraction(math.comb(int(n), int(k)) if k >= 0 else 0)
        n, k = as_float(n), as_float(k)
        return self.gamma(n + 1) / (self.gamma(k + 1) * self.gamma(n - k + 1))

    def elementary(self, name: str, values: list[Float]) -> Float:
        mp = _mp()
        x = values[0]
        if abs(x) > 1e6 and name not in ("log", "ln"):
            raise TooBig(name)
        if name in ("log", "ln"):
            if x == 0 or (len(values) == 2 and values[1] in (0, 1)):
                raise Undefined(name)
            return mp.log(x) / mp.log(values[1]) if len(values) == 2 else mp.log(x)
        if name in _RECIPROCAL:
            below = getattr(mp, _RECIPROCAL[name])(x)
            if abs(below) < 1e-50:
                raise Undefined(name)
            return 1 / below
        if name == "tan" and abs(mp.cos(x)) < 1e-50:
            raise Undefined(name)
        if name == "arccot":
            return mp.pi / 2 - mp.atan(x)
        return getattr(mp, _MP_NAMES.get(name, name))(x)


class _Integrator(Evaluator):
    """Evaluates with definite integrals, numerically and each on ``parts`` parts of its interval."""

    def __init__(self, assignment: Mapping[str, Any], parts: int) -> None:
        super().__init__(assignment, False)
        self.parts = parts

    def function(self, name: str, arguments: tuple[Tree, ...]) -> Number:
        if name != "int":
            return super().function(name, arguments)
        index, low, high, body = arguments
        mp = _mp()
        first, last = (mp.inf if end == ("c", "oo") else as_float(self(end)) for end in (low, high))
        length = last - first if mp.isfinite(last - first) else mp.sign(last - first)
        step = length / (mp.sqrt(2) * self.parts)  # irrational: kinks and poles are hardly where parts meet
        outer = self.assignment

        def integrand(x: Float) -> Float:
            self.assignment = {**outer, index[1]: x}
            return as_float(self(body))

        integral: Float = mp.quad(integrand, [first, *(first + k * step for k in range(1, self.parts)), last])
        self.assignment = outer
        return integral

    def real_power(self, base: Float, b: Number) -> Float:
        try:
            return super().real_power(base, b)
        except TooBig:
            if _mp().re(as_float(b) * _mp().log(base)) > 0:
                raise
            return _mp().mpf(0)  # the far end of e^{-x^2}


_RECIPROCAL = {"cot": "tan", "sec": "cos", "csc": "sin"}
_MP_NAMES = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}


def as_float(value: Number) -> Float:
    """Return an mpmath number for a value."""
    return _mp().mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def value_of(tree: Tree, assignment: Mapping[str, Fraction], real: bool, bits: int = WORK_BITS) -> Number:
    """Return the value at a point: a Fraction, or an mpmath number.

    Raises:
        Undefined: where there is none, or with ``real`` where it or an intermediate value is not real.
        Unevaluable: where it is not computed.
        TooBig: where it is beyond the bounds.
    """
    with precision(bits):
        try:
            return Evaluator(assignment, real)(tree)
        except (TooBig, Undefined, Unevaluable):
            raise
        except (ArithmeticError, ValueError) as error:  # what mpmath raises at poles
            raise Undefined(str(error)) from error


def integrals_differ(a: Tree, b: Tree, assignment: Mapping[str, Fraction]) -> bool:
    """Whether two expressions with definite integrals have different values at a point, beyond doubt.

    Each is computed twice, over other parts of its intervals. Where an integrand is not smooth the two
    results differ, and neither counts.
    """
    results = [_integrated(tree, tuple(assignment.items())) for tree in (a, b)]
    if None in results:
        return False
    (x, x_error), (y, y_error) = (result for result in results if result is not None)
    with precision(_QUADRATURE_BITS):
        error = x_error + y_error + 1e-12 * (1 + abs(x))
        return bool(abs(x - y) > 1e6 * error)


@lru_cache(maxsize=4096)
def _integrated(tree: Tree, assignment: tuple[tuple[str, Fraction], ...]) -> tuple[Float, Float] | None:
    """Return a value with numerical integrals, and its change with other parts; None where there is none."""
    with precision(_QUADRATURE_BITS), suppress(ArithmeticError, ValueError, KeyError, TypeError):
        value, other = (as_float(_Integrator(dict(assignment), parts)(tree)) for parts in (2, 3))
        return value, abs(value - other)
    return None


def constant_value(tree: Tree, bits: int = WORK_BITS) -> Number:
    """Return a constant's value, which may be complex. Raises as :func:`value_of`."""
    return value_of(tree, {}, False, bits)


def real_value(tree: Tree) -> Fraction | None:
    """Return a constant's real value, exactly or to :data:`LAST_BITS`; None if it is not a real constant."""
    from mpmath.libmp import to_rational

    if variables(tree):
        return None
    try:
        value = constant_value(tree, LAST_BITS)
    except (Undefined, Unevaluable):
        return None
    if isinstance(value, Fraction):
        return value
    with precision(LAST_BITS) as mp:
        if abs(mp.im(value)) > 1e-50 * (1 + abs(value)):
            return None
        above, below = to_rational(mp.re(value)._mpf_)
        return Fraction(int(above), int(below))
