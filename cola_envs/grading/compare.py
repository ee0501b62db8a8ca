"""Whether a given answer is the same mathematical object as the gold answer.

The conventions, which a few test sets leave open, are these. Surface form does not matter, unsimplified
forms count; rounded values do not. Lists without brackets and sets are unordered; tuples, intervals and
matrices are ordered. ``x = 5`` is ``5`` and is not ``y = 5``. Equations that are constant multiples of one
another are equal; a real set may be written as interval, inequality or membership. A unit may be left out
or added; two known units must be the same. A percentage may drop its sign or be written as a ratio. Digits
in a base must agree in digits and base; the base may be left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from cola_envs.grading.evaluate import has_plus_minus, proportional, same, variables, with_sign
from cola_envs.grading.lexer import clean, words_of
from cola_envs.grading.nodes import (
    Based,
    Expr,
    Group,
    Infinity,
    Matrix,
    Node,
    Ratio,
    Relation,
    Text,
    Tree,
    Union,
)
from cola_envs.grading.parser import number_of_words, parse
from cola_envs.grading.reals import (
    FLIPPED,
    all_equations,
    compare_sets,
    every,
    is_real_set,
    joined,
    unknowns,
)


def compare(gold: str, answer: str) -> bool | None:
    """Return whether two final answers are equal, or None where this module cannot tell.

    Raises:
        TooBig: if a value is beyond the bounds of :mod:`cola_envs.grading.evaluate`.
    """
    target = parse(gold)
    if isinstance(target, Text):
        if words_of(gold) == words_of(answer):
            return True
        given = parse(answer)
        return given is not None and equal(target, given) is True
    if _is_list_of_words(target) and sorted(words_of(gold).split(",")) == sorted(words_of(answer).split(",")):
        return True
    given = parse(answer)
    if isinstance(given, Text) and words_of(gold) == words_of(answer):
        return True  # a word without \text reads as a product of letters
    if target is None or given is None:
        return None
    verdict = equal(target, given)
    if verdict is not True and "," in answer and isinstance(given, Expr) and isinstance(target, Group):
        ungrouped = parse(answer, grouped=False)
        verdict = verdict if ungrouped is None else equal(target, ungrouped)
    elif verdict is not True and "," in gold and isinstance(target, Expr) and isinstance(given, Group):
        ungrouped = parse(gold, grouped=False)
        # Here a list is one reading of the gold answer only: the order written must be kept.
        if isinstance(ungrouped, Group) and given.kind == ungrouped.kind == "list":
            verdict = _ordered(ungrouped.items, given.items)
    if verdict is False and _word(clean(gold)) and words_of(gold) == words_of(answer):
        return True
    return verdict


def _word(text: str) -> bool:
    return len(text) == 1 or (text.isalpha() and len(text) > 3)


def _is_list_of_words(node: Node | None) -> bool:
    return isinstance(node, Group) and all(isinstance(item, Text) for item in node.items)


def equal(gold: Node, answer: Node) -> bool | None:
    """Compare two trees; None where it cannot be told. See :func:`compare`."""
    gold, answer = _plain(gold), _plain(answer)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _relations(gold, answer)
    if is_real_set(gold) or is_real_set(answer):
        verdict = compare_sets(gold, answer)
        if verdict is not None or isinstance(gold, Union) or isinstance(answer, Union):
            return verdict
    if _is_unordered(gold) or _is_unordered(answer):
        return _unordered(gold, answer)
    if isinstance(gold, Group) and isinstance(answer, Group):
        brackets_agree = gold.kind == answer.kind or len(gold.items) > 2
        return brackets_agree and _ordered(gold.items, answer.items)
    if isinstance(gold, Text) or isinstance(answer, Text):
        return _words(gold, answer)
    if isinstance(gold, Expr) and isinstance(answer, Expr):
        return _expressions(gold, answer)
    if isinstance(gold, Infinity) and isinstance(answer, Infinity):
        return gold.sign == answer.sign
    if isinstance(gold, Based) and isinstance(answer, Based):
        return (gold.digits, gold.base) == (answer.digits, answer.base)
    if isinstance(gold, Based) and isinstance(answer, Expr) and gold.digits.isdigit():
        return same(("n", Fraction(int(gold.digits))), answer.tree)
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        if [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
            return False
        return _ordered(
            [cell for row in gold.rows for cell in row], [cell for row in answer.rows for cell in row]
        )
    if isinstance(gold, Ratio) and isinstance(answer, Ratio):
        return _ratios(gold, answer)
    return False


def _plain(node: Node) -> Node:
    r"""Drop the ``x \in`` of a set; read plus-or-minus as its two values and joined inequalities as a set."""
    if isinstance(node, Relation) and node.ops == ("in",) and node.names[0]:
        return _plain(node.sides[1])
    if isinstance(node, Expr) and has_plus_minus(node.tree):
        return Group("list", _both_signs(node))
    if isinstance(node, Group) and node.kind == "list":
        one = joined(node)
        return node if one is None else one
    return node


def _both_signs(node: Expr) -> tuple[Expr, Expr]:
    return (Expr(with_sign(node.tree, 1), node.unit, node.percent), Expr(with_sign(node.tree, -1), node.unit))


def _expressions(gold: Expr, answer: Expr) -> bool | None:
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    if gold.percent != answer.percent:
        if gold.unit or answer.unit:
            return False
        part, other = (gold, answer) if gold.percent else (answer, gold)
        hundredth = ("/", part.tree, ("n", Fraction(100)))
        return _any([same(part.tree, other.tree), same(hundredth, other.tree)])
    return same(gold.tree, answer.tree)


def _words(gold: Node, answer: Node) -> bool | None:
    for text, other in ((gold, answer), (answer, gold)):
        if isinstance(text, Text) and isinstance(other, Expr):
            number = number_of_words(text.words)
            if number is not None:
                return same(number.tree, other.tree)
    spelt = [
        node.words if isinstance(node, Text) else node.tree[1].lower()
        if isinstance(node, Expr) and node.tree[0] in "vc" else None
        for node in (gold, answer)
    ]  # fmt: skip
    return spelt[0] is not None and spelt[1] is not None and words_of(spelt[0]) == words_of(spelt[1])


def _ratios(gold: Ratio, answer: Ratio) -> bool | None:
    if gold.spelling == answer.spelling:
        return True
    if len(gold.items) != len(answer.items) or _like_a_time(gold):
        return False
    first = (gold.items[0].tree, answer.items[0].tree)
    crossed = [
        same(("*", first[1], g.tree), ("*", first[0], a.tree))
        for g, a in zip(gold.items, answer.items, strict=True)
    ]
    return every(crossed)


def _like_a_time(ratio: Ratio) -> bool:
    return all(len(part) == 2 for part in ratio.spelling.split(":")[1:])


# Lists and sets


def _is_unordered(node: Node) -> bool:
    return isinstance(node, Group) and node.kind in ("list", "{}")


def _unordered(gold: Node, answer: Node) -> bool | None:
    names, items = zip(*(_named_items(node) for node in (gold, answer)), strict=True)
    if names[0] and names[1] and names[0] != names[1]:
        return False
    # A value given twice counts once, but "5, 5" is no way to write 5; {5} is.
    both = isinstance(gold, Group) and isinstance(answer, Group)
    if both or any(isinstance(node, Group) and node.kind == "{}" for node in (gold, answer)):
        items = tuple(_distinct(part) for part in items)
    return _matched(items[0], items[1])


def _named_items(node: Node) -> tuple[str | None, list[Node]]:
    """Return the unknown's name and its values: ``x = 1, -2``, ``x = 1, x = -2``, ``(x,y) = (5,8),(8,5)``."""
    if not (isinstance(node, Group) and _is_unordered(node)):
        return None, [node]
    stripped: list[Node] = []
    name: str | None = None
    for index, item in enumerate(node.items):
        if isinstance(item, Relation) and item.ops in (("=",), ("in",)) and item.names[0]:
            if index and name != item.names[0]:
                return None, list(node.items)  # x = 1, y = 2 is a system
            name = item.names[0]
            item = item.sides[1]
        plain = _plain(item)
        stripped.extend(plain.items if isinstance(plain, Group) and plain.kind == "list" else [plain])
    return name, stripped


def _distinct(items: Sequence[Node]) -> list[Node]:
    kept: list[Node] = []
    for item in items:
        if not any(equal(other, item) for other in kept):
            kept.append(item)
    return kept


def _matched(gold: Sequence[Node], answer: Sequence[Node]) -> bool | None:
    if len(gold) != len(answer):
        return False
    left = list(answer)
    unsure = False
    for item in gold:
        verdicts = [equal(item, other) for other in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None in verdicts:
            unsure = True
        else:
            return False
    return None if unsure else True


def _ordered(gold: Sequence[Node], answer: Sequence[Node]) -> bool | None:
    if len(gold) != len(answer):
        return False
    return every([equal(g, a) for g, a in zip(gold, answer, strict=True)])


def _any(verdicts: Sequence[bool | None]) -> bool | None:
    return True if True in verdicts else None if None in verdicts else False


# Relations


def _relations(gold: Node, answer: Node) -> bool | None:
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        if all_equations(gold) and all_equations(answer):
            return _equations(gold, answer)
        sets = compare_sets(gold, answer) if unknowns(gold) == unknowns(answer) else None
        return sets if sets is not None else _inequalities(gold, answer)
    relation, other = (gold, answer) if isinstance(gold, Relation) else (answer, gold)
    assert isinstance(relation, Relation)
    if all_equations(relation):
        value = _asked_value(relation, wide=relation is answer)
        if value is None:
            return False
        return equal(value, other) if relation is gold else equal(other, value)
    if isinstance(other, Expr | Text | Matrix | Ratio | Based):
        return False
    return compare_sets(gold, answer)


def _asked_value(relation: Relation, wide: bool) -> Node | None:
    """Return what ``name = value`` (or ``value = name``, ``a = b = value``) says; None if it is no such one.

    ``wide`` allows a compound left side such as ``a + b``: an answer may repeat what was asked for, but
    a gold answer ``x + y = 1`` is an equation.
    """
    names = [name if name and (wide or _is_simple(name)) else None for name in relation.names]
    values = [side for side, name in zip(relation.sides, names, strict=True) if not name]
    if not values:
        return relation.sides[-1] if len(relation.sides) == 2 else None
    if len(values) == len(relation.sides) and not all(
        isinstance(value, Expr) and not variables(value.tree) for value in values
    ):
        return None
    if len(relation.sides) == 2 and names[0]:
        return relation.sides[1]
    # Several values must be the same one: 1 = 2 = 3 names none.
    return values[-1] if all(equal(values[-1], value) is True for value in values[:-1]) else None


def _is_simple(name: str) -> bool:
    return not any(sign in name.split("(")[0] for sign in "+-*/^") or name.startswith("(")


def _equations(gold: Relation, answer: Relation) -> bool | None:
    if len(gold.sides) == len(answer.sides) == 2:
        for g, a in ((0, 0), (0, 1), (1, 0), (1, 1)):
            if gold.names[g] and gold.names[g] == answer.names[a]:
                verdict = equal(gold.sides[1 - g], answer.sides[1 - a])
                if verdict is True:
                    return True
        gold_difference, answer_difference = _difference(gold), _difference(answer)
        if gold_difference is None or answer_difference is None:
            return None if gold_difference or answer_difference else False
        sign = proportional(gold_difference, answer_difference)
        return None if sign is None else sign != 0
    values = _asked_value(gold, wide=False), _asked_value(answer, wide=True)
    if values[0] is None or values[1] is None or gold.names[0] != answer.names[0]:
        return None
    return equal(values[0], values[1])


def _difference(relation: Relation) -> Tree | None:
    left, right = relation.sides[0], relation.sides[1]
    if not isinstance(left, Expr) or not isinstance(right, Expr):
        return None
    return ("+", left.tree, ("neg", right.tree))


def _inequalities(gold: Relation, answer: Relation) -> bool | None:
    if len(gold.ops) != len(answer.ops):
        return False
    if len(gold.ops) == 1:
        left, right = _difference(gold), _difference(answer)
        if left is None or right is None:
            return None
        sign = proportional(left, right)
        if sign is None:
            return None
        op = answer.ops[0] if sign > 0 else FLIPPED.get(answer.ops[0], answer.ops[0])
        return sign != 0 and gold.ops[0] == op
    if all(FLIPPED.get(op) == other for op, other in zip(gold.ops, reversed(answer.ops), strict=True)):
        return _ordered(gold.sides, answer.sides[::-1])
    return gold.ops == answer.ops and _ordered(gold.sides, answer.sides)
