"""Ten further kinds of arithmetic problems: fractions, divisors, remainders, percentages, bases, ...

A generator draws operands with ``draw``, which returns a uniform number in [0, 1) at each call, and returns
the canonical question and a function that writes question, answer and steps. Every answer is an integer; for
a fraction it is the numerator over a given denominator. The steps use ``+ - *``, exact ``/``, and ``%`` (the
remainder) of non-negative integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Draw = Callable[[], float]
Step = tuple[str, int]
Worked = tuple[str, int, tuple[Step, ...]]
Drawn = tuple[str, Callable[[], Worked]]
Generator = Callable[[Draw, int], Drawn]


def between(draw: Draw, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``, both included."""
    return low + int(draw() * (high - low + 1))


class _Sheet:
    """Collects the steps of a calculation: each method records one step and returns its value."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def _write(self, expression: str, value: int) -> int:
        self.steps.append((expression, value))
        return value

    def add(self, a: int, b: int) -> int:
        return self._write(f"{a}{b:+d}", a + b)

    def times(self, a: int, b: int) -> int:
        return self._write(f"{a}*{b}", a * b)

    def over(self, a: int, b: int) -> int:
        value, rest = divmod(a, b)
        if rest:
            raise ArithmeticError(f"{a} is not a multiple of {b}")
        return self._write(f"{a}/{b}", value)

    def modulo(self, a: int, b: int) -> int:
        return self._write(f"{a}%{b}", a % b)


# ------------------------------------------------------------------ fractions


def _fraction(draw: Draw, level: int) -> Drawn:
    """``1/2+1/3=?/6``; level 1 equal denominators, 2 multiples, 3 any, 4 a product, 5 three terms."""
    if level == 4:
        return _fraction_product(draw)
    largest = 9 if level < 5 else 12
    lower = [between(draw, 2, largest)]
    if level == 1:
        lower.append(lower[0])
    elif level == 2:
        lower.append(lower[0] * between(draw, 2, 4))
    else:
        lower += [between(draw, 2, largest) for _ in range(1 if level == 3 else 2)]
    upper = [between(draw, 1, 9) for _ in lower]
    common = math.lcm(*lower)
    signs = [1, *(1 if draw() < 0.5 else -1 for _ in upper[1:])]
    parts = [sign * a * (common // b) for sign, a, b in zip(signs, upper, lower, strict=True)]
    for i in range(1, len(parts)):
        if sum(parts[: i + 1]) < 0:  # no partial sum is negative, as in the other kinds
            signs[i], parts[i] = 1, -parts[i]
    terms = [f"{'+' if s > 0 else '-'}{a}/{b}" for s, a, b in zip(signs, upper, lower, strict=True)]

    def write() -> Worked:
        sheet = _Sheet()
        for a, b in zip(upper, lower, strict=True):
            if b != common:
                sheet.times(a, common // b)
        total = parts[0]
        for part in parts[1:]:
            total = sheet.add(total, part)
        return f"{''.join(terms)[1:]}=?/{common}", total, tuple(sheet.steps)

    return "fraction " + " ".join(sorted(terms)), write


def _fraction_product(draw: Draw) -> Drawn:
    a, c = between(draw, 1, 9), between(draw, 1, 9)
    b, d = between(draw, 2, 9), between(draw, 2, 9)

    def write() -> Worked:
        sheet = _Sheet()
        below, above = sheet.times(b, d), sheet.times(a, c)
        return f"{a}/{b}*{c}/{d}=?/{below}", above, tuple(sheet.steps)

    return f"fraction product {sorted([(a, b), (c, d)])}", write


# ------------------------------------------------------------------ divisors and remainders

# level: (largest common factor, largest cofactor)
_DIVISOR_SHAPES = {1: (9, 5), 2: (12, 7), 3: (15, 10), 4: (30, 12), 5: (60, 30)}


def _divisor_pair(draw: Draw, level: int) -> tuple[int, int]:
    factor, cofactor = _DIVISOR_SHAPES[level]
    shared, a, b = between(draw, 2, factor), between(draw, 1, cofactor), between(draw, 1, cofactor)
    return shared * a, shared * (b + (a == b))


def _euclid(sheet: _Sheet, a: int, b: int) -> int:
    a, b = max(a, b), min(a, b)
    while b:
        a, b = b, sheet.modulo(a, b)
    return a


def _gcd(draw: Draw, level: int) -> Drawn:
    """``gcd(12,18)=?``, by Euclid's algorithm."""
    a, b = _divisor_pair(draw, level)

    def write() -> Worked:
        sheet = _Sheet()
        answer = _euclid(sheet, a, b)
        sheet.add(answer, 0)  # the last remainder is 0, and the last step must give the answer
        return f"gcd({a},{b})=?", answer, tuple(sheet.steps)

    return f"gcd {sorted((a, b))}", write


def _lcm(draw: Draw, level: int) -> Drawn:
    """``lcm(12,18)=?``, the product divided by the greatest common divisor."""
    a, b = _divisor_pair(draw, level)

    def write() -> Worked:
        sheet = _Sheet()
        shared = _euclid(sheet, a, b)
        answer = sheet.times(sheet.over(a, shared), b)
        return f"lcm({a},{b})=?", answer, tuple(sheet.steps)

    return f"lcm {sorted((a, b))}", write


# level: (largest dividend, largest divisor)
_REMAINDER_SHAPES = {1: (30, 5), 2: (99, 9), 3: (999, 19)}


def _remainder(draw: Draw, level: int) -> Drawn:
    """``97%13=?``; from level 4 on the remainder of a power, ``7^5%13=?``."""
    if level > 3:
        return _power_remainder(draw, level)
    largest, divisor = _REMAINDER_SHAPES[level]
    b = between(draw, 2, divisor)
    a = between(draw, b, largest)

    def write() -> Worked:
        sheet = _Sheet()
        return f"{a}%{b}=?", sheet.add(a, -sheet.times(b, a // b)), tuple(sheet.steps)

    return f"remainder {a} {b}", write


def _power_remainder(draw: Draw, level: int) -> Drawn:
    a, m = between(draw, 2, 9), between(draw, 5, 19)
    exponent = between(draw, 3, 5) if level == 4 else between(draw, 6, 12)

    def write() -> Worked:
        sheet = _Sheet()
        value = a
        for _ in range(exponent - 1):
            value = sheet.modulo(sheet.times(value, a), m)
        return f"{a}^{exponent}%{m}=?", value, tuple(sheet.steps)

    return f"remainder {a}^{exponent} {m}", write


# ------------------------------------------------------------------ percentages and rounding


def _percent(draw: Draw, level: int) -> Drawn:
    """``15% of 80=?``; at level 4 a change by a percentage, ``80+15%=?``, at level 5 two changes."""
    if level > 3:
        return _change(draw, level)
    p = (10, 20, 25, 50)[between(draw, 0, 3)] if level == 1 else 5 * between(draw, 1, 19)
    n = 20 * between(draw, 1, 25)
    if level == 3:
        p, n = between(draw, 1, 99), 100 * between(draw, 1, 40)

    def write() -> Worked:
        sheet = _Sheet()
        return f"{p}% of {n}=?", sheet.over(sheet.times(p, n), 100), tuple(sheet.steps)

    return f"percent {p} {n}", write


def _change(draw: Draw, level: int) -> Drawn:
    # Changes of 5% times an integer keep multiples of 20 (for two changes, of 400) integers.
    n = (20 if level == 4 else 400) * between(draw, 1, 50 if level == 4 else 20)
    changes = [5 * between(draw, 1, 15) * (1 if draw() < 0.5 else -1) for _ in range(level - 3)]
    shown = f"{n}" + "".join(f"{change:+d}%" for change in changes)

    def write() -> Worked:
        sheet, value = _Sheet(), n
        for change in changes:
            part = sheet.over(sheet.times(value, abs(change)), 100)
            value = sheet.add(value, part if change > 0 else -part)
        return f"{shown}=?", value, tuple(sheet.steps)

    return f"change {n} {sorted(changes)}", write


# level: (digits of the number, digits that are rounded away)
_ROUNDING_SHAPES = {1: (2, (1,)), 2: (3, (1,)), 3: (3, (1, 2)), 4: (5, (2, 3)), 5: (7, (3, 4, 5))}


def _rounding(draw: Draw, level: int) -> Drawn:
    """``round 347 to 10s=?``, to the nearest multiple; never a number halfway between two."""
    digits, places = _ROUNDING_SHAPES[level]
    unit = 10 ** places[between(draw, 0, len(places) - 1)]
    n = between(draw, 10 ** (digits - 1), 10**digits - 1)
    n += 2 * n % unit == 0  # neither halfway nor already a multiple

    def write() -> Worked:
        sheet = _Sheet()
        raised = sheet.add(n, unit // 2)
        return f"round {n} to {unit}s=?", sheet.add(raised, -sheet.modulo(raised, unit)), tuple(sheet.steps)

    return f"rounding {n} {unit}", write


# ------------------------------------------------------------------ bases

# level: (largest base, digits, whether into the base rather than out of it)
_BASE_SHAPES = {1: (4, 3, False), 2: (6, 3, False), 3: (6, 3, True), 4: (9, 4, False), 5: (9, 4, True)}


def _base(draw: Draw, level: int) -> Drawn:
    """``211 base 3=?`` (in base ten), or ``22 to base 3=?`` (its digits)."""
    largest, count, into = _BASE_SHAPES[level]
    base = between(draw, 2, largest)
    digits = [between(draw, 1, base - 1), *(between(draw, 0, base - 1) for _ in range(count - 1))]
    if base == 2:  # its numbers are longer
        digits += [between(draw, 0, 1) for _ in range(2)]
    shown = int("".join(map(str, digits)))

    def out() -> Worked:
        sheet, value = _Sheet(), digits[0]
        for digit in digits[1:]:
            value = sheet.add(sheet.times(value, base), digit)
        return f"{shown} base {base}=?", value, tuple(sheet.steps)

    def write_into() -> Worked:
        sheet, number = _Sheet(), int(str(shown), base)
        rest, read, place = number, 0, 1
        while rest:
            digit = sheet.modulo(rest, base)
            if rest >= base:
                rest = sheet.over(sheet.add(rest, -digit), base)
            else:
                rest = 0
            read = sheet.add(sheet.times(digit, place), read)
            place *= 10
        return f"{number} to base {base}=?", read, tuple(sheet.steps)

    return f"base {base} {shown}", write_into if into else out


# ------------------------------------------------------------------ sequences and powers


def _sequence(draw: Draw, level: int) -> Drawn:
    """``3,7,11,15,?``; constant difference (levels 1, 2), ratio (3), second (4) or third (5) difference."""
    sheet = _Sheet()
    if level <= 2:
        step = between(draw, 1, 9) if level == 1 else between(draw, 11, 40) * (1 if draw() < 0.5 else -1)
        first = between(draw, 1, 20) if level == 1 else between(draw, 160, 300)
        terms = [first + i * step for i in range(4)]
        sheet.add(terms[1], -terms[0])
        answer = sheet.add(terms[-1], step)
    elif level == 3:
        first, ratio = between(draw, 1, 40), between(draw, 2, 5)
        terms = [first * ratio**i for i in range(4)]
        sheet.over(terms[1], terms[0])
        answer = sheet.times(terms[-1], ratio)
    elif level == 4:
        first, step, bend = between(draw, 1, 30), between(draw, 1, 12), between(draw, 1, 9)
        terms = [first + i * step + math.comb(i, 2) * bend for i in range(5)]
        before = sheet.add(terms[3], -terms[2])
        last = sheet.add(terms[4], -terms[3])
        answer = sheet.add(terms[4], sheet.add(last, sheet.add(last, -before)))
    else:
        first, step, bend, twist = (between(draw, 1, most) for most in (30, 12, 9, 6))
        terms = [first + i * step + math.comb(i, 2) * bend + math.comb(i, 3) * twist for i in range(6)]
        slopes = [sheet.add(terms[i + 1], -terms[i]) for i in (2, 3, 4)]
        bends = [sheet.add(slopes[i + 1], -slopes[i]) for i in (0, 1)]
        last_bend = sheet.add(bends[1], sheet.add(bends[1], -bends[0]))
        answer = sheet.add(terms[-1], sheet.add(slopes[-1], last_bend))
    shown = ",".join(map(str, terms))
    return f"sequence {shown}", lambda: (f"{shown},?", answer, tuple(sheet.steps))


# level: (largest base, largest exponent) of each power
_POWER_SHAPES = {1: ((9, 2),), 2: ((9, 3),), 3: ((15, 2), (15, 2)), 4: ((19, 3),), 5: ((12, 4), (9, 4))}


def _power(draw: Draw, level: int) -> Drawn:
    """A power and a summand, ``7^3+5=?`` (levels 1, 2, 4), or two powers (3, 5)."""
    powers = [(between(draw, 2, b), between(draw, 2, e)) for b, e in _POWER_SHAPES[level]]
    rest = between(draw, 1, 20) if len(powers) == 1 else 0
    values = sorted((base**exponent for base, exponent in powers), reverse=True)
    subtracts = draw() < 0.5 and rest <= values[0]

    def write() -> Worked:
        sheet = _Sheet()
        ordered = sorted(powers, key=lambda power: -(power[0] ** power[1]))
        results = []
        for base, exponent in ordered:
            value = base
            for _ in range(exponent - 1):
                value = sheet.times(value, base)
            results.append(value)
        other = rest if len(results) == 1 else results[1]
        answer = sheet.add(results[0], -other if subtracts else other)
        sign = "-" if subtracts else "+"
        shown = sign.join(f"{base}^{exponent}" for base, exponent in ordered)
        return f"{shown}{f'{sign}{rest}' if rest else ''}=?", answer, tuple(sheet.steps)

    return f"power {sorted(powers)} {rest} {subtracts}", write


# ------------------------------------------------------------------ linear systems

# level: (largest coefficient, largest unknown, whether unknowns may be negative)
_SYSTEM_SHAPES = {1: (1, 9, False), 2: (3, 9, False), 3: (5, 12, False), 4: (5, 12, True), 5: (9, 20, True)}


def _system(draw: Draw, level: int) -> Drawn:
    """``2*x+3*y=13, x-y=-1, x=?``, two equations with one solution, by elimination."""
    most, largest, signed = _SYSTEM_SHAPES[level]
    low = -largest if signed else 0
    x, y = between(draw, low, largest), between(draw, low, largest)
    a, b, c, d = (between(draw, 1, most) for _ in range(4))
    if level == 1 or draw() < 0.5 or a * d == b * c:
        d = -d  # makes the determinant non-zero, because a, b, c and -d are positive
    e, f = a * x + b * y, c * x + d * y

    def side(p: int, q: int) -> str:
        x_term = "x" if p == 1 else f"{p}*x"
        y_term = "y" if abs(q) == 1 else f"{abs(q)}*y"
        return f"{x_term}{'+' if q > 0 else '-'}{y_term}"

    def write() -> Worked:
        sheet = _Sheet()
        # The first equation times d less the second times b eliminates y.
        determinant = sheet.add(sheet.times(a, d), -sheet.times(b, c))
        top = sheet.add(sheet.times(e, d), -sheet.times(b, f))
        answer = sheet.over(top, determinant)
        return f"{side(a, b)}={e}, {side(c, d)}={f}, x=?", answer, tuple(sheet.steps)

    return f"system {sorted([(a, b, e), (c, d, f)])}", write


GENERATORS: dict[str, Generator] = {
    "fraction": _fraction,
    "gcd": _gcd,
    "lcm": _lcm,
    "remainder": _remainder,
    "percent": _percent,
    "rounding": _rounding,
    "base": _base,
    "sequence": _sequence,
    "power": _power,
    "system": _system,
}
