# ruff: noqa: E501 - a sentence of a problem is easier to read, and to check, on one line
"""Number Theory."""

from __future__ import annotations

import math
from random import Random

from cola_envs.tasks.substitute_problems.drawing import Drawn, cell, draw, second


@cell("Number Theory", 1)
def _remainder(r: Random) -> Drawn:
    a, b = draw(r, 2, 9), draw(r, 2, 5)
    problem = f"What is the remainder when {a} is divided by {b}?"
    steps = f"${a} = {a // b} \\cdot {b} + {a % b}$."
    return problem, steps, str(a % b), f"{a} - {b}*max(k for k in range(10) if {b}*k <= {a})"


@cell("Number Theory", 1)
def _parity(r: Random) -> Drawn:
    a, b = draw(r, 1, 9), draw(r, 1, 9)
    word = "odd" if (a + b) % 2 else "even"
    problem = f"Is ${a} + {b}$ even or odd?"
    return (
        problem,
        f"${a} + {b} = {a + b}$, which is {word}.",
        f"\\text{{{word}}}",
        (f"'even' if ({a} + {b}) in range(0, 20, 2) else 'odd'"),
    )


@cell("Number Theory", 1)
def _next_number(r: Random) -> Drawn:
    a, step = draw(r, 1, 5), draw(r, 1, 4)
    b = a + 2 * step
    problem = f"Which number comes next: {a}, {a + step}, {b}?"
    return problem, f"Each is {step} more: ${b} + {step} = {b + step}$.", str(b + step), f"{a} + 3*{step}"


@second("Number Theory", 1)
def _ones_digit(r: Random) -> Drawn:
    a, b = draw(r, 1, 9), draw(r, 1, 9)
    problem = f"What is the last digit of ${a} + {b}$?"
    return problem, f"${a} + {b} = {a + b}$.", str((a + b) % 10), f"int(str({a} + {b})[-1])"


@second("Number Theory", 1)
def _greatest(r: Random) -> Drawn:
    a, b, c = r.sample(range(1, 10), 3)
    top = max(a, b, c)
    problem = f"Which of the numbers {a}, {b} and {c} is the greatest?"
    return problem, f"No other is above {top}.", str(top), f"sorted([{a}, {b}, {c}])[-1]"


@cell("Number Theory", 2)
def _gcd(r: Random) -> Drawn:
    g, a, b = draw(r, 2, 9), draw(r, 2, 9), draw(r, 2, 9)
    answer = math.gcd(g * a, g * b)
    problem = f"What is the greatest common divisor of {g * a} and {g * b}?"
    steps = (
        f"${g * a} = {answer} \\cdot {g * a // answer}$ and ${g * b} = {answer} \\cdot {g * b // answer}$."
    )
    return problem, steps, str(answer), f"max(set(divisors({g * a})) & set(divisors({g * b})))"


@cell("Number Theory", 2)
def _multiples(r: Random) -> Drawn:
    k, n = draw(r, 3, 12), draw(r, 40, 150)
    problem = f"How many positive multiples of {k} are at most {n}?"
    steps = f"${k} \\cdot {n // k} = {k * (n // k)}$ is the last."
    return problem, steps, str(n // k), f"len([m for m in range(1, {n + 1}) if m % {k} == 0])"


@second("Number Theory", 2)
def _next_prime(r: Random) -> Drawn:
    n = draw(r, 10, 120)
    answer = next(p for p in range(n + 1, 2 * n) if all(p % d for d in range(2, math.isqrt(p) + 1)))
    problem = f"What is the least prime number greater than {n}?"
    return (
        problem,
        f"Of the numbers after {n}, {answer} is the first without a divisor.",
        str(answer),
        f"nextprime({n})",
    )


@second("Number Theory", 2)
def _digit_sum(r: Random) -> Drawn:
    a, b = draw(r, 11, 40), draw(r, 3, 9)
    answer = sum(map(int, str(a * b)))
    problem = f"What is the sum of the digits of ${a} \\cdot {b}$?"
    steps = f"${a} \\cdot {b} = {a * b}$, and ${' + '.join(str(a * b))} = {answer}$."
    return problem, steps, str(answer), f"sum({a}*{b}//10**k % 10 for k in range(4))"


@cell("Number Theory", 3)
def _lcm(r: Random) -> Drawn:
    a, b = draw(r, 6, 40), draw(r, 6, 40)
    answer = math.lcm(a, b)
    problem = f"What is the least common multiple of {a} and {b}?"
    steps = f"Their greatest common divisor is {math.gcd(a, b)}, and ${a} \\cdot {b} / {math.gcd(a, b)} = {answer}$."
    return problem, steps, str(answer), f"min(m for m in range({a}, {a * b + 1}, {a}) if m % {b} == 0)"


@cell("Number Theory", 3)
def _divisor_count(r: Random) -> Drawn:
    i, j, k = draw(r, 1, 4), draw(r, 0, 3), draw(r, 0, 2)
    n = 2**i * 3**j * 5**k
    answer = (i + 1) * (j + 1) * (k + 1)
    problem = f"How many positive divisors does {n} have?"
    steps = f"${n} = 2^{i} \\cdot 3^{j} \\cdot 5^{k}$, so there are ${i + 1} \\cdot {j + 1} \\cdot {k + 1}$."
    return problem, steps, str(answer), f"len([d for d in range(1, {n + 1}) if {n} % d == 0])"


@cell("Number Theory", 3)
def _to_base(r: Random) -> Drawn:
    base, n = draw(r, 3, 9), draw(r, 20, 400)
    digits, rest = "", n
    while rest:
        digits, rest = str(rest % base) + digits, rest // base
    problem = f"Write the number {n} in base {base}."
    steps = f"Divide by {base} again and again and read the remainders from the last to the first."
    return problem, steps, f"{digits}_{base}", f"based({n}, {base})"


@second("Number Theory", 3)
def _greatest_prime_factor(r: Random) -> Drawn:
    p, q, k = (11, 13, 17, 19, 23, 29)[draw(r, 0, 5)], (2, 3, 5, 7)[draw(r, 0, 3)], draw(r, 2, 9)
    problem = f"What is the greatest prime factor of {p * q * k}?"
    return problem, f"${p * q * k} = {p} \\cdot {q * k}$.", str(p), f"max(primefactors({p * q * k}))"


@second("Number Theory", 3)
def _from_base(r: Random) -> Drawn:
    base = draw(r, 3, 9)
    digits = [draw(r, 1, base - 1), *(draw(r, 0, base - 1) for _ in range(draw(r, 2, 3)))]
    value = 0
    for digit in digits:
        value = value * base + digit
    shown = "".join(map(str, digits))
    problem = f"Write the base-{base} number ${shown}_{base}$ in base ten."
    terms = " + ".join(f"{d} \\cdot {base}^{len(digits) - 1 - k}" for k, d in enumerate(digits))
    return problem, f"${terms} = {value}$.", str(value), f"int('{shown}', {base})"


@cell("Number Theory", 4)
def _power_remainder(r: Random) -> Drawn:
    a, e, m = draw(r, 2, 12), draw(r, 20, 99), draw(r, 5, 19)
    answer = pow(a, e, m)
    problem = f"What is the remainder when ${a}^{{{e}}}$ is divided by {m}?"
    steps = f"Square again and again, keeping remainders by {m}; the last one is {answer}."
    return problem, steps, str(answer), f"Integer({a})**{e} % {m}"


@cell("Number Theory", 4)
def _divisor_sum(r: Random) -> Drawn:
    n = draw(r, 20, 180)
    answer = sum(d for d in range(1, n + 1) if n % d == 0)
    problem = f"What is the sum of the positive divisors of {n}?"
    return problem, f"Listed and added, they make {answer}.", str(answer), f"divisor_sigma({n})"


@second("Number Theory", 4)
def _two_powers(r: Random) -> Drawn:
    a, e, b, f, m = draw(r, 2, 9), draw(r, 15, 60), draw(r, 2, 9), draw(r, 15, 60), draw(r, 6, 15)
    left, right = pow(a, e, m), pow(b, f, m)
    problem = f"What is the remainder when ${a}^{{{e}}} + {b}^{{{f}}}$ is divided by {m}?"
    steps = f"The powers leave {left} and {right}, and ${left} + {right} = {left + right}$."
    return problem, steps, str((left + right) % m), f"(Integer({a})**{e} + Integer({b})**{f}) % {m}"


@second("Number Theory", 4)
def _coprime(r: Random) -> Drawn:
    n = draw(r, 20, 180)
    answer = sum(math.gcd(k, n) == 1 for k in range(1, n))
    problem = f"How many positive integers below {n} have no common factor with {n} except 1?"
    steps = f"Striking out the multiples of each prime factor of {n} leaves {answer} of them."
    return problem, steps, str(answer), f"totient({n})"


@cell("Number Theory", 5)
def _congruence(r: Random) -> Drawn:
    m = (7, 11, 13, 17, 19, 23)[draw(r, 0, 5)]
    a, b = draw(r, 2, m - 1), draw(r, 1, m - 1)
    answer = b * pow(a, -1, m) % m
    problem = f"Find the least positive integer $n$ for which ${a}n - {b}$ is a multiple of {m}."
    steps = f"The inverse of {a} by {m} is {pow(a, -1, m)}, and {pow(a, -1, m)} times {b} leaves {answer}."
    return problem, steps, str(answer), f"min(n for n in range(1, {m + 1}) if ({a}*n - {b}) % {m} == 0)"


@cell("Number Theory", 5)
def _two_congruences(r: Random) -> Drawn:
    p, q = ((5, 7), (7, 9), (8, 9), (5, 11), (7, 11), (9, 10), (8, 11))[draw(r, 0, 6)]
    n = draw(r, 10, p * q - 1)
    problem = (
        f"A number of eggs below {p * q} leaves {n % p} over in boxes of {p} and {n % q} over in boxes of {q}. "
        "How many eggs are there?"
    )
    steps = (
        f"Of the numbers {n % q}, {n % q + q}, {n % q + 2 * q}, and so on, ${n}$ leaves {n % p} over by {p}."
    )
    check = f"[n for n in range({p * q}) if n % {p} == {n % p} and n % {q} == {n % q}][0]"
    return problem, steps, str(n), check


@second("Number Theory", 5)
def _factorial_zeros(r: Random) -> Drawn:
    n = draw(r, 30, 600)
    answer = sum(n // 5**k for k in range(1, 5))
    problem = f"In how many zeros does the number ${n}!$ end?"
    shown = " + ".join(str(n // 5**k) for k in range(1, 5) if n // 5**k)
    steps = f"Every factor 5 makes one: ${shown} = {answer}$."
    return problem, steps, str(answer), f"multiplicity(10, factorial({n}))"


@second("Number Theory", 5)
def _integer_pairs(r: Random) -> Drawn:
    a, b, n = draw(r, 2, 9), draw(r, 2, 9), draw(r, 40, 150)
    b += a == b
    answer = sum((n - a * u) % b == 0 for u in range(1, (n - 1) // a + 1))
    problem = f"How many pairs $(x,y)$ of positive integers satisfy ${a}x + {b}y = {n}$?"
    steps = f"Trying $x = 1, 2, 3$ and so on, $y$ is a positive integer {answer} times."
    return (
        problem,
        steps,
        str(answer),
        f"sum({a}*u + {b}*v == {n} for u, v in product(range(1, {n}), repeat=2))",
    )
