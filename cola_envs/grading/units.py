r"""The words behind a number: parse them as a unit, and compare two units.

A unit, simple or compound, may be left out or added: ``18``, ``18 \text{ km/h}`` and ``18 km per hour``
agree, and so may any noun (``18 \text{ students}``), also with an adjective before it
(``10 \text{ five-dollar bills}``). Where both sides have words, they must be the same, and
so must the divisors: people are not people per hour. Units of one quantity are converted
(:func:`size_ratio`; their sizes are in :data:`.vocabulary.SIZES`).
Words that change the meaning are not units: a.m. is not p.m. and north is not south. They may be added to a
gold answer that has none, but not left out, except the a.m. or p.m. of a time. Words that negate, hedge or
change the value (``5 \text{ or } 6``, ``5 \text{ squared}``, ``3 \text{ twelfths}``) make the text no answer
at all; so do number words, except those that multiply the number (``5 \text{ millions}``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from cola_envs.grading import vocabulary
from cola_envs.grading.lexer import ParseError, Token
from cola_envs.grading.nodes import Unit
from cola_envs.grading.splitting import matching

_PIECE = re.compile(r"[^\W\d_]+|\d+|[/*^()-]")
_BEFORE_A_UNIT = (*(("op", sign) for sign in "{([/*°"), ("cmd", "frac"))
_BETWEEN_UNITS = ("^", "{", "}", "/", "*", "-", "frac")
_TEMPERATURE = re.compile(r"\bdegrees?\s+(C|F)\b|\bdegrees?\s+(?=celsius|fahrenheit)", re.IGNORECASE)
_A_DAY = re.compile(r"\b(?:an?|each)\s+(?=(?:second|minute|hour|day|week|month|year)\b)", re.IGNORECASE)
_PER_CENT = re.compile(r"^\s*per\s+cent\b", re.IGNORECASE)
#: Words that change a number and are not the name of what is counted: parts of one, old numbers, slang.
_CHANGES_A_NUMBER = re.compile(
    r"\bbasis\s+points?\b|^\s*per\s+(?:hundred|thousand|[a-z]+illion)\b|\b(?:per|pro)\s*mil(?:le?)?\b"
    r"|^\s*(?:score|gross|grand)\s*(?:of\b|$)",
    re.IGNORECASE,
)
#: A large number word: the known ones multiply a number where they come first.
_LARGE_NUMBER = re.compile(r"[a-z]+illion(?:th)?s?")
#: An adjective in front of a noun that is written with hyphens: the five-dollar of "five-dollar bills".
_ADJECTIVE = re.compile(r"(?<![\w-])[A-Za-z]+(?:-[A-Za-z]+)+(?=\s+([A-Za-z]+))")
#: What stands for a hyphen in a word: a letter, which no unit has.
_HYPHEN = "\ua78f"
_HALF_DAY = re.compile(r"\b([AaPp])\s?\.?\s?[Mm]\b\.?")


def take_unit(body: list[Token]) -> tuple[Unit | None, Fraction]:
    """Remove the unit from the end of an expression's tokens.

    Args:
        body: the tokens; the unit's are removed.

    Returns:
        The unit, None where there is none, and the factor of number words (``million``), mostly 1.

    Raises:
        ParseError: where there are words that are no unit, or something after a unit.
    """
    start = _start(body)
    if start is None:
        return None, Fraction(1)
    first = next((value for kind, value in body[start:] if kind == "text"), "")
    if first.strip() in vocabulary.ORDINALS:  # 10\text{th}, 10^{\text{th}}
        while start > 1 and body[start - 1] in (("op", "{"), ("op", "^")):
            start -= 1
        del body[start:]
        return None, Fraction(1)
    tail = body[start:]
    del body[start:]
    if not body:
        raise ParseError("words before an expression")
    return _read(_spelt(tail))


def _start(body: Sequence[Token]) -> int | None:
    """Return where the unit begins, or None."""
    start = next((i for i, (kind, _) in enumerate(body) if kind == "text"), None)
    if start is None:
        # 18^\circ C
        scale = len(body) > 2 and body[-2] == ("op", "°") and body[-1] in (("sym", "C"), ("sym", "F"))
        return len(body) - 2 if scale else None
    # \frac{\text{km}}{\text{h}}, and the bar of \$18/\text{hour}
    while start > 1 and body[start - 1] in _BEFORE_A_UNIT:
        start -= 1
    letter = body[start - 1] if start > 1 else ("", "")
    if (
        body[start] == ("op", "/")
        and letter[0] == "sym"
        and letter[1] in vocabulary.UNIT_LETTERS
        and _is_value(body[start - 2])
    ):
        start -= 1  # the g of 18 g/mol
    return start


def _is_value(token: Token) -> bool:
    return token[0] in ("num", "rep") or token in (("op", "}"), ("cmd", "pi"))


def letters_as_units(tokens: Sequence[Token]) -> tuple[Token, ...] | None:
    """Read the letters behind a number as a unit (``18 m/s``); return None where they cannot be one."""
    start = next((i for i, token in enumerate(tokens) if i and token[0] in ("sym", "text")), None)
    while start is not None and start > 1 and tokens[start - 1] in (("op", "{"), ("cmd", "frac")):
        start -= 1
    if start is None or not _is_value(tokens[start - 1]):
        return None
    read: list[Token] = []
    for index in range(start, len(tokens)):
        kind, value = tokens[index]
        if kind == "sym" and value not in vocabulary.UNIT_LETTERS:
            return None
        power = kind == "num" and tokens[index - 1][1] in ("^", "{", "-")
        if kind not in ("sym", "text") and not power and value not in _BETWEEN_UNITS:
            return None
        read.append(("text", value) if kind == "sym" else (kind, value))
    return (*tokens[:start], *read)


#: Words that may begin an adjective, though they change a number elsewhere: half-mile laps.
_MAY_BEGIN = {*vocabulary.NUMBER_WORDS, "double", "all"}.union(
    part for part in vocabulary.DENOMINATORS if not part.endswith("s")
)


def _one_word(match: re.Match[str]) -> str:
    """An adjective with hyphens as one word, or as it was: then the text is no unit.

    It leaves the number before it as it is where none of its words changes a number, but for a number in
    front, and a noun follows: 10 five-dollar bills are 10; 10 twenty-five, 10 five-dollar, 10 tenth-of inches
    and 5 million-dollar homes are not.
    """
    parts, noun = match[0].lower().split("-"), match[1].lower()
    rest = parts
    while len(rest) > 1 and (rest[0] in _MAY_BEGIN or (rest is not parts and rest[0] in vocabulary.SCALES)):
        rest = rest[1:]
    changes = any(part in vocabulary.LINKS or _changes_a_number(part) for part in (*rest, noun))
    bad = (changes and parts not in _NEGATED) or noun in vocabulary.FILLERS or noun in vocabulary.MARKS
    return match[0] if bad else _HYPHEN.join(parts)


#: Adjectives that name a kind of number.
_NEGATED = (["non", "negative"], ["non", "zero"])


def _changes_a_number(word: str) -> bool:
    """Whether a word is a number, a part of one, or what negates or hedges."""
    return bool(
        word in vocabulary.NOT_A_UNIT
        or word in vocabulary.CHANGES_ALONE
        or word in vocabulary.DENOMINATORS
        or _singular(word) in vocabulary.SCALES
        or _LARGE_NUMBER.fullmatch(word)
    )


def _spelt(tail: Sequence[Token]) -> str:
    """Spell a unit in one line: a fraction as ``(a)/(b)``."""
    out: list[str] = []
    index = 0
    while index < len(tail):
        kind, value = tail[index]
        if kind == "cmd" and value == "frac":
            above, index = _braced(tail, index + 1)
            below, index = _braced(tail, index)
            out.append(f"({_spelt(above)})/({_spelt(below)})")
            continue
        if kind in ("text", "sym", "num"):
            out.append(f" {value} ")
        elif kind == "op" and value in "^*/()-[]":
            out.append({"[": "(", "]": ")"}.get(value, value))
        elif kind == "op" and value == "°":
            out.append(" degree ")
        elif kind != "op" or value not in "{}":
            raise ParseError("something after a unit")
        index += 1
    return "".join(out)


def _braced(tail: Sequence[Token], start: int) -> tuple[Sequence[Token], int]:
    if start >= len(tail):
        raise ParseError("half a fraction")
    if tail[start] != ("op", "{"):
        return tail[start : start + 1], start + 1
    end = matching(tail, start)
    return tail[start + 1 : end], end + 1


def _read(text: str) -> tuple[Unit, Fraction]:
    text = re.sub(r"[{}]", "", text)
    text = _HALF_DAY.sub(lambda match: f" {match.group(1).lower()}m ", text)
    text = _TEMPERATURE.sub(
        lambda match: {"c": "celsius", "f": "fahrenheit"}.get((match[1] or "").lower(), ""), text
    )
    text = _PER_CENT.sub("percent", text)
    if _CHANGES_A_NUMBER.search(text):
        raise ParseError("words that are no unit")
    text = _A_DAY.sub("per ", text)
    text = _ADJECTIVE.sub(_one_word, text)
    text = re.sub(r"(?<=[A-Za-z])\.", " ", text).replace("o'clock", "clock")
    pieces = _PIECE.findall(text)
    if "".join(pieces) != re.sub(r"[\s,']", "", text):
        raise ParseError("signs in a unit")
    scale = Fraction(1)
    while pieces and (factor := vocabulary.SCALES.get(_singular(pieces[0].lower()))):
        scale *= factor
        del pieces[0]
    reader = _UnitReader(pieces)
    reader.sequence()
    if reader.position != len(pieces) or (not reader.count and scale == 1):
        raise ParseError("words that are no unit")
    return reader.unit(), scale


class _UnitReader:
    """Recursive descent over the pieces of a unit."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = pieces
        self.position = 0
        self.powers: Counter[str] = Counter()
        self.words: list[str] = []
        self.marks: list[str] = []
        self.count = 0

    def unit(self) -> Unit:
        powers = tuple(sorted((name, power) for name, power in self.powers.items() if power))
        return Unit(powers, tuple(sorted(self.words)), tuple(sorted(self.marks)))

    def peek(self) -> str:
        return self.pieces[self.position] if self.position < len(self.pieces) else ""

    def sequence(self, sign: int = 1) -> None:
        """Read factors up to the end or a closing bracket; those after a bar or "per" are divisors."""
        outer = sign
        power = 1
        while (piece := self.peek()) and piece != ")":
            self.position += 1
            word = piece.lower()
            if piece == "*":
                continue
            if piece == "/" or word == "per":
                sign = -outer
            elif piece == "(":
                self.sequence(sign)
                if self.peek() != ")":
                    raise ParseError("an open bracket in a unit")
                self.position += 1
                sign = outer
            elif word in ("sq", "square", "cubic", "cu"):
                power = 3 if word.startswith("cu") else 2
            elif word.isalpha():
                self.word(piece, sign, power)
                # "miles per hour" ends its division; "m/s kg" is not written.
                sign, power = outer, 1
            else:
                raise ParseError("a number behind a unit")
            self.count += 1
        if power != 1:
            raise ParseError("a power of no unit")

    def word(self, piece: str, sign: int, power: int) -> None:
        word = piece.lower()
        power *= self.exponent()
        if word in vocabulary.MARKS:
            self.marks.append(vocabulary.MARKS[word])
        elif self.is_no_unit(piece) or (sign > 0 and _LARGE_NUMBER.fullmatch(word)):
            raise ParseError("words that are no unit")
        elif word in vocabulary.COMPOUND_UNITS:
            for name, exponent in vocabulary.COMPOUND_UNITS[word]:
                self.powers[name] += exponent * sign * power
        elif word in vocabulary.UNIT_OF and (len(piece) > 1 or piece in vocabulary.UNIT_LETTERS):
            self.powers[vocabulary.UNIT_OF[word]] += sign * power
        elif word not in vocabulary.FILLERS:
            self.words.append(_singular(word) if power * sign == 1 else f"{_singular(word)}^{power * sign}")

    def is_no_unit(self, piece: str) -> bool:
        """Whether a word, which was just read, negates, hedges or changes the number before it."""
        word = piece.lower()
        alone = self.peek().lower() in ("", ")", "of")
        return (
            word in vocabulary.NOT_A_UNIT
            or piece in vocabulary.NOT_A_UNIT_LETTER
            or (alone and word in vocabulary.CHANGES_ALONE)
        )

    def exponent(self) -> int:
        following = self.peek().lower()
        if following not in ("squared", "cubed", "^"):
            return 1
        self.position += 1
        if following != "^":
            return 2 if following == "squared" else 3
        sign = -1 if self.peek() == "-" else 1
        if sign < 0:
            self.position += 1
        digits = self.peek()
        if digits not in ("1", "2", "3", "4"):
            raise ParseError("a power of a unit")
        self.position += 1
        return sign * int(digits)


def _singular(word: str) -> str:
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and re.search(r"(?:s|x|z|ch|sh)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def agree(gold: Unit | None, answer: Unit | None) -> bool:
    """Whether the words behind two equal numbers let the answers be equal."""
    gold, answer = gold or Unit(), answer or Unit()
    left_out = not answer.marks and set(gold.marks) <= {"am", "pm"}
    if gold.marks and gold.marks != answer.marks and not left_out:
        return False
    if not (gold.powers or gold.words) or not (answer.powers or answer.words):
        return True
    if _divisors(gold) != _divisors(answer):
        return False  # moles are no moles per liter, and people are no people per hour
    if gold.words != answer.words and gold.words and answer.words:
        return False
    if not gold.powers or not answer.powers:
        return bool(gold.words == answer.words and gold.words)
    return _general(gold.powers, answer.powers) or _general(answer.powers, gold.powers)


def size_ratio(gold: Unit | None, answer: Unit | None) -> Fraction | None:
    """Return the size of the answer's unit in that of the gold answer (an hour is 60 minutes).

    None where they are units of different quantities, or where either is missing.
    """
    if gold is None or answer is None or (gold.words, gold.marks) != (answer.words, answer.marks):
        return None
    (base, size), (other, its_size) = _in_base_units(gold), _in_base_units(answer)
    return its_size / size if base and base == other else None


def _in_base_units(unit: Unit) -> tuple[dict[str, int], Fraction]:
    powers: Counter[str] = Counter()
    size = Fraction(1)
    for name, power in unit.powers:
        base, factor = vocabulary.SIZES.get(name, (name, Fraction(1)))
        powers[base] += power
        size *= factor**power
    return {name: power for name, power in powers.items() if power}, size


def _divisors(unit: Unit) -> tuple[tuple[str, ...], ...]:
    """Return a unit's divisors, and its unknown words with a power: they must be on both sides."""
    return (
        tuple(f"{name}^{power}" for name, power in unit.powers if power < 0),
        tuple(word for word in unit.words if "^" in word),
    )


def _general(a: tuple[tuple[str, int], ...], b: tuple[tuple[str, int], ...]) -> bool:
    """Whether two units are the same, or the first is an unnamed one: 5 units are 5 feet."""
    if a == b:
        return True
    if len(a) == len(b) == 1 and a[0][1] == b[0][1]:
        length = a[0][0] == "unit" and vocabulary.SIZES.get(b[0][0], ("",))[0] == "meter"
        return length or (a[0][0] == "degree" and b[0][0] in ("celsius", "fahrenheit"))
    return False
