r"""Decide whether two expressions are equal: samples refute, proofs accept.

Two expressions are equal when they agree wherever both are defined and real, by the convention of school
mathematics: the letters under an even root or a logarithm are positive, unless the argument cannot be
negative anyway. So ``\sqrt{xy}`` is ``\sqrt x \sqrt y`` and ``\sqrt{x^2 y}`` is ``x \sqrt y``, but ``|x|``
and ``\sqrt{x^2}`` are not ``x``, as a negative letter shows. A ``z`` or ``w`` in an absolute value may be
complex, so that ``|z|^2`` is not ``z^2``, unless there is an ``x`` or ``y`` too. Constants, and expressions
with ``i``, are compared as complex numbers.

Samples are fixed rational points of every combination of signs, whole numbers, and points near the numbers in
the expressions; definite integrals are computed numerically, at one point. Agreement at all samples is not a
proof. Rational numbers are compared exactly; algebraic ones to a proven number of bits
(:mod:`cola_envs.grading.separation`); others, and all with letters, by an equal normal form
(:mod:`cola_envs.grading.normal`) for each combination of signs that matters. A pair that is neither refuted
nor proven becomes a claim.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from itertools import islice, product
from typing import Any

from cola_envs.grading.evaluate import (
    CHECK_BITS,
    LAST_BITS,
    WORK_BITS,
    TooBig,
    Undefined,
    Unevaluable,
    as_float,
    constant_value,
    integrals_differ,
    precision,
    real_value,
    value_of,
)
from cola_envs.grading.nodes import Tree
from cola_envs.grading.normal import proves_equal
from cola_envs.grading.separation import bits_to_zero, turn_of
from cola_envs.grading.trees import (
    has_imaginary_unit,
    number,
    radicands,
    sign_sensitive,
    substituted,
    subtrees,
    variables,
)
from cola_envs.grading.verdicts import Claim, Truth, every

Assignment = Mapping[str, Any]

_MOST_POINTS = 40
#: The most letters of which all combinations of signs are tried.
_MOST_LETTERS = 4


def same(a: Tree, b: Tree) -> Truth:
    """Return whether two expressions are equal, as functions of their variables.

    Raises:
        TooBig: if either is beyond the bounds.
    """
    if a[0] == b[0] == "n":
        return bool(a[1] == b[1])
    names = sorted(variables(a) | variables(b))
    return _same_functions(a, b, names) if names else _same_constants(a, b)


def _same_constants(a: Tree, b: Tree) -> Truth:
    try:
        x, y = constant_value(a), constant_value(b)
        if isinstance(x, Fraction) and isinstance(y, Fraction):
            return x == y
        if _differ(a, b, {}, False, WORK_BITS):
            return False
        if proves_equal(a, b):
            return True
        difference = ("+", a, ("neg", b))
        zero = _is_zero(difference)
        if zero is not None:
            return zero
        angle = turn_of(difference)
        if angle is not None and abs(as_float(constant_value(difference))) * angle[1] < 1:
            zero = _is_zero(("+", angle[0], number(-1)))
            if zero is not None:
                return zero
        return False if _differ(a, b, {}, False, LAST_BITS) else Claim(a, b)
    except Undefined:
        return False
    except Unevaluable:
        return proves_equal(a, b) or _unless_integrals_differ(a, b, {}, Claim(a, b))


def _unless_integrals_differ(a: Tree, b: Tree, point: Assignment, verdict: Truth) -> Truth:
    """Return an open verdict on two expressions, or False if they hold integrals that differ at a point."""
    has_integral = any(part[:2] == ("f", "int") for tree in (a, b) for part in subtrees(tree))
    return False if verdict is not True and has_integral and integrals_differ(a, b, point) else verdict


def _is_zero(tree: Tree) -> bool | None:
    """Whether an algebraic constant is zero; None where that is unknown."""
    bits = bits_to_zero(tree)
    if bits is None:
        return None
    # Twice the bits, to be safe from rounding of intermediate values.
    with precision(2 * bits + WORK_BITS) as mp:
        return bool(abs(as_float(constant_value(tree, mp.prec))) < mp.mpf(2) ** (-bits - 1))


def _same_functions(a: Tree, b: Tree, names: list[str]) -> Truth:
    for point in _complex_points(a, b, names):
        with suppress(Undefined, Unevaluable):
            if _differ(a, b, point, False, WORK_BITS):
                return False
    positive = _taken_positive(a) | _taken_positive(b)
    readings = [(False, frozenset[str]())]
    if not (has_imaginary_unit(a) or has_imaginary_unit(b)):
        # First at real points with positive letters under roots, then at all real points.
        readings = [(True, positive), (True, frozenset()), *readings]
    free = sorted((sign_sensitive(a) | sign_sensitive(b)) - positive)
    try:
        for real, taken_positive in readings:
            samples = _agreements(a, b, names, real, taken_positive)
            if samples is None:
                return False
            if samples:
                break
        else:
            return False
    except Unevaluable:
        verdict = _proven(a, b, [dict(zip(free, signs, strict=True)) for signs in _all_signs(free)])
        return _unless_integrals_differ(a, b, next(points(a, b, names)), verdict)
    if not taken_positive:
        free = sorted(sign_sensitive(a) | sign_sensitive(b))
    # Letters whose sign does not matter have that of the first point: analytic functions that are equal on an
    # interval are equal everywhere. Each combination of signs of the others needs its own proof.
    first = {name: -1 if samples[0][name] < 0 else 1 for name in names}
    sampled = {tuple(-1 if point[name] < 0 else 1 for name in free) for point in samples}
    cases = [signs for signs in _all_signs(free) if signs in sampled]
    verdict = _proven(a, b, [{**first, **dict(zip(free, signs, strict=True))} for signs in cases])
    if verdict is True:
        return True
    return False if _differ(a, b, samples[0], real, LAST_BITS) else verdict


def _complex_points(a: Tree, b: Tree, names: list[str]) -> list[Assignment]:
    """Return points at which the z and w of an absolute value are complex; none beside an x or y.

    Beside an x or y they are coordinates, and real.
    """
    absolute = [variables(part) for tree in (a, b) for part in subtrees(tree) if part[:2] == ("f", "abs")]
    letters = [name for name in sorted(frozenset[str]().union(*absolute)) if name.split("_")[0] in ("z", "w")]
    if not letters or {"x", "y"} & set(names):
        return []
    samples: list[Assignment] = []
    with precision(LAST_BITS) as mp:
        for index, other in ((70, 74), (72, 75)):
            point: dict[str, Any] = {name: _jitter(other, name) for name in names}
            for name in letters:
                point[name] = mp.mpc(*(as_float(_jitter(part, name)) for part in (index, index + 1)))
            samples.append(point)
    return samples


def _all_signs(letters: list[str]) -> Iterator[tuple[int, ...]]:
    return product((1, -1), repeat=len(letters)) if len(letters) <= _MOST_LETTERS else iter(())


def _proven(a: Tree, b: Tree, cases: list[dict[str, int]]) -> Truth:
    """Prove equality for each combination of signs, with -x for each negative x; False for no combination."""
    proofs: list[Truth] = []
    for signs in cases:
        turned: dict[str, Tree] = {name: ("neg", ("v", name)) for name, sign in signs.items() if sign < 0}
        left, right = _at(a, turned), _at(b, turned)
        proofs.append(left == right or proves_equal(left, right) or Claim(left, right))
    return every(proofs) if proofs else False


def _at(tree: Tree, values: Mapping[str, Tree]) -> Tree:
    """Return a tree with values for its letters."""
    for name, value in values.items():
        tree = substituted(tree, name, value)
    return tree


def _agreements(
    a: Tree, b: Tree, names: list[str], real: bool, positive: frozenset[str]
) -> list[Assignment] | None:
    """Return the sampled points at which both are defined, where they agree; None if they differ at any."""
    samples: list[Assignment] = []
    too_big: TooBig | None = None
    defined = True
    for point in islice(points(a, b, names, positive), _MOST_POINTS):
        try:
            if _differ(a, b, point, real, WORK_BITS):
                return None
        except Undefined:
            defined = False
            continue
        except TooBig as error:
            if too_big is not None and not samples and defined:
                raise  # the other points will be too big as well
            too_big = error
            continue
        samples.append(point)
    if not samples and defined and too_big is not None:
        raise too_big
    return samples


def _differ(a: Tree, b: Tree, point: Assignment, real: bool, bits: int) -> bool:
    """Whether two trees have different values at a point, evaluated to a number of bits."""
    x, y = value_of(a, point, real, bits), value_of(b, point, real, bits)
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x != y
    with precision(bits) as mp:
        x, y = as_float(x), as_float(y)
        difference = abs(x - y)
        if difference <= max(abs(x), abs(y)) * mp.mpf(2) ** (-bits * 3 // 4):
            return False
    # A difference due to rounding shrinks with more bits; a true one does not.
    with precision(max(CHECK_BITS, 2 * bits)) as mp:
        x, y = (as_float(value_of(tree, point, real, mp.prec)) for tree in (a, b))
        return bool(abs(abs(x - y) - difference) <= difference / 2)


@lru_cache(maxsize=4096)
def _taken_positive(tree: Tree) -> frozenset[str]:
    """Return the letters under even roots and logarithms whose argument may be negative."""
    positive: frozenset[str] = frozenset()
    for inner in radicands(tree):
        letters = sorted(variables(inner))
        if not positive.issuperset(letters) and any(
            _is_negative(inner, point) for point in islice(points(inner, inner, letters), _MOST_POINTS)
        ):
            positive |= frozenset(letters)
    return positive


def _is_negative(tree: Tree, point: Assignment) -> bool:
    try:
        return bool(value_of(tree, point, True) < 0)
    except (Undefined, Unevaluable, TooBig):
        return False


def points(
    a: Tree, b: Tree, names: list[str], positive: frozenset[str] = frozenset()
) -> Iterator[Assignment]:
    """Yield the points at which two expressions are sampled, determined by their letters and numbers."""

    def point(index: int, sign: Mapping[str, int], shift: Fraction = Fraction(0)) -> Assignment:
        values = {name: sign.get(name, 1) * (_jitter(index, name) + shift) for name in names}
        return {name: abs(value) if name in positive else value for name, value in values.items()}

    yield point(0, {})
    yield point(1, {})
    # Powers of -1, factorials and the like are real at whole numbers.
    for index in (2, 3, 4):
        yield {name: Fraction(_hash(index, name) % 5 + 2 + (index == 4)) for name in names}
    if len(names) <= 4:
        patterns = list(product((1, -1), repeat=len(names)))[1:]
    else:
        patterns = [tuple(1 if _hash(k, name) & 64 else -1 for name in names) for k in range(12)]
        patterns.append((-1,) * len(names))
    for index, pattern in enumerate(patterns, start=5):
        yield point(index, dict(zip(names, pattern, strict=True)))
    yield {name: Fraction(_hash(60, name) % 5 + 2) * (1 if name in positive else -1) for name in names}
    for size in (Fraction(1000), Fraction(1, 1000)):
        yield {name: _jitter(61, name) * size for name in names}
    # The largest numbers in the trees may be thresholds.
    sizes = {abs(part[1]) for tree in (a, b) for part in subtrees(tree) if part[0] == "n"}
    for size in sorted((size for size in sizes if size > 2), reverse=True)[:4]:
        for shift in (size, size - 2, -size, -size - 2):
            yield point(62, {}, shift)


def _hash(index: int, name: str) -> int:
    return zlib.crc32(f"{index}:{name}".encode())


def _jitter(index: int, name: str) -> Fraction:
    return Fraction(_hash(index, name) % 1999 + 501, 1009)


def proportional(a: Tree, b: Tree) -> tuple[Truth, int]:
    """Return whether ``a = c * b`` for a constant ``c`` other than 0, and the sign of ``c``.

    A complex constant counts as positive.

    Raises:
        TooBig: if either is beyond the bounds.
    """
    names = sorted(variables(a) | variables(b))
    if variables(a) != variables(b):
        return False, 0
    for point in islice(points(a, b, names), _MOST_POINTS):
        try:
            values = [value_of(tree, point, True) for tree in (a, b)]
            if any(abs(value) < 1e-40 for value in values):
                if all(value == 0 for value in values):
                    continue
                return False, 0
            above, below = (
                _at(tree, {name: ("n", value) for name, value in point.items()}) for tree in (a, b)
            )
        except (Undefined, TooBig):
            continue
        except Unevaluable:
            return same(a, b), 1
        constant: Tree = ("/", above, below)
        value = real_value(constant)
        return same(a, ("*", constant, b)), -1 if value is not None and value < 0 else 1
    return False, 0
