# ruff: noqa: E501 - a case is read best on one line
"""Pairs of answers whose label is certain because of how they are made: from one value, or from two.

Each family draws a value, writes it in several ways and changes it; a change is one that no convention calls
equal. So what the grader says of them can be checked without reading them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

from cola_envs.grading.parser import parse
from cola_envs.grading.verdicts import Claim

#: Two equal answers whose equality takes a proof by sympy.
CLOSED, PROVEN = "\\frac{n(n+1)}{2}", "\\sum_{k=1}^{n} k"


def tree(text: str) -> tuple:
    """Return the expression tree of an answer."""
    return parse(text).tree


def claim(left: str, right: str) -> Claim:
    """Return the claim that two answers are equal."""
    return Claim(tree(left), tree(right))


Pair = tuple[str, str]
#: Draws a gold answer, answers that are equal to it, and answers that are not.
Family = Callable[[random.Random], tuple[str, list[str], list[str]]]

# fmt: off
NOTHING = ["", "\\text{none}", "?", "\\pm", "\\text{I do not know}"]


def _far(rng: random.Random) -> str:
    return "0" * rng.randint(5, 120) + str(rng.randint(1, 9))


def _surrounded(rng: random.Random, text: str) -> str:
    around = ["{}", "${}$", "\\({}\\)", "{{{}}}", " {} ", "{}.", "\\displaystyle {}", "\\boxed{{{}}}", "\\,{}\\;"]
    return rng.choice(around).format(text)


def integer(rng: random.Random) -> tuple[str, list[str], list[str]]:
    n = rng.choice([rng.randint(13, 99), rng.randint(1000, 10**6), rng.randint(10**20, 10**40)])
    sign = rng.choice(["", "-"])
    text = f"{sign}{n}"
    grouped = f"{sign}{n:,}"
    equal = [f"{text}.0", f"{text}.{'0' * 50}", grouped.replace(",", "{,}"), f"{sign}\\frac{{{2 * n}}}{{2}}"]
    equal += [f"x = {text}", f"{text}\\text{{ cm}}", f"\\boxed{{{text}}}", f"{sign}({n - 1}+1)", f"{n - 7}+7" if not sign else text]
    digits = str(n)
    swapped = digits[:-2] + digits[:-3:-1]
    unequal = [f"{sign}{n + rng.choice([-1, 1])}", f"{'' if sign else '-'}{n}", f"{text}0", f"{text}.{_far(rng)}", f"{text}\\,!"]
    unequal += [f"{text}!", f"{text}!!", f"{text}!!!", f"\\pm {text}", f"\\pm\\pm {text}", f"{text}\n{rng.randint(0, 9)}"]
    unequal += [f"%{text}\n8", f"{text}t", f"{text}^2", f"{text}, {n + 1}", f"{text}\\text{{ or }}{n + 1}", f"{text}\\%+1"]
    unequal += [f"{text}+10^{{-{rng.randint(30, 300)}}}", f"{text}\\text{{ million}}", f"|{text}|+1"]
    if swapped != digits:
        unequal.append(sign + swapped)
    return text, equal, unequal


def fraction(rng: random.Random) -> tuple[str, list[str], list[str]]:
    value = Fraction(rng.randint(1, 60), rng.randint(2, 60))
    while value.denominator == 1 or value.numerator in (1, value.denominator):
        value = Fraction(rng.randint(1, 60), rng.randint(2, 60))
    a, b = value.numerator, value.denominator
    k = rng.randint(2, 9)
    command = rng.choice(["frac", "dfrac", "tfrac", "cfrac", "nicefrac", "sfrac"])
    equal = [f"{a}/{b}", f"\\{command}{{{k * a}}}{{{k * b}}}", f"\\frac{{-{a}}}{{-{b}}}", f"{a}\\cdot\\frac{{1}}{{{b}}}", f"{a}\\div {b}"]
    equal += [f"({a})({b})^{{-1}}", f"{{{a} \\over {b}}}", f"1-\\frac{{{b - a}}}{{{b}}}", f"{a}∕{b}"]
    unequal = [f"\\frac{{{b}}}{{{a}}}", f"\\frac{{{a + 1}}}{{{b}}}", f"\\frac{{{a}}}{{{b + 1}}}", f"-\\frac{{{a}}}{{{b}}}", f"{a}{b}"]
    unequal += [f"{a / b:.12f}7", f"\\frac{{{a}}}{{{b}}}+0.{_far(rng)}", f"{a}\\frac{{{a}}}{{{b}}}", f"\\pm\\frac{{{a}}}{{{b}}}"]
    unequal += [f"\\frac{{{a}.{_far(rng)}}}{{{b}}}", f"\\frac{{{a}}}{{{b}}}\n{a}", f"{a}:{b + 1}", f"\\binom{{{a}}}{{{b}}}-1"]
    return f"\\frac{{{a}}}{{{b}}}", equal, unequal


def surd(rng: random.Random) -> tuple[str, list[str], list[str]]:
    p, q, r = rng.randint(2, 12), rng.choice([2, 3, 5, 6, 7, 10, 11, 13]), rng.randint(1, 9)
    gold = f"{r}+{p}\\sqrt{{{q}}}"
    equal = [f"{p}\\sqrt{{{q}}}+{r}", f"{r}+\\sqrt{{{p * p * q}}}", f"{r}+\\frac{{{p * q}}}{{\\sqrt{{{q}}}}}", f"{r}+{p}({q})^{{1/2}}"]
    equal += [f"\\sqrt{{{r * r + p * p * q}+{2 * r * p}\\sqrt{{{q}}}}}", f"\\frac{{{r * r - p * p * q}}}{{{r}-{p}\\sqrt{{{q}}}}}"]
    value = r + p * q**0.5
    unequal = [f"{r}-{p}\\sqrt{{{q}}}", f"{r + 1}+{p}\\sqrt{{{q}}}", f"{r}+{p + 1}\\sqrt{{{q}}}", f"{r}+{p}\\sqrt{{{q + 1}}}"]
    unequal += [f"{r}+{p}\\sqrt[3]{{{q}}}", f"{value:.14f}", f"{gold}+10^{{-{rng.randint(20, 250)}}}", f"{r}+{p}\\sqrt{{{q}.{_far(rng)}}}"]
    unequal += [f"{r}\\pm{p}\\sqrt{{{q}}}", f"\\sqrt{{{r * r + p * p * q}-{2 * r * p}\\sqrt{{{q}}}}}", f"{r}+{p}\\cdot{q}", f"({gold})!"]
    return gold, equal, unequal


def _polynomial(coefficients: list[int], letter: str = "x") -> str:
    terms = [f"{c:+d}{letter}^{{{k}}}" if k else f"{c:+d}" for k, c in reversed(list(enumerate(coefficients))) if c]
    return "".join(terms).removeprefix("+")


def polynomial(rng: random.Random) -> tuple[str, list[str], list[str]]:
    a, b, c = (rng.choice([-1, 1]) * rng.randint(2, 9) for _ in range(3))
    letter = rng.choice("xyzabkmnt")
    coefficients = [b * c, b + a * c, a]  # (a x + b)(x + c)
    gold = _polynomial(coefficients, letter)
    factored = f"({a}{letter}{b:+d})({letter}{c:+d})"
    equal = [factored, f"{coefficients[0]}{coefficients[1]:+d}{letter}{coefficients[2]:+d}{letter}^2", f"\\frac{{{3 * a}{letter}^2+{3 * coefficients[1]}{letter}+{3 * coefficients[0]}}}{{3}}".replace("+-", "-")]
    unequal = [gold + f"+0.{_far(rng)}", f"{factored}+1", f"({a}{letter}{-b:+d})({letter}{c:+d})", gold.replace("^{2}", f"^{{2.{_far(rng)}}}")]
    unequal += [gold.replace("^{2}", "^{3}"), gold.replace(letter, "w"), f"{gold}\n8", f"%{gold}\n8", f"-({gold})", f"|{gold}|", f"\\pm({gold})"]
    unequal += [_polynomial([coefficients[0] + 1, *coefficients[1:]], letter), f"\\sqrt{{({gold})^2}}", f"({gold})!", f"{gold}=0"]
    return gold, equal, unequal


def identity(rng: random.Random) -> tuple[str, list[str], list[str]]:
    k, n = rng.randint(2, 9), rng.randint(2, 5)
    x, y = rng.sample(["x", "y", "a", "b", "n", "t", "L", "g"], 2)
    gold, equal, unequal = rng.choice(
        [
            (f"\\sqrt{{{k}{x}{y}}}", [f"\\sqrt{{{k}}}\\sqrt{{{x}}}\\sqrt{{{y}}}", f"\\sqrt{{{y}{x}\\cdot{k}}}"], [f"\\sqrt{{{k}{x}}}+\\sqrt{{{y}}}", f"\\sqrt{{{k + 1}{x}{y}}}"]),
            (f"\\log({x}{y})", [f"\\log {x}+\\log {y}"], [f"\\log {x}\\cdot\\log {y}", f"\\ln({x}{y})"]),
            (f"{k}{x}\\sqrt{{{n}{x}}}", [f"{k}\\sqrt{{{n}{x}^3}}"], [f"{k}\\sqrt{{{n}{x}^2}}", f"{k}{x}^2\\sqrt{{{n}{x}}}"]),
            (f"\\sqrt{{\\frac{{{x}}}{{{y}}}}}", [f"\\frac{{\\sqrt{{{x}}}}}{{\\sqrt{{{y}}}}}", f"\\frac{{\\sqrt{{{x}{y}}}}}{{{y}}}"], [f"\\sqrt{{\\frac{{{y}}}{{{x}}}}}", f"\\frac{{{x}}}{{{y}}}"]),
            (f"\\sin^2 {x}", [f"1-\\cos^2 {x}", f"\\frac{{1-\\cos 2{x}}}{{2}}"], [f"\\cos^2 {x}", f"\\sin 2{x}", f"\\sin {x}^2"]),
            (f"\\sin {n}{x}\\cos {x}", [f"\\frac{{\\sin {n + 1}{x}+\\sin {n - 1}{x}}}{{2}}"], [f"\\cos {n}{x}\\sin {x}", f"\\sin {n}{x}+\\cos {x}"]),
            (f"{k}^{{{x}+{n}}}", [f"{k**n}\\cdot {k}^{{{x}}}", f"{k}^{{{x}}}{k}^{{{n}}}"], [f"{k}^{{{x}}}+{k}^{{{n}}}", f"{k}^{{{n}{x}}}"]),
            (f"|{x}|", [f"\\sqrt{{{x}^2}}", f"\\lvert -{x}\\rvert"], [x, f"-{x}", f"{x}^2"]),
            (f"\\frac{{({x}+{n})!}}{{{x}!}}", ["".join(f"({x}+{i})" for i in range(1, n + 1))], [f"({x}+{n})", f"{n}!", "".join(f"({x}+{i})" for i in range(1, n))]),
            (f"\\frac{{1}}{{\\sqrt{{{x}}}-\\sqrt{{{y}}}}}", [f"\\frac{{\\sqrt{{{x}}}+\\sqrt{{{y}}}}}{{{x}-{y}}}"], [f"\\frac{{\\sqrt{{{x}}}-\\sqrt{{{y}}}}}{{{x}-{y}}}", f"\\frac{{1}}{{\\sqrt{{{x}-{y}}}}}"]),
        ]
    )
    return (gold, equal, [*unequal, f"{gold}+0.{_far(rng)}", f"-{gold}", f"(1+10^{{-{rng.randint(20, 99)}}}){gold}"])


def constant(rng: random.Random) -> tuple[str, list[str], list[str]]:
    k, n = rng.randint(2, 30), rng.randint(2, 9)
    name, digits = rng.choice([("\\pi", "3.14159265358979323846264338327950288419716939937510"), ("e", "2.71828182845904523536028747135266249775724709369995")])
    gold = f"\\frac{{{k}{name}}}{{{n}}}" if k % n else f"{k}{name}"
    equal = [f"\\frac{{{k}}}{{{n}}}{name}", f"{k}{name}/{n}", f"\\frac{{{2 * k}{name}}}{{{2 * n}}}"] if k % n else [f"{name}\\cdot{k}"]
    unequal = [f"{gold}+0.{_far(rng)}", f"{gold}-10^{{-{rng.randint(30, 300)}}}", f"-{gold}", gold.replace(name, digits), gold.replace(name, "2"), f"{gold}^2"]
    return gold, equal, unequal


def interval(rng: random.Random) -> tuple[str, list[str], list[str]]:
    low = rng.randint(-20, 20)
    high = low + rng.randint(1, 20)
    closed = rng.choice([True, False]), rng.choice([True, False])
    low_text = rng.choice([str(low), f"\\frac{{{2 * low}}}{{2}}"])

    def forms(a: str, b: str, ends: tuple[bool, bool]) -> list[str]:
        left, right = ("\\le" if end else "<" for end in ends)
        iso = ("[" if ends[0] else "]") + f"{a};{b}" + ("]" if ends[1] else "[")
        chain = f"{a}{left} x{right} {b}"
        plain = ("[" if ends[0] else "(") + f"{a},{b}" + ("]" if ends[1] else ")")
        back = {"\\le": "\\ge", "<": ">"}
        return [
            plain, chain, iso, f"x\\in {plain}", f"\\{{x\\mid {chain}\\}}", f"\\{{x\\in\\mathbb{{R}}: {chain}\\}}", f"{b}{back[right]} x{back[left]} {a}",
            f"x{back[left]} {a}\\text{{ and }}x{right} {b}", plain.replace("(", "\\left(").replace("[", "\\left["),
        ]

    gold, *equal = forms(low_text, str(high), closed)
    if closed[0] == closed[1]:
        middle, radius = Fraction(low + high, 2), Fraction(high - low, 2)
        sign = "\\le" if closed[0] else "<"
        equal.append(f"|x-({middle})|{sign} {radius}")
    unequal = [
        *rng.sample(forms(str(low), str(high), (not closed[0], closed[1])), 3),
        *rng.sample(forms(str(low), str(high), (closed[0], not closed[1])), 3),
        *rng.sample(forms(str(low), str(high + 1), closed), 2),
        *rng.sample(forms(f"{low}.{_far(rng)}", str(high), closed), 2),
        f"\\{{{low},{high}\\}}", f"x<{high}", f"\\mathbb{{R}}\\setminus\\{{{low}\\}}", f"({high},{low})",
    ]
    return gold, equal, unequal


def outside(rng: random.Random) -> tuple[str, list[str], list[str]]:
    a, b = rng.randint(1, 20), rng.randint(21, 40)
    gold, equal, unequal = rng.choice(
        [
            (
                f"(-\\infty,-{a})\\cup({a},\\infty)",
                [f"|x|>{a}", f"x<-{a}\\text{{ or }}x>{a}", f"\\mathbb{{R}}\\setminus[-{a},{a}]", f"]-\\infty,-{a}[\\cup]{a},\\infty["],
                [f"|x|\\ge {a}", f"|x|<{a}", f"\\mathbb{{R}}\\setminus(-{a},{a})", f"x>{a}", f"|x|>{a + 1}"],
            ),
            (
                f"\\mathbb{{R}}\\setminus\\{{{a},{b}\\}}",
                [f"x\\ne {a},{b}", f"(-\\infty,{a})\\cup({a},{b})\\cup({b},\\infty)", f"\\mathbb{{R}}-\\{{{b},{a}\\}}", f"x\\neq {a}\\text{{ and }}x\\neq {b}"],
                [f"x\\ne {a}", f"\\mathbb{{R}}\\setminus\\{{{a}\\}}", f"\\{{{a},{b}\\}}", f"\\mathbb{{R}}\\setminus[{a},{b}]", "\\mathbb{R}"],
            ),
            (f"x\\ge {a}", [f"[{a},\\infty)", f"[{a},\\infty[", f"-x\\le -{a}", f"2x-{2 * a}\\ge 0", f"\\{{x|x\\geqslant {a}\\}}"], [f"x>{a}", f"({a},\\infty)", f"x\\le {a}", f"y\\ge {a}", f"x\\ge {a}.{_far(rng)}", f"x={a}"]),
        ]
    )
    return gold, equal, unequal


def measured(rng: random.Random) -> tuple[str, list[str], list[str]]:
    n = rng.randint(2, 500)
    unit, others = rng.choice(
        [
            (["km/h", "km per hour", "kph", "kilometers per hour", "km/hr"], ["m/s", "mph", "km", "h", "km^2/h"]),
            (["cm^2", "square centimeters", "sq. cm", "cm²"], ["cm", "cm^3", "m^2", "kg"]),
            (["miles", "mi", "mile"], ["km", "miles per hour", "square miles", "hours"]),
            (["apples", "apple"], ["oranges", "cm", "dollars"]),
            (["seconds", "s", "sec"], ["minutes", "m", "seconds squared", "hours"]),
            (["m/s^2", "meters per second squared", "m s^{-2}"], ["m/s", "m^2/s", "km/s^2"]),
        ]
    )
    gold = f"{n}\\text{{ {unit[0]}}}"
    equal = [str(n), *(f"{n}\\text{{ {word}}}" for word in unit), f"{n}\\ \\mathrm{{{unit[0]}}}"]
    unequal = [f"{n + 1}\\text{{ {unit[0]}}}", *(f"{n}\\text{{ {word}}}" for word in others), f"{n}\\text{{ or more {unit[0]}}}", f"-{n}", f"{n}x"]
    return gold, equal, unequal


def marked(rng: random.Random) -> tuple[str, list[str], list[str]]:
    hour, minute = rng.randint(1, 12), rng.choice([0, 5, 15, 30, 45])
    half, other = rng.sample(["a.m.", "p.m."], 2)
    clock = f"{hour}:{minute:02d}"
    equal = [f"{clock}\\text{{ {half.replace('.', '').upper()}}}", f"{clock} {half}", f"{clock} {half.replace('.', '')}", clock]
    equal += [f"{hour}\\text{{ {half}}}", f"{hour} {half}"] if minute == 0 else []
    unequal = [f"{clock}\\text{{ {other}}}", f"{clock} {other}", f"{hour}:{(minute + 1) % 60:02d}\\text{{ {half}}}", f"{hour}{minute:02d}", f"{hour % 12 + 1}:{minute:02d} {half}"]
    if rng.random() < 0.5:
        return f"{clock}\\text{{ {half}}}", equal, unequal
    way, wrong = rng.sample(["north", "south", "east", "west"], 2)
    return (f"{hour}\\text{{ miles {way}}}", [f"{hour} miles {way}", f"{hour}\\text{{ mi {way.title()}}}"], [f"{hour}\\text{{ miles {wrong}}}", f"{hour + 1}\\text{{ miles {way}}}", f"{hour}\\text{{ km {way}}}"])


def several(rng: random.Random) -> tuple[str, list[str], list[str]]:
    items = rng.sample(range(-30, 60), rng.randint(3, 5))
    other = rng.sample(items, len(items))
    while other == items:
        rng.shuffle(other)

    def text(values: list[int]) -> str:
        return ",".join(map(str, values))

    changed = [items[0] + 1, *items[1:]]
    if changed[0] in items:
        changed[0] = 99
    if rng.random() < 0.5:
        gold = f"({text(items)})"
        equal = [f"\\left({text(items)}\\right)", f"( {', '.join(map(str, items))} )", f"({','.join(f'{v}.0' for v in items)})"]
        unequal = [f"({text(other)})", f"({text(changed)})", f"({text(items[:-1])})", f"({text([*items, 7])})", f"\\{{{text(items)}\\}}", text(items)]
        return gold, equal, unequal
    gold = f"\\{{{text(items)}\\}}"
    equal = [text(other).replace(",", ", "), f"\\{{{text(other)}\\}}", f"\\left\\{{{text(items)}\\right\\}}", f"x\\in\\{{{text(other)}\\}}"]
    unequal = [f"\\{{{text(changed)}\\}}", f"\\{{{text(items[:-1])}\\}}", f"({text(items)})", f"\\{{{text([*items, 99])}\\}}", str(items[0]), f"\\{{{text(items[:2])},\\ldots\\}}"]
    return gold, equal, unequal


def matrix(rng: random.Random) -> tuple[str, list[str], list[str]]:
    rows = [[rng.randint(-9, 9) for _ in range(2)] for _ in range(2)]
    while rows[0][1] == rows[1][0]:
        rows[0][1] = rng.randint(-9, 9)

    def text(values: list[list[int]], name: str = "pmatrix", end: str = "\\\\") -> str:
        return f"\\begin{{{name}}}" + end.join(" & ".join(map(str, row)) for row in values) + f"\\end{{{name}}}"

    transposed = [list(column) for column in zip(*rows, strict=True)]
    changed = [rows[0], [rows[1][0], rows[1][1] + 1]]
    equal = [text(rows, "bmatrix"), text(rows, end=" \\cr "), text(rows, end="\\\\[3pt]\n"), f"\\left[\\begin{{array}}{{cc}}{text(rows)[15:-13]}\\end{{array}}\\right]"]
    flat = [*rows[0], *rows[1]]
    unequal = [text(transposed), text(changed), text([rows[0]]), f"({','.join(map(str, flat))})", text([[-v - 1 for v in row] for row in rows])]
    return text(rows), equal, unequal


def equation(rng: random.Random) -> tuple[str, list[str], list[str]]:
    a, b, c, k = (rng.randint(2, 9), rng.choice([-1, 1]) * rng.randint(2, 9), rng.randint(1, 9), rng.randint(2, 5))
    gold = f"{a}x{b:+d}y={c}"
    equal = [f"{c}={a}x{b:+d}y", f"{k * a}x{k * b:+d}y={k * c}", f"{b}y+{a}x={c}", f"{a}x{b:+d}y-{c}=0", f"{-a}x{-b:+d}y=-{c}"]
    unequal = [f"{a + 1}x{b:+d}y={c}", f"{a}x{-b:+d}y={c}", f"{a}x{b:+d}y={c + 1}", f"{a}x{b:+d}y", str(c), f"{a}x{b:+d}y={c}.{_far(rng)}", f"{a}x{b:+d}y<{c}", f"{a}y{b:+d}x={c}" if a != b else "x=y"]
    return gold, equal, unequal


def word(rng: random.Random) -> tuple[str, list[str], list[str]]:
    gold, wrong = rng.sample(["parabola", "ellipse", "hyperbola", "circle", "even", "odd", "neither", "Monday", "Sunday", "blue"], 2)
    equal = [gold.title(), f"\\text{{{gold.upper()}}}", f"\\textbf{{{gold}}}", f"\\mathrm{{{gold}}}"]
    unequal = [wrong, f"\\text{{{wrong}}}", f"\\text{{{gold} or {wrong}}}", f"\\text{{not {gold}}}", f"\\text{{{gold}s}}", gold[0], f"\\text{{{gold}, {wrong}}}"]
    return f"\\text{{{gold}}}", equal, unequal


FAMILIES: list[Family] = [
    integer, fraction, surd, polynomial, identity, constant, interval, outside, measured, marked, several, matrix,
    equation, word,
]


def pairs(seed: int, rounds: int) -> tuple[list[Pair], list[Pair]]:
    """Return equal and unequal pairs, ``rounds`` draws of each family."""
    rng = random.Random(seed)
    equal: list[Pair] = []
    unequal: list[Pair] = []
    for _ in range(rounds):
        for family in FAMILIES:
            gold, same, other = family(rng)
            equal += [(gold, gold), (gold, _surrounded(rng, gold)), *((gold, answer) for answer in same)]
            unequal += [(gold, rng.choice(NOTHING)), *((gold, answer) for answer in other)]
    return equal, unequal


_PIECES = [
    *"0123456789+-*/^_!(){}[]|<>=,.;:%$&~'", "\\", "\\{", "\\}", "\\frac", "\\sqrt", "\\sqrt[3]", "\\pi", "\\infty", "\\pm", "\\cup",
    "\\cap", "\\setminus", "\\mathbb{R}", "\\text{", "\\text{ cm}", "\\mathrm{", "\\le", "\\in", "\\ne", "\\mid", "\\left(", "\\right]",
    "\\sum_{k=1}^", "\\prod_{k=0}^{", "\\binom", "{n\\choose k}", "\\log_", "\\sin", "\\tan^{-1}", "\\ldots", "\\begin{pmatrix}",
    "\\end{pmatrix}", "\\\\", "\\overline{", "^\\circ", "\\$", "\\%", "x", "y", "e", "i", "n", "km", "m/s", " ", "\n", "!!", "**", "\\int",
    "\\lfloor", "\\rceil", "or", "and", "p.m.", "∞", "√", "½", "≤", "−", "²", "ℝ", "𝟙", "\u202e", "\x00", "٣", "{,}", "_{10}", "10^{", "999", "__",
]
_CODE = [
    "__import__('os').system('touch CANARY')", "exec(\"open('CANARY','w')\")", "lambda: open('CANARY','w')",
    "().__class__.__mro__", "\\input{/etc/passwd}", "\\write18{touch CANARY}", "${{7*7}}", "%s%n", "'; DROP TABLE",
]


def hostile(seed: int, count: int) -> list[str]:
    """Return answers made to break a grader: soups of its own words, damaged answers, towers, depths, code."""
    rng = random.Random(seed)
    golds = [gold for gold, _ in pairs(seed, 3)[1]]

    def soup() -> str:
        return "".join(rng.choices(_PIECES, k=rng.randint(1, 120)))

    def damaged() -> str:
        text = list(rng.choice(golds))
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(text) + 1)
            text[at : at + rng.randint(0, 3)] = rng.choices(_PIECES, k=rng.randint(0, 3))
        return "".join(text)

    def repeated() -> str:
        piece = rng.choice(["{", "(", "\\frac{", "\\sqrt{", "|", "9^{", "((", "-", "!", "\\pm", "1+", "x,", "\\{", "\\left(", "[", "]", "|x|", "x<", "\\cup"])
        return piece * rng.choice([3, 10, 40, 130, 3000]) + rng.choice(["", "7", "x", "}" * 10])

    def tower() -> str:
        text = str(rng.randint(2, 999))
        for _ in range(rng.randint(1, 5)):
            form = rng.choice(["{}^{{{}}}", "({}!)!+{}", "\\binom{{{}}}{{{}}}", "e^{{{}+{}}}", "\\sum_{{k=1}}^{{{}}}k^{{{}}}", "({}x+1)^{{{}}}", "\\sqrt[{}]{{{}}}", "\\sin({}^{{{}}})"])
            text = form.format(text, rng.randint(2, 99999))
        return text

    def coded() -> str:
        return rng.choice(["{}", "\\text{{{}}}", "7{}", "x={}", "\\operatorname{{{}}}", "\\sum_{{k=1}}^{{3}} {}"]).format(rng.choice(_CODE))

    return [rng.choice([soup, soup, damaged, damaged, repeated, tower, coded])() for _ in range(count)]
