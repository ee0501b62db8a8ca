r"""Parse tokens to a small tree: numbers, expressions, lists, tuples, intervals, relations, matrices, words.

The grammar is that of short final answers, not of LaTeX. An answer outside it is correct only if it is the
gold answer in other typesetting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from cola_envs.grading.expressions import expression
from cola_envs.grading.lexer import ParseError, Token, clean, tokenise
from cola_envs.grading.matrices import matrix
from cola_envs.grading.nodes import (
    Based,
    Difference,
    Dotted,
    Expr,
    Group,
    Infinity,
    Intersection,
    Node,
    Ratio,
    Relation,
    SetOf,
    Text,
    Union,
)
from cola_envs.grading.splitting import CLOSE, OPEN, last, matching, split, straightened
from cola_envs.grading.trees import number
from cola_envs.grading.units import letters_as_units, read_words
from cola_envs.grading.vocabulary import NUMBER_WORDS, SCALES

REALS = Group("()", (Infinity(-1), Infinity(1)))
EMPTY = Group("{}", ())
_DOES_NOT_EXIST = Text("does not exist")
PHRASES: dict[str, Node] = {
    "all real numbers": REALS,
    "all reals": REALS,
    "infinity": Infinity(1),
    "no solution": EMPTY,
    "no solutions": EMPTY,
    "no real solution": EMPTY,
    "no real solutions": EMPTY,
    "empty set": EMPTY,
    "d.n.e": _DOES_NOT_EXIST,
    "dne": _DOES_NOT_EXIST,
    "doesn't exist": _DOES_NOT_EXIST,
    "does not exist": _DOES_NOT_EXIST,
    "the limit does not exist": _DOES_NOT_EXIST,
    "limit does not exist": _DOES_NOT_EXIST,
    "undefined": _DOES_NOT_EXIST,
    "not defined": _DOES_NOT_EXIST,
}


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


_UNIT_BY_LETTERS = re.compile(
    r"[\d}]\s+[A-Za-z]|[\d}][A-Za-z]+(?:\^\{?\d\}?)?/|\d\s*\\frac\s*\{|\\pi\s*[ckm]?m\^"
)


def spelt_in_words(text: str) -> Node | None:
    r"""Return the node of a known phrase or a number in words, with or without ``\text``; None for others."""
    words = re.sub(r"\s+", " ", text).strip().lower().rstrip(".")
    return PHRASES.get(words) or number_of_words(words)


def number_of_words(words: str) -> Expr | None:
    """Return ``two`` as 2 and ``one hundred and twenty-one`` as 121; None for other words."""
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
    return Expr(number(-(total + group) if match[1] else total + group))


def _number_in_words() -> re.Pattern[str]:
    def one_of(words: str | Iterable[str]) -> str:
        return "(?:" + "|".join(words) + ")"

    ones, teens, tens = (
        one_of(word for word, value in NUMBER_WORDS.items() if value in values)
        for values in (range(1, 10), range(10, 20), range(20, 100))
    )
    below_hundred = one_of([f"{tens}(?:[ -]{ones})?", teens, ones])
    below_thousand = one_of([f"(?:{ones}|a) hundred(?: (?:and )?{below_hundred})?", below_hundred])
    large = "".join(
        f"(?:(?:{below_thousand}|a) {scale}(?: (?:and )?|$))?" for scale in ("million", "thousand")
    )
    return re.compile(f"((?:minus|negative) )?(zero|(?=.){large}(?:{below_thousand})?)")


_NUMBER_IN_WORDS = _number_in_words()


def parse_tokens(tokens: Sequence[Token]) -> Node:
    """Parse a whole answer.

    Raises:
        ParseError: where it is outside the grammar.
    """
    while len(tokens) > 2 and tokens[0] in _AROUND and matching(tokens, 0) == len(tokens) - 1:
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
    if any(tuple(part) == _DOTS for part in parts):
        return _sequence_of(parts)
    words = {connective for connective in connectives if connective != ","}
    if len(words) > 1:
        raise ParseError("both and and or")
    return Group("list", tuple(_item(part) for part in parts), words.pop() if words else ",")


_AROUND = (("op", "{"), ("op", "("))
_DOTS = (("op", "…"),)


def _sequence_of(parts: Sequence[Sequence[Token]]) -> Dotted:
    return Dotted(
        tuple("," for _ in parts[1:]), tuple(None if tuple(part) == _DOTS else _item(part) for part in parts)
    )


def _sequence(tokens: Sequence[Token]) -> Node | None:
    r"""Read ``1 + 2 + \cdots + n``: terms in order, with the signs between them."""
    if _DOTS[0] not in tokens:
        return None
    parts, signs = split(tokens, lambda token: token in _SIGNS)
    if len(parts) < 2 or not any(tuple(part) == _DOTS for part in parts):
        raise ParseError("dots within a term")
    # "1 2 … n" and "1*2*…*n" are the same product; a sign before the first term belongs to it.
    if not parts[0]:
        parts, signs = parts[1:], signs[1:] if signs[0] == "+" else ["first-", *signs[1:]]
    return Dotted(tuple(signs), tuple(None if tuple(part) == _DOTS else expression(part) for part in parts))


_SIGNS = (("op", "+"), ("op", "-"), ("op", "*"))


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
    return Relation(
        tuple(ops), tuple(_named_side(side, name) for side, name in zip(sides, names, strict=True)), names
    )


def _named_side(tokens: Sequence[Token], name: str | None) -> Node:
    """Read a side; the unknown may be a function of several letters: p(a, b, c)."""
    try:
        return _side(tokens)
    except ParseError:
        if name is None or not _CALL.fullmatch(name):
            raise
        return Text(name)


_CALL = re.compile(r"[A-Za-z]+\([^…]*\)")


def _name(tokens: Sequence[Token]) -> str | None:
    """Return the spelling of a side that may name the unknown (x, f(x), (x,y), AB, a + b), else None.

    Numbers may only occur in subscripts and in brackets: ``2x`` and ``x + 1`` are not names.
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
        elif kind in ("sym", "text"):
            letters = True
    return "".join(value for _, value in tokens if value not in "{}") if letters else None


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
    if ("cmd", "cup") in tokens:
        parts, _ = split(tokens, lambda token: token == ("cmd", "cup"))
        if len(parts) > 1:
            return Union(tuple(_side(part) for part in parts))
    for read in (_removal, _common, matrix, _bracketed, _words, _special, _sequence, _based, _ratio):
        node = read(tokens)
        if node is not None:
            return node
    return expression(tokens)


def _removal(tokens: Sequence[Token]) -> Node | None:
    r"""``A \setminus B``, also written with a minus before a brace."""
    if ("cmd", "setminus") not in tokens and ("op", "\\{") not in tokens:
        return None
    cut = last(tokens, lambda i: tokens[i] == ("cmd", "setminus") or _is_set_minus(tokens, i))
    if cut is None:
        return None
    whole = REALS if tuple(tokens[:cut]) == (("sym", "R"),) else _side(tokens[:cut])
    return Difference(whole, _side(tokens[cut + 1 :]))


def _is_set_minus(tokens: Sequence[Token], index: int) -> bool:
    following = tokens[index + 1 : index + 2]
    after_a_set = index and tokens[index - 1] in (("cmd", "reals"), ("op", ")"), ("op", "]"), ("op", "\\}"))
    return tokens[index] == ("op", "-") and following == (("op", "\\{"),) and bool(after_a_set)


def _common(tokens: Sequence[Token]) -> Node | None:
    if ("cmd", "cap") not in tokens:
        return None
    parts, _ = split(tokens, lambda token: token == ("cmd", "cap"))
    return Intersection(tuple(_side(part) for part in parts)) if len(parts) > 1 else None


def _items(tokens: Sequence[Token]) -> tuple[Node, ...]:
    parts, _ = split(tokens, lambda token: token[0] == "sep")
    return tuple(_side(part) for part in _without_doubled_separators(parts))


def _bracketed(tokens: Sequence[Token]) -> Node | None:
    if (
        tokens[0][0] != "op"
        or tokens[0][1] not in ("(", "[", "\\{")
        or matching(tokens, 0) != len(tokens) - 1
    ):
        return None
    opening, closing = tokens[0][1], tokens[-1][1]
    inner = tokens[1:-1]
    if opening == "\\{":
        if closing != "\\}":
            raise ParseError("a set that does not close")
        if not inner:
            return EMPTY
        builder = _set_builder(inner)
        return builder if builder is not None else _braced(inner)
    if closing not in (")", "]"):
        raise ParseError("brackets")
    if any(tuple(part) == _DOTS for part in split(inner, lambda token: token[0] == "sep")[0]):
        return None
    items = _items(inner)
    if len(items) == 1:
        # (3/4) and [5] are brackets around a value; ((1,2)) keeps the inner pair.
        return items[0] if opening + closing in ("()", "[]") else None
    return Group(opening + closing, items)


def _braced(inner: Sequence[Token]) -> Node:
    parts = split(inner, lambda token: token[0] == "sep")[0]
    return _sequence_of(parts) if any(tuple(part) == _DOTS for part in parts) else Group("{}", _items(inner))


def _set_builder(inner: Sequence[Token]) -> Node | None:
    r"""Read ``x \mid 0 < x``, ``x \in A : x \ne 3`` and ``x \in A``; None where there is no condition."""
    if len(inner) < 3 or inner[0][0] != "sym":
        return None
    bar = 1 if inner[1] in _SUCH_THAT else _bar_after_a_set(inner) if inner[1] == ("rel", "in") else None
    if bar is None:
        return None
    condition = parse_tokens(inner[bar + 1 :])
    conditions = (
        condition.items if isinstance(condition, Group) and condition.kind == "list" else (condition,)
    )
    if not any(isinstance(item, Relation) for item in conditions):
        raise ParseError("a set builder without a condition")
    return SetOf(inner[0][1], condition, None if bar == 1 else _side(inner[2:bar]))


_SUCH_THAT = (("op", "|"), ("op", ":"))


def _bar_after_a_set(inner: Sequence[Token]) -> int | None:
    depth = 0
    for index, (kind, value) in enumerate(inner):
        depth += (value in OPEN) - (value in CLOSE) if kind == "op" else 0
        if depth == 0 and (kind, value) in _SUCH_THAT:
            return index
    return None


def _words(tokens: Sequence[Token]) -> Node | None:
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


_HALF_LINES = {
    "": REALS,
    "^+": Group("()", (Expr(number(0)), Infinity(1))), "_+": Group("()", (Expr(number(0)), Infinity(1))),
    "_>0": Group("()", (Expr(number(0)), Infinity(1))), "_>=0": Group("[)", (Expr(number(0)), Infinity(1))),
    "^-": Group("()", (Infinity(-1), Expr(number(0)))), "_-": Group("()", (Infinity(-1), Expr(number(0)))),
    "_<0": Group("()", (Infinity(-1), Expr(number(0)))), "_<=0": Group("(]", (Infinity(-1), Expr(number(0)))),
}  # fmt: skip


def _based(tokens: Sequence[Token]) -> Node | None:
    index = next((i for i, token in enumerate(tokens) if token == ("op", "_")), 0)
    base = [value for _, value in tokens[index + 1 :] if value not in "{}"]
    if not index or len(base) != 1:
        return None
    base = [str(NUMBER_WORDS.get(base[0].lower(), base[0]))]
    if not base[0].isdigit() or len(base[0]) > 2:
        return None
    sign = "-" if tokens[0] == ("op", "-") else ""
    body = [token for token in tokens[len(sign) : index] if token[1] not in ("(", ")", "{", "}")]
    digits = "".join(value for _, value in body).upper()
    if any(kind not in ("num", "sym", "text") for kind, _ in body) or not re.fullmatch(r"[0-9A-Z]+", digits):
        return None
    radix = int(base[0])
    if not 2 <= radix <= 36 or any(int(digit, 36) >= radix for digit in digits):
        return None
    if not any(digit.isdigit() for digit in digits) and (radix < 11 or len(digits) < 2):
        return None  # a_1 is a variable
    return Based(sign + (digits.lstrip("0") or "0"), radix)


_TO = (("op", ":"), ("op", "to"))


def _ratio(tokens: Sequence[Token]) -> Node | None:
    parts, signs = split(tokens, lambda token: token in _TO)
    if len(parts) == 1:
        return None
    end = next((i for i, (kind, _) in enumerate(parts[-1]) if kind == "text"), len(parts[-1]))
    words = parts[-1][end:]
    if any(kind != "text" for kind, _ in words):
        raise ParseError("something after the words of a time")
    parts[-1] = parts[-1][:end]
    spelling = signs[0].join("".join(value for _, value in part) for part in parts)
    unit = read_words(" ".join(value for _, value in words)) if words else None
    return Ratio(tuple(expression(part) for part in parts), spelling, unit)
