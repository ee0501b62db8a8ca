# ruff: noqa: E501 - a sentence of a problem is easier to read, and to check, on one line
"""Prealgebra."""

from __future__ import annotations

from random import Random

from cola_envs.tasks.substitute_problems.drawing import (
    NAMES,
    THINGS,
    Drawn,
    cell,
    draw,
    fraction,
    pick,
    second,
)


@cell("Prealgebra", 1)
def _sum(r: Random) -> Drawn:
    a, b = draw(r, 1, 9), draw(r, 1, 9)
    return f"What is ${a} + {b}$?", f"${a} + {b} = {a + b}$.", str(a + b), f"sum([{a}, {b}])"


@cell("Prealgebra", 1)
def _left(r: Random) -> Drawn:
    a = draw(r, 2, 9)
    b = draw(r, 1, a)
    name, things = pick(r, NAMES), pick(r, THINGS)
    problem = f"{name} has {a} {things} and gives away {b}. How many {things} are left?"
    return problem, f"${a} - {b} = {a - b}$.", str(a - b), f"len(range({b}, {a}))"


@cell("Prealgebra", 1)
def _gain(r: Random) -> Drawn:
    a, b = draw(r, 1, 9), draw(r, 1, 9)
    name, things = pick(r, NAMES), pick(r, THINGS)
    problem = f"{name} has {a} {things} and finds {b} more. How many {things} is that in all?"
    return problem, f"${a} + {b} = {a + b}$.", str(a + b), f"len([*range({a}), *range({b})])"


@second("Prealgebra", 1)
def _pages(r: Random) -> Drawn:
    a, b = draw(r, 1, 9), draw(r, 1, 9)
    problem = f"{pick(r, NAMES)} reads {a} pages on Monday and {b} pages on Tuesday. How many pages is that?"
    return problem, f"${a} + {b} = {a + b}$.", str(a + b), f"len([*range({a}), *range({b})])"


@second("Prealgebra", 1)
def _greater_by(r: Random) -> Drawn:
    a, b = draw(r, 2, 9), draw(r, 1, 9)
    a, b = max(a, b) + (a == b < 9), min(a, b) - (a == b == 9)
    problem = f"How much greater is {a} than {b}?"
    return problem, f"${a} - {b} = {a - b}$.", str(a - b), f"len(range({b}, {a}))"


@cell("Prealgebra", 2)
def _times(r: Random) -> Drawn:
    a, b = draw(r, 3, 12), draw(r, 3, 12)
    problem = f"A hall has {a} rows of {b} chairs. How many chairs are there?"
    return problem, f"${a} \\cdot {b} = {a * b}$.", str(a * b), f"len(list(product(range({a}), range({b}))))"


@cell("Prealgebra", 2)
def _order(r: Random) -> Drawn:
    a, b, c = draw(r, 1, 20), draw(r, 2, 9), draw(r, 2, 9)
    problem = f"Compute ${a} + {b} \\times {c}$."
    steps = f"The product comes first: ${b} \\cdot {c} = {b * c}$, and ${a} + {b * c} = {a + b * c}$."
    return problem, steps, str(a + b * c), f"{a} + sum([{b}] * {c})"


@second("Prealgebra", 2)
def _boxes(r: Random) -> Drawn:
    a, b, c = draw(r, 2, 9), draw(r, 3, 12), draw(r, 1, 20)
    things = pick(r, THINGS)
    problem = (
        f"Each of {a} boxes holds {b} {things}, and {c} more lie beside them. How many {things} are there?"
    )
    steps = f"The boxes hold ${a} \\cdot {b} = {a * b}$, and ${a * b} + {c} = {a * b + c}$."
    return problem, steps, str(a * b + c), f"sum([{b}] * {a} + [{c}])"


@second("Prealgebra", 2)
def _bracket_first(r: Random) -> Drawn:
    a, b, c = draw(r, 2, 15), draw(r, 2, 15), draw(r, 2, 9)
    problem = f"Compute $({a} + {b}) \\times {c}$."
    steps = f"The bracket is {a + b}, and ${a + b} \\cdot {c} = {(a + b) * c}$."
    return problem, steps, str((a + b) * c), f"{a}*{c} + {b}*{c}"


@cell("Prealgebra", 3)
def _percent(r: Random) -> Drawn:
    p, n = 5 * draw(r, 1, 19), 20 * draw(r, 2, 25)
    problem = f"What is ${p}\\%$ of {n}?"
    return problem, f"${n} \\cdot {p} / 100 = {p * n // 100}$.", str(p * n // 100), f"Rational({p}, 100)*{n}"


@cell("Prealgebra", 3)
def _fraction_sum(r: Random) -> Drawn:
    a, b, c, d = draw(r, 1, 5), draw(r, 2, 7), draw(r, 1, 5), draw(r, 2, 9)
    top = a * d + c * b
    problem = f"Write $\\frac{{{a}}}{{{b}}} + \\frac{{{c}}}{{{d}}}$ as a fraction in lowest terms."
    steps = f"Over the denominator {b * d} the sum is ${a * d} + {c * b} = {top}$."
    return problem, steps, fraction(top, b * d), f"Rational({a}, {b}) + Rational({c}, {d})"


@second("Prealgebra", 3)
def _part_of(r: Random) -> Drawn:
    q = draw(r, 3, 12)
    p, k = draw(r, 2, q - 1), draw(r, 3, 25)
    problem = f"What is $\\frac{{{p}}}{{{q}}}$ of {q * k}?"
    steps = f"${q * k} / {q} = {k}$, and ${k} \\cdot {p} = {k * p}$."
    return problem, steps, str(k * p), f"Rational({p}, {q})*{q * k}"


@second("Prealgebra", 3)
def _recipe(r: Random) -> Drawn:
    a, c, k = draw(r, 2, 9), draw(r, 10, 30), 5 * draw(r, 5, 30)
    problem = (
        f"A recipe for {a} people takes {a * k} grams of flour. How many grams does it take for {c} people?"
    )
    steps = f"One person takes ${a * k} / {a} = {k}$ grams, and ${k} \\cdot {c} = {k * c}$."
    return problem, steps, str(k * c), f"solve(Eq(x/{c}, Rational({a * k}, {a})), x)[0]"


@cell("Prealgebra", 4)
def _speed(r: Random) -> Drawn:
    v, h, m = 6 * draw(r, 5, 20), draw(r, 1, 4), 10 * draw(r, 1, 5)
    far = v * (60 * h + m) // 60
    problem = f"A train runs at {v} km per hour for {h} h and {m} min. How many km does it cover?"
    steps = f"The time is ${60 * h + m}$ minutes, and ${v} \\cdot {60 * h + m} / 60 = {far}$."
    return problem, steps, str(far), f"{v}*({h} + Rational({m}, 60))"


@cell("Prealgebra", 4)
def _mean(r: Random) -> Drawn:
    values = [draw(r, 5, 40) for _ in range(4)]
    mean = draw(r, 15, 30)
    last = 5 * mean - sum(values)
    shown = ", ".join(map(str, values))
    problem = f"Four of five numbers are {shown}. The mean of all five is {mean}. What is the fifth number?"
    steps = f"All five make ${5 * mean}$ and the four make ${sum(values)}$, so the fifth is ${last}$."
    return problem, steps, str(last), f"solve(Eq(({'+'.join(map(str, values))} + x)/5, {mean}), x)[0]"


@second("Prealgebra", 4)
def _map_scale(r: Random) -> Drawn:
    thousands, cm = 25 * draw(r, 1, 20), draw(r, 2, 30)
    problem = (
        f"On a map of scale $1 : {thousands}000$ two towns are {cm} cm apart. "
        "How many kilometres apart are they? Give a whole number or a fraction in lowest terms."
    )
    steps = f"That is ${cm} \\cdot {thousands}000 = {cm * thousands}000$ cm, and a kilometre has 100000 cm."
    return problem, steps, fraction(cm * thousands, 100), f"Rational({cm}*{thousands}000, 10**5)"


@second("Prealgebra", 4)
def _percent_of_what(r: Random) -> Drawn:
    p, n = 5 * draw(r, 1, 19), 20 * draw(r, 3, 40)
    v = p * n // 100
    problem = f"${p}\\%$ of a number is {v}. What is the number?"
    steps = f"One percent of it is ${fraction(v, p)}$, so the number is ${fraction(v, p)} \\cdot 100 = {n}$."
    return problem, steps, str(n), f"solve(Eq(Rational({p}, 100)*x, {v}), x)[0]"


@cell("Prealgebra", 5)
def _discount(r: Random) -> Drawn:
    price, p, q = 100 * draw(r, 2, 12), 10 * draw(r, 1, 5), 10 * draw(r, 1, 5)
    first = price * (100 - p) // 100
    cents = price * (100 - p) * (100 - q) // 100
    paid = fraction(cents, 100)
    problem = (
        f"A coat costs \\${price}. Its price falls by ${p}\\%$, and then the new price falls by ${q}\\%$. "
        "What is the last price, in dollars?"
    )
    steps = f"After the first cut it costs ${first}$, and ${first} \\cdot {100 - q} / 100 = {paid}$."
    return problem, steps, paid, f"{price}*(1 - Rational({p}, 100))*(1 - Rational({q}, 100))"


@cell("Prealgebra", 5)
def _workers(r: Random) -> Drawn:
    a, b = draw(r, 3, 12), draw(r, 3, 12)
    problem = (
        f"One pump fills a pool in {a} hours and another fills it in {b} hours. "
        "How many hours do both take together? Give a fraction in lowest terms."
    )
    steps = f"In an hour they fill $\\frac{{1}}{{{a}}} + \\frac{{1}}{{{b}}} = {fraction(a + b, a * b)}$ of it; turn it over."
    return problem, steps, fraction(a * b, a + b), f"solve(Eq(x/{a} + x/{b}, 1), x)[0]"


@second("Prealgebra", 5)
def _mixture(r: Random) -> Drawn:
    a, b, p, q = draw(r, 2, 15), draw(r, 2, 15), draw(r, 3, 30), draw(r, 35, 80)
    answer = fraction(a * p + b * q, a + b)
    problem = (
        f"{a} litres of salt water with ${p}\\%$ of salt are mixed with {b} litres with ${q}\\%$ of salt. "
        "What percentage of the mixture is salt? Give the number alone, in lowest terms if it is a fraction."
    )
    steps = f"In hundredths of a litre there are ${a * p} + {b * q} = {a * p + b * q}$ of salt in ${a + b}$ litres."
    return (
        problem,
        steps,
        answer,
        f"solve(Eq(Rational({p}*{a} + {q}*{b}, 100), x/100*({a} + {b})), x)[0]",
    )


@second("Prealgebra", 5)
def _meeting(r: Random) -> Drawn:
    d, u, v = draw(r, 20, 150), draw(r, 12, 30), draw(r, 12, 30)
    problem = (
        f"Two towns are {d} km apart. At the same time one rider leaves each town for the other, "
        f"at {u} and at {v} km per hour. After how many minutes do they meet? "
        "Give a whole number or a fraction in lowest terms."
    )
    steps = f"They near each other by ${u + v}$ km an hour, so it takes $60 \\cdot {d} / {u + v}$ minutes."
    return problem, steps, fraction(60 * d, u + v), f"solve(Eq({u}*x/60 + {v}*x/60, {d}), x)[0]"
