r"""Families of values with a letter for all whole numbers: ``\frac{\pi}{2} + k\pi, k \in \mathbb{Z}``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cola_envs.grading.lexer import clean
from cola_envs.grading.nodes import Expr, Group, Relation, Tree, Unit
from cola_envs.grading.parser import parse
from cola_envs.grading.proof import same
from cola_envs.grading.trees import number, substituted, with_each_sign
from cola_envs.grading.verdicts import Truth, every, some

#: The domain of the letter, behind the values: "k in Z", "k is an integer", "for all integers k".
_DOMAIN = re.compile(
    r"[\s,;(]*(?:\\(?:text|mathrm)\s*\{[\s,(]*)?(?:where|with|and|for(?: any| all| every| some)?)?[\s}]*"
    r"(?:integers?[\s}]*([a-z])"
    r"|([a-z])\s*(?:∈\s*\\mathbb\s*\{?\s*Z\s*\}?"
    r"|(?:\\(?:text|mathrm)\s*\{)?\s*(?:is |are )?(?:an |any )?integers?))[\s})]*"
)
_BEGIN = re.compile(r"(?=[\s,;(\\])")
#: The largest shift between the numberings of two families.
_FARTHEST = 2


@dataclass(frozen=True, slots=True)
class Family:
    """Values for every whole number ``letter``, and the name of the unknown, if there is one."""

    letter: str
    name: str | None
    values: tuple[tuple[Tree, Unit | None], ...]


def family(text: str) -> Family | None:
    """Read an answer that ends with the domain of its letter, the whole numbers; None for others."""
    text = clean(text)
    if "integer" not in text and "Z" not in text:
        return None
    for begin in _BEGIN.finditer(text, 1):
        domain = _DOMAIN.fullmatch(text, begin.start())
        if domain:
            node = parse(text[: begin.start()])
            if node is None:
                return None
            items = node.items if isinstance(node, Group) and node.kind == "list" else (node,)
            names = {item.names[0] for item in items if isinstance(item, Relation)} - {None}
            sides = [
                item.sides[1] if isinstance(item, Relation) and item.ops == ("=",) else item for item in items
            ]
            values = [side for side in sides if isinstance(side, Expr)]
            if len(values) < len(items) or len(names) > 1:
                return None
            signed = tuple((tree, value.unit) for value in values for tree in with_each_sign(value.tree))
            return Family(domain[1] or domain[2], names.pop() if names else None, signed)
    return None


def same_family(gold: Family, answer: Family) -> Truth:
    """Whether two families have the same values, in any of a few numberings."""
    if gold.name and answer.name and gold.name != answer.name:
        return False
    # The numbering may be reversed and shifted.
    numberings: list[Tree] = [
        ("+", ("*", number(sign), ("v", gold.letter)), number(shift))
        for shift in sorted(range(-_FARTHEST, _FARTHEST + 1), key=abs)
        for sign in (1, -1)
    ]
    table = [
        [
            unit == other_unit
            and some(same(value, substituted(other, answer.letter, index)) for index in numberings)
            for other, other_unit in answer.values
        ]
        for value, unit in gold.values
    ]
    return every([*map(some, table), *map(some, zip(*table, strict=True))])
