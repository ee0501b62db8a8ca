"""The comparison's statistics, against numbers worked by hand and against simulation."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.statistics import (
    Reached,
    area_under_curve,
    estimate,
    holm,
    median_time,
    paired,
    ratio,
    reached,
    verdict,
)


def test_every_model_counts_alike_however_many_runs_it_has() -> None:
    result = estimate({0: [1.0, 1.0, 1.0, 1.0], 1: [0.0]})
    assert result.mean == 0.5
    assert (result.models, result.runs) == (2, 5)
    many = {model: [float(model % 2)] * (1 + model % 3) for model in range(12)}
    assert estimate(many).mean == 0.5


def test_runs_of_one_model_do_not_pass_for_independent_ones() -> None:
    rng = np.random.default_rng(0)
    luck = rng.normal(size=5)
    nested = {model: (luck[model] + 0.01 * rng.normal(size=20)).tolist() for model in range(5)}
    flat = {run: [value] for run, value in enumerate(value for values in nested.values() for value in values)}
    wide, narrow = estimate(nested), estimate(flat)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_students_interval_and_p_value_are_the_tables() -> None:
    result = estimate({0: [1.0], 1: [2.0], 2: [6.0]})
    # Mean 3, standard error sqrt(7 / 3); t(.975, 2) = 4.3027.
    assert result.high - result.mean == pytest.approx(4.3027 * (7 / 3) ** 0.5, rel=1e-4)
    # With 2 degrees of freedom P(|T| > t) = 1 - t / sqrt(2 + t^2).
    t = 3 / (7 / 3) ** 0.5
    assert result.p == pytest.approx(1 - t / (2 + t * t) ** 0.5)


@pytest.mark.parametrize("models", [3, 5])
@pytest.mark.parametrize("between", [0.3, 3.0])
def test_of_few_models_no_more_is_found_by_chance_than_is_said(models: int, between: float) -> None:
    rng = np.random.default_rng(2)
    found = corrected = 0
    for _ in range(1_000):
        runs = {model: (between * rng.normal() + rng.normal(size=4)).tolist() for model in range(models)}
        p = estimate(runs).p
        found, corrected = found + (p < 0.05), corrected + (p < 0.05 / 7)
    assert 30 <= found <= 72
    assert corrected <= 17


def test_a_ratio_of_few_models_is_judged_by_their_own_ratios() -> None:
    assert ratio({0: [2.0], 1: [4.0], 2: [8.0]}, {0: [1.0], 1: [2.0], 2: [4.0]}) == pytest.approx((2, 2, 2))
    mean, low, high = ratio({0: [1.0], 1: [4.0]}, {1: [2.0], 0: [1.0]})
    assert mean == pytest.approx(2**0.5)
    assert low * high == pytest.approx(mean**2), "symmetric on the scale of ratios"


@pytest.mark.parametrize("models", [1, 4, 12])
def test_intervals_cover_the_truth_about_as_often_as_they_say(models: int) -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(1_000):
        luck = rng.normal(size=models) if models > 1 else [0.0]
        runs = {model: (luck[model] + rng.normal(size=4)).tolist() for model in range(models)}
        result = estimate(runs)
        covered += result.low <= 0 <= result.high
    assert 930 <= covered <= 985


def test_models_that_agree_by_chance_prove_no_more_than_their_runs_allow() -> None:
    # Times are multiples of an update: the means of four runs agree, the runs do not.
    runs = {model: [640.0, 768.0, 768.0, 896.0] for model in range(4)}
    result = estimate(runs)
    # Pooled variance 2 * 128**2 / 3, over sixteen runs; t(.975, 3) = 3.1824.
    assert result.high - result.mean == pytest.approx(3.1824 * (2 * 128**2 / 3 / 16) ** 0.5, rel=1e-4)
    tenths = estimate({0: [0.1, 0.3], 1: [0.2, 0.2], 2: [0.3, 0.1]})
    assert tenths.high - tenths.low > 0.1, "means that are equal but for rounding"
    assert estimate({model: [-448.0] * 4 for model in range(4)}).p == 1 / 8, "a sign test's"
    assert estimate({model: [0.0] * 4 for model in range(4)}).p == 1


def test_pairs_take_away_what_both_arms_share() -> None:
    base = {0: [0.1, 0.9], 1: [0.4, 0.2]}
    better = {key: [value + 0.05 for value in values] for key, values in base.items()}
    result = estimate(paired(better, base))
    assert result.mean == pytest.approx(0.05)
    assert result.high - result.low < 1e-9
    assert result.p == 0.5, "two models of one sign"
    with pytest.raises(ValueError, match="same pre-training seeds"):
        paired(base, {0: [0.1, 0.9]})


def test_holm_steps_down_and_never_falls() -> None:
    # Sorted .01, .03, .04: 3 * .01, 2 * .03, and then max(.06, .04).
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    ("centre", "spread", "said"),
    [(0.0, 0.001, "equivalent"), (0.5, 0.01, "more"), (-0.5, 0.01, "less"), (0.0, 1.0, "undecided")],
)
def test_the_verdict_is_what_the_interval_allows(centre: float, spread: float, said: str) -> None:
    rng = np.random.default_rng(2)
    runs = {model: (centre + spread * rng.normal(size=6)).tolist() for model in range(8)}
    assert verdict(runs, margin=0.05) == said


def test_area_under_a_curve_by_hand() -> None:
    # .2 for 10, .6 for 10, then .6 held for the last 20: (2 + 6 + 12) / 40.
    assert area_under_curve([10, 20], [0.2, 0.6], 40) == pytest.approx(0.5)
    assert area_under_curve([10, 20], [0.2, 0.6], 15) == pytest.approx((2 + 3) / 15)
    with pytest.raises(ValueError, match="rising"):
        area_under_curve([10, 10], [0, 1], 20)


def test_a_threshold_is_reached_by_the_mean_of_a_window() -> None:
    x, y = [1, 2, 3, 4], [0.0, 1.0, 0.5, 1.0]
    assert reached(x, y, 0.9) == Reached(2.0, 4.0)
    assert reached(x, y, 0.75, window=2) == Reached(3.0, 4.0)
    assert reached(x, y, 0.9, window=3) == Reached(None, 4.0)
    assert reached([10, 20, 30, 40], [0.0, 1.0, 1.0, 0.7], 0.9, window=3) == Reached(40, 40.0)


def test_runs_that_never_got_there_count_in_the_median_and_are_not_dropped() -> None:
    times = [Reached(2.0, 10.0), Reached(None, 10.0), Reached(6.0, 10.0)]
    assert median_time(times) == 6.0
    assert median_time([Reached(2.0, 10.0), Reached(None, 10.0), Reached(None, 10.0)]) is None
    with pytest.raises(ValueError, match="one horizon"):
        median_time([Reached(1.0, 5.0), Reached(1.0, 6.0)])


def test_a_figure_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        estimate({0: [float("nan")]})
    with pytest.raises(ValueError, match="at least one run"):
        estimate({})
