"""The value of an expression tree: exactly where it is rational, else to sixty digits.

Rational arithmetic is exact, so answers that round to one another are told apart. Roots, pi, e,
complex numbers and elementary functions are evaluated by mpmath to 200 bits, and two values are held
equal when they agree to 150: two different short expressions that agree so far are not known.
Expressions with variables are compared at fixed rational points. All work is bounded: numbers beyond
a size and evaluations beyond a cost raise :class:`TooBig`.
"""

from __future__ import annotations

import math
import threading
import zlib
from fractions import Fraction
from functools import cache
from typing import Any

from cola_envs.grading.nodes import Tree

#: Largest exact number, in bits; 2^2004 and 500! are within it.
_MAX_BITS = 40_000
#: Bits handled in one evaluation before it is given up: some milliseconds.
_MAX_COST = 2_000_000
_WORK_BITS, _CHECK_BITS, _EQUAL_BITS = 200, 600, 150
_POINTS = 6
_LOCK = threading.RLock()


class TooBig(ValueError):
    """The value, or the way to it, is larger than a final answer has any need of."""


class Undefined(ValueError):
    """Division by zero, the logarithm of zero and their like."""


@cache
def _mp() -> Any:
    # A context of our own: its precision is set under _LOCK, and no other user of mpmath sees it.
    import mpmath

    context = mpmath.mp.clone()
    context.prec = _WORK_BITS
    return context


class Evaluator:
    """Evaluates trees at one assignment of the variables.

    Args:
        point: index of the assignment; each variable's value follows from its name and this number.
        sign: what ``\\pm`` stands for, 1 or -1.
    """

    def __init__(self, point: int = 0, sign: int = 1) -> None:
        self.point = point
        self.sign = sign
        self.cost = 0

    def __call__(self, tree: Tree) -> Any:
        kind = tree[0]
        if kind == "n":
            return tree[1]
        if kind == "v":
            return self.variable(tree[1])
        if kind == "c":
            mp = _mp()
            return {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1)}[tree[1]]
        if kind == "neg":
            return -self(tree[1])
        if kind == "pm":
            return self.sign * self(tree[1])
        if kind == "mp":
            return -self.sign * self(tree[1])
        if kind == "deg":
            return self(tree[1])
        if kind == "f":
            return self.function(tree[1], tree[2:])
        a, b = self(tree[1]), self(tree[2])
        if kind == "^":
            return self.power(a, b)
        exact = isinstance(a, Fraction) and isinstance(b, Fraction)
        if not exact:
            a, b = _number(a), _number(b)
        if kind == "/":
            if b == 0:
                raise Undefined("division by zero")
            return self.checked(a / b)
        return self.checked(a + b if kind == "+" else a * b)

    def variable(self, name: str) -> Fraction:
        seed = zlib.crc32(f"{self.point}:{name}".encode())
        value = Fraction(seed % 1999 + 501, 1009)
        # The first points are positive, so that roots and logarithms are real there.
        return -value if self.point >= 3 and seed & 0x10000 else value

    def checked(self, value: Any) -> Any:
        if isinstance(value, Fraction):
            bits = value.numerator.bit_length() + value.denominator.bit_length()
            self.cost += bits
            if bits > _MAX_BITS or self.cost > _MAX_COST:
                raise TooBig("number")
        return value

    def power(self, a: Any, b: Any) -> Any:
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
        base = _number(a)
        if base == 0:
            raise Undefined("power of zero")
        if isinstance(b, Fraction) and b.denominator % 2 and mp.im(base) == 0 and base < 0:
            # The real root, as school mathematics has it: the cube root of -8 is -2.
            magnitude = self.real_power(-mp.re(base), b)
            return -magnitude if b.numerator % 2 else magnitude
        return self.real_power(base, b)

    def real_power(self, base: Any, b: Any) -> Any:
        mp = _mp()
        if abs(_number(b)) * abs(mp.log(abs(base))) > 1e6:
            raise TooBig("power")
        if b == Fraction(1, 2):
            return mp.sqrt(base)
        return mp.power(base, _number(b))

    def function(self, name: str, arguments: tuple[Tree, ...]) -> Any:
        mp = _mp()
        if name in _TRIGONOMETRIC:
            values = [_in_radians(arguments[0], self)]
        else:
            values = [self(argument) for argument in arguments]
        x = values[0]
        if name == "abs":
            return abs(x)
        if name in ("floor", "ceil"):
            if not isinstance(x, Fraction):
                if mp.im(_number(x)) != 0 or abs(x) > 1e30:
                    raise Undefined(name)
                nearest = mp.nint(mp.re(x))
                if abs(x - nearest) < 1e-30:
                    return Fraction(int(nearest))
                return Fraction(int(mp.floor(mp.re(x)) if name == "floor" else mp.ceil(mp.re(x))))
            return Fraction(math.floor(x) if name == "floor" else math.ceil(x))
        if name == "factorial":
            if isinstance(x, Fraction) and x.denominator == 1:
                if x < 0:
                    raise Undefined("factorial")
                if x > 999:
                    raise TooBig("factorial")
                return self.checked(Fraction(math.factorial(int(x))))
            return self.gamma(_number(x) + 1)
        if name == "binom":
            return self.binomial(x, values[1])
        if name in ("gcd", "lcm"):
            if not all(isinstance(value, Fraction) and value.denominator == 1 for value in values):
                raise Undefined(name)
            return Fraction((math.gcd if name == "gcd" else math.lcm)(*(int(value) for value in values)))
        if name in ("max", "min"):
            if any(mp.im(_number(value)) != 0 for value in values):
                raise Undefined(name)
            return (max if name == "max" else min)(values, key=_number)
        if len(values) > (2 if name == "log" else 1):
            raise Undefined(f"{name} of several arguments")
        return self.elementary(name, [_number(value) for value in values])

    def gamma(self, x: Any) -> Any:
        if abs(x) > 1000:
            raise TooBig("factorial")
        return _mp().gamma(x)

    def binomial(self, n: Any, k: Any) -> Any:
        if all(isinstance(value, Fraction) and value.denominator == 1 for value in (n, k)) and n >= 0:
            if n > 5000:
                raise TooBig("binomial")
            return Fraction(math.comb(int(n), int(k)) if k >= 0 else 0)
        n, k = _number(n), _number(k)
        return self.gamma(n + 1) / (self.gamma(k + 1) * self.gamma(n - k + 1))

    def elementary(self, name: str, values: list[Any]) -> Any:
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


_TRIGONOMETRIC = frozenset(["sin", "cos", "tan", "cot", "sec", "csc"])
_RECIPROCAL = {"cot": "tan", "sec": "cos", "csc": "sin"}
_MP_NAMES = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}


def _in_radians(tree: Tree, evaluate: Evaluator) -> Any:
    value = evaluate(tree)
    return _number(value) * _mp().pi / 180 if tree[0] == "deg" else value


def _number(value: Any) -> Any:
    if isinstance(value, Fraction):
        mp = _mp()
        return mp.mpf(value.numerator) / value.denominator
    return value


def variables(tree: Tree) -> frozenset[str]:
    """Return the names of a tree's variables."""
    if tree[0] == "v":
        return frozenset([tree[1]])
    found: frozenset[str] = frozenset()
    for part in tree[1:]:
        if isinstance(part, tuple):
            found |= variables(part)
    return found


def has_plus_minus(tree: Tree) -> bool:
    """Whether a tree stands for two values."""
    return tree[0] in ("pm", "mp") or any(
        isinstance(part, tuple) and has_plus_minus(part) for part in tree[1:]
    )


def with_sign(tree: Tree, sign: int) -> Tree:
    """Return the tree with every plus-or-minus read as ``sign``."""
    if tree[0] in ("pm", "mp"):
        inner = with_sign(tree[1], sign)
        return inner if (tree[0] == "pm") == (sign > 0) else ("neg", inner)
    return tuple(with_sign(part, sign) if isinstance(part, tuple) else part for part in tree)


def value_of(tree: Tree, point: int = 0) -> Any:
    """Return the value at a point: a Fraction, or an mpmath number.

    Raises:
        Undefined: where it has none.
        TooBig: where it is beyond the bounds.
    """
    try:
        return Evaluator(point)(tree)
    except (TooBig, Undefined):
        raise
    except (ArithmeticError, ValueError) as error:  # what mpmath raises at poles
        raise Undefined(str(error)) from error


def same_number(a: Tree, b: Tree, point: int = 0) -> bool:
    """Whether two trees have the same value at a point.

    Raises:
        Undefined, TooBig: as :func:`value_of`.
    """
    with _LOCK:
        x, y = value_of(a, point), value_of(b, point)
        if isinstance(x, Fraction) and isinstance(y, Fraction):
            return x == y
        x, y = _number(x), _number(y)
        difference = abs(x - y)
        if difference <= max(abs(x), abs(y)) * 2.0**-_EQUAL_BITS:
            return True
        if difference > 1e-30:
            return False
        # Both are next to nothing: a true zero shrinks with the precision, a small number does not.
        mp = _mp()
        try:
            mp.prec = _CHECK_BITS
            closer = abs(_number(value_of(a, point)) - _number(value_of(b, point)))
            return bool(closer <= difference * 2.0**-_EQUAL_BITS)
        finally:
            mp.prec = _WORK_BITS


def same(a: Tree, b: Tree) -> bool | None:
    """Whether two expressions are equal, as functions of their variables; None where it cannot be told.

    Raises:
        TooBig: if either is beyond the bounds.
    """
    if not variables(a) and not variables(b):
        try:
            return same_number(a, b)
        except Undefined:
            return None
    valid = 0
    for point in range(_POINTS):
        try:
            if not same_number(a, b, point):
                return False
            valid += 1
        except Undefined:
            continue
    return True if valid >= 3 else None


def proportional(a: Tree, b: Tree) -> int | None:
    """Return the sign of the constant ``c`` in ``a = c * b``; 0 if there is none, None if it cannot be told.

    A complex constant counts as positive.

    Raises:
        TooBig: if either is beyond the bounds.
    """
    if variables(a) != variables(b):
        return 0
    first: Tree | None = None
    valid = 0
    sign = 1
    with _LOCK:
        for point in range(_POINTS):
            try:
                x, y = value_of(a, point), value_of(b, point)
                if abs(_number(x)) < 1e-40 or abs(_number(y)) < 1e-40:
                    if (abs(_number(x)) < 1e-40) != (abs(_number(y)) < 1e-40):
                        return 0
                    continue
                quotient = (
                    x / y if isinstance(x, Fraction) == isinstance(y, Fraction) else _number(x) / _number(y)
                )
                ratio = ("n", quotient)
                if first is None:
                    first = ratio
                    sign = -1 if _mp().re(_number(quotient)) < 0 else 1
                elif not same_number(first, ratio):
                    return 0
                valid += 1
            except Undefined:
                continue
    return sign if valid >= 3 else None


def real_value(tree: Tree) -> Any | None:
    """Return a constant's real value as an mpmath number, or None if it is not one."""
    if variables(tree):
        return None
    with _LOCK:
        try:
            value = value_of(tree)
        except Undefined:
            return None
        mp = _mp()
        value = _number(value)
        return None if abs(mp.im(value)) > 1e-50 * (1 + abs(value)) else mp.re(value)
