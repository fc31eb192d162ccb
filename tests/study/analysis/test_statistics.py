"""Statistics against numbers worked out by hand, against scipy, and against rliable where it is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from itertools import combinations
from math import comb, inf, isnan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from amal.study.analysis import statistics
from amal.study.analysis.statistics import (
    FloatArray,
    bootstrap_band,
    bootstrap_mean_interval,
    bootstrap_samples,
    cohens_d,
    draw_runs,
    enclosing_interval,
    holm,
    interquartile_mean,
    mann_whitney,
    mean,
    mean_difference,
    median,
    optimality_gap,
    percentile_interval,
    performance_profile,
    probability_of_improvement,
    stratified_bootstrap_interval,
    welch,
    with_added_run,
)

AGGREGATES = [mean, median, interquartile_mean, optimality_gap]
X = np.array([[0.0, 0.2], [0.5, 0.4], [1.0, 0.9]])
Y = np.array([[0.0, 0.9], [0.0, 1.0]])
THRESHOLDS = np.linspace(-0.1, 1.1, 13)
BATTLE = 1 / 160

WIN_RATES = st.integers(0, 8).map(lambda wins: wins / 8)  # few values, so that ties are common


def runs(low: int = 1, high: int = 8) -> st.SearchStrategy[FloatArray]:
    return st.integers(low, high).flatmap(lambda n: arrays(np.float64, n, elements=WIN_RATES))


def grids(scenarios: int = 3, low: int = 1) -> st.SearchStrategy[FloatArray]:
    return st.integers(low, 6).flatmap(lambda n: arrays(np.float64, (n, scenarios), elements=WIN_RATES))


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def d_of_columns(x: FloatArray, y: FloatArray) -> FloatArray:
    return cohens_d(x[..., 0], y[..., 0])


def profile_of(scores: FloatArray) -> FloatArray:
    return performance_profile(scores, THRESHOLDS)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_aggregates_by_hand() -> None:
    assert mean(X) == pytest.approx(0.5)
    assert median(X) == pytest.approx(0.5)
    assert median(np.array([[0.0, 1.0, 0.1], [0.2, 1.0, 0.3]])) == pytest.approx(0.2)
    assert interquartile_mean(X) == pytest.approx((0.2 + 0.4 + 0.5 + 0.9) / 4), "of 6 scores 1 is cut at either end"
    assert interquartile_mean(np.arange(12.0).reshape(4, 3)) == pytest.approx((3 + 4 + 5 + 6 + 7 + 8) / 6)
    assert optimality_gap(X) == pytest.approx(0.5)
    assert optimality_gap(X, gamma=0.5) == pytest.approx(0.5 - (0.0 + 0.5 + 0.5 + 0.2 + 0.4 + 0.5) / 6)
    assert optimality_gap(X + 1) == 0


@pytest.mark.parametrize("aggregate", AGGREGATES)
@given(scores=grids(), seed=st.integers(0, 9))
def test_aggregates_take_resamples_at_once_and_stay_among_the_scores(
    aggregate: statistics.Statistic, scores: FloatArray, seed: int
) -> None:
    drawn = draw_runs(*scores.shape, generator(seed), resamples=7)
    resampled = with_added_run(scores, scores.max(), drawn)
    np.testing.assert_allclose(aggregate(resampled), [aggregate(sample) for sample in resampled], atol=1e-12)
    among = 1 - scores if aggregate is optimality_gap else scores
    assert among.min() - 1e-12 <= aggregate(scores) <= among.max() + 1e-12
    if aggregate is interquartile_mean:
        assert aggregate(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None))


@pytest.mark.parametrize("statistic", [*AGGREGATES, lambda x: performance_profile(x, THRESHOLDS), lambda x: mean(x)])
def test_a_missing_run_is_an_error_not_a_wrong_number(statistic: statistics.Statistic) -> None:
    with pytest.raises(ValueError, match="NaN"):
        statistic(np.array([[0.5, np.nan], [0.5, 0.5]]))
    with pytest.raises(ValueError, match="NaN"):
        mann_whitney(np.array([0.5, np.nan]), np.array([0.5]))


def test_resampling_is_stratified() -> None:
    scores = np.arange(12.0).reshape(4, 3)
    resampled = with_added_run(scores, -1.0, draw_runs(4, 3, generator(), resamples=4000))
    for scenario in range(3):
        values, counts = np.unique(resampled[:, :, scenario], return_counts=True)
        np.testing.assert_array_equal(values, [-1, *scores[:, scenario]])
        assert np.ptp(counts[1:]) < 400
        assert counts[0] / counts.sum() == pytest.approx((0.5 / 3) / (4 + 0.5 / 3), rel=0.1), "they share half a run"
    rows = np.where(resampled < 0, -1, (resampled - np.arange(3)) // 3)
    same = (rows[:, 0, 0] == rows[:, 0, 1]).mean()
    assert same == pytest.approx(1 / 4, abs=0.03), "scenarios are drawn independently"


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_the_interval_of_two_runs_by_hand(aggregate: statistics.Statistic) -> None:
    low, high = stratified_bootstrap_interval(np.array([[0.0], [1.0]]), aggregate, BATTLE, generator())
    assert (low, high) == (0.0, 1.0), "both runs the worse one, or both the better, happens in a quarter of the draws"
    # with half a run at 0 among 2.5, both drawn end at 0 in 0.6² of the draws: the 40th percentile is ½, the 35th is 0
    for confidence, ends in ((0.2, (0.5, 0.5)), (0.3, (0.0, 1.0))):
        interval = stratified_bootstrap_interval(np.array([[0.0], [1.0]]), mean, BATTLE, generator(), confidence)
        assert interval == (0.5 - BATTLE, 0.5 + BATTLE) if ends == (0.5, 0.5) else ends


def test_intervals_without_an_added_run_are_scipys_bootstrap() -> None:
    values = generator(1).beta(2, 1, size=8)
    groups = [values[:, None]]
    low, high = map(float, enclosing_interval(bootstrap_samples(mean, groups, generator(2), 200_000, added=0.0)))
    options = {"n_resamples": 200_000, "method": "percentile", "rng": generator(3)}
    theirs = stats.bootstrap((values,), np.mean, **options).confidence_interval
    assert (low, high) == pytest.approx(tuple(theirs), abs=3e-3)
    other = generator(4).beta(1, 2, size=6)
    groups = [values[:, None], other[:, None]]
    ours = tuple(
        map(float, enclosing_interval(bootstrap_samples(d_of_columns, groups, generator(5), 50_000, added=0.0)))
    )

    def effect(x: FloatArray, y: FloatArray, axis: int) -> FloatArray:
        pooled = np.sqrt((7 * x.var(axis=axis, ddof=1) + 5 * y.var(axis=axis, ddof=1)) / 12)
        return (x.mean(axis=axis) - y.mean(axis=axis)) / pooled

    theirs = stats.bootstrap((values, other), effect, **options).confidence_interval
    assert ours == pytest.approx(tuple(theirs), rel=0.03)


def test_curves_are_resampled_by_run() -> None:
    values = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    low, high = bootstrap_mean_interval(values, generator())
    np.testing.assert_array_equal(low, [0, 0, 0])
    np.testing.assert_array_equal(high, [1, 1, 1])
    alone = [bootstrap_mean_interval(values[:, point], generator()) for point in range(3)]
    np.testing.assert_array_equal(np.transpose([low, high]), alone)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
@pytest.mark.parametrize("runs", [2, 5, 10, 40])
def test_no_interval_of_equal_runs_is_without_width(value: float, runs: int) -> None:
    scores = np.full((runs, 3), value)
    for aggregate in AGGREGATES:
        centre = 1 - value if aggregate is optimality_gap else value
        low, high = stratified_bootstrap_interval(scores, aggregate, BATTLE, generator())
        assert 0 <= low <= centre <= high <= 1 and high - low > 0.006
    low, high = bootstrap_mean_interval(scores[:, 0], generator())
    assert 0 <= low <= value <= high <= 1 and high - low > 1 / runs
    one = scores[:, :1]
    for statistic, groups, centre in (
        (mean_difference, [scores, scores], 0.0),
        (d_of_columns, [one, one], 0.0),
        (probability_of_improvement, [scores, scores], 0.5),
    ):
        low, high = bootstrap_band(statistic, groups, generator())
        assert low < centre < high


@pytest.mark.parametrize(("runs", "low"), [(5, 0.6), (10, 0.8), (20, 0.9)])
def test_runs_that_all_win_leave_room_for_one_in_ten_that_fails(runs: int, low: float) -> None:
    # of n draws each is the added run with probability ½ / (n + ½): more than two of them in less than 2.5 %
    assert stats.binom.sf(1, runs, 0.5 / (runs + 0.5)) > 0.025 > stats.binom.sf(2, runs, 0.5 / (runs + 0.5))
    assert bootstrap_mean_interval(np.ones(runs), generator()) == pytest.approx((low, 1.0))
    assert bootstrap_mean_interval(np.zeros(runs), generator()) == pytest.approx((0.0, 1 - low))


@pytest.mark.parametrize("runs", [5, 10])
@pytest.mark.parametrize("failing", [0.1, 0.5])
def test_intervals_of_win_rates_cover_what_they_claim(runs: int, failing: float) -> None:
    # the plain percentile bootstrap: 0.40 and 0.65 where one in ten fails
    draws = generator(1).random((200, runs)) < failing
    intervals = [bootstrap_mean_interval(np.where(failed, 0.0, 1.0), generator(2), resamples=500) for failed in draws]
    covered = np.mean([low <= 1 - failing <= high for low, high in intervals])
    assert covered > 0.9


def test_one_seed_has_no_interval() -> None:
    one, five = X[:1], np.tile(X, (2, 1))
    assert np.isnan(stratified_bootstrap_interval(one, mean, BATTLE, generator())).all()
    assert np.isnan(bootstrap_mean_interval(one, generator())).all()
    assert np.isnan(bootstrap_band(profile_of, [one], generator())).all()
    for x, y in ((one, five), (five, one), (one, one)):
        assert np.isnan(bootstrap_band(probability_of_improvement, [x, y], generator())).all()
        assert np.isnan(bootstrap_band(d_of_columns, [x, y], generator())).all()
        assert isnan(welch(x[:, 0], y[:, 0])) and isnan(mann_whitney(x[:, 0], y[:, 0]))
    assert isnan(cohens_d(one[:, 0], one[:, 0]))
    assert cohens_d(np.array([1.0]), np.array([0.0, 2.0, 4.0])) == pytest.approx(-1 / 2), "s of the second alone is 2"
    assert mean(one) == interquartile_mean(one) == median(one) == pytest.approx(0.1)


def test_the_same_generator_gives_the_same_interval() -> None:
    scores = generator().normal(size=(5, 3))
    first, again, other = (stratified_bootstrap_interval(scores, mean, BATTLE, generator(seed)) for seed in (3, 3, 4))
    assert first == again != other


def test_percentiles_are_order_statistics_rounded_outwards() -> None:
    samples = np.arange(100.0)
    assert percentile_interval(samples, confidence=0.9) == (4, 95), "of 4.95 and 94.05"
    assert percentile_interval(np.array([-inf, -inf, 0.0, inf, inf])) == (-inf, inf)


def test_performance_profile_by_hand() -> None:
    profile = performance_profile(X, np.array([-1.0, 0.0, 0.4, 0.9, 1.0]))
    assert profile == pytest.approx([1, 5 / 6, 3 / 6, 1 / 6, 0])


@given(scores=grids(low=2), seed=st.integers(0, 9))
@settings(max_examples=30)
def test_profiles_and_their_bands_fall_from_one_to_zero(scores: FloatArray, seed: int) -> None:
    profile = performance_profile(scores, THRESHOLDS)
    low, high = bootstrap_band(profile_of, [scores], generator(seed), resamples=200)
    for line in (profile, low, high):
        assert line[0] == 1 and line[-1] == 0 and (np.diff(line) <= 0).all()
    assert (low <= high).all()


def test_probability_of_improvement_by_hand() -> None:
    first = (0.5 + 0.5 + 1 + 1 + 1 + 1) / 6
    second = (0 + 0 + 0 + 0 + 0.5 + 0) / 6
    assert probability_of_improvement(X, Y) == pytest.approx((first + second) / 2)


@given(x=grids(), y=grids())
def test_probability_of_improvement_is_mann_whitneys(x: FloatArray, y: FloatArray) -> None:
    forward, backward = probability_of_improvement(x, y), probability_of_improvement(y, x)
    assert 0 <= forward <= 1 and forward + backward == pytest.approx(1)
    wins = [stats.mannwhitneyu(x[:, s], y[:, s], method="exact").statistic for s in range(x.shape[1])]
    assert forward == pytest.approx(np.mean(wins) / (len(x) * len(y)))


@given(x=runs(2), y=runs(2))
def test_welch_is_scipys(x: FloatArray, y: FloatArray) -> None:
    p_value = welch(x, y)
    assert 0 <= p_value <= 1 and p_value == pytest.approx(welch(y, x))
    if np.ptp(x) > 0 and np.ptp(y) > 0:
        assert p_value == pytest.approx(stats.ttest_ind(x, y, equal_var=False).pvalue, rel=1e-9)


def test_welch_by_hand() -> None:
    x, y = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0, 8.0])
    t = (2 - 5) / sqrt(1 / 3 + (20 / 3) / 4)
    freedom = (1 / 3 + 5 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (5 / 3) ** 2 / 3)
    assert welch(x, y) == pytest.approx(2 * stats.t.sf(abs(t), freedom))


def test_tests_without_variance() -> None:
    zero, one, tenth = np.zeros(5), np.ones(5), np.full(3, 0.1)
    assert welch(zero, zero) == welch(one, one) == welch(tenth, np.full(7, 0.1)) == 1
    assert welch(zero, one) == 0
    assert 0 < welch(zero, np.array([0.0, 0.0, 0.0, 1.0])) < 1
    assert cohens_d(zero, zero) == cohens_d(tenth, np.full(7, 0.1)) == 0
    assert cohens_d(one, zero) == inf and cohens_d(zero, one) == -inf
    assert mann_whitney(zero, zero) == 1
    assert mann_whitney(zero, one) == pytest.approx(2 / comb(10, 5))
    low, high = bootstrap_band(d_of_columns, [one[:, None], zero[:, None]], generator())
    assert 0 < low < high == inf


@given(x=runs(2, 5), y=runs(2, 5))
@settings(max_examples=50)
def test_mann_whitney_counts_what_scipy_permutes(x: FloatArray, y: FloatArray) -> None:
    everything = stats.PermutationMethod(n_resamples=1_000_000)
    assert mann_whitney(x, y) == pytest.approx(stats.mannwhitneyu(x, y, method=everything).pvalue)
    assert mann_whitney(x, y) == pytest.approx(mann_whitney(y, x))


def test_mann_whitney_without_ties_is_scipys_exact_test() -> None:
    for seed in range(5):
        x, y = generator(seed).normal(size=10), generator(seed + 100).normal(0.5, size=12)
        assert mann_whitney(x, y) == pytest.approx(stats.mannwhitneyu(x, y, method="exact").pvalue, rel=1e-12)


def test_mann_whitney_by_enumeration_with_ties() -> None:
    x, y = np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.5, 1.0])
    ranks = [1, 5, 5, 5, 5, 2, 5]
    sums = [sum(ranks[i] for i in chosen) for chosen in combinations(range(7), 3)]
    tail = min(sum(s <= 11 for s in sums), sum(s >= 11 for s in sums))
    assert mann_whitney(x, y) == pytest.approx(min(1, 2 * tail / len(sums)))


def test_cohens_d_by_hand() -> None:
    assert cohens_d(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])) == pytest.approx(-2 / sqrt((2 + 8) / 4))


@given(x=runs(2), y=runs(2))
def test_cohens_d_changes_sign_with_the_order_and_not_with_the_unit(x: FloatArray, y: FloatArray) -> None:
    assert cohens_d(x, y) == pytest.approx(-cohens_d(y, x))
    assert cohens_d(8 * x + 16, 8 * y + 16) == pytest.approx(cohens_d(x, y), abs=1e-9)
    low, high = bootstrap_band(d_of_columns, [x[:, None], y[:, None]], generator(), resamples=100)
    assert low <= high


def test_cohens_d_of_many_is_that_of_each() -> None:
    x, y = np.array([[0.0, 1.0, 0.5], [1.0, 1.0, 1.0]]), np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    each = [float(cohens_d(first, second)) for first, second in zip(x, y, strict=True)]
    assert cohens_d(x, y).tolist() == pytest.approx(each)
    assert cohens_d(y, x).tolist() == pytest.approx([-d for d in each])
    # the computed mean of three times 0.1 is another number
    assert cohens_d(np.array([[0.0, 1.0, 0.5], [0.1, 0.1, 0.1]]), np.array([[1.0, 0.0], [0.1, 0.1]]))[1] == 0.0
    single = cohens_d(np.zeros((4, 1, 1)), np.zeros((1, 3, 1)))
    assert single.shape == (4, 3) and np.isnan(single).all()
    assert cohens_d(np.zeros((1, 3, 1)), np.zeros((4, 1, 1))).shape == (4, 3)


def test_an_interval_draws_as_often_as_it_is_told() -> None:
    x, y = np.linspace(0, 1, 8)[:, None], np.linspace(0, 0.5, 8)[:, None]
    once, often = (bootstrap_band(mean_difference, [x, y], generator(), resamples=n) for n in (1, 500))
    assert once[1] - once[0] < often[1] - often[0]


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.6, 0.5])) == pytest.approx([1, 1])
    np.testing.assert_allclose(holm(np.array([0.02, np.nan, 0.04])), [0.04, np.nan, 0.04])
    assert holm(np.array([0.01, 0.02]), tests=30) == pytest.approx([0.3, 0.58]), "28 more were planned"
    assert holm(np.array([])).shape == (0,) and isnan(holm(np.array([np.nan]))[0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_between_no_correction_and_bonferronis(values: list[float]) -> None:
    p_values = np.array(values)
    adjusted = holm(p_values)
    assert (adjusted >= p_values).all() and (adjusted <= np.minimum(1, len(values) * p_values)).all()
    assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= 0).all()


NAMES: list[tuple[Callable[..., FloatArray], str]] = [
    (mean, "aggregate_mean"),
    (median, "aggregate_median"),
    (interquartile_mean, "aggregate_iqm"),
    (optimality_gap, "aggregate_optimality_gap"),
]


@given(x=grids(low=2), y=grids(low=2))
def test_point_estimates_are_rliables(x: FloatArray, y: FloatArray) -> None:
    theirs = pytest.importorskip("rliable.metrics")
    for ours, name in NAMES:
        assert ours(x) == pytest.approx(getattr(theirs, name)(x), abs=1e-12)
    assert probability_of_improvement(x, y) == pytest.approx(theirs.probability_of_improvement(x, y), abs=1e-12)
