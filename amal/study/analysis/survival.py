"""Sample efficiency: what runs need to reach a threshold. Runs that never do are censored, not left out.

To leave them out, or to count their budget as if they had arrived, would favour an algorithm that fails. The survival
function S(t) is the share of runs that have not reached the threshold by t (Kaplan and Meier 1958).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from amal.study.analysis import RESAMPLES
from amal.study.analysis.statistics import (
    ADDED,
    FloatArray,
    Interval,
    bootstrap_samples,
    enclosing_interval,
)

_ROUNDING = 1e-9  # of the product that is S(t)


class Durations(NamedTuple):
    """What runs needed, [..., run] each; where censored, that many steps were not enough."""

    steps: FloatArray
    censored: NDArray[np.bool_]


def durations(pairs: Iterable[tuple[float, bool]]) -> Durations:
    """The answers of ``scores.steps_to_threshold`` for several runs, as arrays."""
    steps, censored = zip(*pairs, strict=True)
    return Durations(np.array(steps, dtype=np.float64), np.array(censored, dtype=np.bool_))


def survival(x: Durations) -> tuple[FloatArray, FloatArray]:
    """Kaplan–Meier estimate S(t) = Π_{t_i ≤ t} (1 − d_i / n_i): d_i of the n_i runs that are left arrive at t_i.

    Returns:
        Times [K], increasing, and S from each of them on [K]; before the first S is 1.
    """
    estimate = stats.ecdf(stats.CensoredData.right_censored(x.steps, x.censored)).sf
    return np.asarray(estimate.quantiles), np.asarray(estimate.probabilities)


def median_steps(x: Durations) -> float:
    """Steps by which half of the runs have reached the threshold, min {t : S(t) ≤ ½}; ∞ if half of them never did."""
    times, remaining = survival(x)
    arrived = times[remaining <= 0.5 + _ROUNDING]
    return float(arrived[0]) if len(arrived) else float("inf")


def common_horizon(x: Durations, y: Durations) -> float:
    """The largest t up to which S is known for both groups. Both means are restricted to it.

    If a group's largest time is censored, S is known up to there. If not, S is 0 from there on and known everywhere.
    """
    ends = [float(group.steps.max()) for group in (x, y)]
    unknown = [end for group, end in zip((x, y), ends, strict=True) if group.censored[group.steps == end].any()]
    return min(unknown) if unknown else max(ends)


def restricted_mean(x: Durations, horizon: float) -> FloatArray:
    """Restricted mean steps to the threshold, ∫₀^τ S(t) dt (Royston and Parmar 2013); a slower run counts as τ.

    Args:
        x: [..., run].
        horizon: τ, the same for both groups, see ``common_horizon``.

    Returns:
        [...].
    """
    order = np.lexsort((x.censored, x.steps), axis=-1)  # of equal times arrivals come first, as Kaplan and Meier's do
    steps, censored = np.take_along_axis(x.steps, order, -1), np.take_along_axis(x.censored, order, -1)
    on_their_way = np.arange(steps.shape[-1], 0, -1)
    remaining = np.cumprod(np.where(censored, 1.0, 1.0 - 1.0 / on_their_way), axis=-1)
    edge = np.ones((*steps.shape[:-1], 1))
    times = np.concatenate([0 * edge, np.minimum(steps, horizon), horizon * edge], axis=-1)
    return np.asarray((np.diff(times) * np.concatenate([edge, remaining], axis=-1)).sum(axis=-1))


def steps_ratio(x: Durations, y: Durations) -> float:
    """Restricted mean steps of x over those of y up to their common horizon; at 0.6 x needs 40 % fewer.

    NaN if no run of either reached the threshold: the ratio of two budgets is no result. If no run of one group did,
    its mean is at least the horizon, and the ratio is a bound in favour of that group.
    """
    horizon = common_horizon(x, y)
    if horizon == 0 or (x.censored.all() and y.censored.all()):
        return float("nan")
    return float(restricted_mean(x, horizon) / restricted_mean(y, horizon))


def ratio_samples(
    x: Durations, y: Durations, budget: float, generator: np.random.Generator, resamples: int, added: float = ADDED
) -> tuple[FloatArray, FloatArray]:
    """Resampled ``steps_ratio``, x and y independently, in the form of ``bootstrap_samples``.

    The added run (see ``statistics``) is as fast as the fastest of both groups, or does not arrive within the budget.

    Args:
        x, y: [run].
        budget: the time for which every run was evaluated; where all arrive sooner the ratio is restricted to it.
        generator: source of the draws.
        resamples: how many.
        added: the weight of the added run, in runs.

    Returns:
        [resample] each.
    """
    horizon = max(common_horizon(x, y), budget)
    groups = [np.stack([group.steps, group.censored], axis=-1)[:, None] for group in (x, y)]
    fastest = min(float(group.steps.min()) for group in (x, y))
    bounds = np.array([fastest, 0.0]), np.array([horizon, 1.0])

    def ratio(*resampled: FloatArray) -> FloatArray:
        first, second = (
            restricted_mean(Durations(group[..., 0, 0], group[..., 0, 1] > 0), horizon) for group in resampled
        )
        return first / second

    return bootstrap_samples(ratio, groups, generator, resamples, bounds, added)


def ratio_interval(
    x: Durations,
    y: Durations,
    budget: float,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Interval:
    """Interval of ``steps_ratio`` from ``ratio_samples``.

    Returns:
        Low and high; NaN with a single run of either, or if no run of either reached the threshold.
    """
    if min(len(x.steps), len(y.steps)) < 2 or np.isnan(steps_ratio(x, y)):
        return float("nan"), float("nan")
    low, high = enclosing_interval(ratio_samples(x, y, budget, generator, resamples))
    return float(low), float(high)


def log_rank(x: Durations, y: Durations) -> float:
    """Two-sided p-value of the log-rank test (Mantel 1966): do x and y reach the threshold at the same rate?

    1 where the variance of observed minus expected arrivals is 0, as when no run arrives or all arrive at once. NaN
    with a single run of either.
    """
    if min(len(x.steps), len(y.steps)) < 2:
        return float("nan")
    first, second = (stats.CensoredData.right_censored(group.steps, group.censored) for group in (x, y))
    with np.errstate(divide="ignore", invalid="ignore"):
        test = stats.logrank(first, second)
    return float(test.pvalue) if np.isfinite(test.statistic) else 1.0
