r"""Notations that the grammar reads as products although order, letters or case matter.

``f(3)`` is not a product of f and 3, ``HHT`` not a product of letters, ``p \land q`` is not ``p \lor q``, and
a milliwatt is not a megawatt. Algebra does not apply to such a notation: both sides must write the same.
"""

from __future__ import annotations

import re
from collections import Counter

from cola_envs.grading.lexer import clean

_LIKE = {r"\wedge": r"\land", r"\vee": r"\lor", r"\neg": r"\lnot"}
_SIGNS = re.compile(
    r"\\(?:land|wedge|lor|vee|lnot|neg|implies|iff|nabla|det|dim|ker|circ(?=\s*[A-Za-z(]))(?![A-Za-z])"
)
_VECTOR = re.compile(r"\\(?:vec|mathbf|boldsymbol|bm)(?:\s*\{\s*([A-Za-z])\s*\}|\s+([A-Za-z])(?![A-Za-z]))")
#: A product of vectors, in which the kind of product and the order matter.
_OF_VECTORS = re.compile(
    r"\\vec\{\w\}[)\s^\d{}]*(?:\\(?:times|cdot)(?![A-Za-z])|\*)(?!\s*\d)|\\times\s*\(?\s*\\vec"
)
_PRODUCT = re.compile(r"\\(?:times|cdot)(?![A-Za-z])|\*")
#: Convolution: an asterisk between the names of functions.
_CONVOLUTION = re.compile(r"(?<![A-Za-z\\])[fgh]\s*(?:\*|\\(?:ast|star)(?![A-Za-z]))\s*[fgh](?![A-Za-z(])")
_CALL = re.compile(r"(?<![A-Za-z\\])[fghFGHPQ]\(")
_DEFINED = re.compile(r"^[fghFGHPQ]\([^()=]*\)=(?=[^=]*$)")
_CAPITALS = re.compile(r"(\\angle|\\overline|\\triangle)?\{?([A-Z]{3,})\}?")
#: Units that are another unit in another case: mW and MW, pA and Pa.
_CASED = ("mw", "ms", "mg", "mm", "mj", "mb", "mv", "ma", "mpa", "mhz", "pa", "pf", "kb", "gb", "mn")
_WORD = re.compile(r"[A-Za-z]+")
_MACRO = re.compile(r"\\[A-Za-z]+")


def as_vectors(text: str) -> str:
    r"""Return a text with ``\vec`` on its bold letters."""
    return _VECTOR.sub(lambda match: rf"\vec{{{match[1] or match[2]}}}", text)


def vector_products(text: str) -> list[str]:
    """Return the signs of products where a text multiplies vectors: a dot is not a cross."""
    return _PRODUCT.findall(text) if _OF_VECTORS.search(as_vectors(text)) else []


def may_be_equal(gold: str, answer: str) -> bool:
    """Whether the notations of two answers let algebra decide."""
    gold, answer = as_vectors(gold), as_vectors(answer)
    spelt = []
    for text in (gold, answer):
        text = _MACRO.sub(lambda match: _LIKE.get(match[0], match[0]), text)
        spelt.append(re.sub(r"\\(?:left|right)(?![A-Za-z])|\s+", "", text))
    ordered = any(_CONVOLUTION.search(text) or _OF_VECTORS.search(text) for text in (gold, answer))
    if ordered or (_SIGNS.search(gold) and _SIGNS.search(answer)):
        return spelt[0] == spelt[1]
    if _calls(spelt[0]) != _calls(spelt[1]):
        return False
    capitals = [_CAPITALS.fullmatch(text) for text in spelt]
    if capitals[0] and capitals[1]:
        first, second = capitals[0][2], capitals[1][2]
        return first == second or (capitals[0][1] is not None and first == second[::-1])
    cased = _cased(gold), _cased(answer)
    return cased[0] == cased[1] or not all(cased)


def _calls(text: str) -> Counter[str]:
    """Return each function that is applied, with its argument; without the f(x) of ``f(x) = ...``."""
    text = _DEFINED.sub("", text)
    calls: Counter[str] = Counter()
    for match in _CALL.finditer(text):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        calls[text[match.start() : end]] += 1
    return calls


def _cased(text: str) -> list[str]:
    """Return the units of a text that are another unit in another case, as written."""
    return [word for word in _WORD.findall(_MACRO.sub(" ", clean(text))) if word.lower() in _CASED]
