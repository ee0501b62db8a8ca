# ruff: noqa: E501 - a sentence of a problem is easier to read, and to check, on one line
"""Precalculus."""

from __future__ import annotations

import math
from random import Random

from cola_envs.tasks.substitute_problems.drawing import Drawn, cell, draw, fraction, root_of, second

_SHARES = ((30, "\\frac{1}{2}", 1), (90, "1", 2), (150, "\\frac{1}{2}", 1))
_TRIPLES = ((3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25), (20, 21, 29))
#: Vectors whose length is a whole number.
_NORMALS = ((1, 2, 2), (2, 3, 6), (1, 4, 8), (4, 4, 7), (2, 6, 9), (6, 6, 7))


def _part(n: int) -> str:
    return "" if n == 1 else str(n)


def _times_pi(p: int, q: int) -> str:
    """p/q times pi."""
    share = fraction(p, q)
    return "\\pi" if share == "1" else f"{share}\\pi"


@cell("Precalculus", 1)
def _vector_sum(r: Random) -> Drawn:
    a, b, c, d = (draw(r, 0, 4) for _ in range(4))
    problem = f"Add the vectors $({a},{b})$ and $({c},{d})$."
    steps = f"${a} + {c} = {a + c}$ and ${b} + {d} = {b + d}$."
    return problem, steps, f"({a + c},{b + d})", f"Tuple(*(Matrix([{a}, {b}]) + Matrix([{c}, {d}])))"


@cell("Precalculus", 1)
def _next_term(r: Random) -> Drawn:
    a, d = draw(r, 1, 9), draw(r, 1, 9)
    problem = f"A sequence has $a_1 = {a}$ and $a_2 = a_1 + {d}$. What is $a_2$?"
    return problem, f"${a} + {d} = {a + d}$.", str(a + d), f"len(range(-{a}, {d}))"


@second("Precalculus", 1)
def _stretch(r: Random) -> Drawn:
    k, a, b = draw(r, 2, 4), draw(r, 0, 9), draw(r, 0, 9)
    problem = f"What is {k} times the vector $({a},{b})$?"
    steps = f"${k} \\cdot {a} = {k * a}$ and ${k} \\cdot {b} = {k * b}$."
    return problem, steps, f"({k * a},{k * b})", f"Tuple(*({k}*Matrix([{a}, {b}])))"


@second("Precalculus", 1)
def _shift(r: Random) -> Drawn:
    a, b, c = draw(r, 0, 9), draw(r, 0, 9), draw(r, 1, 9)
    problem = f"The point $({a},{b})$ moves {c} units to the right. At which point is it then?"
    return (
        problem,
        f"${a} + {c} = {a + c}$.",
        f"({a + c},{b})",
        f"Tuple(*Point({a}, {b}).translate({c}, 0).args)",
    )


@cell("Precalculus", 2)
def _dot(r: Random) -> Drawn:
    a, b, c, d = (draw(r, -5, 9) for _ in range(4))
    answer = a * c + b * d
    problem = f"What is the dot product of $({a},{b})$ and $({c},{d})$?"
    return (
        problem,
        f"${a * c} + ({b * d}) = {answer}$.",
        str(answer),
        f"Matrix([{a}, {b}]).dot(Matrix([{c}, {d}]))",
    )


@cell("Precalculus", 2)
def _easy_sine(r: Random) -> Drawn:
    degrees, value, twice = _SHARES[draw(r, 0, 2)]
    k = draw(r, 2, 30)
    problem = f"What is ${k} \\sin {degrees}^\\circ$?"
    return (
        problem,
        f"$\\sin {degrees}^\\circ = {value}$.",
        fraction(k * twice, 2),
        f"{k}*sin(pi*{degrees}/180)",
    )


@second("Precalculus", 2)
def _arithmetic_term(r: Random) -> Drawn:
    a, d, n = draw(r, 1, 20), draw(r, 2, 9), draw(r, 5, 20)
    answer = a + (n - 1) * d
    problem = (
        f"An arithmetic sequence has first term {a} and common difference {d}. What is its term number {n}?"
    )
    steps = f"${n - 1} \\cdot {d} = {(n - 1) * d}$, and ${a} + {(n - 1) * d} = {answer}$."
    return problem, steps, str(answer), f"list(range({a}, 10**4, {d}))[{n - 1}]"


@second("Precalculus", 2)
def _combination(r: Random) -> Drawn:
    k, a, b, c, d = draw(r, 2, 6), draw(r, 1, 9), draw(r, 1, 9), draw(r, 1, 9), draw(r, 1, 9)
    u, v = k * a - c, k * b - d
    problem = f"Compute ${k}({a},{b}) - ({c},{d})$ for these vectors."
    steps = f"${k * a} - {c} = {u}$ and ${k * b} - {d} = {v}$."
    return problem, steps, f"({u},{v})", f"Tuple(*({k}*Matrix([{a}, {b}]) - Matrix([{c}, {d}])))"


@cell("Precalculus", 3)
def _determinant(r: Random) -> Drawn:
    a, b, c, d = (draw(r, -7, 9) for _ in range(4))
    answer = a * d - b * c
    problem = f"What is the determinant of $\\begin{{pmatrix}} {a} & {b} \\\\ {c} & {d} \\end{{pmatrix}}$?"
    steps = f"${a * d} - ({b * c}) = {answer}$."
    return problem, steps, str(answer), f"Matrix([[{a}, {b}], [{c}, {d}]]).det()"


@cell("Precalculus", 3)
def _length(r: Random) -> Drawn:
    a, b, c = draw(r, -6, 6), draw(r, 1, 6), draw(r, -6, 6)
    n = a * a + b * b + c * c
    problem = f"How long is the vector $({a},{b},{c})$?"
    return problem, f"${a * a} + {b * b} + {c * c} = {n}$.", root_of(n), f"Matrix([{a}, {b}, {c}]).norm()"


@second("Precalculus", 3)
def _radians(r: Random) -> Drawn:
    d = 5 * draw(r, 1, 143)
    problem = f"Write ${d}^\\circ$ in radians."
    return problem, f"${d} / 180 = {fraction(d, 180)}$.", _times_pi(d, 180), f"rad({d})"


@second("Precalculus", 3)
def _special_angles(r: Random) -> Drawn:
    a, b, c = draw(r, 2, 15), draw(r, 2, 15), draw(r, 2, 15)
    problem = f"Compute ${a} \\tan 45^\\circ + {b} \\cos 60^\\circ - {c} \\sin 30^\\circ$."
    steps = f"The tangent is 1 and the other two are $\\frac{{1}}{{2}}$: ${a} + {fraction(b, 2)} - {fraction(c, 2)}$."
    return problem, steps, fraction(2 * a + b - c, 2), f"{a}*tan(pi/4) + {b}*cos(pi/3) - {c}*sin(pi/6)"


@cell("Precalculus", 4)
def _matrix_product(r: Random) -> Drawn:
    a, b, c, d, e, f = (draw(r, -5, 6) for _ in range(6))
    u, v = a * e + b * f, c * e + d * f
    problem = (
        f"Compute $\\begin{{pmatrix}} {a} & {b} \\\\ {c} & {d} \\end{{pmatrix}} "
        f"\\begin{{pmatrix}} {e} \\\\ {f} \\end{{pmatrix}}$."
    )
    steps = f"${a * e} + ({b * f}) = {u}$ and ${c * e} + ({d * f}) = {v}$."
    answer = f"\\begin{{pmatrix}} {u} \\\\ {v} \\end{{pmatrix}}"
    return problem, steps, answer, f"Matrix([[{a}, {b}], [{c}, {d}]])*Matrix([{e}, {f}])"


@cell("Precalculus", 4)
def _cosine_from_sine(r: Random) -> Drawn:
    a, b, c = _TRIPLES[draw(r, 0, len(_TRIPLES) - 1)]
    if r.random() < 0.5:
        a, b = b, a
    obtuse = r.random() < 0.5
    k = draw(r, 1, 3)
    kind, sign = ("obtuse", -1) if obtuse else ("acute", 1)
    problem = f"The angle $t$ is {kind} and $\\sin t = \\frac{{{a * k}}}{{{c * k}}}$. What is $\\cos t$?"
    steps = f"$\\cos^2 t = 1 - {fraction(a * a, c * c)} = {fraction(b * b, c * c)}$."
    angle = f"pi - asin(Rational({a}, {c}))" if obtuse else f"asin(Rational({a}, {c}))"
    return problem, steps, fraction(sign * b, c), f"simplify(cos({angle}))"


@second("Precalculus", 4)
def _double_angle(r: Random) -> Drawn:
    q = draw(r, 3, 15)
    p = draw(r, 1, q - 1)
    problem = f"If $\\sin t = \\frac{{{p}}}{{{q}}}$, what is $\\cos 2t$?"
    steps = f"$1 - 2 \\cdot {fraction(p * p, q * q)} = {fraction(q * q - 2 * p * p, q * q)}$."
    check = f"simplify(expand_trig(cos(2*asin(Rational({p}, {q})))))"
    return problem, steps, fraction(q * q - 2 * p * p, q * q), check


@second("Precalculus", 4)
def _trace_of_square(r: Random) -> Drawn:
    a, b, c, d = (draw(r, -7, 9) for _ in range(4))
    answer = a * a + 2 * b * c + d * d
    problem = (
        f"Let $M = \\begin{{pmatrix}} {a} & {b} \\\\ {c} & {d} \\end{{pmatrix}}$. "
        "What is the sum of the two diagonal entries of $M^2$?"
    )
    steps = (
        f"The entries are ${a * a} + ({b * c}) = {a * a + b * c}$ and ${b * c} + {d * d} = {b * c + d * d}$."
    )
    return problem, steps, str(answer), f"(Matrix([[{a}, {b}], [{c}, {d}]])**2).trace()"


@cell("Precalculus", 5)
def _cross(r: Random) -> Drawn:
    a, b, c, d, e, f = (draw(r, -4, 5) for _ in range(6))
    u, v, w = b * f - c * e, c * d - a * f, a * e - b * d
    problem = f"Compute the cross product of $({a},{b},{c})$ and $({d},{e},{f})$."
    steps = f"Its first entry is ${b * f} - ({c * e}) = {u}$, and so on in turn."
    check = f"Tuple(*Matrix([{a}, {b}, {c}]).cross(Matrix([{d}, {e}, {f}])))"
    return problem, steps, f"({u},{v},{w})", check


@cell("Precalculus", 5)
def _amplitude(r: Random) -> Drawn:
    a, b, c = draw(r, 1, 12), draw(r, 1, 12), draw(r, -9, 9)
    n = a * a + b * b
    root = root_of(n)
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


@second("Precalculus", 5)
def _spanned_volume(r: Random) -> Drawn:
    a, b, c, d, e, f, g, h, i = (draw(r, -4, 5) for _ in range(9))
    volume = abs(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
    problem = (
        f"What is the volume of the parallelepiped spanned by the vectors $({a},{b},{c})$, $({d},{e},{f})$ "
        f"and $({g},{h},{i})$?"
    )
    steps = f"Their determinant has the absolute value {volume}."
    return problem, steps, str(volume), f"abs(Matrix([[{a},{b},{c}],[{d},{e},{f}],[{g},{h},{i}]]).det())"


@second("Precalculus", 5)
def _distance_to_plane(r: Random) -> Drawn:
    normal = list(_NORMALS[draw(r, 0, len(_NORMALS) - 1)])
    r.shuffle(normal)
    a, b, c = normal
    shift, px, py, pz = draw(r, 1, 30), draw(r, -6, 6), draw(r, -6, 6), draw(r, -6, 6)
    length = math.isqrt(a * a + b * b + c * c)
    above = a * px + b * py + c * pz - shift
    lhs = " + ".join(f"{'' if k == 1 else k}{letter}" for k, letter in zip(normal, "xyz", strict=True))
    problem = f"How far is the point $({px},{py},{pz})$ from the plane ${lhs} = {shift}$?"
    steps = f"The left side less the right is {above} there, and the normal vector has length {length}."
    check = f"abs(Rational(Matrix([{a},{b},{c}]).dot(Matrix([{px},{py},{pz}])) - {shift})/Matrix([{a},{b},{c}]).norm())"
    return problem, steps, fraction(abs(above), length), check
