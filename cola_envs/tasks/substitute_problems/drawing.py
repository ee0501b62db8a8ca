"""Helpers of the problem templates: registration, drawing of numbers, and LaTeX for numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

Drawn = tuple[str, str, str, str]
Template = Callable[[Random], Drawn]
Registered = Callable[[Template], Template]
Cells = dict[tuple[str, int], list[Template]]

#: The templates of each (subject, level), in the order that items are drawn from.
TEMPLATES: Cells = {}
#: The templates of the second edition, which are also in :data:`TEMPLATES`.
SECOND: Cells = {}
NAMES = ("Ada", "Ben", "Chen", "Dina", "Emil", "Fay", "Goran", "Hana", "Ivo", "Jun", "Kira", "Leo")
THINGS = ("shells", "stamps", "marbles", "pears", "books", "coins", "plums", "cards", "buttons", "kites")


def cell(subject: str, level: int) -> Registered:
    """Register a template of the first edition."""
    return partial(_register, (TEMPLATES,), (subject, level))


def second(subject: str, level: int) -> Registered:
    """Register a template of the second edition, after the first edition's of its subject and level."""
    return partial(_register, (TEMPLATES, SECOND), (subject, level))


def _register(editions: Sequence[Cells], key: tuple[str, int], template: Template) -> Template:
    for templates in editions:
        templates.setdefault(key, []).append(template)
    return template


def draw(rng: Random, low: int, high: int) -> int:
    """An integer from ``low`` to ``high``, both included; faster than ``randint``."""
    return low + int(rng.random() * (high - low + 1))


def pick(rng: Random, items: tuple[str, ...]) -> str:
    return items[int(rng.random() * len(items))]


def fraction(p: int, q: int) -> str:
    """p/q in lowest terms, as LaTeX."""
    g = math.gcd(p, q) * (1 if q > 0 else -1)
    p, q = p // g, q // g
    sign = "-" if p < 0 else ""
    return str(p) if q == 1 else f"{sign}\\frac{{{abs(p)}}}{{{q}}}"


def poly(*coefficients: int, name: str = "x") -> str:
    """A polynomial as LaTeX, from its coefficients, the highest first."""
    text = ""
    for power, c in zip(range(len(coefficients) - 1, -1, -1), coefficients, strict=True):
        if c == 0:
            continue
        size = "" if abs(c) == 1 and power else str(abs(c))
        variable = "" if power == 0 else name if power == 1 else f"{name}^{power}"
        sign = (" - " if c < 0 else " + ") if text else ("-" if c < 0 else "")
        text += f"{sign}{size}{variable}"
    return text or "0"


def expression(*coefficients: int) -> str:
    """The polynomial of these coefficients as a Python expression in ``x``, for a check."""
    degree = len(coefficients) - 1
    return " + ".join(f"({c})*x**{degree - k}" for k, c in enumerate(coefficients))


def square_part(n: int) -> tuple[int, int]:
    """(a, b) with n = a * a * b and b free of squares."""
    outside, inside = 1, n
    for k in range(2, math.isqrt(n) + 1):
        while inside % (k * k) == 0:
            outside, inside = outside * k, inside // (k * k)
    return outside, inside


def root_of(n: int) -> str:
    """The simplified square root of n, as LaTeX."""
    outside, inside = square_part(n)
    return str(outside) if inside == 1 else f"{'' if outside == 1 else outside}\\sqrt{{{inside}}}"


def root_over(n: int, q: int) -> str:
    """The simplified square root of n divided by q, as LaTeX."""
    outside, inside = square_part(n)
    if inside == 1:
        return fraction(outside, q)
    g = math.gcd(outside, q)
    top = root_of((outside // g) ** 2 * inside)
    return top if q == g else f"\\frac{{{top}}}{{{q // g}}}"
