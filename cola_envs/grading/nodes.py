"""The types of a parsed answer.

Expression trees are nested tuples: ``("n", Fraction)``, ``("v", name)``, ``("c", "pi" | "e" | "i")``,
``("+" | "*" | "/" | "^", a, b)``, ``("neg", a)``, ``("pm", a)`` (plus or minus), ``("mp", a)``,
``("deg", a)`` and ``("f", name, *arguments)``; a sum is ``("f", "sum", ("v", k), low, high, body)``, so are
products (``prod``) and integrals (``int``), with ``("c", "oo")`` as an end that is infinite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Tree = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """The words behind a number.

    Attributes:
        powers: the known units with their exponents, sorted: ``m/s`` is ``(("meter", 1), ("second", -1))``.
        words: other nouns, in the singular, sorted.
        marks: words that change the meaning (a.m., north), sorted.
    """

    powers: tuple[tuple[str, int], ...] = ()
    words: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Expr:
    """An expression with its unit, if any."""

    tree: Tree
    unit: Unit | None = None
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """Words."""

    words: str


@dataclass(frozen=True, slots=True)
class Infinity:
    """A signed infinity, as an interval's end."""

    sign: int


@dataclass(frozen=True, slots=True)
class Group:
    """Several items: ``kind`` is ``list`` (no brackets), ``{}``, or the two brackets as written (``(]``)."""

    kind: str
    items: tuple[Node, ...]
    connective: str = ","


@dataclass(frozen=True, slots=True)
class Union:
    """A union of intervals and sets."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Intersection:
    """An intersection of sets."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A set without the elements of another."""

    whole: Node
    removed: Node


@dataclass(frozen=True, slots=True)
class SetOf:
    """The set of all values of a letter, in ``domain`` if there is one, for which a condition holds."""

    name: str
    condition: Node
    domain: Node | None = None


@dataclass(frozen=True, slots=True)
class Dotted:
    r"""Terms with dots among them, ``1 + 2 + \cdots + n``: a term that is None stands for the dots."""

    operators: tuple[str, ...]
    terms: tuple[Node | None, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """A chain ``side op side op side``; ``names[k]`` is the spelling of a side that may name the unknown."""

    ops: tuple[str, ...]
    sides: tuple[Node, ...]
    names: tuple[str | None, ...]

    @property
    def is_equation(self) -> bool:
        """Whether all its signs are equality signs."""
        return set(self.ops) == {"="}


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of expressions."""

    rows: tuple[tuple[Expr, ...], ...]


@dataclass(frozen=True, slots=True)
class Based:
    """Digits in a stated base."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """``a : b``, a ratio or, depending on ``spelling``, a time of day."""

    items: tuple[Expr, ...]
    spelling: str
    unit: Unit | None = None


Node = (
    Expr | Text | Infinity | Group | Union | Intersection | Difference | SetOf | Dotted | Relation | Matrix
    | Based | Ratio
)  # fmt: skip
