"""The trees of final answers.

Expression trees are nested tuples: ``("n", Fraction)``, ``("v", name)``, ``("c", "pi" | "e" | "i")``,
``("+" | "*" | "/" | "^", a, b)``, ``("neg", a)``, ``("pm", a)`` (plus or minus), ``("mp", a)``,
``("deg", a)`` and ``("f", name, *arguments)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Tree = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Expr:
    """An expression; ``unit`` is the canonical unit, "" for one that is unknown, None where there is none."""

    tree: Tree
    unit: str | None = None
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
class Relation:
    """A chain ``side op side op side``; ``names[k]`` is how a side is spelt that can be what is asked for."""

    ops: tuple[str, ...]
    sides: tuple[Node, ...]
    names: tuple[str | None, ...]


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
    """``a : b``, also a time of day; ``spelling`` tells the two apart."""

    items: tuple[Expr, ...]
    spelling: str


Node = Expr | Text | Infinity | Group | Union | Relation | Matrix | Based | Ratio
