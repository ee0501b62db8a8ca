r"""The words and signs that the grammar of final answers knows."""

from __future__ import annotations

import re


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


RELATIONS = {"=": "=", "<": "<", ">": ">", "≤": "<=", "≥": ">=", "≠": "!=", "∈": "in"}
FUNCTIONS = _set(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh ln log exp sqrt gcd lcm max min"
)
GREEK = _set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho "
    "sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega "
    "ell angle triangle"
)
COMMANDS = _set("frac sqrt binom pi infty pm mp cup cap emptyset lfloor rfloor lceil rceil begin end")
TEXT = _set(
    "text textbf textit textrm textnormal textsf texttt mbox hbox mathrm mathbf mathit mathsf mathtt "
    "boldsymbol bm operatorname"
)
MATH_FONT = _set("mathrm mathbf mathit mathsf mathtt boldsymbol bm")

UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "π": "\\pi ",
        "∞": "\\infty ", "√": "\\sqrt ", "∪": "\\cup ", "∩": "\\cap ", "±": "\\pm ", "∓": "\\mp ", "°": "°",
        "∘": "°", "²": "^2", "³": "^3", "½": "\\frac12", "¼": "\\frac14", "¾": "\\frac34", "∅": "\\emptyset ",
        "ℝ": "\\mathbb{R}", "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta ", "\u00a0": " ", "\u2009": " ",
        "\u202f": " ", "，": ",", "（": "(", "）": ")", "∣": "|", "⌊": "\\lfloor ", "⌋": "\\rfloor ",
        "⟨": "(", "⟩": ")", "′": "'", "¢": "\\text{cents}",
    }
)  # fmt: skip
REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"\\\\(?:\s*\[-?[\d.]*(?:pt|em|ex|mm|cm)\])?", " ¶ "),
        (r"\\(?:left|right)(?![a-zA-Z])\s*\.?", ""),
        (r"\\(?:middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits)(?![a-zA-Z])", ""),
        (r"(?<!\\)\\[()\[\]]", ""),
        (r"\\(?:text)?color\s*\{\w+\}|\\(?:underline|boxed|fbox|mathstrut|strut)(?![a-zA-Z])", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\\(?:lvert|rvert|vert|mid)(?![a-zA-Z])", "|"),
        (r"\\langle(?![a-zA-Z])", "("),
        (r"\\rangle(?![a-zA-Z])", ")"),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\(?:leq?|leqslant|leqq)(?![a-zA-Z])", "≤"),
        (r"\\(?:geq?|geqslant|geqq)(?![a-zA-Z])", "≥"),
        (r"\\lt(?![a-zA-Z])|&lt;", "<"),
        (r"\\gt(?![a-zA-Z])|&gt;", ">"),
        (r"\\neq?(?![a-zA-Z])", "≠"),
        (r"\\in(?![a-zA-Z])", "∈"),
        (r"<=", "≤"),
        (r">=", "≥"),
        (r"!=", "≠"),
        (r"\\(?:varnothing|O)(?![a-zA-Z])", r"\\emptyset "),
        (r"\\(?:times|cdot|ast|centerdot)(?![a-zA-Z])", "*"),
        (r"\\div(?![a-zA-Z])", "/"),
        (r"\\colon(?![a-zA-Z])", ":"),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])|\^\s*\{?°\}?", "°"),
        # A comma in braces, or one with a negative or thin space before three digits, groups thousands.
        (r"(?<=\d)(?:\{,\}|,?\s*\\!\s*,?\s*(?:\\!)?|\{,\}\\!|\\,)\s*(?=\d{3}(?!\d))", "__GROUP__"),
        (r"\\[!]", ""),
        (r"\\(?:[,;:> ]|q?quad(?![a-zA-Z])|thinspace(?![a-zA-Z])|space(?![a-zA-Z])|hspace\{[^{}]*\})|~", " "),
        (r"\\[hp]?phantom\{[^{}]*\}", " "),
    ]
]
#: Words after a number that change its value, deny it or hedge: then it is no unit.
NOT_A_UNIT = _set(
    "or and not no about approximately approx around roughly nearly almost maybe perhaps possibly than at "
    "least most more less over under below above between up to from if unless except eg ie etc plus minus "
    "times divided hundred thousand million billion trillion dozen half quarter double twice squared "
    "cubed mod base pi power factorial any all every both either neither is are be answer wrong remainder"
)
_UNIT_NAMES = {
    "degree": "degree degrees deg", "dollar": "dollar dollars usd", "cent": "cent cents",
    "euro": "euro euros", "pound": "pound pounds lb lbs", "ounce": "ounce ounces oz",
    "inch": "inch inches in", "foot": "foot feet ft",
    "yard": "yard yards yd yds", "mile": "mile miles mi", "meter": "meter meters metre metres m",
    "centimeter": "centimeter centimeters centimetre centimetres cm",
    "millimeter": "millimeter millimeters mm", "kilometer": "kilometer kilometers kilometre kilometres km",
    "gram": "gram grams g", "kilogram": "kilogram kilograms kg", "milligram": "milligram milligrams mg",
    "liter": "liter liters litre litres l", "milliliter": "milliliter milliliters ml",
    "second": "second seconds sec secs s", "minute": "minute minutes min mins", "hour": "hour hours hr hrs h",
    "day": "day days", "week": "week weeks", "month": "month months", "year": "year years yr yrs",
    "mph": "mph", "kph": "kph kmh", "unit": "unit units", "percent": "percent",
    "radian": "radian radians rad", "gallon": "gallon gallons gal", "acre": "acre acres",
}  # fmt: skip
UNIT_OF = {word: unit for unit, words in _UNIT_NAMES.items() for word in words.split()}
NUMBER_WORDS = {
    word: value
    for value, word in enumerate(
        [
            *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
            *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
            *("nineteen", "twenty"),
        ]
    )
}
