# ruff: noqa: E501 - a sentence of a problem is easier to read, and to check, on one line
"""The rest of :mod:`cola_envs.tasks.substitute_templates`: geometry, counting, functions, trigonometry, vectors."""

from __future__ import annotations

import math
from random import Random

from cola_envs.tasks.substitute_templates import (
    NAMES,
    Drawn,
    _below,
    _cell,
    _code,
    _frac,
    _pick,
    _poly,
    _root,
)

_SHARES = ((30, "\\frac{1}{2}", 1), (90, "1", 2), (150, "\\frac{1}{2}", 1))
_TRIPLES = ((3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29))

# Geometry


@_cell("Geometry", 1)
def _square_perimeter(r: Random) -> Drawn:
    a = _below(r, 1, 9)
    shape, sides = (("square", 4), ("regular triangle", 3), ("regular pentagon", 5))[_below(r, 0, 2)]
    problem = f"A {shape} has sides of length {a}. What is its perimeter?"
    return problem, f"${sides} \\cdot {a} = {sides * a}$.", str(sides * a), f"sum([{a}] * {sides})"


@_cell("Geometry", 1)
def _rectangle_area(r: Random) -> Drawn:
    a, b = _below(r, 1, 9), _below(r, 1, 9)
    problem = f"A rectangle is {a} wide and {b} long. What is its area?"
    return (
        problem,
        f"${a} \\cdot {b} = {a * b}$.",
        str(a * b),
        f"Polygon((0,0),({a},0),({a},{b}),(0,{b})).area",
    )


@_cell("Geometry", 1)
def _segments(r: Random) -> Drawn:
    a, b = _below(r, 1, 9), _below(r, 1, 9)
    problem = f"Point $B$ lies between $A$ and $C$. If $AB = {a}$ and $BC = {b}$, what is $AC$?"
    return problem, f"${a} + {b} = {a + b}$.", str(a + b), f"Point({-a}, 0).distance(Point({b}, 0))"


@_cell("Geometry", 2)
def _third_angle(r: Random) -> Drawn:
    a, b = _below(r, 20, 80), _below(r, 20, 80)
    problem = (
        f"Two angles of a triangle measure ${a}^\\circ$ and ${b}^\\circ$. How many degrees is the third?"
    )
    return (
        problem,
        f"$180 - {a} - {b} = {180 - a - b}$.",
        str(180 - a - b),
        f"solve(Eq({a} + {b} + x, 180), x)[0]",
    )


@_cell("Geometry", 2)
def _triangle_area(r: Random) -> Drawn:
    b, h = _below(r, 3, 15), _below(r, 3, 15)
    problem = f"A triangle has a base of {b} and a height of {h}. What is its area?"
    return (
        problem,
        f"Half of ${b} \\cdot {h} = {b * h}$.",
        _frac(b * h, 2),
        f"Triangle((0,0),({b},0),(1,{h})).area",
    )


@_cell("Geometry", 3)
def _hypotenuse(r: Random) -> Drawn:
    a, b = _below(r, 2, 12), _below(r, 2, 12)
    n = a * a + b * b
    problem = f"The legs of a right triangle are {a} and {b}. How long is its hypotenuse?"
    return problem, f"${a}^2 + {b}^2 = {n}$.", _root(n), f"Point(0,0).distance(Point({a},{b}))"


@_cell("Geometry", 3)
def _circle(r: Random) -> Drawn:
    d = 2 * _below(r, 2, 20)
    problem = f"A circle has diameter {d}. What is its area?"
    answer = f"{d * d // 4}\\pi"
    return (
        problem,
        f"Its radius is {d // 2}, and ${d // 2}^2 = {d * d // 4}$.",
        answer,
        f"Circle((0,0), {d // 2}).area",
    )


@_cell("Geometry", 4)
def _cylinder(r: Random) -> Drawn:
    a, h = _below(r, 2, 9), _below(r, 2, 12)
    total = 2 * a * a + 2 * a * h
    problem = f"A closed cylinder has radius {a} and height {h}. What is its total surface area?"
    steps = f"The two ends make ${2 * a * a}\\pi$ and the side makes ${2 * a * h}\\pi$."
    check = f"diff(pi*x**2*{h}, x).subs(x, {a}) + 2*integrate(2*pi*x, (x, 0, {a}))"
    return problem, steps, f"{total}\\pi", check


@_cell("Geometry", 4)
def _similar(r: Random) -> Drawn:
    p, q, area = _below(r, 2, 6), _below(r, 2, 6), _below(r, 3, 30)
    q += q == p
    problem = (
        f"Two similar triangles have sides in the ratio ${p}:{q}$. The first has area {area}. "
        "What is the area of the second?"
    )
    steps = f"Areas are as ${p * p}:{q * q}$."
    return problem, steps, _frac(area * q * q, p * p), f"solve(Eq(x/{area}, Rational({q}, {p})**2), x)[0]"


@_cell("Geometry", 5)
def _shoelace(r: Random) -> Drawn:
    x1, y1, x2, y2 = _below(r, 1, 9), _below(r, -9, 9), _below(r, -9, 9), _below(r, 1, 9)
    twice = abs(x1 * y2 - x2 * y1)
    if twice == 0:
        x1 += 1
        twice = abs(x1 * y2 - x2 * y1)
    problem = f"What is the area of the triangle with vertices $(0,0)$, $({x1},{y1})$ and $({x2},{y2})$?"
    steps = f"Twice the area is $|{x1} \\cdot {y2} - ({x2}) \\cdot ({y1})| = {twice}$."
    return problem, steps, _frac(twice, 2), f"abs(Polygon((0,0),({x1},{y1}),({x2},{y2})).area)"


@_cell("Geometry", 5)
def _inradius(r: Random) -> Drawn:
    a, b, c = _TRIPLES[_below(r, 0, len(_TRIPLES) - 1)]
    k = _below(r, 1, 15)
    a, b, c = a * k, b * k, c * k
    problem = f"A triangle has sides {a}, {b} and {c}. What is the radius of its inscribed circle?"
    steps = (
        f"It has a right angle, so its area is ${a * b // 2}$; half its perimeter is ${(a + b + c) // 2}$."
    )
    return problem, steps, str((a + b - c) // 2), f"Triangle((0,0),({a},0),(0,{b})).inradius"


# Counting & Probability


@_cell("Counting & Probability", 1)
def _bag(r: Random) -> Drawn:
    a, b = _below(r, 1, 9), _below(r, 1, 9)
    problem = f"A bag holds {a} red balls and {b} blue balls. How many balls does it hold?"
    return problem, f"${a} + {b} = {a + b}$.", str(a + b), f"len([*range({a}), *range({b})])"


@_cell("Counting & Probability", 1)
def _pairs_of_kinds(r: Random) -> Drawn:
    a, b = _below(r, 1, 5), _below(r, 1, 9)
    name = _pick(r, NAMES)
    problem = f"{name} has {a} hats and {b} scarves. In how many ways can {name} wear one of each?"
    return problem, f"${a} \\cdot {b} = {a * b}$.", str(a * b), f"len(list(product(range({a}), range({b}))))"


@_cell("Counting & Probability", 2)
def _line_up(r: Random) -> Drawn:
    n = _below(r, 3, 7)
    things = ("people", "books", "flags", "cars", "songs", "plates", "horses", "letters")[_below(r, 0, 7)]
    problem = f"In how many orders can {n} different {things} be put in a row?"
    shown = " \\cdot ".join(str(k) for k in range(n, 0, -1))
    return (
        problem,
        f"${shown} = {math.factorial(n)}$.",
        str(math.factorial(n)),
        (f"len(list(permutations(range({n}))))"),
    )


@_cell("Counting & Probability", 2)
def _draw_one(r: Random) -> Drawn:
    a, b = _below(r, 1, 12), _below(r, 1, 12)
    problem = (
        f"A box has {a} green and {b} white tickets. One is drawn at random. How likely is it to be green?"
    )
    steps = f"{a} of the {a + b} tickets are green."
    return problem, steps, _frac(a, a + b), f"Rational(sum(k < {a} for k in range({a + b})), {a + b})"


@_cell("Counting & Probability", 3)
def _choose(r: Random) -> Drawn:
    n, k = _below(r, 5, 11), _below(r, 2, 4)
    answer = math.comb(n, k)
    problem = f"How many different teams of {k} can be chosen from {n} players?"
    return (
        problem,
        f"$\\binom{{{n}}}{{{k}}} = {answer}$.",
        str(answer),
        (f"len(list(combinations(range({n}), {k})))"),
    )


@_cell("Counting & Probability", 3)
def _two_dice(r: Random) -> Drawn:
    s, faces = _below(r, 3, 12), _below(r, 6, 10)
    ways = sum(1 <= s - k <= faces for k in range(1, faces + 1))
    problem = (
        f"Two fair dice with faces 1 to {faces} are rolled. What is the probability that their sum is {s}?"
    )
    steps = f"{ways} of the {faces * faces} rolls have that sum."
    check = f"Rational(sum(sum(d) == {s} for d in product(range(1, {faces + 1}), repeat=2)), {faces}**2)"
    return problem, steps, _frac(ways, faces * faces), check


@_cell("Counting & Probability", 4)
def _no_neighbours(r: Random) -> Drawn:
    n, k = _below(r, 6, 11), _below(r, 2, 3)
    answer = math.comb(n - k + 1, k)
    problem = f"In how many ways can {k} of {n} chairs in a row be chosen so that no two chosen chairs are adjacent?"
    steps = f"Set them into the gaps of the other {n - k}: $\\binom{{{n - k + 1}}}{{{k}}} = {answer}$."
    check = f"sum(all(b - a > 1 for a, b in zip(c, c[1:])) for c in combinations(range({n}), {k}))"
    return problem, steps, str(answer), check


@_cell("Counting & Probability", 4)
def _draw_two(r: Random) -> Drawn:
    a, b = _below(r, 2, 9), _below(r, 2, 9)
    top, below = a * (a - 1) + b * (b - 1), (a + b) * (a + b - 1)
    problem = (
        f"An urn has {a} black and {b} yellow balls. Two are drawn at random without putting any back. "
        "What is the probability that they have the same colour?"
    )
    steps = f"Of ${below}$ ordered draws, ${a * (a - 1)} + {b * (b - 1)} = {top}$ match."
    check = f"Rational(sum((i < {a}) == (j < {a}) for i, j in combinations(range({a + b}), 2)), binomial({a + b}, 2))"
    return problem, steps, _frac(top, below), check


@_cell("Counting & Probability", 5)
def _paths(r: Random) -> Drawn:
    m, n = _below(r, 3, 6), _below(r, 3, 6)
    i, j = _below(r, 1, m - 1), _below(r, 1, n - 1)
    through = math.comb(i + j, i) * math.comb(m + n - i - j, m - i)
    answer = math.comb(m + n, m) - through
    problem = (
        f"A path goes from $(0,0)$ to $({m},{n})$ by unit steps to the right or up. "
        f"How many such paths avoid the point $({i},{j})$?"
    )
    steps = f"Of all ${math.comb(m + n, m)}$ paths, ${through}$ pass through the point."
    return problem, steps, str(answer), f"paths_avoiding({m}, {n}, {i}, {j})"


@_cell("Counting & Probability", 5)
def _expected(r: Random) -> Drawn:
    n, k = _below(r, 6, 12), _below(r, 2, 3)
    top, below = k * (n + 1), k + 1
    problem = f"{k} different numbers are drawn at random from 1 to {n}. What is the expected value of the greatest one?"
    steps = f"The drawn numbers cut 1 to {n} into {k + 1} even gaps on average, each $\\frac{{{n + 1}}}{{{k + 1}}}$."
    check = f"Rational(sum(max(c) for c in combinations(range(1, {n + 1}), {k})), binomial({n}, {k}))"
    return problem, steps, _frac(top, below), check


# Intermediate Algebra


@_cell("Intermediate Algebra", 1)
def _function_value(r: Random) -> Drawn:
    a, x = _below(r, 1, 9), _below(r, 1, 9)
    problem = f"Let $f(x) = x + {a}$. What is $f({x})$?"
    return problem, f"${x} + {a} = {x + a}$.", str(x + a), f"Lambda(x, x + {a})({x})"


@_cell("Intermediate Algebra", 1)
def _function_multiple(r: Random) -> Drawn:
    a, x = _below(r, 2, 5), _below(r, 1, 9)
    problem = f"Let $g(x) = {a}x$. What is $g({x})$?"
    return problem, f"${a} \\cdot {x} = {a * x}$.", str(a * x), f"Lambda(x, {a}*x)({x})"


@_cell("Intermediate Algebra", 2)
def _composition(r: Random) -> Drawn:
    a, b, c, x = _below(r, 2, 6), _below(r, 1, 9), _below(r, 1, 9), _below(r, 1, 6)
    inner = x + c
    problem = f"Let $f(x) = {a}x + {b}$ and $g(x) = x + {c}$. What is $f(g({x}))$?"
    steps = f"$g({x}) = {inner}$, and ${a} \\cdot {inner} + {b} = {a * inner + b}$."
    return problem, steps, str(a * inner + b), f"({a}*x + {b}).subs(x, x + {c}).subs(x, {x})"


@_cell("Intermediate Algebra", 2)
def _exponent(r: Random) -> Drawn:
    b, n = _below(r, 2, 7), _below(r, 2, 5)
    problem = f"Solve ${b}^x = {b**n}$ for $x$."
    return problem, f"${b}^{n} = {b**n}$.", str(n), f"[k for k in range(12) if {b}**k == {b**n}][0]"


@_cell("Intermediate Algebra", 3)
def _root_sums(r: Random) -> Drawn:
    b, c = _below(r, -12, 12) or 5, _below(r, -12, 12) or 3
    answer = b * b - 2 * c
    problem = f"What is the sum of the squares of the roots of ${_poly(1, b, c)}$?"
    steps = f"The roots have sum ${-b}$ and product ${c}$: $({-b})^2 - 2 \\cdot ({c}) = {answer}$."
    return (
        problem,
        steps,
        str(answer),
        f"simplify(sum(k**2*m for k, m in roots({_code(1, b, c)}, x).items()))",
    )


@_cell("Intermediate Algebra", 3)
def _complex_product(r: Random) -> Drawn:
    a, b, c, d = _below(r, 1, 7), _below(r, 1, 7), _below(r, 1, 7), _below(r, 1, 7)
    real, imaginary = a * c + b * d, b * c - a * d
    problem = f"Write $({_poly(b, a, name='i')})({_poly(-d, c, name='i')})$ in the form $p + qi$."
    steps = f"The real part is ${a * c} + {b * d}$ and the imaginary part is ${b * c} - {a * d}$."
    answer = (
        str(real)
        if imaginary == 0
        else f"{real}{'+' if imaginary > 0 else '-'}{_poly(abs(imaginary), 0, name='i')}"
    )
    return problem, steps, answer, f"expand(({a} + {b}*I)*({c} - {d}*I))"


@_cell("Intermediate Algebra", 4)
def _poly_remainder(r: Random) -> Drawn:
    b, c, d, h = _below(r, -6, 6), _below(r, -9, 9), _below(r, -9, 9), _below(r, -4, 4) or 2
    answer = h**3 + b * h * h + c * h + d
    problem = f"What is the remainder when ${_poly(1, b, c, d)}$ is divided by ${_poly(1, -h)}$?"
    steps = f"It is the value at $x = {h}$, which is ${answer}$."
    return problem, steps, str(answer), f"rem({_code(1, b, c, d)}, x - ({h}), x)"


@_cell("Intermediate Algebra", 4)
def _quadratic_inequality(r: Random) -> Drawn:
    p, gap = _below(r, -8, 6), _below(r, 1, 9)
    q = p + gap
    closed = r.random() < 0.5
    sign, answer = ("\\le", f"[{p},{q}]") if closed else ("<", f"({p},{q})")
    problem = f"Solve ${_poly(1, -(p + q), p * q)} {sign} 0$. Give the answer as an interval."
    steps = f"The left side vanishes at ${p}$ and ${q}$ and is negative between them."
    relation = "<=" if closed else "<"
    return problem, steps, answer, f"solveset({_code(1, -(p + q), p * q)} {relation} 0, x, S.Reals)"


@_cell("Intermediate Algebra", 5)
def _geometric_sum(r: Random) -> Drawn:
    q, p, a = _below(r, 2, 9), 1, _below(r, 1, 12)
    p = _below(r, 1, q - 1)
    g = math.gcd(p, q)
    p, q = p // g, q // g
    problem = f"A geometric series has first term {a} and ratio $\\frac{{{p}}}{{{q}}}$. What is the sum of all its terms?"
    steps = f"${a} / (1 - \\frac{{{p}}}{{{q}}}) = {_frac(a * q, q - p)}$."
    return problem, steps, _frac(a * q, q - p), f"summation({a}*Rational({p}, {q})**k, (k, 0, oo))"


@_cell("Intermediate Algebra", 5)
def _partial_sum(r: Random) -> Drawn:
    n, k = _below(r, 4, 60), _below(r, 1, 3)
    top, below = _telescoped(n, k)
    problem = f"Compute $\\sum_{{j=1}}^{{{n}}} \\frac{{1}}{{j(j+{k})}}$ as a fraction in lowest terms."
    steps = f"Each term is $\\frac{{1}}{{{k}}}(\\frac{{1}}{{j}} - \\frac{{1}}{{j+{k}}})$, so all but a few cancel."
    return problem, steps, _frac(top, below), f"sum(Rational(1, j*(j + {k})) for j in range(1, {n + 1}))"


def _telescoped(n: int, k: int) -> tuple[int, int]:
    top, below = 0, 1
    for j in range(1, k + 1):
        for sign, denominator in ((1, j), (-1, n + j)):
            top, below = top * denominator + sign * below, below * denominator
    return top, below * k


# Precalculus


@_cell("Precalculus", 1)
def _vector_sum(r: Random) -> Drawn:
    a, b, c, d = (_below(r, 0, 4) for _ in range(4))
    problem = f"Add the vectors $({a},{b})$ and $({c},{d})$."
    steps = f"${a} + {c} = {a + c}$ and ${b} + {d} = {b + d}$."
    return problem, steps, f"({a + c},{b + d})", f"Tuple(*(Matrix([{a}, {b}]) + Matrix([{c}, {d}])))"


@_cell("Precalculus", 1)
def _next_term(r: Random) -> Drawn:
    a, d = _below(r, 1, 9), _below(r, 1, 9)
    problem = f"A sequence has $a_1 = {a}$ and $a_2 = a_1 + {d}$. What is $a_2$?"
    return problem, f"${a} + {d} = {a + d}$.", str(a + d), f"len(range(-{a}, {d}))"


@_cell("Precalculus", 2)
def _dot(r: Random) -> Drawn:
    a, b, c, d = (_below(r, -5, 9) for _ in range(4))
    answer = a * c + b * d
    problem = f"What is the dot product of $({a},{b})$ and $({c},{d})$?"
    return (
        problem,
        f"${a * c} + ({b * d}) = {answer}$.",
        str(answer),
        f"Matrix([{a}, {b}]).dot(Matrix([{c}, {d}]))",
    )


@_cell("Precalculus", 2)
def _easy_sine(r: Random) -> Drawn:
    degrees, value, twice = _SHARES[_below(r, 0, 2)]
    k = _below(r, 2, 30)
    problem = f"What is ${k} \\sin {degrees}^\\circ$?"
    return problem, f"$\\sin {degrees}^\\circ = {value}$.", _frac(k * twice, 2), f"{k}*sin(pi*{degrees}/180)"


@_cell("Precalculus", 3)
def _determinant(r: Random) -> Drawn:
    a, b, c, d = (_below(r, -7, 9) for _ in range(4))
    answer = a * d - b * c
    problem = f"What is the determinant of $\\begin{{pmatrix}} {a} & {b} \\\\ {c} & {d} \\end{{pmatrix}}$?"
    steps = f"${a * d} - ({b * c}) = {answer}$."
    return problem, steps, str(answer), f"Matrix([[{a}, {b}], [{c}, {d}]]).det()"


@_cell("Precalculus", 3)
def _length(r: Random) -> Drawn:
    a, b, c = _below(r, -6, 6), _below(r, 1, 6), _below(r, -6, 6)
    n = a * a + b * b + c * c
    problem = f"How long is the vector $({a},{b},{c})$?"
    return problem, f"${a * a} + {b * b} + {c * c} = {n}$.", _root(n), f"Matrix([{a}, {b}, {c}]).norm()"


@_cell("Precalculus", 4)
def _matrix_product(r: Random) -> Drawn:
    a, b, c, d, e, f = (_below(r, -5, 6) for _ in range(6))
    u, v = a * e + b * f, c * e + d * f
    problem = (
        f"Compute $\\begin{{pmatrix}} {a} & {b} \\\\ {c} & {d} \\end{{pmatrix}} "
        f"\\begin{{pmatrix}} {e} \\\\ {f} \\end{{pmatrix}}$."
    )
    steps = f"${a * e} + ({b * f}) = {u}$ and ${c * e} + ({d * f}) = {v}$."
    answer = f"\\begin{{pmatrix}} {u} \\\\ {v} \\end{{pmatrix}}"
    return problem, steps, answer, f"Matrix([[{a}, {b}], [{c}, {d}]])*Matrix([{e}, {f}])"


@_cell("Precalculus", 4)
def _cosine_from_sine(r: Random) -> Drawn:
    a, b, c = _TRIPLES[_below(r, 0, len(_TRIPLES) - 1)]
    if r.random() < 0.5:
        a, b = b, a
    obtuse = r.random() < 0.5
    k = _below(r, 1, 3)
    kind, sign = ("obtuse", -1) if obtuse else ("acute", 1)
    problem = f"The angle $t$ is {kind} and $\\sin t = \\frac{{{a * k}}}{{{c * k}}}$. What is $\\cos t$?"
    steps = f"$\\cos^2 t = 1 - {_frac(a * a, c * c)} = {_frac(b * b, c * c)}$."
    angle = f"pi - asin(Rational({a}, {c}))" if obtuse else f"asin(Rational({a}, {c}))"
    return problem, steps, _frac(sign * b, c), f"simplify(cos({angle}))"


@_cell("Precalculus", 5)
def _cross(r: Random) -> Drawn:
    a, b, c, d, e, f = (_below(r, -4, 5) for _ in range(6))
    u, v, w = b * f - c * e, c * d - a * f, a * e - b * d
    problem = f"Compute the cross product of $({a},{b},{c})$ and $({d},{e},{f})$."
    steps = f"Its first entry is ${b * f} - ({c * e}) = {u}$, and so on in turn."
    check = f"Tuple(*Matrix([{a}, {b}, {c}]).cross(Matrix([{d}, {e}, {f}])))"
    return problem, steps, f"({u},{v},{w})", check


@_cell("Precalculus", 5)
def _amplitude(r: Random) -> Drawn:
    a, b, c = _below(r, 1, 12), _below(r, 1, 12), _below(r, -9, 9)
    n = a * a + b * b
    root = _root(n)
    constant = "" if c == 0 else f" {'+' if c > 0 else '-'} {abs(c)}"
    problem = (
        f"What is the greatest value of ${_part(a)}\\sin x + {_part(b)}\\cos x{constant}$ over all real $x$?"
    )
    steps = f"The two waves together have amplitude $\\sqrt{{{n}}}$."
    if root.isdigit():
        answer = str(int(root) + c)
    else:
        answer = root if c == 0 else f"{c}+{root}"
    return problem, steps, answer, f"highest({a}, {b}, {c})"


def _part(n: int) -> str:
    return "" if n == 1 else str(n)
