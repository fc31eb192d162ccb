"""Sample efficiency with censored runs, against numbers worked out by hand and against scipy."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from math import inf, isnan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from amal.study.analysis.statistics import enclosing_interval
from amal.study.analysis.survival import (
    Durations,
    common_horizon,
    durations,
    log_rank,
    median_steps,
    ratio_interval,
    ratio_samples,
    restricted_mean,
    steps_ratio,
    survival,
)

BUDGET = 10.0
FAST = durations([(2.0, False), (4.0, False), (4.0, False), (6.0, False)])
MIXED = durations([(4.0, False), (8.0, False), (BUDGET, True), (BUDGET, True)])
NEVER = durations([(BUDGET, True)] * 4)

PAIRS = st.tuples(st.integers(1, 12).map(float), st.booleans())
DURATIONS = st.lists(PAIRS, min_size=1, max_size=10).map(durations)


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_survival_by_hand() -> None:
    x = durations([(1.0, False), (2.0, True), (3.0, False), (3.0, True)])
    times, remaining = survival(x)
    assert times == pytest.approx([1, 2, 3])
    assert remaining == pytest.approx([3 / 4, 3 / 4, 3 / 8])
    assert restricted_mean(x, 5.0) == pytest.approx(1 + 2 * 3 / 4 + 2 * 3 / 8)
    assert restricted_mean(x, 2.5) == pytest.approx(1 + 1.5 * 3 / 4)


def test_restricted_mean_is_the_mean_of_what_each_run_took_of_the_horizon() -> None:
    assert restricted_mean(FAST, 20.0) == pytest.approx(4)
    assert restricted_mean(FAST, 3.0) == pytest.approx((2 + 3 + 3 + 3) / 4)
    assert restricted_mean(MIXED, BUDGET) == pytest.approx((4 + 8 + 10 + 10) / 4)
    assert restricted_mean(NEVER, BUDGET) == BUDGET


@given(x=DURATIONS, horizon=st.integers(1, 15).map(float))
def test_restricted_mean_is_the_area_below_scipys_survival_function(x: Durations, horizon: float) -> None:
    estimate = stats.ecdf(stats.CensoredData.right_censored(x.steps, x.censored)).sf
    fine = np.arange(0, horizon, 0.25)
    area = 0.25 * estimate.evaluate(fine).sum()
    assert restricted_mean(x, horizon) == pytest.approx(area, rel=1e-9)


@given(x=DURATIONS)
def test_restricted_mean_takes_resamples_at_once(x: Durations) -> None:
    drawn = generator().integers(len(x.steps), size=(5, len(x.steps)))
    resampled = Durations(x.steps[drawn], x.censored[drawn])
    alone = [restricted_mean(Durations(*sample), BUDGET) for sample in zip(*resampled, strict=True)]
    np.testing.assert_allclose(restricted_mean(resampled, BUDGET), alone)


def test_median() -> None:
    assert median_steps(FAST) == 4
    assert median_steps(MIXED) == 8
    assert median_steps(NEVER) == inf
    assert median_steps(durations([(5.0, False), (BUDGET, True), (BUDGET, True)])) == inf
    ten = durations([(float(i), False) for i in range(1, 6)] + [(BUDGET, True)] * 5)
    assert median_steps(ten) == 5, "5 of 10, although the product of the steps to ½ is not ½ to the last bit"


def test_the_common_horizon_is_as_far_as_both_are_known() -> None:
    assert common_horizon(FAST, MIXED) == BUDGET, "all of the fast have arrived; they do not limit it"
    assert common_horizon(FAST, FAST) == 6
    assert common_horizon(MIXED, durations([(3.0, False), (7.0, True)])) == 7
    assert common_horizon(durations([(7.0, False), (7.0, True)]), MIXED) == 7


def test_ratio_by_hand() -> None:
    assert steps_ratio(FAST, MIXED) == pytest.approx(4 / 8)
    assert steps_ratio(MIXED, FAST) == pytest.approx(8 / 4)
    assert steps_ratio(FAST, NEVER) == pytest.approx(4 / 10)
    assert steps_ratio(MIXED, NEVER) == pytest.approx(8 / 10), "a bound, though some of the first never arrive either"
    assert steps_ratio(NEVER, MIXED) == pytest.approx(10 / 8)
    assert isnan(steps_ratio(NEVER, NEVER))
    assert isnan(steps_ratio(durations([(0.0, True)]), FAST)), "a run that was never evaluated"


def test_ratio_interval() -> None:
    low, high = ratio_interval(FAST, MIXED, BUDGET, generator())
    assert 0 < low < 0.5 < high < 1.5
    first, again = (ratio_interval(FAST, MIXED, BUDGET, generator(1)) for _ in range(2))
    assert first == again
    one = durations([(3.0, False)])
    for x, y in ((one, FAST), (FAST, one), (NEVER, NEVER), (durations([(0.0, True)] * 2), FAST)):
        assert np.isnan(ratio_interval(x, y, BUDGET, generator())).all()
    two = durations([(2.0, False), (4.0, False)])
    low, high = ratio_interval(two, two, BUDGET, generator())
    assert low < 1 < high, "two runs are enough"
    low, high = ratio_interval(durations([(2.0, False)] * 3), NEVER, BUDGET, generator())
    assert low == pytest.approx(0.2) and high > 0.4, "runs that all arrive leave room for one that does not"
    soon = durations([(2.0, False)] * 5)
    low, high = ratio_interval(soon, soon, BUDGET, generator())
    assert low < 1 < high and high > 2, "it would have taken the whole budget"


def test_the_added_run_is_as_fast_as_the_fastest_of_both_or_never_arrives() -> None:
    x, y = durations([(2.0, False), (6.0, False)]), durations([(4.0, False)])
    for samples in (ratio_samples(x, y, BUDGET, generator(), 1000), ratio_samples(y, x, BUDGET, generator(), 1000)):
        assert samples[0].min() == pytest.approx(2 / 10), "the first group takes 2, the second the budget"
        assert samples[1].max() == pytest.approx(10 / 2)


def test_resampled_runs_that_were_stopped_early_do_not_count_as_arrived() -> None:
    x, y = durations([(4.0, True), (8.0, False)]), durations([(6.0, False)])
    assert steps_ratio(x, y) == pytest.approx(8 / 6)
    for side in ratio_samples(x, y, 4.0, generator(), 50, added=0.0):
        assert side == pytest.approx(8 / 6)


def test_ratios_without_an_added_run_are_scipys_bootstrap_where_nothing_is_censored() -> None:
    x, y = generator(1).integers(10, 50, 8).astype(float), generator(2).integers(30, 90, 6).astype(float)
    nothing = [Durations(steps, np.zeros(len(steps), bool)) for steps in (x, y)]
    samples = ratio_samples(nothing[0], nothing[1], 0.0, generator(3), 50_000, added=0.0)
    ours = tuple(map(float, enclosing_interval(samples)))

    def ratio(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return x.mean(axis=axis) / y.mean(axis=axis)

    theirs = stats.bootstrap((x, y), ratio, n_resamples=50_000, method="percentile", rng=generator(4))
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=5e-3)


def test_log_rank_by_hand() -> None:
    x = durations([(1.0, False), (3.0, False)])
    y = durations([(2.0, False), (4.0, True)])
    expected = 2 / 4 + 1 / 3 + 1 / 2
    variance = (2 * 2) / 4**2 + (1 * 2) / 3**2 + (1 * 1) / 2**2
    assert log_rank(x, y) == pytest.approx(2 * stats.norm.sf(abs(2 - expected) / sqrt(variance)))


@given(x=DURATIONS, y=DURATIONS)
@settings(max_examples=200)
def test_log_rank_is_a_symmetric_p_value_without_warnings(x: Durations, y: Durations) -> None:
    p_value = log_rank(x, y)
    if min(len(x.steps), len(y.steps)) < 2:
        assert isnan(p_value), "a single run allows no test"
        return
    assert 0 <= p_value <= 1 and p_value == pytest.approx(log_rank(y, x))


def test_log_rank_where_the_data_tell_nothing() -> None:
    assert log_rank(NEVER, NEVER) == 1
    together = durations([(3.0, False)] * 4)
    assert log_rank(together, together) == 1
    assert log_rank(FAST, FAST) == pytest.approx(1)
    assert log_rank(FAST, NEVER) < 0.02
    one_of_49 = durations([(2.0, False), *[(BUDGET, True)] * 48])
    assert log_rank(one_of_49, durations([(1.0, True)] * 2)) == 1, "49 · (1 / 49) differs from 1, and the variance is 0"
