"""What intervals cover: how often one of a nominal 95 % holds the true value, in simulated studies of win rates.

    python docs/interval_coverage.py            # the tables of docs/study.md, 1.5 minutes of one core

The first tables compare intervals of the mean of one cell's final win rates; the last measures the report's interval
(``amal/study/analysis/statistics.py``) and the plain percentile bootstrap for everything else that a report states.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from amal.study.analysis import statistics
from amal.study.analysis.statistics import ADDED, bootstrap_samples, enclosing_interval
from amal.study.analysis.survival import Durations, ratio_samples, steps_ratio

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]  # win rates of that shape
Ends = tuple[Array, Array]
Interval = Callable[[Array], Ends]  # of [study, run]: low and high of [study]

RUNS = (5, 10, 20)
MANY_RUNS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30)
RESAMPLES = 2000
LEVEL = 0.025  # of either tail
ROUNDING = 1e-9


def all_or_nothing(failing: float, g: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.where(g.random(shape) < failing, 0.0, 1.0)


def failing_now_and_then(failing: float, g: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Near 0 if a run fails, else between 0.9 and 1."""
    return np.where(g.random(shape) < failing, 0.02 * g.random(shape), 0.9 + 0.1 * g.random(shape))


def beta(a: float, b: float, g: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return g.beta(a, b, shape)


def normal(mean: float, std: float, g: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return g.normal(mean, std, shape).clip(0, 1)


MODELS: dict[str, tuple[Draw, float]] = {  # and their mean
    "1 in 10 at 0, others at 1": (partial(all_or_nothing, 0.1), 0.9),
    "1 in 10 near 0, others 0.9 to 1": (partial(failing_now_and_then, 0.1), 0.9 * 0.95 + 0.1 * 0.01),
    "half at 0, half at 1": (partial(all_or_nothing, 0.5), 0.5),
    "Beta(0.3, 0.1)": (partial(beta, 0.3, 0.1), 0.75),
    "Beta(5, 2)": (partial(beta, 5, 2), 5 / 7),
    "Beta(20, 1)": (partial(beta, 20, 1), 20 / 21),
    "normal(0.5, 0.1)": (partial(normal, 0.5, 0.1), 0.5),
}


def percentiles(samples: Array) -> Ends:
    """[study, resample] -> bounds of [study]."""
    return statistics.percentile_interval(samples.T)


def counts(runs: int, weights: Array) -> Array:
    """How often each run is drawn, as a share, [resample, run]; the same draws for all studies."""
    return np.random.default_rng(0).multinomial(runs, weights / weights.sum(), RESAMPLES) / runs


def one_more(values: Array, bound: float) -> Array:
    return np.concatenate([values, np.full((len(values), 1), bound)], axis=1)


def percentile(values: Array) -> Ends:
    n = values.shape[1]
    return percentiles(values @ counts(n, np.ones(n)).T)


def added_run(added: float, values: Array) -> Ends:
    """The report's interval, with that much of a run at the bounds."""
    n = values.shape[1]
    drawn = counts(n, np.append(np.ones(n), added)).T
    return percentiles(one_more(values, 0.0) @ drawn)[0], percentiles(one_more(values, 1.0) @ drawn)[1]


def bayesian(added: float, values: Array) -> Ends:
    """Bayesian bootstrap (Rubin 1981) with a floor: Dirichlet weights, ``added`` for a run at the bounds. With 1 it is
    the bound of Gaffke (2005), of all-or-nothing runs the interval of Clopper and Pearson (1934)."""
    n = values.shape[1]
    if not added:
        return percentiles(values @ np.random.default_rng(0).dirichlet(np.ones(n), RESAMPLES).T)
    weights = np.random.default_rng(0).dirichlet(np.append(np.ones(n), added), RESAMPLES).T
    return percentiles(one_more(values, 0.0) @ weights)[0], percentiles(one_more(values, 1.0) @ weights)[1]


def bca(values: Array) -> Ends:
    """BCa bootstrap (Efron 1987); where nothing varies it is not defined, and the value itself stands for it."""
    options = {"n_resamples": 1000, "batch": 50, "rng": np.random.default_rng(0)}
    found = stats.bootstrap((values,), np.mean, axis=-1, method="BCa", **options).confidence_interval
    return np.nan_to_num(found.low, nan=values.mean(1)), np.nan_to_num(found.high, nan=values.mean(1))


def studentised(values: Array) -> Ends:
    """Bootstrap-t (Efron 1979), clipped to [0, 1]."""
    n = values.shape[1]
    drawn = counts(n, np.ones(n)).T
    means = values @ drawn
    errors = np.sqrt(np.maximum((values**2) @ drawn - means**2, 0) / (n - 1))
    centre, error = values.mean(1), values.std(1, ddof=1) / np.sqrt(n)
    away = means - centre[:, None]
    away[np.abs(away) < ROUNDING] = 0.0
    flat = errors < ROUNDING
    ratios = np.where(flat, np.where(away == 0, 0.0, np.copysign(np.inf, away)), away / np.where(flat, 1.0, errors))
    low, high = percentiles(ratios)
    low, high = (np.where(error > 0, error * np.where(error > 0, end, 0.0), 0.0) for end in (high, low))
    return np.clip(centre - low, 0, 1), np.clip(centre - high, 0, 1)


def student_t(values: Array) -> Ends:
    n = values.shape[1]
    half = stats.t.ppf(1 - LEVEL, n - 1) * values.std(1, ddof=1) / np.sqrt(n)
    return np.clip(values.mean(1) - half, 0, 1), np.clip(values.mean(1) + half, 0, 1)


def wilson(values: Array) -> Ends:
    """As if the mean were a share of won runs (Wilson 1927)."""
    n, z, share = values.shape[1], stats.norm.ppf(1 - LEVEL), values.mean(1)
    scale = 1 + z**2 / n
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / scale
    return (share + z**2 / (2 * n)) / scale - half, (share + z**2 / (2 * n)) / scale + half


def clopper_pearson(values: Array) -> Ends:
    """As if the mean were a share of won runs (Clopper and Pearson 1934)."""
    n, won = values.shape[1], values.sum(1)
    low, high = stats.beta.ppf(LEVEL, won, n - won + 1), stats.beta.ppf(1 - LEVEL, won + 1, n - won)
    return np.nan_to_num(low, nan=0.0), np.nan_to_num(high, nan=1.0)


INTERVALS: dict[str, Interval] = {
    "percentile bootstrap": percentile,
    "BCa bootstrap": bca,
    "studentised bootstrap": studentised,
    "t, clipped": student_t,
    "Wilson on runs": wilson,
    "Clopper–Pearson on runs": clopper_pearson,
    "Bayesian bootstrap": partial(bayesian, 0.0),
    "… with half a run at the bounds": partial(bayesian, 0.5),
    "… with a run at the bounds (Gaffke)": partial(bayesian, 1.0),
    "percentile, ¼ run at the bounds": partial(added_run, 0.25),
    "**percentile, ½ run at the bounds**": partial(added_run, ADDED),
    "percentile, 1 run at the bounds": partial(added_run, 1.0),
}


INTERVALS_BY_ADDED = {0.0: "percentile bootstrap", ADDED: "½ run at the bounds", 1.0: "1 run at the bounds"}


def measure(interval: Interval, draw: Draw, mean: float, runs: int, studies: int) -> str:
    """'0.95 (0.30)': coverage and mean width; and the share without width, if any."""
    low, high = interval(draw(np.random.default_rng(1), (studies, runs)))
    covered = (low <= mean + ROUNDING) & (mean - ROUNDING <= high)
    flat = (high - low < ROUNDING).mean()
    return f"{covered.mean():.2f} ({(high - low).mean():.2f}" + (f"; {flat:.0%} flat)" if flat else ")")


def over_shares(interval: Interval, runs: int) -> str:
    """'0.90 to 0.96': least and mean coverage for runs that end at 0 or 1, over shares from 0.05 to 0.95; counted, not
    simulated."""
    outcomes = np.tri(runs + 1, runs, -1)  # 0 to all of the runs at 1
    low, high = interval(outcomes)
    shares = np.linspace(0.05, 0.95, 91)[:, None]
    inside = (low <= shares + ROUNDING) & (shares - ROUNDING <= high)
    coverage = (inside * stats.binom.pmf(np.arange(runs + 1), runs, shares)).sum(axis=1)
    return f"{coverage.min():.2f}, {coverage.mean():.2f}"


def print_cells(studies: int) -> None:
    for runs in RUNS:
        heads = [f"{runs} runs", *MODELS, "all at 0 or 1: worst and mean over shares"]
        print(f"\n| {' | '.join(heads)} |\n{'| --- ' * len(heads)}|")
        for name, interval in INTERVALS.items():
            cells = [measure(interval, draw, mean, runs, studies) for draw, mean in MODELS.values()]
            print(f"| {name} | {' | '.join([*cells, over_shares(interval, runs)])} |", flush=True)


def print_shares() -> None:
    """The report's interval and its neighbours for every number of runs that a study is likely to have."""
    names = [INTERVALS_BY_ADDED[added] for added in (0.0, ADDED, 1.0)]
    print(f"\n| runs | {' | '.join(names)} |\n{'| --- ' * (len(names) + 1)}|")
    for runs in MANY_RUNS:
        cells = [over_shares(partial(added_run, added) if added else percentile, runs) for added in INTERVALS_BY_ADDED]
        print(f"| {runs} | {' | '.join(cells)} |", flush=True)


FAILING = partial(failing_now_and_then, 0.1)
THREE = [FAILING, partial(all_or_nothing, 0.5), partial(all_or_nothing, 1.0)]  # mostly won, won by half, never won
OTHERS = [partial(beta, 5, 2), partial(beta, 20, 1), partial(beta, 0.5, 0.5)]
ALIKE = [partial(all_or_nothing, 0.1)] * 3


def share_above_half(scores: Array) -> Array:
    return statistics.performance_profile(scores, np.array([0.5]))[..., 0]


def cohens_d(x: Array, y: Array) -> Array:
    return statistics.cohens_d(x[..., 0], y[..., 0])


STATISTICS: dict[str, tuple[Callable[..., Array], list[list[Draw]]]] = {  # of groups of scenarios
    "mean, three scenarios": (statistics.mean, [THREE]),
    "mean, three alike, 1 in 10 fails": (statistics.mean, [ALIKE]),
    "IQM, three scenarios": (statistics.interquartile_mean, [THREE]),
    "IQM, three of other shapes": (statistics.interquartile_mean, [OTHERS]),
    "median, three scenarios": (statistics.median, [THREE]),
    "runs above ½, three scenarios": (share_above_half, [THREE]),
    "difference, 1 in 10 fails of both": (statistics.mean_difference, [[FAILING], [FAILING]]),
    "difference, 1 in 10 fails of one": (statistics.mean_difference, [[ALIKE[0]], [partial(all_or_nothing, 0.0)]]),
    "difference, three scenarios": (statistics.mean_difference, [THREE, OTHERS]),
    "P(improvement), three scenarios": (statistics.probability_of_improvement, [THREE, OTHERS]),
    "Cohen's d, 1 in 10 against half": (cohens_d, [[FAILING], [partial(failing_now_and_then, 0.5)]]),
    "Cohen's d, normal": (cohens_d, [[partial(normal, 0.5, 0.1)], [partial(normal, 0.6, 0.1)]]),
}

BUDGET = 100_000.0
ARRIVALS = {  # median steps and share of runs that never arrive, of x and y; log steps have a standard deviation of 0.5
    "steps ratio, all arrive": ((18_000.0, 0.0), (30_000.0, 0.0)),
    "steps ratio, 1 in 10 never": ((30_000.0, 0.1), (30_000.0, 0.1)),
    "steps ratio, half never": ((40_000.0, 0.5), (30_000.0, 0.1)),
}


def durations(median: float, never: float, g: np.random.Generator, runs: int) -> Durations:
    steps = median * np.exp(0.5 * g.normal(size=runs))
    late = (g.random(runs) < never) | (steps > BUDGET)
    return Durations(np.where(late, BUDGET, steps), late)


def drawn(models: Sequence[Sequence[Draw]], g: np.random.Generator, runs: int) -> list[Array]:
    return [np.stack([draw(g, (runs,)) for draw in scenarios], axis=1) for scenarios in models]


def sampled_scores(
    name: str, runs: int, added: float, g: np.random.Generator, resamples: int
) -> tuple[tuple[Array, Array], float]:
    statistic, models = STATISTICS[name]
    groups = drawn(models, g, runs)
    return bootstrap_samples(statistic, groups, g, resamples, added=added), float(statistic(*groups))


def sampled_ratios(
    name: str, runs: int, added: float, g: np.random.Generator, resamples: int
) -> tuple[tuple[Array, Array], float]:
    x, y = (durations(median, never, g, runs) for median, never in ARRIVALS[name])
    return ratio_samples(x, y, BUDGET, g, resamples, added), steps_ratio(x, y)


def coverage(name: str, runs: int, added: float, studies: int) -> str:
    """As ``measure``, but of a statistic of the report, with its own functions; the truth is that of 3000 runs."""
    sampled = sampled_ratios if name in ARRIVALS else sampled_scores
    truth = np.mean([sampled(name, 3000, added, np.random.default_rng(k), 1)[1] for k in range(10)])
    g = np.random.default_rng(1)
    ends = np.array([enclosing_interval(sampled(name, runs, added, g, 500)[0]) for _ in range(studies)])
    low, high = ends[:, 0], ends[:, 1]
    covered = (low - 0.005 <= truth) & (truth <= high + 0.005)  # the truth is estimated
    return f"{covered.mean():.2f} ({np.median(high - low):.2f})"


def print_statistics(studies: int) -> None:
    heads = [f"{kind}, {runs} runs" for runs in RUNS for kind in ("percentile", "report's")]
    print(f"\n| | {' | '.join(heads)} |\n{'| --- ' * (len(heads) + 1)}|")
    for name in [*STATISTICS, *ARRIVALS]:
        cells = [coverage(name, runs, added, studies) for runs in RUNS for added in (0.0, ADDED)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what intervals of a nominal 95 % cover.")
    parser.add_argument("--studies", type=int, default=2000, metavar="N", help="simulated (default %(default)s)")
    options = parser.parse_args()
    warnings.simplefilter("ignore", stats.DegenerateDataWarning)
    warnings.simplefilter("ignore", RuntimeWarning)  # BCa divides by 0 where nothing varies
    print_cells(options.studies)
    print_shares()
    print_statistics(options.studies // 5)
