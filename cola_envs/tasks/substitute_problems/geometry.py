# ruff: noqa: E501 - a sentence of a problem is easier to read, and to check, on one line
"""Geometry."""

from __future__ import annotations

from random import Random

from cola_envs.tasks.substitute_problems.drawing import (
    Drawn,
    cell,
    draw,
    fraction,
    root_of,
    root_over,
    second,
)

_TRIPLES = ((3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29))


def _times_pi(p: int, q: int) -> str:
    """p/q times pi."""
    share = fraction(p, q)
    return "\\pi" if share == "1" else f"{share}\\pi"


@cell("Geometry", 1)
def _square_perimeter(r: Random) -> Drawn:
    a = draw(r, 1, 9)
    shape, sides = (("square", 4), ("regular triangle", 3), ("regular pentagon", 5))[draw(r, 0, 2)]
    problem = f"A {shape} has sides of length {a}. What is its perimeter?"
    return problem, f"${sides} \\cdot {a} = {sides * a}$.", str(sides * a), f"sum([{a}] * {sides})"


@cell("Geometry", 1)
def _rectangle_area(r: Random) -> Drawn:
    a, b = draw(r, 1, 9), draw(r, 1, 9)
    problem = f"A rectangle is {a} wide and {b} long. What is its area?"
    return (
        problem,
        f"${a} \\cdot {b} = {a * b}$.",
        str(a * b),
        f"Polygon((0,0),({a},0),({a},{b}),(0,{b})).area",
    )


@cell("Geometry", 1)
def _segments(r: Random) -> Drawn:
    a, b = draw(r, 1, 9), draw(r, 1, 9)
    problem = f"Point $B$ lies between $A$ and $C$. If $AB = {a}$ and $BC = {b}$, what is $AC$?"
    return problem, f"${a} + {b} = {a + b}$.", str(a + b), f"Point({-a}, 0).distance(Point({b}, 0))"


@second("Geometry", 1)
def _triangle_perimeter(r: Random) -> Drawn:
    a, b = draw(r, 2, 9), draw(r, 2, 9)
    c = draw(r, abs(a - b) + 1, min(9, a + b - 1))
    total = a + b + c
    problem = f"A triangle has sides of length {a}, {b} and {c}. What is its perimeter?"
    return problem, f"${a} + {b} + {c} = {total}$.", str(total), f"Triangle(sss=({a}, {b}, {c})).perimeter"


@second("Geometry", 1)
def _rectangle_perimeter(r: Random) -> Drawn:
    a, b = draw(r, 1, 9), draw(r, 1, 9)
    total = 2 * (a + b)
    problem = f"A rectangle is {a} wide and {b} long. What is its perimeter?"
    steps = f"${a} + {b} = {a + b}$, and twice that is {total}."
    return problem, steps, str(total), f"Polygon((0,0),({a},0),({a},{b}),(0,{b})).perimeter"


@cell("Geometry", 2)
def _third_angle(r: Random) -> Drawn:
    a, b = draw(r, 20, 80), draw(r, 20, 80)
    problem = (
        f"Two angles of a triangle measure ${a}^\\circ$ and ${b}^\\circ$. How many degrees is the third?"
    )
    return (
        problem,
        f"$180 - {a} - {b} = {180 - a - b}$.",
        str(180 - a - b),
        f"solve(Eq({a} + {b} + x, 180), x)[0]",
    )


@cell("Geometry", 2)
def _triangle_area(r: Random) -> Drawn:
    b, h = draw(r, 3, 15), draw(r, 3, 15)
    problem = f"A triangle has a base of {b} and a height of {h}. What is its area?"
    return (
        problem,
        f"Half of ${b} \\cdot {h} = {b * h}$.",
        fraction(b * h, 2),
        f"Triangle((0,0),({b},0),(1,{h})).area",
    )


@second("Geometry", 2)
def _box(r: Random) -> Drawn:
    a, b, c = draw(r, 2, 9), draw(r, 2, 9), draw(r, 2, 12)
    problem = f"A box is {a} long, {b} wide and {c} high. What is its volume?"
    steps = f"${a} \\cdot {b} = {a * b}$, and ${a * b} \\cdot {c} = {a * b * c}$."
    return problem, steps, str(a * b * c), f"len(list(product(range({a}), range({b}), range({c}))))"


@second("Geometry", 2)
def _trapezoid(r: Random) -> Drawn:
    a, b, h = draw(r, 2, 15), draw(r, 2, 15), draw(r, 2, 12)
    problem = f"A trapezoid has parallel sides of {a} and {b} and a height of {h}. What is its area?"
    steps = f"Half of $({a} + {b}) \\cdot {h} = {(a + b) * h}$."
    return problem, steps, fraction((a + b) * h, 2), f"integrate({a} + ({b} - {a})*x/{h}, (x, 0, {h}))"


@cell("Geometry", 3)
def _hypotenuse(r: Random) -> Drawn:
    a, b = draw(r, 2, 12), draw(r, 2, 12)
    n = a * a + b * b
    problem = f"The legs of a right triangle are {a} and {b}. How long is its hypotenuse?"
    return problem, f"${a}^2 + {b}^2 = {n}$.", root_of(n), f"Point(0,0).distance(Point({a},{b}))"


@cell("Geometry", 3)
def _circle(r: Random) -> Drawn:
    d = 2 * draw(r, 2, 20)
    problem = f"A circle has diameter {d}. What is its area?"
    answer = f"{d * d // 4}\\pi"
    return (
        problem,
        f"Its radius is {d // 2}, and ${d // 2}^2 = {d * d // 4}$.",
        answer,
        f"Circle((0,0), {d // 2}).area",
    )


@second("Geometry", 3)
def _distance(r: Random) -> Drawn:
    a, b, u, v = draw(r, -8, 8), draw(r, -8, 8), draw(r, 1, 10), draw(r, 1, 10)
    n = u * u + v * v
    problem = f"How far apart are the points $({a},{b})$ and $({a + u},{b - v})$?"
    return problem, f"${u}^2 + {v}^2 = {n}$.", root_of(n), f"Point({a},{b}).distance(Point({a + u},{b - v}))"


@second("Geometry", 3)
def _inner_angle(r: Random) -> Drawn:
    n = draw(r, 5, 60)
    answer = fraction(180 * (n - 2), n)
    problem = f"How many degrees does each inner angle of a regular polygon with {n} sides measure?"
    return problem, f"All together make ${180 * (n - 2)}$ degrees.", answer, f"180 - Rational(360, {n})"


@cell("Geometry", 4)
def _cylinder(r: Random) -> Drawn:
    a, h = draw(r, 2, 9), draw(r, 2, 12)
    total = 2 * a * a + 2 * a * h
    problem = f"A closed cylinder has radius {a} and height {h}. What is its total surface area?"
    steps = f"The two ends make ${2 * a * a}\\pi$ and the side makes ${2 * a * h}\\pi$."
    check = f"diff(pi*x**2*{h}, x).subs(x, {a}) + 2*integrate(2*pi*x, (x, 0, {a}))"
    return problem, steps, f"{total}\\pi", check


@cell("Geometry", 4)
def _similar(r: Random) -> Drawn:
    p, q, area = draw(r, 2, 6), draw(r, 2, 6), draw(r, 3, 30)
    q += q == p
    problem = (
        f"Two similar triangles have sides in the ratio ${p}:{q}$. The first has area {area}. "
        "What is the area of the second?"
    )
    steps = f"Areas are as ${p * p}:{q * q}$."
    return problem, steps, fraction(area * q * q, p * p), f"solve(Eq(x/{area}, Rational({q}, {p})**2), x)[0]"


@second("Geometry", 4)
def _cone(r: Random) -> Drawn:
    a, h = draw(r, 2, 12), draw(r, 2, 15)
    problem = f"A cone has radius {a} and height {h}. What is its volume?"
    steps = f"A third of ${a}^2 \\cdot {h} \\pi = {a * a * h}\\pi$."
    return problem, steps, _times_pi(a * a * h, 3), f"integrate(pi*(x*Rational({a}, {h}))**2, (x, 0, {h}))"


@second("Geometry", 4)
def _sector(r: Random) -> Drawn:
    a, d = draw(r, 2, 20), 15 * draw(r, 1, 23)
    problem = f"What is the area of a sector of ${d}^\\circ$ in a circle of radius {a}?"
    steps = f"It is ${fraction(d, 360)}$ of ${a * a}\\pi$."
    return problem, steps, _times_pi(a * a * d, 360), f"integrate(x*pi*Rational({d}, 180), (x, 0, {a}))"


@cell("Geometry", 5)
def _shoelace(r: Random) -> Drawn:
    x1, y1, x2, y2 = draw(r, 1, 9), draw(r, -9, 9), draw(r, -9, 9), draw(r, 1, 9)
    twice = abs(x1 * y2 - x2 * y1)
    if twice == 0:
        x1 += 1
        twice = abs(x1 * y2 - x2 * y1)
    problem = f"What is the area of the triangle with vertices $(0,0)$, $({x1},{y1})$ and $({x2},{y2})$?"
    steps = f"Twice the area is $|{x1} \\cdot {y2} - ({x2}) \\cdot ({y1})| = {twice}$."
    return problem, steps, fraction(twice, 2), f"abs(Polygon((0,0),({x1},{y1}),({x2},{y2})).area)"


@cell("Geometry", 5)
def _inradius(r: Random) -> Drawn:
    a, b, c = _TRIPLES[draw(r, 0, len(_TRIPLES) - 1)]
    k = draw(r, 1, 15)
    a, b, c = a * k, b * k, c * k
    problem = f"A triangle has sides {a}, {b} and {c}. What is the radius of its inscribed circle?"
    steps = (
        f"It has a right angle, so its area is ${a * b // 2}$; half its perimeter is ${(a + b + c) // 2}$."
    )
    return problem, steps, str((a + b - c) // 2), f"Triangle((0,0),({a},0),(0,{b})).inradius"


@second("Geometry", 5)
def _heron(r: Random) -> Drawn:
    a, b = draw(r, 3, 15), draw(r, 3, 15)
    c = draw(r, abs(a - b) + 1, min(15, a + b - 1))
    n = (a + b + c) * (-a + b + c) * (a - b + c) * (a + b - c)
    problem = f"The sides of a triangle are {a}, {b} and {c}. What is its area?"
    steps = f"Sixteen times the square of the area is ${a + b + c} \\cdot {b + c - a} \\cdot {a + c - b} \\cdot {a + b - c} = {n}$."
    return problem, steps, root_over(n, 4), f"Triangle(sss=({a}, {b}, {c})).area"


@second("Geometry", 5)
def _common_tangent(r: Random) -> Drawn:
    a, b, gap = draw(r, 2, 12), draw(r, 2, 12), draw(r, 1, 12)
    d = a + b + gap
    n = d * d - (a - b) ** 2
    problem = (
        f"Two circles of radius {a} and {b} have their centres {d} apart. "
        "How long is a common outer tangent between its points of contact?"
    )
    steps = (
        f"The radii to the points of contact are parallel, so its square is ${d}^2 - {abs(a - b)}^2 = {n}$."
    )
    return (
        problem,
        steps,
        root_of(n),
        f"Point(0, {a}).distance(Point(solve(x**2 + ({a} - {b})**2 - {d}**2, x)[-1], {a}))",
    )
