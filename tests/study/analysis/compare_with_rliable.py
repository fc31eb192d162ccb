"""Prints how far amal.study.analysis.statistics and rliable (Agarwal et al. 2021) are apart on random scores.

Rliable 1.2.0 needs an arch that fails to import with pandas 3, so this is a script and no test: ``pip install rliable
"pandas<3"`` in an environment of its own, then ``python tests/study/analysis/compare_with_rliable.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from rliable import library, metrics

sys.path.insert(0, str(Path(__file__).parents[3]))
from amal.study.analysis import statistics  # noqa: E402  from the checkout, installed or not

RESAMPLES = 20_000
THRESHOLDS = np.linspace(0, 1, 21)
NAMES: dict[str, tuple[Callable[..., np.ndarray], Callable[..., float]]] = {
    "mean": (statistics.mean, metrics.aggregate_mean),
    "median": (statistics.median, metrics.aggregate_median),
    "interquartile mean": (statistics.interquartile_mean, metrics.aggregate_iqm),
    "optimality gap": (statistics.optimality_gap, metrics.aggregate_optimality_gap),
}


def random_scores(runs: int, scenarios: int, generator: np.random.Generator) -> np.ndarray:
    """Win rates of 5 × 32 battles, so with ties, easy and hard scenarios among them."""
    chance = generator.beta(0.7, 0.5, size=scenarios)
    return generator.binomial(160, np.clip(chance + generator.normal(0, 0.1, (runs, scenarios)), 0, 1)) / 160


def point_estimates(generator: np.random.Generator) -> dict[str, float]:
    """Largest difference over 500 pairs of score arrays of 1 to 10 runs on 1 to 9 scenarios."""
    worst = dict.fromkeys([*NAMES, "performance profile", "probability of improvement"], 0.0)
    for _ in range(500):
        runs_x, runs_y, scenarios = generator.integers(1, [11, 11, 10])
        x, y = random_scores(runs_x, scenarios, generator), random_scores(runs_y, scenarios, generator)
        gaps = {name: abs(ours(x) - theirs(x)) for name, (ours, theirs) in NAMES.items()}
        profile = library.score_distributions(x, THRESHOLDS)
        gaps["performance profile"] = np.abs(statistics.performance_profile(x, THRESHOLDS) - profile).max()
        improvement = statistics.probability_of_improvement(x, y)
        gaps["probability of improvement"] = abs(improvement - metrics.probability_of_improvement(x, y))
        worst = {name: max(float(gaps[name]), worst[name]) for name in worst}
    return worst


def intervals(generator: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Largest difference of a bound, and the mean width of the intervals, over 3 studies of 10 runs on 5 scenarios."""
    gaps: dict[str, list[np.ndarray]] = {}
    widths: dict[str, list[float]] = {}

    def note(name: str, ours: tuple, theirs: np.ndarray) -> None:
        gaps.setdefault(name, []).append(np.abs(np.array(ours) - np.reshape(theirs, np.shape(ours))))
        widths.setdefault(name, []).append(float(np.mean(ours[1]) - np.mean(ours[0])))

    for seed in range(3):
        np.random.seed(seed)  # rliable draws from numpy's global stream, whatever random_state it is given
        x, y = random_scores(10, 5, generator), random_scores(10, 5, generator)
        for name, (ours, theirs) in NAMES.items():
            estimate = library.get_interval_estimates({"x": x}, lambda s, f=theirs: np.array([f(s)]), reps=RESAMPLES)
            note(
                name,
                plain(ours, [x], generator),
                estimate[1]["x"],
            )
        band = library.create_performance_profile({"x": x}, THRESHOLDS, reps=2000)[1]["x"]
        profile = partial(statistics.performance_profile, thresholds=THRESHOLDS)
        note("performance profile", plain(profile, [x], generator, 2000), band)
        pair = library.get_interval_estimates({"xy": [x, y]}, _improvement, reps=2000)[1]["xy"]
        ours_pair = plain(statistics.probability_of_improvement, [x, y], generator)
        note("probability of improvement", ours_pair, pair)
    return {name: (float(np.max(gaps[name])), float(np.mean(widths[name]))) for name in gaps}


def plain(
    statistic: Callable[..., np.ndarray],
    groups: list[np.ndarray],
    generator: np.random.Generator,
    reps: int = RESAMPLES,
) -> statistics.Band:
    """Our interval as rliable makes it, without the run that ours adds."""
    return statistics.enclosing_interval(statistics.bootstrap_samples(statistic, groups, generator, reps, added=0.0))


def _improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([metrics.probability_of_improvement(x, y)])


if __name__ == "__main__":
    points, bounds = point_estimates(np.random.default_rng(0)), intervals(np.random.default_rng(1))
    print(f"{'':28}{'point estimate':>16}{'bound':>10}{'of width':>10}")
    for name in points:
        print(f"{name:28}{points[name]:16.1e}{bounds[name][0]:10.4f}{bounds[name][1]:10.4f}")
