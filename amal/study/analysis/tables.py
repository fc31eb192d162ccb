"""Scores of a comparison as tables: final scores with intervals, tests against the baseline, aggregates.

An interval is in two columns, NAME_low and NAME_high, beside its value. Each cell has its own random numbers, so that
another cell does not change them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from amal.study.analysis import RESAMPLES, statistics
from amal.study.analysis.comparison import Comparison
from amal.study.analysis.scores import OTHERS, Axis, FloatArray, Run, area_under_curve, final_scores
from amal.study.analysis.statistics import Bounds, Interval

METRICS = {
    "win_rate": "win_rate",
    "return": "return_mean",
    "episode_length": "episode_length",
    "dead_allies": "dead_allies",
    "dead_enemies": "dead_enemies",
}
UNBOUNDED = METRICS.keys() - {"win_rate"}


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the bootstrap; equal settings give equal numbers.

    Args:
        resamples: how many.
        seed: of the draws.
        folders: of algorithms by the names that the report gives them, which change no numbers.
    """

    resamples: int = RESAMPLES
    seed: int = 0
    folders: Mapping[str, str] = field(default_factory=dict)

    def generator(self, *names: str) -> np.random.Generator:
        """A stream of its own for each name."""
        folders = [self.folders.get(name, name) for name in names]
        return np.random.default_rng([self.seed, zlib.crc32("/".join(folders).encode())])

    def mean(self, values: FloatArray, *names: str, bounds: Bounds = statistics.WIN_RATES) -> Interval:
        """Of the mean of values [run] within bounds; NaN where the bounds leave no room."""
        if bounds[0] == bounds[1]:
            return float("nan"), float("nan")
        low, high = statistics.bootstrap_mean_interval(
            values, self.generator(*names), resamples=self.resamples, bounds=bounds
        )
        return float(low), float(high)

    def interval(self, statistic: Callable[..., FloatArray], groups: Sequence[FloatArray], *names: str) -> Interval:
        """Of a statistic of win rates, each group [run, scenario] resampled by itself; NaN with a single run."""
        low, high = statistics.bootstrap_band(statistic, groups, self.generator(*names), resamples=self.resamples)
        return float(low), float(high)


def with_interval(name: str, value: float, interval: Interval) -> dict[str, float]:
    return {name: float(value), f"{name}_low": interval[0], f"{name}_high": interval[1]}


def summary(comparison: Comparison, bootstrap: Bootstrap) -> pd.DataFrame:
    """A row per scenario and algorithm: final scores, and how the win rate compares with the baseline's."""
    rows = [
        {
            **{"scenario": scenario, "algorithm": algorithm, "seeds": len(comparison.cell(algorithm, scenario))},
            **_scores(comparison, scenario, algorithm, bootstrap),
            **_against_baseline(comparison, scenario, algorithm, bootstrap),
        }
        for scenario in comparison.scenarios()
        for algorithm in comparison.compared(scenario)
    ]
    return pd.DataFrame(rows)


def _scores(comparison: Comparison, scenario: str, algorithm: str, bootstrap: Bootstrap) -> dict[str, float]:
    runs = comparison.cell(algorithm, scenario)
    values = {name: final_scores(runs, column) for name, column in METRICS.items()}
    values["auc"] = np.array([area_under_curve(run, until=budget(comparison, scenario)) for run in runs])
    for other in OTHERS:
        if all(other in run.evaluations for run in runs):
            values[other] = final_scores(runs, other)
    tests = [run.final_test for run in runs if run.final_test is not None]
    if len(tests) == len(runs):
        for checkpoint in ("best", "last"):
            values[f"tested_{checkpoint}"] = np.array([test.loc[checkpoint, "win_rate"] for test in tests])
    row: dict[str, float] = {}
    for name, scores in values.items():
        bounds = _seen(comparison, scenario, METRICS[name]) if name in UNBOUNDED else statistics.WIN_RATES
        row |= with_interval(name, scores.mean(), bootstrap.mean(scores, name, algorithm, scenario, bounds=bounds))
    return row


def _seen(comparison: Comparison, scenario: str, column: str) -> Bounds:
    """The least and the largest value in any evaluation of the scenario's runs, for a metric without bounds."""
    values = pd.concat([run.evaluations[column] for run in _used(comparison, scenario)])
    return float(values.min()), float(values.max())


def _used(comparison: Comparison, scenario: str) -> list[Run]:
    return [run for run in comparison.runs if run.scenario == scenario and comparison.is_used(run)]


def budget(comparison: Comparison, scenario: str, axis: Axis = "env_steps") -> float:
    """The last evaluation that every run in a scenario's statistics has reached."""
    return min(float(run.evaluations[axis].iloc[-1]) for run in _used(comparison, scenario))


def _against_baseline(comparison: Comparison, scenario: str, algorithm: str, bootstrap: Bootstrap) -> dict[str, float]:
    if algorithm == comparison.baseline or comparison.baseline not in comparison.compared(scenario):
        return {}
    x, y = (final_scores(comparison.cell(name, scenario)) for name in (algorithm, comparison.baseline))
    names = algorithm, comparison.baseline, scenario
    groups = [x[:, None], y[:, None]]
    d = bootstrap.interval(lambda x, y: statistics.cohens_d(x[..., 0], y[..., 0]), groups, "d", *names)
    difference = bootstrap.interval(statistics.mean_difference, groups, *names)
    return {
        **with_interval("difference", x.mean() - y.mean(), difference),
        "welch_p": statistics.welch(x, y),
        "mann_whitney_p": statistics.mann_whitney(x, y),
        **with_interval("cohens_d", float(statistics.cohens_d(x, y)), d),
    }


def counted_scores(comparison: Comparison, algorithm: str) -> FloatArray:
    """Final win rates of the runs that enter aggregates, [run, scenario]."""
    cells = comparison.counted_runs(algorithm).values()
    return np.stack([final_scores(runs) for runs in cells], axis=1)


def aggregates(comparison: Comparison, bootstrap: Bootstrap) -> pd.DataFrame:
    """A row per algorithm: final win rates over the counted scenarios; none if no scenario counts."""
    statistic = {
        "iqm": statistics.interquartile_mean,
        "median": statistics.median,
        "mean": statistics.mean,
        "optimality_gap": statistics.optimality_gap,
    }
    rows = []
    for algorithm in comparison.algorithms if comparison.counted else ():
        scores = counted_scores(comparison, algorithm)
        row: dict[str, Any] = {"algorithm": algorithm, "scenarios": scores.shape[1], "seeds": scores.shape[0]}
        for name, function in statistic.items():
            interval = statistics.stratified_bootstrap_interval(
                scores,
                function,
                comparison.one_battle,
                bootstrap.generator(name, algorithm),
                resamples=bootstrap.resamples,
            )
            row |= with_interval(name, float(function(scores)), interval)
        rows.append(row | _aggregate_against_baseline(comparison, algorithm, bootstrap))
    return pd.DataFrame(rows)


def _aggregate_against_baseline(comparison: Comparison, algorithm: str, bootstrap: Bootstrap) -> dict[str, float]:
    if algorithm == comparison.baseline:
        return {}
    names = algorithm, comparison.baseline
    groups = [counted_scores(comparison, name) for name in names]
    row: dict[str, float] = {}
    for name, stream, function in (
        ("difference", "aggregate", statistics.mean_difference),
        ("improvement", "improvement", statistics.probability_of_improvement),
    ):
        row |= with_interval(name, float(function(*groups)), bootstrap.interval(function, groups, stream, *names))
    return row
