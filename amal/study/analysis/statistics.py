"""Statistics of a comparison, pure functions of ``scores[run, scenario]``.

Aggregates, intervals and profiles follow Agarwal et al. 2021 (arXiv:2108.13264) and give what their library, rliable,
gives; ``...`` stands for any leading dimensions, among them resamples. An interval has no meaning with fewer than two
runs and is (NaN, NaN) then, rather than a point that looks certain.

There is one interval: the percentile bootstrap in which, beside the runs that were made, half a run more is drawn from
that ended at the bound, as badly as can be for the lower end and as well for the upper one. Few runs rarely show what
happens rarely: one in ten fails, and the plain bootstrap of ten win rates covers their mean in two of three studies,
with no width at all where no run failed. Half a run at the bound is to the bootstrap what Jeffreys' prior is to a
proportion. ``docs/interval_coverage.py`` measures what it and others cover; docs/study.md has the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from amal.study.analysis import RESAMPLES

FloatArray = NDArray[np.float64]
Interval = tuple[float, float]
Band = tuple[FloatArray, FloatArray]
Statistic = Callable[[FloatArray], FloatArray]  # [..., run, scenario] -> [...] or [..., point]

Bound = float | FloatArray
Bounds = tuple[Bound, Bound]

CONFIDENCE = 0.95
ADDED = 0.5  # runs at a bound, chosen by simulated coverage (docs/interval_coverage.py)
WIN_RATES = (0.0, 1.0)  # the bounds of win rates


def _complete(scores: FloatArray) -> FloatArray:
    # trimming and comparing would swallow a NaN and give a wrong number
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN: a run is missing or unfinished; leave its scenario or its seed out")
    return scores


def mean(scores: FloatArray) -> FloatArray:
    """Mean over runs and scenarios. [..., run, scenario] -> [...]."""
    return np.asarray(_complete(scores).mean(axis=(-2, -1)))


def median(scores: FloatArray) -> FloatArray:
    """Median over scenarios of the mean over runs. [..., run, scenario] -> [...]."""
    return np.asarray(np.median(_complete(scores).mean(axis=-2), axis=-1))


def interquartile_mean(scores: FloatArray) -> FloatArray:
    """Mean of the middle half of all scores, of all runs on all scenarios together (IQM, Agarwal et al. 2021, § 4.3).

    Of n scores the ⌊n/4⌋ lowest and as many of the highest are left out. [..., run, scenario] -> [...].
    """
    flat = _complete(scores).reshape(*scores.shape[:-2], -1)
    return np.asarray(stats.trim_mean(flat, 0.25, axis=-1))


def optimality_gap(scores: FloatArray, gamma: float = 1.0) -> FloatArray:
    """How far runs stay below γ on average, γ − mean min(score, γ). [..., run, scenario] -> [...]; 0 is best."""
    return np.asarray(gamma - np.minimum(_complete(scores), gamma).mean(axis=(-2, -1)))


def percentile_interval(samples: FloatArray, confidence: float = CONFIDENCE) -> Band:
    """Percentiles (Efron 1979) of resampled statistics, [resample, ...] -> (low, high) of [...].

    Bounds are order statistics, rounded outwards; interpolation would make NaN of infinite neighbours.
    """
    tail = (1.0 - confidence) / 2.0
    low = np.quantile(samples, tail, axis=0, method="lower")
    return np.asarray(low), np.asarray(np.quantile(samples, 1.0 - tail, axis=0, method="higher"))


def draw_runs(
    runs: int, strata: int, generator: np.random.Generator, resamples: int = RESAMPLES, added: float = ADDED
) -> NDArray[np.int64]:
    """Numbers of drawn runs, [resample, run, stratum], for each stratum by itself.

    A run is drawn from the ``runs`` that were made and, at ``added`` / ``strata`` of their weight, one more, whose
    number is ``runs``: of the strata together, a share of a run is added.
    """
    drawn = generator.random((resamples, runs, strata)) * (runs + added / strata)
    return np.minimum(drawn.astype(np.int64), runs)


def with_added_run(scores: FloatArray, bound: Bound, drawn: NDArray[np.int64]) -> FloatArray:
    """Scores of drawn runs, the added run ending at a bound.

    Args:
        scores: [run, stratum, ...].
        bound: of the added run, broadcast against [...].
        drawn: [resample, run, stratum], as from ``draw_runs``.

    Returns:
        [resample, run, stratum, ...].
    """
    extended = np.concatenate([scores, np.broadcast_to(bound, (1, *scores.shape[1:]))])
    index = drawn.reshape(*drawn.shape, *[1] * (scores.ndim - 2))
    return np.take_along_axis(extended[None], index, axis=1)


def bootstrap_samples(
    statistic: Callable[..., FloatArray],
    groups: Sequence[FloatArray],
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    bounds: Bounds = WIN_RATES,
    added: float = ADDED,
) -> tuple[FloatArray, FloatArray]:
    """A statistic of resampled groups, twice with the same draws: first the added run of the first group ends at the
    lower bound and that of any other at the upper one, then the other way round.

    Args:
        statistic: of as many groups, [..., run, stratum, ...] each.
        groups: [run, stratum, ...]; numbers of runs may differ.
        generator: source of the draws.
        resamples: how many.
        bounds: between which every score must be.
        added: the weight of the added run, in runs.

    Returns:
        [resample, ...] each.
    """
    draws = [draw_runs(len(scores), scores.shape[1], generator, resamples, added) for scores in groups]
    first, second = (
        statistic(
            *(
                with_added_run(scores, side if number == 0 else other, drawn)
                for number, (scores, drawn) in enumerate(zip(groups, draws, strict=True))
            )
        )
        for side, other in (bounds, bounds[::-1])
    )
    return first, second


def enclosing_interval(samples: tuple[FloatArray, FloatArray], confidence: float = CONFIDENCE) -> Band:
    """From the lowest to the highest percentile of either of ``bootstrap_samples``: (low, high) of [...]."""
    lows, highs = zip(*(percentile_interval(side, confidence) for side in samples), strict=True)
    return np.minimum(*lows), np.maximum(*highs)


def bootstrap_band(
    statistic: Callable[..., FloatArray],
    groups: Sequence[FloatArray],
    generator: np.random.Generator,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Band:
    """The interval of this module, of a statistic of groups of win rates, [run, stratum, ...] each.

    The statistic's values are taken point by point.

    Returns:
        Low and high, of the statistic's shape [...]; NaN if a group has a single run.
    """
    low, high = enclosing_interval(bootstrap_samples(statistic, groups, generator, resamples), confidence)
    return (low, high) if min(map(len, groups)) > 1 else (np.full_like(low, np.nan), np.full_like(high, np.nan))


def stratified_bootstrap_interval(
    scores: FloatArray,
    statistic: Statistic,
    one_battle: float,
    generator: np.random.Generator,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """Interval of an aggregate of win rates, runs resampled for each scenario by itself (Agarwal et al. 2021, § 4.1).

    It says how the aggregate would differ with other seeds on the same scenarios, not with other scenarios. The IQM of
    runs that nearly all end alike does not vary. No score is known to less than a battle, so an interval that is
    narrower is made one battle wider at either end.

    Args:
        scores: [run, scenario] in [0, 1].
        statistic: [..., run, scenario] -> [...], as the aggregates above.
        one_battle: what one battle is of a score.
        generator: source of the draws.
        confidence: nominal coverage.
        resamples: how many.

    Returns:
        Low and high; NaN with a single run.
    """
    low, high = map(float, bootstrap_band(statistic, [scores], generator, confidence, resamples))
    return (max(0.0, low - one_battle), min(1.0, high + one_battle)) if high - low < one_battle else (low, high)


def bootstrap_mean_interval(
    values: FloatArray,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    bounds: Bounds = WIN_RATES,
) -> Band:
    """Interval of the mean over runs; whole runs are drawn, so a curve is resampled as one.

    Args:
        values: [run, ...], as final scores on one scenario or learning curves [run, point].
        generator: source of the draws.
        resamples: how many.
        bounds: between which every value must be.

    Returns:
        Low and high of [...]; NaN with a single run.
    """
    drawn = draw_runs(len(values), 1, generator, resamples)
    # how often each run was drawn, as a product of matrices: no [resample, run, point] in memory
    counts = (drawn == np.arange(len(values) + 1)).sum(axis=1)
    ends = [np.concatenate([values, np.broadcast_to(bound, (1, *values.shape[1:]))]) for bound in bounds]
    first, second = (np.tensordot(counts, end, axes=1) / len(values) for end in ends)
    low, high = enclosing_interval((first, second))
    return (low, high) if len(values) > 1 else (np.full_like(low, np.nan), np.full_like(high, np.nan))


def mean_difference(x: FloatArray, y: FloatArray) -> FloatArray:
    """Mean of x minus mean of y, [..., run, scenario] each -> [...]."""
    return mean(x) - mean(y)


def performance_profile(scores: FloatArray, thresholds: FloatArray) -> FloatArray:
    """Share of runs above each threshold, mean over runs and scenarios of 1[score > τ] (Agarwal et al. 2021, § 4.2).

    Args:
        scores: [..., run, scenario].
        thresholds: [threshold] τ.

    Returns:
        [..., threshold], not increasing in τ.
    """
    complete = _complete(scores)
    return np.stack([(complete > threshold).mean(axis=(-2, -1)) for threshold in thresholds], axis=-1)


def probability_of_improvement(x: FloatArray, y: FloatArray) -> FloatArray:
    """How likely a run of X beats one of Y on a scenario drawn at random (Agarwal et al. 2021, § 4.3).

    Mean over scenarios of P(X > Y) + ½ P(X = Y) = U / nm, with Mann and Whitney's U of n runs of X and m of Y.

    Args:
        x: [..., n, scenario].
        y: [..., m, scenario].

    Returns:
        [...]; ½ if neither is better.
    """
    ahead, behind = _complete(x)[..., :, None, :], _complete(y)[..., None, :, :]
    return np.asarray(((ahead > behind) + 0.5 * (ahead == behind)).mean(axis=(-3, -2, -1)))


def welch(x: FloatArray, y: FloatArray) -> float:
    """Two-sided p-value of Welch's t-test (1947): do the means of x [n] and y [m] differ, whatever their variances?

    t = (x̄ − ȳ) / √(s_x²/n + s_y²/m). Where neither varies the p-value is 1 for equal and 0 for different means; with a
    single run of either there is no variance to go by, and it is NaN.
    """
    if min(len(x), len(y)) < 2:
        return float("nan")
    if np.ptp(x) == 0 == np.ptp(y):
        return float(x[0] == y[0])
    (mean_x, std_x), (mean_y, std_y) = ((float(scores.mean()), float(scores.std(ddof=1))) for scores in (x, y))
    return float(stats.ttest_ind_from_stats(mean_x, std_x, len(x), mean_y, std_y, len(y), equal_var=False).pvalue)


def mann_whitney(x: FloatArray, y: FloatArray) -> float:
    """Two-sided exact p-value of the Mann–Whitney U test (1947), 2 min(P(R ≤ r), P(R ≥ r)) or 1 if that is less.

    r is the sum of the ranks of x [n] among x and y [m], ties sharing theirs; R is the same for a random choice of n
    of the n + m. Win rates tie often; the normal approximation that scipy falls back on then halves the p-value of five
    runs against five, and its permutations of ten against ten take seconds. Here the sums are counted instead. With a
    single run of either it is NaN, as Welch's.
    """
    ranks = np.rint(2 * stats.rankdata(_complete(np.concatenate([x, y])))).astype(int)  # doubled: integer despite ties
    if min(len(x), len(y)) < 2:
        return float("nan")
    ways = np.zeros((len(x) + 1, ranks.sum() + 1))
    ways[0, 0] = 1.0
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, :-rank].copy()
    observed = ranks[: len(x)].sum()
    tail = min(ways[-1, : observed + 1].sum(), ways[-1, observed:].sum())
    return float(min(1.0, 2.0 * tail / ways[-1].sum()))


def cohens_d(x: FloatArray, y: FloatArray) -> FloatArray:
    """Difference of means in pooled standard deviations (Cohen 1988, § 2.5), without a small-sample correction.

    d = (x̄ − ȳ) / s with s² = (Σ (x − x̄)² + Σ (y − ȳ)²) / (n + m − 2). Where nothing varies d is 0 for equal means and
    ±∞ for different ones; NaN with a single run of each.

    Args:
        x: [..., n].
        y: [..., m].

    Returns:
        [...].
    """
    freedom = x.shape[-1] + y.shape[-1] - 2
    if freedom == 0:
        return np.full(np.broadcast_shapes(x.shape[:-1], y.shape[:-1]), np.nan)
    # the computed mean of equal numbers may differ from them, and with it the difference of two such means from 0
    constant = (np.ptp(x, axis=-1) == 0) & (np.ptp(y, axis=-1) == 0)
    difference = np.where(constant, x[..., 0] - y[..., 0], x.mean(axis=-1) - y.mean(axis=-1))
    squares = x.var(axis=-1) * x.shape[-1] + y.var(axis=-1) * y.shape[-1]
    pooled = np.where(constant, 0.0, np.sqrt(squares / freedom))
    degenerate = np.where(difference == 0, 0.0, np.copysign(np.inf, difference))
    return np.where(pooled == 0, degenerate, difference / np.where(pooled == 0, 1.0, pooled))


def holm(p_values: FloatArray, tests: int = 0) -> FloatArray:
    """Adjusted p-values of m tests (Holm 1979): p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) p_(j)), p_(j) the j-th smallest.

    Rejecting where p̃ ≤ α, the chance of any false rejection is at most α, whatever the tests' dependence. NaN is no
    test and stays NaN; m is the number of the others, or ``tests`` where more were planned: those that were not made
    count as p = 1.
    """
    adjusted = np.full(p_values.shape, np.nan)
    made = np.flatnonzero(~np.isnan(p_values))
    ordered = made[np.argsort(p_values[made], kind="stable")]
    factors = max(tests, len(ordered)) - np.arange(len(ordered))
    adjusted[ordered] = np.maximum.accumulate(np.minimum(1.0, factors * p_values[ordered]))
    return adjusted
