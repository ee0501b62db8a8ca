r"""Split LaTeX, as models write it, into tokens.

A token is a pair ``(kind, value)``: ``num`` (the digits), ``rep`` (a repeating decimal's exact value),
``sym`` (a variable), ``cmd`` (a known command or function), ``text`` (words), ``set`` (a set of numbers by
its blackboard letter), ``op`` (one character, with ``\{`` and ``\}`` for set braces), ``rel`` (a relation),
``sep`` (``,`` ``and`` ``or``).
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from cola_envs.grading import vocabulary

Token = tuple[str, str]


class ParseError(ValueError):
    """The text is outside the grammar of final answers."""


_NUMBER = re.compile(r"\d+(?:\.\d+)?|\.\d+")
#: Repeating decimals: 0.\overline{3}, 0.(3), and 0.333...: digits that are written twice before the dots.
_REPEATING = tuple(
    re.compile(pattern)
    for pattern in (
        r"(\d*)\.(\d*)\s*\\(?:overline|bar|dot)\s*\{?(\d+)\}?",
        r"(\d*)\.()\((\d+)\)",
        r"(\d*)\.(\d{0,20}?)(\d{1,20}?)\3+\s*…(?!\s*[\d+*-])",
    )
)
_SCIENTIFIC = re.compile(r"(\d+(?:\.\d+)?|\.\d+)[eE](\d{1,3})(?![\w.^!])")
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)(?:\.\d+)?")
#: 10C3, and {}_{10}C_3 with either index of the left also above.
_CHOSEN_IN_LINE = re.compile(r"(?<![\w.\\])(\d+)([CP])(\d+)(?!\w)")
_CHOSEN = re.compile(
    r"(?:\{\s*\}|(?<![\w})\]\\]))\s*[_^](?:\{(\w+)\}|(\d+|[a-z]))\s*(?:\\(?:text|mathrm)\s*)?\{?([CP])\}?"
    r"_(?:\{(\w+)\}|(\d+|[a-z]))"
)
_DOUBLE_BARS = re.compile(r"(?<![\w})|])\|\|([^|]+)\|\|(?![\w({|])")
_NORM = re.compile(r"‖([^‖]+)‖")
#: The composition of functions, as one name: (f \circ g)(x).
_COMPOSED = re.compile(
    r"(\(\s*)?(?<![A-Za-z\\])([A-Za-z](?:\s*(?:\\circ|°)\s*[A-Za-z])+)(?(1)\s*\))(?=\s*[(=])"
)
#: Braces round nothing, where they are no argument of a command.
_EMPTY_GROUP = re.compile(r"(?<![\\}^_\]A-Za-z])(\\pi|\\infty|[A-Za-z])?\{\s*\}")
#: Punctuation in braces, or as text.
_LONE_SIGN = re.compile(r"(?:\\(?:text(?:rm)?|mbox|mathrm)\s*)?\{\s*([,:.])\s*\}")
#: Lines with an equation each; of an array only behind its brace.
_LINES = re.compile(
    r"(\\\{\s*)?\\begin\{(aligned|align|alignat|gathered|gather|split|equation|cases|(?(1)array|split))\*?\}"
    r"(?:\{[clr|\s]*\})?((?:(?!\\begin).)*)\\end\{\2\*?\}",
    re.DOTALL,
)
_VARIANT = re.compile(r"\\var(phi|epsilon|theta|rho|sigma|kappa)(?![A-Za-z])")
_GROUPED_BY_SPACE = re.compile(r"[1-9]\d{0,2}(?: \d{3})+(?![\d/]| \d)")
#: Text to which no rewriting applies; the commonest answers skip them all.
_AS_IT_IS = re.compile(r"(?:[^\\&<>!°~]|\\(?:[{}%$]|(?:frac|sqrt|pi|infty|pm|cup|text)(?![a-zA-Z])))*")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿˣ]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋ₙₓ]+")
#: The beginning of a value on a new line.
_NEXT_VALUE = re.compile(r"[\w.(]|\\(?:frac|sqrt|pi|binom|left|sin|cos|tan|log|ln)(?![a-zA-Z])")
_NEXT_NUMBER = re.compile(r"\s*(?:\d|\.\d|\\(?:frac|sqrt|pi)(?![a-zA-Z]))")
#: The a.m. or p.m. of a time without \text: spaced or with points, or behind minutes.
_HALF_DAY = re.compile(r"(?:(?<=\d)\s+|(?<=:\d\d))([AaPp])\.?\s?[Mm]\b\.?|(?<=\d)([AaPp])\.\s?[Mm]\b\.?")
_WORD = re.compile(r"[A-Za-z]+")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
#: The token of a command without an argument.
_TOKENS: dict[str, Token] = {
    **{name: ("cmd", name) for name in vocabulary.FUNCTIONS | vocabulary.COMMANDS},
    **{name: ("sym", name) for name in vocabulary.GREEK},
    **dict.fromkeys(("lor", "vee"), ("sep", "or")), **dict.fromkeys(("land", "wedge"), ("sep", "and")),
}  # fmt: skip
#: The argument of a command that becomes a part of its token.
_ARGUMENTS = {
    "mathbb": re.compile(r"\s*\{?\s*([RZNQC])\s*\}?"),
    **dict.fromkeys(("begin", "end"), re.compile(r"\s*\{([a-z]+)\*?\}(?:\{[clr|\s]*\})?")),
    **dict.fromkeys(vocabulary.ACCENTS, re.compile(r"\s*(?:\{\s*([A-Za-z]+)\s*\}|([A-Za-z]))")),
}
_CONNECTIVE = re.compile(r"^[\s,;]*(and|or)[\s,;]*$", re.IGNORECASE)


@lru_cache(maxsize=16384)
def clean(text: str) -> str:
    r"""Return ``text`` without typesetting that has no meaning (``\left``, ``\,``, ``$``, ...)."""
    text = text.strip()
    if text.endswith("\\") and not text.endswith("\\\\"):
        text = text[:-1].rstrip()  # a control space at the end
    if text.isascii():
        if text.isalnum() and not _CHOSEN_IN_LINE.search(text):
            return text
    else:
        text = _SUPERSCRIPT.sub(lambda match: "^{" + match[0].translate(vocabulary.SUPERSCRIPTS) + "}", text)
        text = _SUBSCRIPT.sub(lambda match: "_{" + match[0].translate(vocabulary.SUBSCRIPTS) + "}", text)
        text = text.translate(vocabulary.UNICODE)
    if "C" in text or "P" in text:
        text = _CHOSEN.sub(_as_binomial, _CHOSEN_IN_LINE.sub(r"{}_{\1}\2_{\3}", text))
    if _AS_IT_IS.fullmatch(text) is None:
        for pattern, replacement in vocabulary.REWRITES:
            text = pattern.sub(replacement, text)
        if match := _LINES.fullmatch(text.strip()):
            text = _joined_lines(match[2], match[3]) or text
    if "{" in text:
        text = _LONE_SIGN.sub(r"\1", _EMPTY_GROUP.sub(r"\1", text))
    if "||" in text:
        text = _DOUBLE_BARS.sub(r"‖\1‖", text)
    if "\\var" in text:  # \varphi is \phi, unless a text holds both
        both = text
        text = _VARIANT.sub(
            lambda match: match[0] if re.search(rf"\\{match[1]}(?![A-Za-z])", both) else f"\\{match[1]}", text
        )
    if "." in text:
        text = text.replace("...", "…")
    if "m" in text or "M" in text:
        text = _HALF_DAY.sub(lambda match: f"\\text{{ {(match[1] or match[2]).lower()}m}}", text)
    text = text.replace("\\$", "¤").replace("\\%", "%")
    if text.count("$") == 1 and re.search(r"\$\s*\.?\d", text):
        text = text.replace("$", "¤")
    text = text.replace("$", "")
    return text.strip().rstrip(".,;: ¶").strip()


def _joined_lines(environment: str, body: str) -> str | None:
    r"""Return lines as a list, one that begins with = as a chain; None for the cases of a definition."""
    lines = [re.sub(r"\s*&?\s*=\s*&?\s*", " = ", line).strip() for line in body.split("¶") if line.strip()]
    if environment in ("cases", "array") and any("=" not in line or "&" in line for line in lines):
        return None
    joined = ", ".join(line.replace("&", "").rstrip(",;. ") for line in lines)
    return re.sub(r",\s*=", " =", joined)


def _as_binomial(match: re.Match[str]) -> str:
    """Return the number of choices (10C3) or of arrangements (10P3)."""
    n, k = match[1] or match[2], match[4] or match[5]
    return rf"\binom{{{n}}}{{{k}}}" if match[3] == "C" else rf"\frac{{{n}!}}{{({n}-{k})!}}"


def canonical(text: str) -> str:
    """Return a key that is the same for texts that differ only in typesetting; empty if nothing is left.

    Text of several lines has an empty key: it need not be one answer.
    """
    if "\n" in clean(text):
        return ""
    key = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", clean(text))
    key = re.sub(r"([\^_])\{(\w)\}", r"\1\2", key)
    while len(key) > 1 and key[0] == "{" and key[-1] == "}" and "{" not in key[1:-1]:
        key = key[1:-1]
    has_value = re.search(r"[^\W_]", re.sub(r"\\[A-Za-z]+|\{\}", "", key))
    return key if has_value or key in ("\\pi", "\\infty", "-\\infty", "\\emptyset", "-\\pi") else ""


def words_of(text: str) -> str:
    """Return the words of an answer without macros, brackets round one word, case, articles, extra spaces."""
    text = clean(text)
    text = re.sub(r"\\(?:" + "|".join(vocabulary.TEXT) + r")(?![a-zA-Z])", " ", text)
    text = re.sub(r"[{}]", "", text)
    text = re.sub(r"\s+", " ", text).strip().rstrip(".,;").lower()
    text = re.sub(r"\s*(?:,\s*and\b|,|\band\b)\s*", ",", text)
    text = re.sub(r"^(?:an?|the) (?=\w)", "", text)
    inner = re.fullmatch(r"\(\s*([a-z]+|[a-z]\d?)\s*\)", text)
    return inner.group(1) if inner else text


def tokenise(text: str, grouped: bool = True) -> tuple[Token, ...]:
    """Split cleaned text into tokens.

    Args:
        text: what :func:`clean` returned.
        grouped: whether ``1,234`` outside brackets is one number rather than a list of two.

    Raises:
        ParseError: for a character or command outside the grammar.
    """
    tokens: list[Token] = []
    depth = 0
    position = 0
    composed = "\\circ" in text or "°" in text
    while position < len(text):
        character = text[position]
        end = position + 1
        if composed and (match := _COMPOSED.match(text, position)):
            end = match.end()
            tokens.append(("sym", re.sub(r"\s|\\circ|°", "∘", match[2]).replace("∘∘", "∘")))
        elif character.isspace():
            end = _space(text, position, tokens)
        elif character.isdigit() or character == ".":
            end = _number(text, position, tokens, grouped and depth == 0)
        elif character == "\\":
            end = _command(text, position, tokens)
            if tokens and tokens[-1] in (("op", "\\{"), ("op", "\\}")):
                depth += 1 if tokens[-1][1] == "\\{" else -1
        elif match := _WORD.match(text, position):
            end = match.end()
            _word(match[0], tokens, text[position - 1 : position].isspace())
        elif character in vocabulary.RELATIONS:
            tokens.append(("rel", vocabulary.RELATIONS[character]))
        elif match := _NORM.match(text, position):
            end = match.end()
            tokens.append(("sym", "norm " + re.sub(r"\s", "", match[1])))
        elif character in ",;":
            tokens.append(("sep", ","))
        elif character in "+-*/^_()[]{}|!:'°%¤€£&¶…" and text[position : end + 1] != "**":
            depth += (character in "([") - (character in ")]")
            tokens.append(("op", character))
        else:
            raise ParseError(f"character {character!r}")
        position = end
    return tuple(tokens)


def _space(text: str, position: int, tokens: list[Token]) -> int:
    end = position
    while end < len(text) and text[end].isspace():
        end += 1
    if "\n" in text[position:end] and tokens and _NEXT_VALUE.match(text, end):
        last = tokens[-1]
        if _ends_a_value(tokens) or last[0] == "sym" or last[1] in ("pi", *"]!°%|"):
            raise ParseError("a value on a new line")  # two values, not a product
    return end


def _number(text: str, position: int, tokens: list[Token], grouped: bool) -> int:
    match = next(filter(None, (pattern.match(text, position) for pattern in _REPEATING)), None)
    if match:
        whole, fixed, period = match.groups()
        value = Fraction(int(whole or 0)) + Fraction(int(fixed or 0), 10 ** len(fixed))
        value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    elif "_" not in text and (match := _SCIENTIFIC.match(text, position)):  # 1E3 in a base has digits
        value = Fraction(f"{match[1]}e{match[2]}")
    if match:
        tokens.append(("rep", str(value)))
        return match.end()
    match = (_GROUPED.match(text, position) if grouped else None) or _GROUPED_BY_SPACE.match(text, position)
    if match:
        tokens.append(("num", re.sub("[, ]", "", match.group())))
        return match.end()
    match = _NUMBER.match(text, position)
    if not match:
        raise ParseError("a lone point")
    end = match.end()
    if text[end : end + 1] == ".":  # a full stop, or a second point
        end += 1
        if not re.match(r"\s*(?:[,;)\]}\\]|$)", text[end:]):
            raise ParseError("two points in a number")
    tokens.append(("num", match.group()))
    return end


def _command(text: str, position: int, tokens: list[Token]) -> int:
    match = _COMMAND.match(text, position)
    if not match:
        following = text[position + 1 : position + 2]
        if following not in ("{", "}"):
            raise ParseError(f"command \\{following}")
        tokens.append(("op", "\\" + following))
        return position + 2
    name, end = match.group(1), match.end()
    if name in vocabulary.TEXT:
        return _text_macro(name, text, end, tokens)
    if name in _ARGUMENTS:
        argument = _ARGUMENTS[name].match(text, end)
        if not argument:
            raise ParseError(f"\\{name} without its argument")
        value = argument[argument.lastindex or 0]
        if name == "mathbb":
            tokens.append(("cmd", "reals") if value == "R" else ("set", vocabulary.NUMBER_SETS[value]))
        else:
            tokens.append(("sym" if name in vocabulary.ACCENTS else "cmd", f"{name} {value}"))
        return argument.end()
    if name in _TOKENS:
        tokens.append(_TOKENS[name])
    elif tokens or name not in ("approx", "sim"):  # "about 8.24" counts as 8.24 exactly
        raise ParseError(f"command \\{name}")
    return end


def _text_macro(name: str, text: str, end: int, tokens: list[Token]) -> int:
    while text[end : end + 1].isspace():
        end += 1
    if text[end : end + 1] != "{":
        raise ParseError(f"\\{name} without braces")
    depth, close = 1, end
    while depth:
        close += 1
        if close == len(text):
            raise ParseError("braces")
        depth += (text[close] == "{") - (text[close] == "}")
    content = text[end + 1 : close].strip()
    after_value = _ends_a_value(tokens)
    if content in ("", "."):
        pass
    elif content == "to" and after_value:
        tokens.append(("op", "to"))
    elif content.lower() in ("minus", "negative") and not after_value and _NEXT_NUMBER.match(text, close + 1):
        tokens.append(("op", "-"))
    elif connective := _CONNECTIVE.match(content):
        tokens.append(("sep", connective[1].lower()))
    elif content in vocabulary.FUNCTIONS and (
        name == "operatorname" or (name in vocabulary.MATH_FONT and not after_value)
    ):
        tokens.append(("cmd", content))
    # An upright letter after a number is a unit (5 m), except for the two constants.
    elif (
        name in vocabulary.MATH_FONT
        and len(content) == 1
        and content.isalpha()
        and (name != "mathrm" or content in "ie" or not after_value)
    ):
        tokens.append(("sym", content))
    elif not re.search(r"[A-Za-z]", content) or re.match(r"[-+¤]?\s*\.?\d", content):
        tokens.extend(tokenise(content))
    else:
        for index, part in enumerate(content.split(",")):
            if index:
                tokens.append(("sep", ","))
                part = re.sub(r"^\s*(and|or)\b", "", part)
            tokens.append(("text", part.strip()))
    return close + 1


def _ends_a_value(tokens: list[Token]) -> bool:
    return bool(tokens) and (
        tokens[-1][0] in ("num", "rep", "text", "set") or tokens[-1] in (("op", "}"), ("op", ")"))
    )


def _word(word: str, tokens: list[Token], spaced: bool) -> None:
    lower = word.lower()
    after_value = _ends_a_value(tokens)
    if lower in ("and", "or"):
        tokens.append(("sep", lower))
    elif lower == "to" and after_value:
        tokens.append(("op", "to"))
    elif lower == "in" and tokens and tokens[-1][0] == "sym":
        tokens.append(("rel", "in"))
    elif word in vocabulary.FUNCTIONS and not (word in ("min", "sec") and after_value):
        tokens.append(("cmd", word))
    elif word == "pi":
        tokens.append(("cmd", "pi"))
    elif lower in ("infty", "infinity", "inf"):
        tokens.append(("cmd", "infty"))
    elif lower in vocabulary.ORDINALS and tokens and tokens[-1][0] == "num" and not spaced:
        pass  # 1st is 1
    elif (after_value and _is_unit(word, spaced)) or _continues_a_unit(tokens, lower, spaced):
        tokens.append(("text", word))
    else:
        tokens.extend(("sym", letter) for letter in word)


def _is_unit(word: str, spaced: bool) -> bool:
    lower = word.lower()
    if len(word) > 1 and (lower in vocabulary.UNIT_OF or lower in vocabulary.COMPOUND_UNITS):
        return True
    return spaced and (len(word) >= 4 or lower in ("per", "sq", "cu"))


def _continues_a_unit(tokens: list[Token], word: str, spaced: bool) -> bool:
    """Whether a word continues a unit: ``km/h``, ``kg m``, ``18/hour``."""
    if not tokens:
        return False
    if tokens[-1][0] == "text":
        return spaced
    known = len(word) > 1 and word in vocabulary.UNIT_OF
    if tokens[-1] == ("cmd", "pi"):
        return known and (len(word) > 2 or word in ("cm", "mm", "km", "dm", "ft"))  # \pi hr is no hour
    if len(tokens) > 1 and tokens[-1][1] in ("(", "["):
        return known and _ends_a_value(tokens[:-1])
    if len(tokens) > 2 and tokens[-2:] == [("cmd", "frac"), ("op", "{")]:
        return known and _ends_a_value(tokens[:-2])
    if len(tokens) > 1 and tokens[-1] in (("op", "/"), ("op", "*")):
        if tokens[-2][0] == "text":
            return True
        # $18/hour, and the cm of 18 g/cm^3
        letter = (
            tokens[-2][0] == "sym" and tokens[-2][1] in vocabulary.UNIT_LETTERS and _ends_a_value(tokens[:-2])
        )
        return (
            word in vocabulary.UNIT_OF
            and (letter or _ends_a_value(tokens[:-1]))
            and len(word) > (1 if letter else 2)
        )
    return False
