# ruff: noqa: E501 - a sentence of a problem is easier to read, and to check, on one line
"""Algebra."""

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


@cell("Algebra", 1)
def _add_equation(r: Random) -> Drawn:
    a, x = draw(r, 1, 9), draw(r, 1, 9)
    problem = f"Solve $x + {a} = {a + x}$ for $x$."
    return problem, f"$x = {a + x} - {a} = {x}$.", str(x), f"solve(Eq(x + {a}, {a + x}), x)[0]"


@cell("Algebra", 1)
def _substitute(r: Random) -> Drawn:
    a, x = draw(r, 1, 9), draw(r, 1, 9)
    problem = f"If $x = {x}$, what is $x + {a}$?"
    return problem, f"${x} + {a} = {x + a}$.", str(x + a), f"(x + {a}).subs(x, {x})"


@cell("Algebra", 1)
def _multiple(r: Random) -> Drawn:
    a, x = draw(r, 2, 5), draw(r, 1, 9)
    problem = f"Solve ${a}x = {a * x}$ for $x$."
    return problem, f"$x = {a * x} / {a} = {x}$.", str(x), f"solve(Eq({a}*x, {a * x}), x)[0]"


@second("Algebra", 1)
def _what_plus(r: Random) -> Drawn:
    a, x = draw(r, 1, 9), draw(r, 1, 9)
    problem = f"What number plus {a} makes {a + x}?"
    return problem, f"${a + x} - {a} = {x}$.", str(x), f"solve(Eq(x + {a}, {a + x}), x)[0]"


@second("Algebra", 1)
def _two_letters(r: Random) -> Drawn:
    a, b = draw(r, 1, 9), draw(r, 1, 9)
    problem = f"If $y = {a}$ and $z = {b}$, what is $y + z$?"
    return problem, f"${a} + {b} = {a + b}$.", str(a + b), f"(x + y).subs([(x, {a}), (y, {b})])"


@cell("Algebra", 2)
def _linear(r: Random) -> Drawn:
    a, b, x = draw(r, 2, 9), draw(r, 1, 20), draw(r, -9, 12)
    problem = f"Solve ${a}x + {b} = {a * x + b}$ for $x$."
    steps = f"${a}x = {a * x}$, so $x = {x}$."
    return problem, steps, str(x), f"solve(Eq({a}*x + {b}, {a * x + b}), x)[0]"


@cell("Algebra", 2)
def _simplify(r: Random) -> Drawn:
    a, b, c, d = draw(r, 2, 9), draw(r, 1, 9), draw(r, 2, 9), draw(r, 1, 9)
    answer = poly(a + c, b - d)
    problem = f"Simplify $({a}x + {b}) + ({c}x - {d})$."
    steps = f"${a}x + {c}x = {a + c}x$ and ${b} - {d} = {b - d}$."
    return problem, steps, answer, f"expand(({a}*x + {b}) + ({c}*x - {d}))"


@second("Algebra", 2)
def _square_value(r: Random) -> Drawn:
    a, x, b = draw(r, 2, 5), draw(r, 2, 9), draw(r, 1, 15)
    problem = f"If $x = {x}$, what is ${a}x^2 - {b}$?"
    steps = f"${a} \\cdot {x * x} = {a * x * x}$, and ${a * x * x} - {b} = {a * x * x - b}$."
    return problem, steps, str(a * x * x - b), f"({a}*x**2 - {b}).subs(x, {x})"


@second("Algebra", 2)
def _quotient_equation(r: Random) -> Drawn:
    a, b, c = draw(r, 2, 9), draw(r, 1, 12), draw(r, 1, 12)
    problem = f"Solve $\\frac{{x}}{{{a}}} - {b} = {c}$ for $x$."
    steps = f"$\\frac{{x}}{{{a}}} = {b + c}$, so $x = {a} \\cdot {b + c} = {a * (b + c)}$."
    return problem, steps, str(a * (b + c)), f"solve(Eq(x/{a} - {b}, {c}), x)[0]"


@cell("Algebra", 3)
def _both_sides(r: Random) -> Drawn:
    a, c, x, b = draw(r, 5, 12), draw(r, 1, 4), draw(r, -8, 12), draw(r, -15, 15)
    d = (a - c) * x + b
    problem = f"Solve ${poly(a, b)} = {poly(c, d)}$ for $x$."
    steps = f"${a - c}x = {d - b}$, so $x = {x}$."
    return problem, steps, str(x), f"solve(Eq({a}*x + {b}, {c}*x + {d}), x)[0]"


@cell("Algebra", 3)
def _slope(r: Random) -> Drawn:
    x1, y1, run, rise = draw(r, -6, 6), draw(r, -9, 9), draw(r, 1, 8), draw(r, -9, 9)
    problem = f"What is the slope of the line through $({x1},{y1})$ and $({x1 + run},{y1 + rise})$?"
    steps = f"The rise is ${rise}$ over a run of ${run}$."
    return (
        problem,
        steps,
        fraction(rise, run),
        f"Line(Point({x1}, {y1}), Point({x1 + run}, {y1 + rise})).slope",
    )


@cell("Algebra", 3)
def _expand(r: Random) -> Drawn:
    a, b, c = draw(r, 2, 6), draw(r, -9, 9) or 1, draw(r, -9, 9) or 2
    answer = poly(a, a * c + b, b * c)
    problem = f"Expand $({poly(a, b)})({poly(1, c)})$."
    steps = f"The $x$ terms make ${poly(a * c + b, 0)}$ and the constant is ${b * c}$."
    return problem, steps, answer, f"expand(({a}*x + {b})*(x + {c}))"


@second("Algebra", 3)
def _bracket_equation(r: Random) -> Drawn:
    a, b, c = draw(r, 2, 9), draw(r, -9, 9) or 4, draw(r, -30, 30)
    problem = f"Solve ${a}({poly(1, -b)}) = {c}$ for $x$."
    steps = f"${poly(1, -b)} = {fraction(c, a)}$."
    return problem, steps, fraction(a * b + c, a), f"solve(Eq({a}*(x - ({b})), {c}), x)[0]"


@second("Algebra", 3)
def _intercept(r: Random) -> Drawn:
    m, x1, y1 = draw(r, -6, 6) or 3, draw(r, -8, 8) or 2, draw(r, -12, 12)
    problem = f"A line of slope {m} passes through $({x1},{y1})$. What is its $y$-intercept?"
    steps = f"${y1} - ({m}) \\cdot ({x1}) = {y1 - m * x1}$."
    return problem, steps, str(y1 - m * x1), f"solve(Eq(({m})*({x1}) + x, {y1}), x)[0]"


@cell("Algebra", 4)
def _system(r: Random) -> Drawn:
    x, y, a, b = draw(r, -7, 9), draw(r, -7, 9), draw(r, 2, 6), draw(r, 2, 6)
    total, other = x + a * y, b * x - y
    problem = f"Find the ordered pair $(x,y)$ with $x + {a}y = {total}$ and ${b}x - y = {other}$."
    steps = (
        f"From the second, $y = {b}x - {other}$; put it into the first: ${a * b + 1}x = {(a * b + 1) * x}$."
    )
    check = f"Tuple(*linsolve([x + {a}*y - ({total}), {b}*x - y - ({other})], [x, y]).args[0])"
    return problem, steps.replace("- -", "+ "), f"({x},{y})", check


@cell("Algebra", 4)
def _quadratic(r: Random) -> Drawn:
    p, q = draw(r, -9, 9), draw(r, -9, 9)
    p, q = min(p, q), max(p, q) + (p == q)
    polynomial = (1, -(p + q), p * q)
    problem = f"Find all solutions of ${poly(*polynomial)} = 0$, separated by commas."
    steps = f"The roots have sum ${p + q}$ and product ${p * q}$."
    return problem, steps, f"{p},{q}", f"FiniteSet(*solve({expression(*polynomial)}, x))"


@second("Algebra", 4)
def _absolute_value(r: Random) -> Drawn:
    a, b, c = draw(r, 2, 7), draw(r, 1, 15), draw(r, 1, 20)
    problem = f"Find all solutions of $|{a}x - {b}| = {c}$, separated by commas."
    steps = f"Either ${a}x = {b + c}$ or ${a}x = {b - c}$."
    answer = f"{fraction(b - c, a)},{fraction(b + c, a)}"
    return problem, steps, answer, f"solveset(Eq(Abs({a}*x - {b}), {c}), x, S.Reals)"


@second("Algebra", 4)
def _consecutive(r: Random) -> Drawn:
    n, first = draw(r, 3, 6), 2 * draw(r, 2, 60) + 1
    total = n * (first + n - 1)
    count = ("three", "four", "five", "six")[n - 3]
    problem = f"The sum of {count} consecutive odd integers is {total}. What is the greatest of them?"
    steps = f"Their mean is ${fraction(total, n)}$, and the greatest is {n - 1} more."
    check = f"[k for k in range(1, {total}, 2) if sum(k - 2*j for j in range({n})) == {total}][0]"
    return problem, steps, str(first + 2 * (n - 1)), check


@cell("Algebra", 5)
def _vertex(r: Random) -> Drawn:
    a, h, k = draw(r, 1, 4), draw(r, -6, 6), draw(r, -12, 12)
    shown = (a, -2 * a * h, a * h * h + k)
    problem = f"What is the least value of ${poly(*shown)}$ over all real $x$?"
    steps = f"It is least at $x = {h}$, where it is ${k}$."
    return problem, steps, str(k), f"minimum({expression(*shown)}, x)"


@cell("Algebra", 5)
def _surd_roots(r: Random) -> Drawn:
    h, n = draw(r, -7, 7), draw(r, 2, 30)
    n += math.isqrt(n) ** 2 == n
    shown = (1, -2 * h, h * h - n)
    problem = f"What is the greater solution of ${poly(*shown)} = 0$? Give it in simplest radical form."
    steps = f"Complete the square: $({poly(1, -h)})^2 = {n}$."
    answer = root_of(n) if h == 0 else f"{h}+{root_of(n)}"
    return problem, steps, answer, f"Max(*solve({expression(*shown)}, x))"


@second("Algebra", 5)
def _one_root(r: Random) -> Drawn:
    a, c = draw(r, 1, 7), draw(r, 2, 40)
    shown = "" if a == 1 else str(a)
    problem = f"For which positive $k$ does ${shown}x^2 + kx + {c} = 0$ have exactly one solution? Give it in simplest radical form."
    steps = f"The discriminant vanishes: $k^2 = 4 \\cdot {a} \\cdot {c} = {4 * a * c}$."
    return problem, steps, root_of(4 * a * c), f"Max(*solve(discriminant({a}*x**2 + y*x + {c}, x), y))"


@second("Algebra", 5)
def _sum_of_cubes(r: Random) -> Drawn:
    s, p = draw(r, -8, 12) or 5, draw(r, -15, 20) or 7
    answer = s**3 - 3 * p * s
    problem = f"Two numbers have sum {s} and product {p}. What is the sum of their cubes?"
    steps = f"$({s})^3 - 3 \\cdot ({p}) \\cdot ({s}) = {answer}$."
    check = f"simplify(sum(k**3*m for k, m in roots(x**2 - ({s})*x + ({p}), x).items()))"
    return problem, steps, str(answer), check
