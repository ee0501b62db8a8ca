# ruff: noqa: E501 - a sentence of a problem is easier to read, and to check, on one line
"""Intermediate Algebra."""

from __future__ import annotations

import math
from random import Random

from cola_envs.tasks.substitute_problems.drawing import (
    Drawn,
    cell,
    draw,
    expression,
    fraction,
    poly,
    root_of,
    second,
)


def _telescoped(n: int, k: int) -> tuple[int, int]:
    top, below = 0, 1
    for j in range(1, k + 1):
        for sign, denominator in ((1, j), (-1, n + j)):
            top, below = top * denominator + sign * below, below * denominator
    return top, below * k


@cell("Intermediate Algebra", 1)
def _function_value(r: Random) -> Drawn:
    a, x = draw(r, 1, 9), draw(r, 1, 9)
    problem = f"Let $f(x) = x + {a}$. What is $f({x})$?"
    return problem, f"${x} + {a} = {x + a}$.", str(x + a), f"Lambda(x, x + {a})({x})"


@cell("Intermediate Algebra", 1)
def _function_multiple(r: Random) -> Drawn:
    a, x = draw(r, 2, 5), draw(r, 1, 9)
    problem = f"Let $g(x) = {a}x$. What is $g({x})$?"
    return problem, f"${a} \\cdot {x} = {a * x}$.", str(a * x), f"Lambda(x, {a}*x)({x})"


@second("Intermediate Algebra", 1)
def _falling_function(r: Random) -> Drawn:
    a = draw(r, 2, 9)
    x = draw(r, 1, a)
    problem = f"Let $f(x) = {a} - x$. What is $f({x})$?"
    return problem, f"${a} - {x} = {a - x}$.", str(a - x), f"Lambda(x, {a} - x)({x})"


@second("Intermediate Algebra", 1)
def _preimage(r: Random) -> Drawn:
    a, b = draw(r, 1, 9), draw(r, 1, 9)
    problem = f"Let $h(x) = x - {a}$. For which $x$ is $h(x) = {b}$?"
    return problem, f"$x = {b} + {a} = {a + b}$.", str(a + b), f"solve(Eq(x - {a}, {b}), x)[0]"


@cell("Intermediate Algebra", 2)
def _composition(r: Random) -> Drawn:
    a, b, c, x = draw(r, 2, 6), draw(r, 1, 9), draw(r, 1, 9), draw(r, 1, 6)
    inner = x + c
    problem = f"Let $f(x) = {a}x + {b}$ and $g(x) = x + {c}$. What is $f(g({x}))$?"
    steps = f"$g({x}) = {inner}$, and ${a} \\cdot {inner} + {b} = {a * inner + b}$."
    return problem, steps, str(a * inner + b), f"({a}*x + {b}).subs(x, x + {c}).subs(x, {x})"


@cell("Intermediate Algebra", 2)
def _exponent(r: Random) -> Drawn:
    b, n = draw(r, 2, 7), draw(r, 2, 5)
    problem = f"Solve ${b}^x = {b**n}$ for $x$."
    return problem, f"${b}^{n} = {b**n}$.", str(n), f"[k for k in range(12) if {b}**k == {b**n}][0]"


@second("Intermediate Algebra", 2)
def _power_product(r: Random) -> Drawn:
    a, b, c = draw(r, 2, 9), draw(r, 2, 9), draw(r, 2, 9)
    problem = f"For which $n$ is ${a}^{b} \\cdot {a}^{c} = {a}^n$?"
    return (
        problem,
        f"${b} + {c} = {b + c}$.",
        str(b + c),
        f"[k for k in range(20) if {a}**{b}*{a}**{c} == {a}**k][0]",
    )


@second("Intermediate Algebra", 2)
def _linear_preimage(r: Random) -> Drawn:
    a, b, x = draw(r, 2, 9), draw(r, 1, 15), draw(r, 2, 12)
    problem = f"Let $f(x) = {a}x + {b}$. For which $x$ is $f(x) = {a * x + b}$?"
    steps = f"${a}x = {a * x}$, so $x = {x}$."
    return problem, steps, str(x), f"solve(Eq({a}*x + {b}, {a * x + b}), x)[0]"


@cell("Intermediate Algebra", 3)
def _root_sums(r: Random) -> Drawn:
    b, c = draw(r, -12, 12) or 5, draw(r, -12, 12) or 3
    answer = b * b - 2 * c
    problem = f"What is the sum of the squares of the roots of ${poly(1, b, c)}$?"
    steps = f"The roots have sum ${-b}$ and product ${c}$: $({-b})^2 - 2 \\cdot ({c}) = {answer}$."
    return (
        problem,
        steps,
        str(answer),
        f"simplify(sum(k**2*m for k, m in roots({expression(1, b, c)}, x).items()))",
    )


@cell("Intermediate Algebra", 3)
def _complex_product(r: Random) -> Drawn:
    a, b, c, d = draw(r, 1, 7), draw(r, 1, 7), draw(r, 1, 7), draw(r, 1, 7)
    real, imaginary = a * c + b * d, b * c - a * d
    problem = f"Write $({poly(b, a, name='i')})({poly(-d, c, name='i')})$ in the form $p + qi$."
    steps = f"The real part is ${a * c} + {b * d}$ and the imaginary part is ${b * c} - {a * d}$."
    answer = (
        str(real)
        if imaginary == 0
        else f"{real}{'+' if imaginary > 0 else '-'}{poly(abs(imaginary), 0, name='i')}"
    )
    return problem, steps, answer, f"expand(({a} + {b}*I)*({c} - {d}*I))"


@second("Intermediate Algebra", 3)
def _logarithms(r: Random) -> Drawn:
    a, m, b, n = draw(r, 2, 6), draw(r, 2, 5), draw(r, 2, 6), draw(r, 2, 5)
    problem = f"Compute $\\log_{{{a}}} {a**m} + \\log_{{{b}}} {b**n}$."
    steps = f"${a}^{m} = {a**m}$ and ${b}^{n} = {b**n}$, so it is ${m} + {n} = {m + n}$."
    return problem, steps, str(m + n), f"simplify(log({a**m}, {a}) + log({b**n}, {b}))"


@second("Intermediate Algebra", 3)
def _modulus(r: Random) -> Drawn:
    a, b = draw(r, -12, 12) or 5, draw(r, 1, 12)
    n = a * a + b * b
    problem = f"What is $|{a} + {b}i|$?"
    return problem, f"${a * a} + {b * b} = {n}$.", root_of(n), f"Abs({a} + {b}*I)"


@cell("Intermediate Algebra", 4)
def _poly_remainder(r: Random) -> Drawn:
    b, c, d, h = draw(r, -6, 6), draw(r, -9, 9), draw(r, -9, 9), draw(r, -4, 4) or 2
    answer = h**3 + b * h * h + c * h + d
    problem = f"What is the remainder when ${poly(1, b, c, d)}$ is divided by ${poly(1, -h)}$?"
    steps = f"It is the value at $x = {h}$, which is ${answer}$."
    return problem, steps, str(answer), f"rem({expression(1, b, c, d)}, x - ({h}), x)"


@cell("Intermediate Algebra", 4)
def _quadratic_inequality(r: Random) -> Drawn:
    p, gap = draw(r, -8, 6), draw(r, 1, 9)
    q = p + gap
    closed = r.random() < 0.5
    sign, answer = ("\\le", f"[{p},{q}]") if closed else ("<", f"({p},{q})")
    problem = f"Solve ${poly(1, -(p + q), p * q)} {sign} 0$. Give the answer as an interval."
    steps = f"The left side vanishes at ${p}$ and ${q}$ and is negative between them."
    relation = "<=" if closed else "<"
    return problem, steps, answer, f"solveset({expression(1, -(p + q), p * q)} {relation} 0, x, S.Reals)"


@second("Intermediate Algebra", 4)
def _inverse_value(r: Random) -> Drawn:
    a, b, c, d, v = draw(r, 1, 6), draw(r, -9, 9), draw(r, 1, 6), draw(r, -9, 9), draw(r, 2, 9)
    while a * d == b * c or v * c == a:
        b, v = b + 1, v + 1
    top = f"\\frac{{{poly(a, b)}}}{{{poly(c, d)}}}"
    problem = f"Let $f(x) = {top}$. What is $f^{{-1}}({v})$?"
    steps = f"${poly(a, b)} = {v}({poly(c, d)})$, so ${poly(v * c - a, 0)} = {b - v * d}$."
    return (
        problem,
        steps,
        fraction(b - v * d, v * c - a),
        f"solve(Eq(({a}*x + {b})/({c}*x + {d}), {v}), x)[0]",
    )


@second("Intermediate Algebra", 4)
def _other_roots(r: Random) -> Drawn:
    p, q, s = draw(r, -5, 5) or 2, draw(r, -7, 7) or 3, draw(r, -7, 7) or -4
    shown = (1, -(p + q + s), p * q + p * s + q * s, -p * q * s)
    problem = f"One root of ${poly(*shown)}$ is {p}. What is the product of the other two roots?"
    steps = f"All three have the product ${p * q * s}$, and ${p * q * s} / ({p}) = {q * s}$."
    return problem, steps, str(q * s), f"quo({expression(*shown)}, x - ({p}), x).subs(x, 0)"


@cell("Intermediate Algebra", 5)
def _geometric_sum(r: Random) -> Drawn:
    q, p, a = draw(r, 2, 9), 1, draw(r, 1, 12)
    p = draw(r, 1, q - 1)
    g = math.gcd(p, q)
    p, q = p // g, q // g
    problem = f"A geometric series has first term {a} and ratio $\\frac{{{p}}}{{{q}}}$. What is the sum of all its terms?"
    steps = f"${a} / (1 - \\frac{{{p}}}{{{q}}}) = {fraction(a * q, q - p)}$."
    return problem, steps, fraction(a * q, q - p), f"summation({a}*Rational({p}, {q})**k, (k, 0, oo))"


@cell("Intermediate Algebra", 5)
def _partial_sum(r: Random) -> Drawn:
    n, k = draw(r, 4, 60), draw(r, 1, 3)
    top, below = _telescoped(n, k)
    problem = f"Compute $\\sum_{{j=1}}^{{{n}}} \\frac{{1}}{{j(j+{k})}}$ as a fraction in lowest terms."
    steps = f"Each term is $\\frac{{1}}{{{k}}}(\\frac{{1}}{{j}} - \\frac{{1}}{{j+{k}}})$, so all but a few cancel."
    return problem, steps, fraction(top, below), f"sum(Rational(1, j*(j + {k})) for j in range(1, {n + 1}))"


@second("Intermediate Algebra", 5)
def _least_sum(r: Random) -> Drawn:
    a, b = draw(r, 1, 12), draw(r, 1, 20)
    shown = "" if a == 1 else str(a)
    problem = f"What is the least value of ${shown}x + \\frac{{{b}}}{{x}}$ over all positive $x$?"
    steps = f"Its square is at least $4 \\cdot {a} \\cdot {b} = {4 * a * b}$, with equality where the two terms agree."
    f = f"{a}*x + Integer({b})/x"
    return (
        problem,
        steps,
        root_of(4 * a * b),
        f"simplify(Max(*[({f}).subs(x, s) for s in solve(diff({f}, x), x)]))",
    )


@second("Intermediate Algebra", 5)
def _sum_of_products(r: Random) -> Drawn:
    n, c = draw(r, 8, 60), draw(r, 1, 9)
    squares, first = n * (n + 1) * (2 * n + 1) // 6, n * (n + 1) // 2
    problem = f"Compute $\\sum_{{j=1}}^{{{n}}} j(j+{c})$."
    steps = f"The squares make {squares}, and {c} times the sum of the numbers makes {c * first}."
    return problem, steps, str(squares + c * first), f"sum(j*(j + {c}) for j in range(1, {n + 1}))"
