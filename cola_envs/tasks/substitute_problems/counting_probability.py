# ruff: noqa: E501 - a sentence of a problem is easier to read, and to check, on one line
"""Counting & Probability."""

from __future__ import annotations

import math
from random import Random

from cola_envs.tasks.substitute_problems.drawing import NAMES, Drawn, cell, draw, fraction, pick, second


@cell("Counting & Probability", 1)
def _bag(r: Random) -> Drawn:
    a, b = draw(r, 1, 9), draw(r, 1, 9)
    problem = f"A bag holds {a} red balls and {b} blue balls. How many balls does it hold?"
    return problem, f"${a} + {b} = {a + b}$.", str(a + b), f"len([*range({a}), *range({b})])"


@cell("Counting & Probability", 1)
def _pairs_of_kinds(r: Random) -> Drawn:
    a, b = draw(r, 1, 5), draw(r, 1, 9)
    name = pick(r, NAMES)
    problem = f"{name} has {a} hats and {b} scarves. In how many ways can {name} wear one of each?"
    return problem, f"${a} \\cdot {b} = {a * b}$.", str(a * b), f"len(list(product(range({a}), range({b}))))"


@second("Counting & Probability", 1)
def _either(r: Random) -> Drawn:
    a, b = draw(r, 1, 9), draw(r, 1, 9)
    problem = f"A menu has {a} soups and {b} cakes. In how many ways can a guest choose one dish?"
    return problem, f"${a} + {b} = {a + b}$.", str(a + b), f"len([*range({a}), *range({b})])"


@second("Counting & Probability", 1)
def _inclusive(r: Random) -> Drawn:
    a = draw(r, 1, 8)
    b = draw(r, a + 1, 9)
    problem = f"How many whole numbers are there from {a} to {b}, with both ends counted?"
    return problem, f"${b} - {a} + 1 = {b - a + 1}$.", str(b - a + 1), f"len(range({a}, {b} + 1))"


@cell("Counting & Probability", 2)
def _line_up(r: Random) -> Drawn:
    n = draw(r, 3, 7)
    things = ("people", "books", "flags", "cars", "songs", "plates", "horses", "letters")[draw(r, 0, 7)]
    problem = f"In how many orders can {n} different {things} be put in a row?"
    shown = " \\cdot ".join(str(k) for k in range(n, 0, -1))
    return (
        problem,
        f"${shown} = {math.factorial(n)}$.",
        str(math.factorial(n)),
        (f"len(list(permutations(range({n}))))"),
    )


@cell("Counting & Probability", 2)
def _draw_one(r: Random) -> Drawn:
    a, b = draw(r, 1, 12), draw(r, 1, 12)
    problem = (
        f"A box has {a} green and {b} white tickets. One is drawn at random. How likely is it to be green?"
    )
    steps = f"{a} of the {a + b} tickets are green."
    return problem, steps, fraction(a, a + b), f"Rational(sum(k < {a} for k in range({a + b})), {a + b})"


@second("Counting & Probability", 2)
def _codes(r: Random) -> Drawn:
    m, n = draw(r, 2, 9), draw(r, 2, 4)
    problem = (
        f"A code has {n} signs, each one of {m} letters, and letters may repeat. How many codes are there?"
    )
    return problem, f"${m}^{n} = {m**n}$.", str(m**n), f"len(list(product(range({m}), repeat={n})))"


@second("Counting & Probability", 2)
def _spinner(r: Random) -> Drawn:
    f = draw(r, 5, 20)
    k = draw(r, 1, f - 1)
    problem = f"A fair wheel stops at one of the numbers 1 to {f}. What is the probability of a number greater than {k}?"
    steps = f"${f} - {k} = {f - k}$ of the {f} numbers are greater."
    return (
        problem,
        steps,
        fraction(f - k, f),
        f"Rational(len([n for n in range(1, {f} + 1) if n > {k}]), {f})",
    )


@cell("Counting & Probability", 3)
def _choose(r: Random) -> Drawn:
    n, k = draw(r, 5, 11), draw(r, 2, 4)
    answer = math.comb(n, k)
    problem = f"How many different teams of {k} can be chosen from {n} players?"
    return (
        problem,
        f"$\\binom{{{n}}}{{{k}}} = {answer}$.",
        str(answer),
        (f"len(list(combinations(range({n}), {k})))"),
    )


@cell("Counting & Probability", 3)
def _two_dice(r: Random) -> Drawn:
    s, faces = draw(r, 3, 12), draw(r, 6, 10)
    ways = sum(1 <= s - k <= faces for k in range(1, faces + 1))
    problem = (
        f"Two fair dice with faces 1 to {faces} are rolled. What is the probability that their sum is {s}?"
    )
    steps = f"{ways} of the {faces * faces} rolls have that sum."
    check = f"Rational(sum(sum(d) == {s} for d in product(range(1, {faces + 1}), repeat=2)), {faces}**2)"
    return problem, steps, fraction(ways, faces * faces), check


@second("Counting & Probability", 3)
def _flags(r: Random) -> Drawn:
    a, b = draw(r, 2, 6), draw(r, 2, 6)
    answer = math.comb(a + b, a)
    problem = (
        f"In how many orders can {a} red and {b} blue flags hang in a row, if flags of one colour look alike?"
    )
    steps = f"Choose the places of the red ones: $\\binom{{{a + b}}}{{{a}}} = {answer}$."
    return problem, steps, str(answer), f"sum(sum(row) == {a} for row in product((0, 1), repeat={a + b}))"


@second("Counting & Probability", 3)
def _handshakes(r: Random) -> Drawn:
    n = draw(r, 8, 25)
    k = draw(r, 3, n - 4)
    answer = (n * (n - 1) - k * (k - 1)) // 2
    problem = (
        f"Of {n} guests, {k} know one another. Every two guests shake hands once, "
        f"but no two of these {k} do. How many handshakes are there?"
    )
    steps = f"Of ${n * (n - 1) // 2}$ pairs, ${k * (k - 1) // 2}$ are left out."
    return problem, steps, str(answer), f"len([p for p in combinations(range({n}), 2) if p[1] >= {k}])"


@cell("Counting & Probability", 4)
def _no_neighbours(r: Random) -> Drawn:
    n, k = draw(r, 6, 11), draw(r, 2, 3)
    answer = math.comb(n - k + 1, k)
    problem = f"In how many ways can {k} of {n} chairs in a row be chosen so that no two chosen chairs are adjacent?"
    steps = f"Set them into the gaps of the other {n - k}: $\\binom{{{n - k + 1}}}{{{k}}} = {answer}$."
    check = f"sum(all(b - a > 1 for a, b in zip(c, c[1:])) for c in combinations(range({n}), {k}))"
    return problem, steps, str(answer), check


@cell("Counting & Probability", 4)
def _draw_two(r: Random) -> Drawn:
    a, b = draw(r, 2, 9), draw(r, 2, 9)
    top, below = a * (a - 1) + b * (b - 1), (a + b) * (a + b - 1)
    problem = (
        f"An urn has {a} black and {b} yellow balls. Two are drawn at random without putting any back. "
        "What is the probability that they have the same colour?"
    )
    steps = f"Of ${below}$ ordered draws, ${a * (a - 1)} + {b * (b - 1)} = {top}$ match."
    check = f"Rational(sum((i < {a}) == (j < {a}) for i, j in combinations(range({a + b}), 2)), binomial({a + b}, 2))"
    return problem, steps, fraction(top, below), check


@second("Counting & Probability", 4)
def _heads(r: Random) -> Drawn:
    n = draw(r, 4, 9)
    k = draw(r, 2, n - 1)
    ways = sum(math.comb(n, j) for j in range(k, n + 1))
    problem = f"A fair coin is tossed {n} times. What is the probability of at least {k} heads?"
    steps = f"Of $2^{n} = {2**n}$ outcomes, {ways} have that many."
    return (
        problem,
        steps,
        fraction(ways, 2**n),
        f"Rational(sum(sum(t) >= {k} for t in product((0, 1), repeat={n})), 2**{n})",
    )


@second("Counting & Probability", 4)
def _multiples_of_either(r: Random) -> Drawn:
    a, b, n = draw(r, 3, 9), draw(r, 3, 12), draw(r, 100, 400)
    b += a == b
    both = n // math.lcm(a, b)
    answer = n // a + n // b - both
    problem = f"How many whole numbers from 1 to {n} are multiples of {a} or of {b}, or of both?"
    steps = f"${n // a} + {n // b} - {both} = {answer}$, for the multiples of both were counted twice."
    return problem, steps, str(answer), f"len([m for m in range(1, {n} + 1) if m % {a} == 0 or m % {b} == 0])"


@cell("Counting & Probability", 5)
def _paths(r: Random) -> Drawn:
    m, n = draw(r, 3, 6), draw(r, 3, 6)
    i, j = draw(r, 1, m - 1), draw(r, 1, n - 1)
    through = math.comb(i + j, i) * math.comb(m + n - i - j, m - i)
    answer = math.comb(m + n, m) - through
    problem = (
        f"A path goes from $(0,0)$ to $({m},{n})$ by unit steps to the right or up. "
        f"How many such paths avoid the point $({i},{j})$?"
    )
    steps = f"Of all ${math.comb(m + n, m)}$ paths, ${through}$ pass through the point."
    return problem, steps, str(answer), f"paths_avoiding({m}, {n}, {i}, {j})"


@cell("Counting & Probability", 5)
def _expected(r: Random) -> Drawn:
    n, k = draw(r, 6, 12), draw(r, 2, 3)
    top, below = k * (n + 1), k + 1
    problem = f"{k} different numbers are drawn at random from 1 to {n}. What is the expected value of the greatest one?"
    steps = f"The drawn numbers cut 1 to {n} into {k + 1} even gaps on average, each $\\frac{{{n + 1}}}{{{k + 1}}}$."
    check = f"Rational(sum(max(c) for c in combinations(range(1, {n + 1}), {k})), binomial({n}, {k}))"
    return problem, steps, fraction(top, below), check


@second("Counting & Probability", 5)
def _envelopes(r: Random) -> Drawn:
    n = draw(r, 4, 8)
    k = draw(r, 0, n - 2)
    none = sum((-1) ** j * math.factorial(n - k) // math.factorial(j) for j in range(n - k + 1))
    answer = math.comb(n, k) * none
    problem = (
        f"{n} letters are put into {n} addressed envelopes, one in each. "
        f"In how many ways do exactly {k} letters get their own envelope?"
    )
    steps = f"Choose those {k} in ${math.comb(n, k)}$ ways; the other {n - k} all go wrong in {none} ways."
    return problem, steps, str(answer), f"binomial({n}, {k})*subfactorial({n - k})"


@second("Counting & Probability", 5)
def _shares(r: Random) -> Drawn:
    k, m = draw(r, 3, 4), draw(r, 1, 3)
    n = k * m + draw(r, 3, 9)
    answer = math.comb(n - k * m + k - 1, k - 1)
    problem = (
        f"In how many ways can {n} equal coins be shared among {k} children so that each gets at least {m}?"
    )
    steps = f"Give each {m} first; the other {n - k * m} make $\\binom{{{n - k * m + k - 1}}}{{{k - 1}}} = {answer}$."
    return (
        problem,
        steps,
        str(answer),
        f"sum(sum(c) == {n} for c in product(range({m}, {n} + 1), repeat={k}))",
    )
