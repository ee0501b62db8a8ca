"""Compare two expressions with their units, percent signs, angles and constants of integration."""

from __future__ import annotations

from cola_envs.grading.nodes import Expr, Tree, Unit
from cola_envs.grading.proof import same
from cola_envs.grading.trees import number, substituted, subtrees, terms, variables
from cola_envs.grading.units import agree, size_ratio
from cola_envs.grading.verdicts import Truth, some


def same_quantity(gold: Expr, answer: Expr) -> Truth:
    angles = [_in_degrees(node) for node in (gold, answer)]
    if angles[0] != angles[1] and None not in angles:
        degrees, radians = (gold, answer) if angles[0] else (answer, gold)
        turned = same(("/", ("*", degrees.tree, ("c", "pi")), number(180)), radians.tree)
        if turned is not False:
            return turned
    if not agree(gold.unit, answer.unit):
        ratio = size_ratio(gold.unit, answer.unit)
        return ratio is not None and same(gold.tree, ("*", ("n", ratio), answer.tree))
    if gold.percent != answer.percent:
        if gold.unit or answer.unit:
            return False
        part, other = (gold, answer) if gold.percent else (answer, gold)
        hundredth = ("/", part.tree, number(100))
        return some([same(part.tree, other.tree), same(hundredth, other.tree)])
    return same(gold.tree, _with_constant_of(gold.tree, answer.tree))


def _with_constant_of(gold: Tree, answer: Tree) -> Tree:
    """Return the answer with the gold answer's constant of integration: ``+ c`` and ``+ k`` mean ``+ C``."""
    others = variables(gold) - {"C"}
    added = [term[1] for term in terms(answer) if term[0] == "v" and term[1] in _CONSTANTS]
    if (
        ("v", "C") not in terms(gold)
        or not others
        or any(name[0].isupper() for name in others)
        or len(added) != 1
    ):
        return answer
    return answer if added[0] in others else substituted(answer, added[0], ("v", "C"))


_CONSTANTS = ("c", "C", "k", "K", "C_1", "c_1")


def _in_degrees(node: Expr) -> bool | None:
    """Whether an angle is in degrees rather than in radians; None for an expression that is not an angle."""
    if node.unit is None:
        return False if ("c", "pi") in subtrees(node.tree) else None
    return {_DEGREE: True, _RADIAN: False}.get(node.unit)


_DEGREE, _RADIAN = Unit((("degree", 1),)), Unit((("radian", 1),))
