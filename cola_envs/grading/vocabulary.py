r"""The words, commands and signs of the grammar of final answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


RELATIONS = {"=": "=", "<": "<", ">": ">", "≤": "<=", "≥": ">=", "≠": "!=", "∈": "in", "∉": "not in"}
FUNCTIONS = _set(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh ln log exp sqrt gcd lcm max min abs"
)
GREEK = _set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho "
    "sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega "
    "ell hbar angle triangle det dim ker"
)
#: Accents; a letter with an accent is another letter.
ACCENTS = _set("overline overrightarrow vec hat widehat bar tilde widetilde dot ddot underline")
COMMANDS = _set(
    "frac sqrt binom choose over sum prod int pi infty pm mp cup cap setminus emptyset lfloor rfloor lceil "
    "rceil begin end"
)
#: Sets of numbers by their blackboard letter; the real numbers have a node of their own.
NUMBER_SETS = {"Z": "integers", "N": "natural numbers", "Q": "rational numbers", "C": "complex numbers"}
TEXT = _set(
    "text textbf textit textrm textnormal textsf texttt textsl textsc textup emph mbox hbox "
    "mathrm mathbf mathit mathsf mathtt "
    "boldsymbol bm operatorname"
)
MATH_FONT = _set("mathrm mathbf mathit mathsf mathtt boldsymbol bm")

UNICODE = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑‒﹣－", "-"), **dict.fromkeys("×·⋅∗✕✖", "*"), "÷": "/", "∕": "/", "⁄": "/",
        "＋": "+", "＝": "=", "π": "\\pi ", "∞": "\\infty ", "√": "\\sqrt ", "∛": "\\sqrt[3]",
        "∜": "\\sqrt[4]", "∪": "\\cup ", "∩": "\\cap ", "±": "\\pm ", "∓": "\\mp ", "∘": "°", "º": "°",
        "½": "\\frac12", "⅓": "\\frac13", "⅔": "\\frac23", "¼": "\\frac14", "¾": "\\frac34",
        "⅕": "\\frac15", "⅖": "\\frac25", "⅗": "\\frac35", "⅘": "\\frac45", "⅙": "\\frac16",
        "⅚": "\\frac56", "⅛": "\\frac18", "⅜": "\\frac38", "⅝": "\\frac58", "⅞": "\\frac78",
        "∅": "\\emptyset ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}",
        "ℂ": "\\mathbb{C}", "θ": "\\theta ", "α": "\\alpha ", "β": "\\beta ", "γ": "\\gamma ",
        "δ": "\\delta ", "λ": "\\lambda ", "μ": "\\mu ", "σ": "\\sigma ", "φ": "\\phi ", "ω": "\\omega ",
        "Σ": "\\Sigma ", "Δ": "\\Delta ", "∑": "\\sum ", "∏": "\\prod ", "∖": "\\setminus ", "⋯": "…",
        **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2007\u2009\u200a\u202f\u3000", " "),
        **dict.fromkeys("\u200b\u2060\ufeff\u2061\u2062", None), "，": ",", "；": ";", "：": ":", "（": "(",
        "）": ")", "［": "[", "］": "]", "｛": "\\{", "｝": "\\}", "∣": "|", "｜": "|", "⌊": "\\lfloor ",
        "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ", "⟨": "(", "⟩": ")", "′": "'", "″": "''", "’": "'",
        "¢": "\\text{cents}", "％": "%", "⩽": "≤", "≦": "≤", "⩾": "≥", "≧": "≥", "∨": "\\lor ",
        "∧": "\\land ",
        **{chr(ord("０") + digit): str(digit) for digit in range(10)},
    }
)  # fmt: skip
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿˣ", "0123456789+-()nx")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₙₓ", "0123456789+-nx")
#: Commands with another spelling of the same meaning; an empty one has no meaning here.
_SAME_AS = {
    name: spelling
    for spelling, names in {
        "": "middle displaystyle textstyle scriptstyle limits nolimits boxed fbox mathstrut strut num "
        "tiny scriptsize footnotesize small normalsize large Large LARGE huge Huge checkmark blacksquare qed "
        "hfill nonumber notag "
        "big Big bigg Bigg bigl Bigl biggl Biggl bigr Bigr biggr Biggr bigm Bigm biggm Biggm",
        "|": "lvert rvert vert mid", "‖": "lVert rVert Vert", "(": "langle lparen", ")": "rangle rparen",
        "[": "lbrack", "]": "rbrack", "\\{": "lbrace", "\\}": "rbrace", "<": "lt ngeq ngeqslant",
        ">": "gt nleq nleqslant", "≤": "le leq leqslant leqq ngtr", "≥": "ge geq geqslant geqq nless",
        "≠": "ne neq", "∈": "in", "∉": "notin", "*": "times cdot ast centerdot bullet", "/": "div",
        ":": "colon", "…": "dots ldots cdots dotsc dotsb dotsm dotsi dotso",
        "\\frac": "dfrac tfrac cfrac sfrac xfrac nicefrac",
        "\\binom": "dbinom tbinom", "\\mathbb{R}": "R reals Reals", "\\mathbb": "Bbb", "\\csc": "cosec",
        "\\tan": "tg", "\\cot": "ctg cotan", "\\arctan": "arctg", "\\log_{10}": "lg",
        "\\emptyset ": "varnothing O", "\\setminus ": "smallsetminus backslash",
    }.items()
    for name in names.split()
}  # fmt: skip
_NEGATED = {"=": "≠", "<": "≥", ">": "≤", "≤": ">", "≥": "<", "∈": "∉"}
_GROUP_OF_THOUSANDS = "__GROUP__"
#: Rewrites of LaTeX, in order: a pattern, and its replacement.
_REWRITES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"\\\\\*?(?:\s*\[-?[\d.]*(?:pt|em|ex|mm|cm)\])?|\\(?:cr|newline|tabularnewline)(?![a-zA-Z])", " ¶ "),
    (r"\\(?:left|right)(?![a-zA-Z])\s*\.?|(?<!\\)\\[()\[\]]|\\(?:text)?color\s*\{\w+\}", ""),
    (r"\\([a-zA-Z]+)", lambda match: _SAME_AS.get(match[1], match[0])),
    (r"\\(?:SI|qty)\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1\\text{ \2}"),
    (r"\\(?:si|unit)\s*\{([^{}]*)\}", r"\\text{ \1}"),
    (r"\\([pb]?matrix)\s*\{((?:[^{}]|\{[^{}]*\})*)\}", r"\\begin{\1}\2\\end{\1}"),
    (r"\\(p?mod)\s*\{?\s*(\w+)\s*\}?", r"\\\1{\2}"),
    (r"\\\|", "‖"),
    (r"\^\s*\\(?:top|intercal)(?![a-zA-Z])", "^T"),
    (r"\^\s*\{\s*\\(?:top|intercal|(?:mathsf|mathrm|text|rm)\s*\{?T\}?)\s*\}", "^T"),
    (r"\\(math(?:rm|bf|it|sf|tt)|boldsymbol|bm)\s+([a-zA-Z])(?![a-zA-Z])", r"\\\1{\2}"),
    (r"\\mathbb\s+([A-Z])(?![a-zA-Z])", r"\\mathbb{\1}"),
    (r"\\not\s*\\eq(?![a-zA-Z])", "≠"),
    (r"\\not\s*([=<>≤≥∈])", lambda match: _NEGATED[match[1]]),
    (r"&lt;", "<"),
    (r"&gt;", ">"),
    (r"<=", "≤"),
    (r">=", "≥"),
    (r"!=", "≠"),
    (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ(?![a-zA-Z])|\\degree(?![a-zA-Z])|\^\s*\{?°\}?", "°"),
    # A comma in braces, or one with a negative or thin space before three digits, groups thousands.
    (r"(?<=\d)(?:\{,\}|,?\s*\\!\s*,?\s*(?:\\!)?|\{,\}\\!|\\,)\s*(?=\d{3}(?!\d))", _GROUP_OF_THOUSANDS),
    (r"\\[!]", ""),
    (
        r"\\(?:[,;:>/ ]|q?quad(?![a-zA-Z])|(?:thin|thick|med|en|)space(?![a-zA-Z])"
        r"|[hm]space\*?\{[^{}]*\}|[hm]skip\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|mu))|~",
        " ",
    ),
    (r"\\[hv]?phantom\s*(?:\{[^{}]*\}|[^\s{}\\])", " "),
    (r"\{\s*\\(?:rm|bf|it|sf|tt)(?![a-zA-Z])\s*([^{}\\]*)\}", r"\\text{\1}"),
    # Old switches of the font: those with braces behind them are meant as macros.
    (r"\\(?:rm|bf|it|sf|tt|sl|sc)\s*(?=\{)", r"\\text"),
    (r"\\(?:rm|bf|it|sf|tt|sl|sc|em|bfseries|itshape|rmfamily|normalfont|boldmath)(?![a-zA-Z])", " "),
    # A letter with a line below is another letter; anything else is only marked.
    (r"\\underline\s*(?=\{(?!\s*[A-Za-z]\s*\}))", ""),
    (r"\\(?:tag|label)\*?\s*\{[^{}]*\}", ""),
    (r"\^\s*(?:\{\s*((?:\\prime\s*)+)\}|(\\prime)(?![a-zA-Z]))", lambda match: "'" * match[0].count("prime")),
    (_GROUP_OF_THOUSANDS, ""),
]
REWRITES = [(re.compile(pattern), replacement) for pattern, replacement in _REWRITES]
#: Words after a number that multiply it.
SCALES = {
    "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "quadrillion": 10**15, "quintillion": 10**18, "lakh": 10**5, "crore": 10**7, "dozen": 12,
}  # fmt: skip
_ONES = "one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS = {
    **{word: value for value, word in enumerate(f"zero {_ONES} {_TEENS}".split())},
    **{word: 10 * value for value, word in enumerate(_TENS.split(), start=2)},
}


def _ordinal(word: str) -> str:
    """The ordinal of a number word: ``twelfth``, ``twentieth``, ``hundredth``."""
    irregular = {"three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth", "twelve": "twelfth"}
    return irregular.get(word) or (word[:-1] + "ieth" if word.endswith("y") else word + "th")


_ORDINALS = frozenset(
    _ordinal(word) for word in (*NUMBER_WORDS, *SCALES) if word not in ("zero", "one", "two")
)
#: The denominators of fractions in words; a second is none.
DENOMINATORS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4} | {
    _ordinal(word) + plural: value
    for word, value in (*NUMBER_WORDS.items(), ("hundred", 100))
    for plural in ("", "s")
    if value > 2
}
#: Words after a number that negate, hedge or change it: such a text is not an answer. Plurals of the small
#: number words are nouns (24 zeros, 3 sixes).
NOT_A_UNIT = _set(
    "or and not no never cannot isn aren wasn about approximately approx around circa roughly nearly almost "
    "maybe perhaps possibly than at least most more less over under below above between up to from if unless "
    "except eg ie etc plus minus times divided half halves halved quarter quarters double doubled tripled "
    "twice thrice squared cubed mod base pi infinity power sqrt choose factorial any all every both either "
    "neither is are be answer wrong remainder"
).union(
    NUMBER_WORDS,
    (f"{word[:-1]}ies" if word.endswith("y") else f"{word}s" for word, n in NUMBER_WORDS.items() if n > 9),
    (f"{word}s" for word in _ORDINALS),
)
#: Words that make no quantity of a number where no noun follows: 5 negative is none, 2 negative roots are 2.
CHANGES_ALONE = _ORDINALS | _set(
    "negative imaginary infinite inverse reciprocal opposite conjugate incorrect false untrue invalid binary "
    "octal hexadecimal hex"
)
#: Words of quantities and links that make no adjective with hyphens: half-of, score-odd, half-as-many.
LINKS = _set(
    "a again an and as at but by few fewer for from grand gross in less many more most odd of off on or out "
    "over per plus score some than the to under up with"
)
#: Letters that are not a unit in words either: constants, unknowns, and the k of a thousand.
NOT_A_UNIT_LETTER = frozenset("eiknxyz")
#: Words that change the meaning of a number (a.m., north), with their canonical form.
MARKS = {
    **{word: word for word in _set(
        "am pm noon midnight north south east west northeast northwest southeast southwest left right down "
        "clockwise counterclockwise profit loss gain debt ahead behind early late before after bc ad bce ce "
        "forward backward inside outside inward outward upward downward ago later heads tails won lost "
        "increase decrease deposit withdrawal")},
    "anticlockwise": "counterclockwise", "northwards": "north", "southwards": "south", "eastwards": "east",
    "westwards": "west", "northward": "north", "southward": "south", "eastward": "east", "westward": "west",
    "forwards": "forward", "backwards": "backward", "upwards": "upward", "downwards": "downward",
    "inwards": "inward", "outwards": "outward",
}  # fmt: skip
#: Words beside a unit that have no meaning of their own.
FILLERS = _set("old long wide tall high deep of a an the each total clock")
#: Letters that are units at the place of a unit, and variables elsewhere.
UNIT_LETTERS = frozenset("mgshlLJNWV")
#: Currency signs before an amount; ``clean`` writes a dollar that is not TeX's as ¤.
CURRENCIES = {"¤": "dollar", "€": "euro", "£": "pound"}
ORDINALS = _set("st nd rd th")
_UNIT_NAMES = {
    "degree": "degree degrees deg", "celsius": "celsius", "fahrenheit": "fahrenheit",
    "kelvin": "kelvin kelvins", "dollar": "dollar dollars usd", "cent": "cent cents",
    "euro": "euro euros eur",
    "pound": "pound pounds lb lbs", "ounce": "ounce ounces oz", "ton": "ton tons tonne tonnes",
    "inch": "inch inches in", "foot": "foot feet ft", "yard": "yard yards yd yds", "mile": "mile miles mi",
    "meter": "meter meters metre metres m", "decimeter": "decimeter decimeters decimetre decimetres dm",
    "centimeter": "centimeter centimeters centimetre centimetres cm",
    "millimeter": "millimeter millimeters millimetre millimetres mm",
    "kilometer": "kilometer kilometers kilometre kilometres km",
    "gram": "gram grams g", "kilogram": "kilogram kilograms kilo kilos kg",
    "milligram": "milligram milligrams mg",
    "liter": "liter liters litre litres l", "milliliter": "milliliter milliliters millilitre millilitres ml",
    "second": "second seconds sec secs s", "minute": "minute minutes min mins", "hour": "hour hours hr hrs h",
    "day": "day days", "week": "week weeks", "month": "month months", "year": "year years yr yrs",
    "unit": "unit units", "percent": "percent pct", "radian": "radian radians rad",
    "gallon": "gallon gallons gal",
    "quart": "quart quarts qt", "pint": "pint pints", "cup": "cup cups", "acre": "acre acres",
    "joule": "joule joules j", "newton": "newton newtons n", "watt": "watt watts w", "volt": "volt volts v",
    "hertz": "hertz hz", "kilowatt": "kilowatt kilowatts kw", "kilowatt hour": "kwh", "psi": "psi",
    "mole": "mole moles mol", "ampere": "ampere amperes amp amps", "pascal": "pascal pascals",
    "coulomb": "coulomb coulombs", "ohm": "ohm ohms", "calorie": "calorie calories",
    "knot": "knot knots", "revolution": "revolution revolutions rev",
}  # fmt: skip
UNIT_OF = {word: unit for unit, words in _UNIT_NAMES.items() for word in words.split()}
#: The size of a unit in its base unit, where it is unique (a pound may be money, months differ in length, a
#: ton is one of two). Units of volume are converted among themselves, not to a length cubed.
SIZES = {
    name: (base, Fraction(size))
    for base, sizes in {
        "second": "minute 60 hour 3600 day 86400 week 604800",
        "meter": "millimeter 1/1000 centimeter 1/100 decimeter 1/10 kilometer 1000 "
        "inch 0.0254 foot 0.3048 yard 0.9144 mile 1609.344",
        "gram": "milligram 1/1000 kilogram 1000",
        "liter": "milliliter 1/1000",
        "dollar": "cent 1/100",
        "watt": "kilowatt 1000",
        "month": "year 12",
        "gallon": "quart 1/4 pint 1/8 cup 1/16",
    }.items()
    for name, size in zip(sizes.split()[::2], sizes.split()[1::2], strict=True)
}
COMPOUND_UNITS = {
    "mph": (("mile", 1), ("hour", -1)), "kph": (("kilometer", 1), ("hour", -1)),
    "kmh": (("kilometer", 1), ("hour", -1)),
    "fps": (("foot", 1), ("second", -1)), "rpm": (("revolution", 1), ("minute", -1)),
    "mpg": (("mile", 1), ("gallon", -1)),
}  # fmt: skip
