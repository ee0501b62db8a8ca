r"""Compare an answer with the gold answer as mathematical objects.

The conventions, which a few test sets leave open, are these.

- Surface form does not matter, unsimplified forms count, a definite integral too; rounded values do not.
  Numbers are compared exactly, at any length. Expressions are equal when they agree wherever both are defined
  and real (:mod:`cola_envs.grading.proof`). A letter under an even root or in a logarithm counts as positive
  where the argument could otherwise be negative: ``\sqrt{xy}`` is ``\sqrt x \sqrt y`` and ``\sqrt{a^2 b}`` is
  ``a \sqrt b``, but ``\sqrt{x^2}`` is not ``x``.
- Capitals commute unless they are written as matrices (:mod:`cola_envs.grading.noncommuting`). Products of
  vectors and convolutions must be spelt alike (:mod:`cola_envs.grading.notation`); a vector is ``\vec v`` or
  bold.
- Several plus-or-minus signs are independent of one another, unless there is a minus-or-plus.
- Lists without brackets and sets are unordered; tuples, intervals, matrices and lists with dots are ordered.
- ``x = 1, y = 2`` is ``(1, 2)``: in the gold answer's order of the unknowns, else in the order x, y, z.
- ``x = 5`` is ``5`` and is not ``y = 5``. Equations that are constant multiples of one another are equal.
- A real set may be written as interval, inequality, membership, union, difference or condition
  (:mod:`cola_envs.grading.reals`).
- Values for every whole number k may be numbered differently (:mod:`cola_envs.grading.families`).
  A constant of integration, ``+ C`` in the gold answer, may be c, k or K.
- A unit may be left out or added; two units, and all other words, must agree, or convert: 60 minutes are an
  hour, and 60 degrees are pi/3 (:mod:`cola_envs.grading.units`).
- A ratio 3:4, or 3 to 4, is 3/4; 3:1 is not 3. ``0.333...`` is 1/3: digits that are written twice before the
  dots go on.
- A percentage may drop its sign or be written as a ratio: 20 may be 20 %, and 0.2 is. A gold answer from -1
  to 1 without a sign is a ratio: 0.5 is 50 % and not 0.5 %. Digits in a base must agree in digits and base;
  the base may be left out. 5:00 p.m. is 5 p.m.; a time is no ratio.
- Words ignore case, articles and font; numbers may be written in words. "Does not exist" is "undefined".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import TypeGuard

from cola_envs.grading.conditions import FLIPPED
from cola_envs.grading.evaluate import TooBig
from cola_envs.grading.families import family, same_family
from cola_envs.grading.lexer import clean, words_of
from cola_envs.grading.nodes import (
    Based,
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
    Tree,
    Union,
)
from cola_envs.grading.noncommuting import same_in_order
from cola_envs.grading.notation import as_vectors
from cola_envs.grading.parser import number_of_words, parse, parse_with_unit_letters, spelt_in_words
from cola_envs.grading.proof import proportional, same
from cola_envs.grading.quantities import same_quantity, same_ratio
from cola_envs.grading.reals import compare_sets, is_interval, is_set_of_reals
from cola_envs.grading.trees import has_plus_minus, number, subtrees, variables, with_each_sign, with_sign
from cola_envs.grading.verdicts import Truth, every, some

#: The most undecided items of a list of which every order is tried.
_MOST_PERMUTED = 4
#: The most plus-or-minus signs in one expression.
_MOST_SIGNS = 3
#: A second reading of an answer: 2e-3 as 0.002 rather than a multiple of e, 0.1(6) as a period.
_SECOND_READINGS = (
    (re.compile(r"(-?(?:\d+(?:\.\d+)?|\.\d+))\s?[eE]([+-]\d{1,3})"), r"\1*10^{\2}"),
    (re.compile(r"(-?\d*\.\d+)\((\d+)\)"), r"\1\\overline{\2}"),
)
_PART_WITH_ZERO = re.compile(r",\s*0\d")
#: What makes a name of the unknown no compound: an index, the exponent of an inverse.
_PARTS_OF_A_NAME = re.compile(r"_\{[^{}]*\}|(?<=[A-Zf-h])\^-1(?!\d)|(?<=[A-Za-z])\^-1(?=\()")
_PLAIN_WORDS = re.compile(r"[\w\s,.:;'-]*[a-z]{2}[\w\s,.:;'-]*")
#: The order in which bare values are those of several unknowns.
_COORDINATES = ("x", "y", "z")


def compare(gold: str, answer: str) -> Truth:
    """Return whether two final answers are equal, perhaps as a formula over unproven claims.

    Raises:
        TooBig: if a value is beyond the bounds of :mod:`cola_envs.grading.evaluate`.
    """
    verdict = _compare(gold, answer)
    for pattern, other in _SECOND_READINGS if verdict is False else ():
        if match := pattern.fullmatch(clean(answer)):
            return _compare(gold, match.expand(other))
    return verdict


def _compare(gold: str, answer: str) -> Truth:
    if r"\vec" in gold or r"\vec" in answer:
        gold, answer = as_vectors(gold), as_vectors(answer)
    gold_node, answer_node = (spelt_in_words(clean(text)) or parse(text) for text in (gold, answer))
    if _same_words(gold, answer, gold_node, answer_node):
        return True
    families = family(gold), family(answer)
    if families[0] and families[1]:
        return same_family(families[0], families[1])
    if gold_node is None or answer_node is None:
        return False
    in_order = same_in_order(gold_node, answer_node)
    if in_order is not None:
        return in_order
    verdict = equal(gold_node, answer_node)
    if verdict is False and "," in answer and isinstance(answer_node, Expr) and isinstance(gold_node, Group):
        ungrouped = _read_as_list(answer)
        verdict = False if ungrouped is None else equal(gold_node, ungrouped)
    elif verdict is False and "," in gold and isinstance(gold_node, Expr) and isinstance(answer_node, Group):
        ungrouped = _read_as_list(gold)
        # Here a list is one reading of the gold answer only: the order written must be kept.
        if isinstance(ungrouped, Group) and answer_node.kind == ungrouped.kind == "list":
            verdict = _ordered(ungrouped.items, answer_node.items)
    return verdict if verdict is not False else _with_unit_letters(gold, answer, gold_node, answer_node)


def _read_as_list(text: str) -> Node | None:
    """The second reading of 1,234: a list. None where a part begins with 0: 12,000 is no list of 12 and 0."""
    return None if _PART_WITH_ZERO.search(clean(text)) else parse(text, grouped=False)


def _same_words(gold: str, answer: str, gold_node: Node | None, answer_node: Node | None) -> bool:
    r"""Whether two answers are the same words; a word without ``\text`` reads as a product of letters."""
    word = clean(gold)
    letters = [clean(text).strip("() ") for text in (gold, answer)]
    are_words = (
        isinstance(gold_node, Text)
        or isinstance(answer_node, Text)
        or (word.isalpha() and (len(word) > 3 or word.lower() in ("yes", "no", "odd")))  # others: products
        # A choice: D may be d, but x is not X.
        or (len(letters[0]) == len(letters[1]) == 1 and letters[0] in "ABCDEFGH")
    )
    # 1 hour 30 minutes: outside the grammar, but the same words in other typesetting.
    unread = gold_node is None and answer_node is None
    if (are_words or unread) and words_of(gold) == words_of(answer):
        return are_words or _PLAIN_WORDS.fullmatch(words_of(gold)) is not None
    if not (isinstance(gold_node, Group) and all(isinstance(item, Text) for item in gold_node.items)):
        return False
    return sorted(words_of(gold).split(",")) == sorted(words_of(answer).split(","))


def _with_unit_letters(gold: str, answer: str, gold_node: Node, answer_node: Node) -> Truth:
    """Compare with the letters behind a number read as its unit, where the other side has no variables."""
    if not (isinstance(gold_node, Expr) and isinstance(answer_node, Expr)):
        return False
    if not variables(gold_node.tree):
        read = parse_with_unit_letters(answer)
        return isinstance(read, Expr) and same_quantity(gold_node, read)
    if variables(answer_node.tree):
        return False
    read = parse_with_unit_letters(gold)
    if not isinstance(read, Expr) or read.unit is None:
        return False
    # 18 m may be a product: then a bare 18 is not it.
    return bool(answer_node.unit or len(read.unit.powers) > 1) and same_quantity(read, answer_node)


def equal(gold: Node, answer: Node) -> Truth:
    """Compare two trees. See :func:`compare`."""
    members = [node.names[0] for node in (gold, answer) if isinstance(node, Relation) and node.ops == ("in",)]
    if len(members) == 2 and members[0] != members[1]:
        return False
    first, second = _system(gold), _system(answer)
    if first and second:
        return first.keys() == second.keys() and every(equal(first[name], second[name]) for name in first)
    if first and isinstance(gold, Group) and _is_bare_tuple(answer):
        return _ordered(tuple(first.values()), answer.items)
    if second and isinstance(answer, Group) and _is_bare_tuple(gold):
        in_order = [second[name] for name in _COORDINATES if name in second]
        return second.keys() == set(_COORDINATES[: len(second)]) and _ordered(gold.items, in_order)
    gold, answer = _plain(gold), _plain(answer)
    equations = [node for node in (gold, answer) if isinstance(node, Relation) and node.is_equation]
    if len(equations) == 2:
        return _equations(equations[0], equations[1])
    for relation in equations:
        other = answer if relation is gold else gold
        if is_interval(other) or not is_set_of_reals(other):
            value = _asked_value(relation, wide=relation is answer)
            if value is None or value[1] is False:
                return False
            pair = (value[0], other) if relation is gold else (other, value[0])
            return every([value[1], equal(*pair)])
    if is_set_of_reals(gold) or is_set_of_reals(answer):
        return _sets(gold, answer)
    if any(isinstance(node, Group) and node.kind in ("list", "{}") for node in (gold, answer)):
        return _unordered(gold, answer)
    return _of_one_kind(gold, answer)


def _system(node: Node) -> dict[str, Node]:
    """Return the values of several unknowns: ``x = 2, y = 3`` or ``(x, y) = (2, 3)``; else nothing."""
    if isinstance(node, Relation) and node.ops == ("=",):
        names, values = node.sides
        if not (isinstance(names, Group) and isinstance(values, Group) and names.kind == values.kind == "()"):
            return {}
        pairs = list(zip(names.items, values.items, strict=False))
        complete = len(names.items) == len(values.items)
    elif isinstance(node, Group) and node.kind == "list" and node.connective != "or":
        equations = [item for item in node.items if isinstance(item, Relation) and item.ops == ("=",)]
        pairs = [(item.sides[0], item.sides[1]) for item in equations]
        complete = len(pairs) == len(node.items)
    else:
        return {}
    values_of = {
        name.tree[1]: value
        for name, value in pairs
        if isinstance(name, Expr) and name.tree[0] == "v" and name.unit is None
    }
    return values_of if complete and len(values_of) == len(pairs) > 1 else {}


def _is_bare_tuple(node: Node) -> TypeGuard[Group]:
    """Whether a node is a tuple or list of values without the names of their unknowns."""
    return (
        isinstance(node, Group)
        and node.kind in ("()", "list")
        and not any(isinstance(item, Relation) for item in node.items)
    )


def _of_one_kind(gold: Node, answer: Node) -> Truth:
    match gold, answer:
        case Group(), Group():
            return (gold.kind == answer.kind or len(gold.items) > 2) and _ordered(gold.items, answer.items)
        case (Text(), _) | (_, Text()):
            return _words(gold, answer)
        case Expr(), Expr():
            return same_quantity(gold, answer)
        case (Infinity(), Infinity()) | (Based(), Based()):
            return gold == answer
        case Based(), Expr(unit=None, percent=False) if gold.digits.isdigit():
            return same(number(int(gold.digits)), answer.tree)
        case Matrix(), Matrix():
            shapes = [[len(row) for row in matrix.rows] for matrix in (gold, answer)]
            cells = [[cell for row in matrix.rows for cell in row] for matrix in (gold, answer)]
            return shapes[0] == shapes[1] and _ordered(*cells)
        case Dotted(), Dotted():
            return gold.operators == answer.operators and every(
                g is a if g is None or a is None else equal(g, a)
                for g, a in zip(gold.terms, answer.terms, strict=True)
            )
        case (Ratio(), _) | (_, Ratio()):
            return same_ratio(gold, answer)
    return False


def _plain(node: Node) -> Node:
    r"""Drop the ``x \in`` of a value; read plus-or-minus as its two values."""
    if isinstance(node, Expr) and has_plus_minus(node.tree):
        return Group("list", _values(node))
    if not isinstance(node, Relation):
        return node
    if node.ops == ("in",) and node.names[0]:
        inner = _plain(node.sides[1])
        return node if is_set_of_reals(inner) or is_interval(inner) else inner
    signed = [side for side in node.sides if isinstance(side, Expr) and has_plus_minus(side.tree)]
    if not signed:
        return node
    if len(signed) == 1:
        readings = [
            [value if side is signed[0] else side for side in node.sides] for value in _values(signed[0])
        ]
    else:  # the signs of several sides go together
        readings = [
            [
                replace(side, tree=with_sign(side.tree, sign)) if isinstance(side, Expr) else side
                for side in node.sides
            ]
            for sign in (1, -1)
        ]
    return Group("list", tuple(replace(node, sides=tuple(sides)) for sides in readings))


def _values(node: Expr) -> tuple[Expr, ...]:
    if sum(part[0] in ("pm", "mp") for part in subtrees(node.tree)) > _MOST_SIGNS:
        raise TooBig("the number of values")
    return tuple(replace(node, tree=tree) for tree in with_each_sign(node.tree))


def _words(gold: Node, answer: Node) -> Truth:
    for text, other in ((gold, answer), (answer, gold)):
        if isinstance(text, Text) and isinstance(other, Expr):
            value = number_of_words(text.words)
            if value is not None:
                return same(value.tree, other.tree)
    spelt = [
        node.words if isinstance(node, Text) else node.tree[1].lower()
        if isinstance(node, Expr) and node.tree[0] in "vc" else None
        for node in (gold, answer)
    ]  # fmt: skip
    return spelt[0] is not None and spelt[1] is not None and words_of(spelt[0]) == words_of(spelt[1])


# Equations and inequalities


def _asked_value(relation: Relation, wide: bool) -> tuple[Node, Truth] | None:
    """Return the value in ``name = value`` (or ``value = name``, ``a = b = value``), and whether it holds.

    ``wide`` allows a compound name such as ``a + b``: an answer may repeat the expression in question, but
    a gold answer ``x + y = 1`` is an equation, for which None is returned.
    """

    def is_simple(name: str) -> bool:
        name = _PARTS_OF_A_NAME.sub("", name)
        return name.startswith("(") or not any(sign in name.split("(")[0] for sign in "+-*/^")

    names = [name if name and (wide or is_simple(name)) else None for name in relation.names]
    values = [side for side, name in zip(relation.sides, names, strict=True) if not name]
    if not values:
        return (relation.sides[-1], True) if len(relation.sides) == 2 else None
    if len(values) == len(relation.sides) and not all(
        isinstance(value, Expr) and not variables(value.tree) for value in values
    ):
        return None
    if len(relation.sides) == 2 and names[0]:
        return relation.sides[1], True
    # Several values must be equal: 1 = 2 = 3 has no value.
    return values[-1], every(equal(values[-1], value) for value in values[:-1])


def _equations(gold: Relation, answer: Relation) -> Truth:
    """Whether two equations are equivalent: equal values of one name, or constant multiples of each other."""
    if len(gold.sides) == len(answer.sides) == 2:
        named = some(
            equal(gold.sides[1 - g], answer.sides[1 - a])
            for g, a in ((0, 0), (0, 1), (1, 0), (1, 1))
            if gold.names[g] and gold.names[g] == answer.names[a]
        )
        left, right = _difference(gold), _difference(answer)
        if named is True or left is None or right is None:
            return named
        return some([named, proportional(left, right)[0]])
    first, second = _asked_value(gold, wide=False), _asked_value(answer, wide=True)
    if first is None or second is None or gold.names[0] != answer.names[0]:
        return _ordered(gold.sides, answer.sides)
    return every([first[1], second[1], equal(first[0], second[0])])


def _difference(relation: Relation) -> Tree | None:
    left, right = relation.sides[:2]
    return (
        ("+", left.tree, ("neg", right.tree)) if isinstance(left, Expr) and isinstance(right, Expr) else None
    )


def _inequalities(gold: Relation, answer: Relation) -> Truth:
    """Whether two inequalities, or chains of them, are equivalent as written, in any number of letters."""
    if len(gold.ops) == len(answer.ops) == 1:
        left, right = _difference(gold), _difference(answer)
        if left is not None and right is not None:
            truth, sign = proportional(left, right)
            op = answer.ops[0] if sign > 0 else FLIPPED.get(answer.ops[0], answer.ops[0])
            return truth if gold.ops[0] == op else False
    elif [FLIPPED.get(op) for op in gold.ops] == list(reversed(answer.ops)):
        return _ordered(gold.sides, answer.sides[::-1])
    return gold.ops == answer.ops and _ordered(gold.sides, answer.sides)


# Lists and sets


def _sets(gold: Node, answer: Node) -> Truth:
    if (
        isinstance(gold, Group)
        and isinstance(answer, Group)
        and gold.kind == answer.kind
        and is_interval(gold)
    ):
        return _ordered(gold.items, answer.items)
    verdict = compare_sets(gold, answer)
    if verdict is not None:
        return verdict
    gold, answer = (node.condition if isinstance(node, SetOf) else node for node in (gold, answer))
    match gold, answer:
        case Relation(), Relation():
            return _inequalities(gold, answer)
        case Group(kind="list"), Group(kind="list"):
            return _unordered(gold, answer)
        case Group(), Group():
            return gold.kind == answer.kind and _ordered(gold.items, answer.items)
        case Union(), Union():
            return _matched(gold.parts, answer.parts)
        case Intersection(), Intersection():
            return _matched(gold.parts, answer.parts)
    return False


def _unordered(gold: Node, answer: Node) -> Truth:
    names, items = zip(*(_named_items(node) for node in (gold, answer)), strict=True)
    if names[0] and names[1] and names[0] != names[1]:
        return False
    systems = [
        len({item.names[0] for item in getattr(node, "items", ()) if isinstance(item, Relation)}) > 1
        for node in (gold, answer)
    ]
    either = [isinstance(node, Group) and node.connective == "or" for node in (gold, answer)]
    if systems[0] != systems[1] or (systems[0] and either[0] != either[1]):
        return False  # x = 1 and y = 2 is not x = 1 or y = 2
    # A value that occurs twice counts once, but "5, 5" is no way to write 5; {5} is.
    # Nor is 1, 1, 2 a way to write 1, 2, 2.
    kinds = [
        node.kind if isinstance(node, Group) and node.kind in ("list", "{}") else None
        for node in (gold, answer)
    ]
    counted = kinds == ["list", "list"] and len(items[0]) == len(items[1])
    if ("{}" in kinds or None not in kinds) and not counted:
        items = tuple(_distinct(part) for part in items)
    return _matched(items[0], items[1])


def _named_items(node: Node) -> tuple[str | None, list[Node]]:
    """Return the unknown's name and its values: ``x = 1, -2``, ``x = 1, x = -2``, ``(x,y) = (5,8),(8,5)``."""
    if not (isinstance(node, Group) and node.kind in ("list", "{}")):
        return None, [node]
    values: list[Node] = []
    name: str | None = None
    for index, item in enumerate(node.items):
        if isinstance(item, Relation) and item.ops in (("=",), ("in",)) and item.names[0]:
            if index and name != item.names[0]:
                return None, list(node.items)  # x = 1, y = 2 is a system
            name = item.names[0]
            item = item.sides[1]
        plain = _plain(item)
        values.extend(plain.items if isinstance(plain, Group) and plain.kind == "list" else [plain])
    return name, values


def _distinct(items: Sequence[Node]) -> list[Node]:
    distinct: list[Node] = []
    for item in items:
        if not any(equal(other, item) is True for other in distinct):
            distinct.append(item)
    return distinct


def _matched(gold: Sequence[Node], answer: Sequence[Node]) -> Truth:
    """Whether two lists have the same items, in any order."""

    def alike(item: Node, other: Node) -> Truth:  # in a set {2} is not 2
        sets = [isinstance(node, Group) and node.kind == "{}" for node in (item, other)]
        return sets[0] == sets[1] and equal(item, other)

    if len(gold) != len(answer):
        return False
    left = list(answer)
    rest: list[Node] = []
    for item in gold:
        match = next((index for index, other in enumerate(left) if alike(item, other) is True), None)
        if match is None:
            rest.append(item)
        else:
            del left[match]
    if len(rest) > _MOST_PERMUTED:
        return False
    return some(every(map(alike, rest, order)) for order in permutations(left))


def _ordered(gold: Sequence[Node], answer: Sequence[Node]) -> Truth:
    return len(gold) == len(answer) and every(map(equal, gold, answer))
