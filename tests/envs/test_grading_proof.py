"""Equality of expressions: what is proven, what is refuted, and what is left to sympy."""

from __future__ import annotations

import pytest

from cola_envs.grading.normal import proves_equal
from cola_envs.grading.proof import same
from cola_envs.grading.separation import bits_to_zero
from cola_envs.grading.verdicts import Claim, claims, every, settle, some

from .grading_pairs import tree


def _same(a: str, b: str):
    return same(tree(a), tree(b))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (r"\sqrt{8m^2+25m+18}^2", "8m^2+25m+18"),
        (r"\sqrt{(x-1)^3}", r"(x-1)\sqrt{x-1}"),
        (r"\sqrt{x+2\sqrt{x-1}}", r"1+\sqrt{x-1}"),
        (r"\cos 3x", r"4\cos^3 x-3\cos x"),
        (r"\frac{(n+2)!}{n!}", "n^2+3n+2"),
        (r"\sqrt[3]{2+\sqrt5}+\sqrt[3]{2-\sqrt5}", "1"),
        (r"\sin 10^\circ\sin 50^\circ\sin 70^\circ", r"\frac18"),
        (r"\arctan\frac12+\arctan\frac13", r"\frac{\pi}{4}"),
        (r"\ln(x+1)+\ln(x-1)", r"\ln(x^2-1)"),
    ],
)
def test_identities_are_proven_in_this_process(a, b):
    assert _same(a, b) is True


@pytest.mark.parametrize(
    ("a", "b"),
    [
        # Negative between -2 and -9/8 alone, where no sample lies.
        (r"\sqrt{(8m^2+25m+18)^2}", "8m^2+25m+18"),
        (r"|(1000x+1)(1000x+2)|", "(1000x+1)(1000x+2)"),
        (r"\sqrt{(x+y)^2}", "x+y"),
    ],
)
def test_agreement_at_every_sample_is_not_accepted(a, b):
    truth = _same(a, b)
    assert truth is False or not settle(truth, [])
    assert truth is not True


@pytest.mark.parametrize("places", [20, 60, 250])
@pytest.mark.parametrize(
    "text", [r"\pi", "x^2", r"\sin x", r"\sqrt2+\sqrt3", r"\ln 7", "e^{x}", "|x|", r"\binom{n}{k}"]
)
def test_a_difference_far_behind_the_point_is_found(text, places):
    assert _same(text, f"{text}+10^{{-{places}}}") is False
    assert _same(text, rf"(1+10^{{-{places}}})\cdot {text}") is False


def test_the_separation_bound_decides_roots_and_not_other_constants():
    assert bits_to_zero(tree(r"\sqrt2+\sqrt3-\sqrt{5+2\sqrt6}")) is not None
    assert bits_to_zero(tree(r"\pi-\sqrt{10}")) is None
    # The sums of square roots that are closest for their size: they differ at the 37th place.
    a, b = (r"\sqrt{10}+\sqrt{11}", r"\sqrt{5}+\sqrt{18}")
    assert _same(a, b) is False


def test_a_normal_form_says_nothing_where_it_has_none():
    assert not proves_equal(tree(r"\sum_{k=1}^{n}k"), tree(r"\frac{n(n+1)}{2}"))
    assert isinstance(_same(r"\sum_{k=1}^{n}k", r"\frac{n(n+1)}{2}"), Claim)


def test_truth_values_settle_on_what_is_proven():
    left, right = Claim(("n", 1), ("n", 2)), Claim(("n", 3), ("n", 4))
    assert every([True, left, False]) is False
    assert some([left, True]) is True
    assert every([True, left]) is left
    both, either = every([left, right]), some([left, right])
    assert list(claims(both)) == [left, right]
    assert not settle(both, [left])
    assert settle(either, [left])
    assert not settle(either, [])
