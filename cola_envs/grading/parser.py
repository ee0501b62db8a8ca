r"""Parse tokens to a small tree: numbers, expressions, lists, tuples, intervals, relations, matrices, words.

The grammar is that of short final answers, not of LaTeX. An answer outside it is correct only if it is the
gold answer in other typesetting.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from cola_envs.grading.expressions import expression
from cola_envs.grading.lexer import ParseError, Token, clean, tokenise
from cola_envs.grading.nodes import (
    Based,
    Difference,
    Dotted,
    Expr,
    Group,
    Infinity,
    Intersection,
    Matrix,
    Node,
    Ratio,
    Relation,
    SetOf,
    Text,
    Union,
)
from cola_envs.grading.splitting import CLOSE, OPEN, matching, outside, split, straightened
from cola_envs.grading.trees import number
from cola_envs.grading.units import letters_as_units, take_unit
from cola_envs.grading.vocabulary import DENOMINATORS, NUMBER_WORDS, SCALES

REALS = Group("()", (Infinity(-1), Infinity(1)))
EMPTY = Group("{}", ())
PHRASES: dict[str, Node] = {
    **dict.fromkeys(("all real numbers", "all reals"), REALS),
    "infinity": Infinity(1),
    **dict.fromkeys(
        ("no solution", "no solutions", "no real solution", "no real solutions", "empty set"), EMPTY
    ),
    **dict.fromkeys(
        ("d.n.e", "dne", "doesn't exist", "does not exist", "the limit does not exist",
         "limit does not exist", "undefined", "not defined"),
        Text("does not exist"),
    ),
}  # fmt: skip
_POSITIVE, _NEGATIVE = (Expr(number(0)), Infinity(1)), (Infinity(-1), Expr(number(0)))
#: What an index or exponent makes of the real numbers.
_HALF_LINES = {
    "": REALS,
    **dict.fromkeys(("^+", "_+", "_>0"), Group("()", _POSITIVE)), "_>=0": Group("[)", _POSITIVE),
    **dict.fromkeys(("^-", "_-", "_<0"), Group("()", _NEGATIVE)), "_<=0": Group("(]", _NEGATIVE),
}  # fmt: skip
_UNIT_BY_LETTERS = re.compile(
    r"[\d}]\s+[A-Za-z]|[\d}][A-Za-z]+(?:\^\{?\d\}?)?/|\d\s*\\frac\s*\{|\\pi\s*[ckm]?m\^"
)
_SIGNS = frozenset(("op", sign) for sign in "+-*/^")
_DOTS = ("op", "…")
_SUCH_THAT = (("op", "|"), ("op", ":"))


@lru_cache(maxsize=16384)
def parse(text: str, grouped: bool = True) -> Node | None:
    """Return the tree of a final answer, or None where it is outside the grammar.

    ``grouped``: whether ``1,234`` is one number rather than a list of two.
    """
    try:
        return parse_tokens(straightened(tokenise(clean(text), grouped)))
    except (ParseError, RecursionError):
        return None


def parse_with_unit_letters(text: str) -> Node | None:
    """Return the tree with letters behind a number read as its unit (``18 m/s``); None where there are none.

    Letters right behind a number, unless they are divided by others, are variables: ``4t`` is not 4.
    """
    text = clean(text)
    if not _UNIT_BY_LETTERS.search(text):
        return None
    try:
        tokens = letters_as_units(straightened(tokenise(text)))
        return parse_tokens(tokens) if tokens else None
    except (ParseError, RecursionError):
        return None


def spelt_in_words(text: str) -> Node | None:
    r"""Return the node of a known phrase or a number in words, with or without ``\text``; None for others."""
    words = re.sub(r"\s+", " ", text).strip().lower().rstrip(".")
    return PHRASES.get(words) or number_of_words(words)


def number_of_words(words: str) -> Expr | None:
    """Return ``two`` as 2, ``one hundred and twenty-one`` as 121 and ``three quarters`` as 3/4; else None."""
    whole = _whole_of_words(words)
    value = _fraction_of_words(words) if whole is None else Fraction(whole)
    return None if value is None else Expr(("n", value))


def _fraction_of_words(words: str) -> Fraction | None:
    """Return ``half``, ``a third`` or ``two and three-quarters``; None for other words."""
    match = _FRACTION_IN_WORDS.fullmatch(words)
    if match is None:
        return None
    sign, whole, single, count, several = match.groups()
    units = _whole_of_words(whole) if whole else 0
    above = _whole_of_words(count) if count else 1
    if units is None or above is None or (count and above < 2):
        return None
    value = units + Fraction(above, DENOMINATORS[single or several or "half"])
    return -value if sign else value


def _whole_of_words(words: str) -> int | None:
    match = _NUMBER_IN_WORDS.fullmatch(words)
    if match is None:
        return None
    total = group = 0
    for word in re.split("[ -]", match[2]):
        if word == "hundred":
            group *= 100
        elif word in SCALES:
            total, group = total + group * SCALES[word], 0
        elif word != "and":
            group += 1 if word == "a" else NUMBER_WORDS[word]
    return -(total + group) if match[1] else total + group


def _number_in_words() -> re.Pattern[str]:
    ones, teens, tens = (
        "(?:" + "|".join(word for word, value in NUMBER_WORDS.items() if value in values) + ")"
        for values in (range(1, 10), range(10, 20), range(20, 100))
    )
    below_hundred = f"(?:{tens}(?:[ -]{ones})?|{teens}|{ones})"
    below_thousand = f"(?:(?:{ones}|a) hundred(?: (?:and )?{below_hundred})?|{below_hundred})"
    large = "".join(
        f"(?:(?:{below_thousand}|a) {scale}(?: (?:and )?|$))?" for scale in ("million", "thousand")
    )
    return re.compile(f"((?:minus|negative) )?(zero|(?=.){large}(?:{below_thousand})?)")


_NUMBER_IN_WORDS = _number_in_words()


def _fraction_in_words() -> re.Pattern[str]:
    single, several = (
        "|".join(word for word in DENOMINATORS if word.endswith("s") is plural) for plural in (False, True)
    )
    # A twenty-fifth is no fraction with 20 above.
    return re.compile(
        r"((?:minus|negative) )?(?:(.+?) and )?"
        rf"(?:(?:(?:an?|one)[ -])?half|(?:an?|one)[ -]({single})|(.+?)(?: |(?<!ty)-)({several}))"
    )


_FRACTION_IN_WORDS = _fraction_in_words()


def parse_tokens(tokens: Sequence[Token]) -> Node:
    """Parse a whole answer.

    Raises:
        ParseError: where it is outside the grammar.
    """
    while (
        len(tokens) > 2 and tokens[0] in (("op", "{"), ("op", "(")) and matching(tokens, 0) == len(tokens) - 1
    ):
        inner = tokens[1:-1]
        builder = _set_builder(inner) if tokens[0][1] == "{" else None
        if builder is not None:
            return builder
        if all(kind != "rel" for kind, _ in inner) or any(kind == "sep" for kind, _ in inner):
            break
        tokens = inner  # \boxed{x = 5}, (x = 5)
    parts, connectives = split(tokens, lambda token: token[0] == "sep")
    parts = _without_doubled_separators(parts)
    if len(parts) == 1:
        return _item(parts[0])
    if _has_dots(parts):
        return _dotted(parts)
    words = {connective for connective in connectives if connective != ","}
    if len(words) > 1:
        raise ParseError("both and and or")
    return Group("list", tuple(map(_item, parts)), words.pop() if words else ",")


def _has_dots(parts: Sequence[Sequence[Token]]) -> bool:
    """Whether a part is nothing but dots."""
    return any(tuple(part) == (_DOTS,) for part in parts)


def _dotted(parts: Sequence[Sequence[Token]]) -> Dotted:
    return Dotted(
        (",",) * (len(parts) - 1), tuple(None if tuple(part) == (_DOTS,) else _item(part) for part in parts)
    )


def _without_doubled_separators(parts: list[Sequence[Token]]) -> list[Sequence[Token]]:
    # "2, 3, and 4" has an empty part between the comma and the word.
    items = [part for index, part in enumerate(parts) if part or index in (0, len(parts) - 1)]
    if not all(items):
        raise ParseError("an empty item")
    return items


def _item(tokens: Sequence[Token]) -> Node:
    if all(kind != "rel" for kind, _ in tokens):
        return _side(tokens)
    sides, ops = split(tokens, lambda token: token[0] == "rel")
    if len(sides) == 1:
        return _side(tokens)
    if ops == ["="] and not sides[0] and sides[1]:
        return _side(sides[1])  # = 10
    if not sides[-1] or not sides[0]:
        raise ParseError("half a relation")
    names = tuple(_name(side) for side in sides)
    return Relation(tuple(ops), tuple(map(_named_side, sides, names)), names)


def _named_side(tokens: Sequence[Token], name: str | None) -> Node:
    """Read a side; the unknown may be a function of several letters: p(a, b, c)."""
    try:
        return _side(tokens)
    except ParseError:
        if name is None or not re.fullmatch(r"[A-Za-z]+\([^…]*\)", name):
            raise
        return Text(name)


def _name(tokens: Sequence[Token]) -> str | None:
    """Return the spelling of a side that may name the unknown (x, f(x), (x,y), AB, a + b), else None.

    Numbers may only occur in subscripts and in brackets: ``2x`` and ``x + 1`` are not names. Braces are left
    out, but round an index or exponent of several tokens: ``a_{n+1}`` is not ``a_n + 1``.
    """
    depth = 0
    letters = False
    for index, (kind, value) in enumerate(tokens):
        if kind == "op" and value in OPEN:
            depth += 1
        elif kind == "op" and value in CLOSE:
            depth -= 1
        elif kind in ("num", "rep"):
            subscript = index and tokens[index - 1] == ("op", "_")
            if not subscript and (depth == 0 or not letters):
                return None
        elif kind in ("sym", "text", "set"):
            letters = True
    return _spelt(tokens) if letters else None


def _spelt(tokens: Sequence[Token]) -> str:
    kept: set[int] = set()
    for index in range(1, len(tokens)):
        if tokens[index] == ("op", "{") and tokens[index - 1] == ("op", "_"):
            end = matching(tokens, index)
            if any(token in _SIGNS for token in tokens[index:end]):
                kept |= {index, end}
    return "".join(value for index, (_, value) in enumerate(tokens) if value not in "{}" or index in kept)


def _side(tokens: Sequence[Token]) -> Node:
    while len(tokens) > 2 and tokens[0] == ("op", "{") and matching(tokens, 0) == len(tokens) - 1:
        inner = tokens[1:-1]
        if len(split(inner, lambda token: token[0] == "sep")[0]) > 1:
            return Group("{}", _items(inner))
        if ("cmd", "choose") in inner or ("cmd", "over") in inner:
            break
        tokens = inner
    if not tokens:
        raise ParseError("nothing")
    if len(parts := _operands(tokens, "cup")) > 1:
        return Union(tuple(map(_side, parts)))
    if ("cmd", "setminus") in tokens or ("op", "\\{") in tokens:
        cuts = [index for index in outside(tokens) if _removes(tokens, index)]
        if cuts:
            whole, removed = tokens[: cuts[-1]], tokens[cuts[-1] + 1 :]
            return Difference(REALS if tuple(whole) == (("sym", "R"),) else _side(whole), _side(removed))
    if len(parts := _operands(tokens, "cap")) > 1:
        return Intersection(tuple(map(_side, parts)))
    for read in (_matrix, _bracketed, _words, _special, _sequence, _based, _ratio):
        node = read(tokens)
        if node is not None:
            return node
    return expression(tokens)


def _operands(tokens: Sequence[Token], command: str) -> list[Sequence[Token]]:
    sign = ("cmd", command)
    return split(tokens, lambda token: token == sign)[0] if sign in tokens else [tokens]


def _removes(tokens: Sequence[Token], index: int) -> bool:
    r"""Whether a token is ``\setminus``, or a minus between a set and a brace."""
    before = tokens[index - 1] if index else None
    return tokens[index] == ("cmd", "setminus") or (
        tuple(tokens[index : index + 2]) == (("op", "-"), ("op", "\\{"))
        and before in (("cmd", "reals"), ("op", ")"), ("op", "]"), ("op", "\\}"))
    )


def _items(tokens: Sequence[Token]) -> tuple[Node, ...]:
    parts, _ = split(tokens, lambda token: token[0] == "sep")
    return tuple(map(_side, _without_doubled_separators(parts)))


def _matrix(tokens: Sequence[Token]) -> Matrix | None:
    """Read a matrix; None where there is none. Raises ParseError for one that is not whole."""
    begin = next(
        (i for i, (kind, value) in enumerate(tokens) if kind == "cmd" and value.startswith("begin ")), -1
    )
    if begin < 0:
        return None
    name = tokens[begin][1][6:]
    if name not in ("pmatrix", "bmatrix", "matrix", "array", "smallmatrix", "Bmatrix"):
        raise ParseError(f"environment {name}")
    end = next((i for i, token in enumerate(tokens) if token == ("cmd", f"end {name}")), -1)
    prefix, suffix = list(tokens[:begin]), list(tokens[end + 1 :])
    if name in ("array", "matrix", "smallmatrix") and prefix and suffix:
        if (prefix.pop(), suffix.pop(0)) not in ((("op", "["), ("op", "]")), (("op", "("), ("op", ")"))):
            raise ParseError("brackets of an array")
    elif name == "array":
        raise ParseError("an array without brackets")
    if end < 0 or suffix:
        raise ParseError("something after a matrix")
    while len(prefix) > 1 and prefix[-1] == ("op", "*"):
        prefix.pop()
    scale = number(-1) if prefix == [("op", "-")] else expression(prefix).tree if prefix else None
    rows = []
    lines, _ = split(tokens[begin + 1 : end], lambda token: token == ("op", "¶"))
    for line in lines if lines[-1] else lines[:-1]:
        cells, _ = split(line, lambda token: token == ("op", "&"))
        row = [expression(cell) for cell in cells]
        rows.append(tuple(Expr(("*", scale, cell.tree)) if scale else cell for cell in row))
    if not rows or len({len(row) for row in rows}) != 1:
        raise ParseError("a ragged matrix")
    return Matrix(tuple(rows))


def _bracketed(tokens: Sequence[Token]) -> Node | None:
    """Read a tuple, an interval, a set, or a value in brackets; None for others."""
    kind, opening = tokens[0]
    if kind != "op" or opening not in ("(", "[", "\\{") or matching(tokens, 0) != len(tokens) - 1:
        return None
    inner, closing, is_set = tokens[1:-1], tokens[-1][1], opening == "\\{"
    if closing not in (("\\}",) if is_set else (")", "]")):
        raise ParseError("brackets that do not match")
    if is_set:
        if not inner:
            return EMPTY
        builder = _set_builder(inner)
        if builder is not None:
            return builder
    parts = split(inner, lambda token: token[0] == "sep")[0]
    if _has_dots(parts):
        return _dotted(parts) if is_set else None
    items = _items(inner)
    if is_set:
        return Group("{}", items)
    if len(items) == 1:
        # (3/4) and [5] are brackets around a value; ((1,2)) keeps the inner pair.
        return items[0] if opening + closing in ("()", "[]") else None
    return Group(opening + closing, items)


def _set_builder(inner: Sequence[Token]) -> Node | None:
    r"""Read ``x \mid 0 < x``, ``x \in A : x \ne 3`` and ``x \in A``; None where there is no condition."""
    if len(inner) < 3 or inner[0][0] != "sym":
        return None
    # Behind a letter, or behind the set that it is in.
    bars = [index for index in outside(inner) if inner[index] in _SUCH_THAT]
    bar = bars[0] if bars and (bars[0] == 1 or inner[1] == ("rel", "in")) else None
    if bar is None:
        return None
    condition = parse_tokens(inner[bar + 1 :])
    conditions = (
        condition.items if isinstance(condition, Group) and condition.kind == "list" else (condition,)
    )
    if not any(isinstance(item, Relation) for item in conditions):
        raise ParseError("a set builder without a condition")
    return SetOf(inner[0][1], condition, None if bar == 1 else _side(inner[2:bar]))


def _words(tokens: Sequence[Token]) -> Node | None:
    if len(tokens) == 1 and tokens[0][0] == "set":
        return Text(tokens[0][1])
    if any(kind != "text" for kind, _ in tokens):
        return None
    words = re.sub(r"\s+", " ", " ".join(value for _, value in tokens)).strip().lower().rstrip(".")
    return PHRASES.get(words, Text(words))


def _special(tokens: Sequence[Token]) -> Node | None:
    sign = -1 if tokens[0] == ("op", "-") else 1
    rest = tokens[1:] if tokens[0] in (("op", "-"), ("op", "+")) else tokens
    if tuple(rest) == (("cmd", "infty"),):
        return Infinity(sign)
    if len(tokens) == 1 and tokens[0] == ("cmd", "emptyset"):
        return EMPTY
    if tokens[0] == ("cmd", "reals"):
        return _HALF_LINES.get("".join(value for _, value in tokens[1:] if value not in "{}"))
    return None


def _sequence(tokens: Sequence[Token]) -> Node | None:
    r"""Read ``1 + 2 + \cdots + n``: terms in order, with the signs between them."""
    if _DOTS not in tokens:
        return None
    parts, signs = split(tokens, lambda token: token in (("op", "+"), ("op", "-"), ("op", "*")))
    if len(parts) < 2 or not _has_dots(parts):
        raise ParseError("dots within a term")
    # "1 2 … n" and "1*2*…*n" are the same product; a sign before the first term belongs to it.
    if not parts[0]:
        parts, signs = parts[1:], signs[1:] if signs[0] == "+" else ["first-", *signs[1:]]
    return Dotted(
        tuple(signs), tuple(None if tuple(part) == (_DOTS,) else expression(part) for part in parts)
    )


def _based(tokens: Sequence[Token]) -> Node | None:
    index = next((i for i, token in enumerate(tokens) if token == ("op", "_")), 0)
    index_words = [value for _, value in tokens[index + 1 :] if value not in "{}"]
    if not index or len(index_words) != 1:
        return None
    base = str(NUMBER_WORDS.get(index_words[0].lower(), index_words[0]))
    if not base.isdigit() or len(base) > 2:
        return None
    sign = "-" if tokens[0] == ("op", "-") else ""
    body = [token for token in tokens[len(sign) : index] if token[1] not in ("(", ")", "{", "}")]
    digits = "".join(value for _, value in body).upper()
    if any(kind not in ("num", "sym", "text") for kind, _ in body) or not re.fullmatch(r"[0-9A-Z]+", digits):
        return None
    radix = int(base)
    if not 2 <= radix <= 36 or any(int(digit, 36) >= radix for digit in digits):
        return None
    if not any(digit.isdigit() for digit in digits) and (radix < 11 or len(digits) < 2):
        return None  # a_1 is a variable
    return Based(sign + (digits.lstrip("0") or "0"), radix)


def _ratio(tokens: Sequence[Token]) -> Node | None:
    parts, signs = split(tokens, lambda token: token in (("op", ":"), ("op", "to")))
    if len(parts) == 1:
        return None
    body = list(parts[-1])
    unit, scale = take_unit(body)
    if scale != 1:
        raise ParseError("a number word behind a ratio")
    parts[-1] = body
    spelling = signs[0].join("".join(value for _, value in part) for part in parts)
    return Ratio(tuple(expression(part) for part in parts), spelling, unit)
