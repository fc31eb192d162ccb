"""The lines of a report's figures, as numbers: learning curves, aggregate curve, performance profile."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from amal.study.analysis import statistics
from amal.study.analysis.comparison import Comparison
from amal.study.analysis.efficiency import pooled_bound, pooled_ratio
from amal.study.analysis.scores import common_grid, curve
from amal.study.analysis.tables import Bootstrap, counted_scores
from amal.study.figures import Bar, Line

THRESHOLDS = np.linspace(0.0, 1.0, 101)


def learning_curves(comparison: Comparison, scenario: str, bootstrap: Bootstrap) -> dict[str, Line]:
    """By algorithm, the mean win rate over seeds against env steps, up to where every run has been evaluated."""
    cells = {algorithm: comparison.cell(algorithm, scenario) for algorithm in comparison.compared(scenario)}
    grid = common_grid([run for runs in cells.values() for run in runs])
    lines = {}
    for algorithm, runs in cells.items():
        values = curve(runs, "win_rate", grid)
        generator = bootstrap.generator("curve", algorithm, scenario)
        band = statistics.bootstrap_mean_interval(values, generator, resamples=bootstrap.resamples)
        lines[algorithm] = Line(grid, values.mean(axis=0), *band)
    return lines


def aggregate_curves(comparison: Comparison, bootstrap: Bootstrap) -> tuple[dict[str, Line], str]:
    """By algorithm, the interquartile mean of the win rate over counted scenarios and seeds, against env steps, or
    against the share of a scenario's budget where budgets differ; and the name of that axis."""
    cells = {algorithm: comparison.counted_runs(algorithm) for algorithm in comparison.algorithms}
    every = {name: [run for scenarios in cells.values() for run in scenarios[name]] for name in comparison.counted}
    record = comparison.record or {}
    if len({record.get("budgets", {}).get(name, record.get("env_steps")) for name in comparison.counted}) > 1:
        grids = {name: common_grid(runs) for name, runs in every.items()}
        grid, axis = np.linspace(0.0, 1.0, len(next(iter(grids.values())))), "share of the scenario's budget"
    else:
        grid, axis = common_grid([run for runs in every.values() for run in runs]), "environment steps"
        grids = dict.fromkeys(every, grid)
    lines = {}
    for algorithm, scenarios in cells.items():
        values = np.stack([curve(runs, "win_rate", grids[name]) for name, runs in scenarios.items()], axis=1)
        intervals = [
            statistics.stratified_bootstrap_interval(
                at_point,
                statistics.interquartile_mean,
                comparison.one_battle,
                bootstrap.generator("aggregate curve", algorithm),  # the same draws at each point: whole runs are drawn
                resamples=bootstrap.resamples,
            )
            for at_point in np.moveaxis(values, -1, 0)
        ]
        middle = statistics.interquartile_mean(np.moveaxis(values, -1, 0))
        lines[algorithm] = Line(grid, middle, *np.array(intervals).T)
    return lines, axis


def profiles(comparison: Comparison, bootstrap: Bootstrap) -> dict[str, Line]:
    """By algorithm, the share of runs whose final win rate is above each threshold."""
    profile = partial(statistics.performance_profile, thresholds=THRESHOLDS)
    lines = {}
    for algorithm in comparison.algorithms:
        scores = counted_scores(comparison, algorithm)
        generator = bootstrap.generator("profile", algorithm)
        band = statistics.bootstrap_band(profile, [scores], generator, resamples=bootstrap.resamples)
        lines[algorithm] = Line(THRESHOLDS, profile(scores), *band)
    return lines


def ratio_bars(comparison: Comparison, efficiency: pd.DataFrame, bootstrap: Bootstrap) -> list[Bar]:
    """The env-step ratios of each scenario, and their geometric mean where there are several."""
    bars = []
    for row in efficiency[efficiency["algorithm"] != comparison.baseline].to_dict("records"):
        ratio, low, high = (float(row.get(f"env_steps_ratio{end}", np.nan)) for end in ("", "_low", "_high"))
        mark = row.get("env_steps_bound", "")
        note = row["note"].removeprefix("not applicable: ") or "no run reached it"
        bars.append(Bar(row["scenario"], row["algorithm"], ratio, low, high, mark if mark in ("≥", "≤") else "", note))
    for algorithm in comparison.algorithms[1:]:
        ratio, (low, high), scenarios = pooled_ratio(comparison, algorithm, bootstrap)
        if len(scenarios) > 1:
            marks = efficiency[(efficiency["algorithm"] == algorithm) & efficiency["scenario"].isin(scenarios)]
            bars.append(Bar("geom. mean", algorithm, ratio, low, high, pooled_bound(marks["env_steps_bound"])))
    return bars
