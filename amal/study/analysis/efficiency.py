"""Sample efficiency of a comparison: the steps to 90 % of the baseline's final win rate, and their ratios."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from amal.study.analysis.comparison import Comparison
from amal.study.analysis.scores import Axis, Run, final_scores, steps_to_threshold
from amal.study.analysis.statistics import ADDED, Interval, enclosing_interval
from amal.study.analysis.survival import (
    Durations,
    durations,
    log_rank,
    median_steps,
    ratio_interval,
    ratio_samples,
    steps_ratio,
)
from amal.study.analysis.tables import Bootstrap, budget, with_interval

TARGET = 0.9  # of the baseline's final win rate, to be reached
AXES: tuple[Axis, ...] = ("env_steps", "episodes")


def threshold(comparison: Comparison, scenario: str) -> float:
    """90 % of the baseline's mean final win rate. NaN where the baseline has no runs, and where it wins less than one
    battle of an evaluation: the target would measure luck."""
    runs = comparison.cell(comparison.baseline, scenario)
    win_rate = final_scores(runs).mean() if runs else float("nan")
    return float(TARGET * win_rate) if runs and win_rate >= 1 / _episodes(runs) else float("nan")


def _episodes(runs: Sequence[Run]) -> int:
    return min(run.protocol.episodes for run in runs)


def arrivals(comparison: Comparison, algorithm: str, scenario: str, axis: Axis) -> Durations:
    """What each run of a cell needed to reach the threshold of its scenario."""
    target = threshold(comparison, scenario)
    return durations(steps_to_threshold(run, target, axis=axis) for run in comparison.cell(algorithm, scenario))


def sample_efficiency(comparison: Comparison, bootstrap: Bootstrap) -> pd.DataFrame:
    """A row per scenario and algorithm: what runs need to reach 90 % of the baseline's final win rate.

    ``ratio`` is the algorithm's restricted mean over the baseline's. ``bound`` marks a ratio that is only a bound,
    because no run of one of the two reached the threshold.
    """
    rows = []
    for scenario in comparison.scenarios():
        target = threshold(comparison, scenario)
        for algorithm in comparison.compared(scenario):
            row: dict[str, Any] = {"scenario": scenario, "algorithm": algorithm, "threshold": target}
            row["seeds"] = len(comparison.cell(algorithm, scenario))
            row["note"] = _note(comparison, scenario)
            if not row["note"]:
                for axis in AXES:
                    row |= _arrival(comparison, algorithm, scenario, axis, bootstrap)
            rows.append(row)
    return pd.DataFrame(rows)


def _note(comparison: Comparison, scenario: str) -> str:
    if comparison.baseline not in comparison.compared(scenario):
        return f"no run of {comparison.baseline} yet"
    if np.isnan(threshold(comparison, scenario)):
        runs = comparison.cell(comparison.baseline, scenario)
        how_often = "never wins" if final_scores(runs).max() == 0 else f"wins less than 1 battle in {_episodes(runs)}"
        return f"not applicable: {comparison.baseline} {how_often}"
    return ""


def _arrival(
    comparison: Comparison, algorithm: str, scenario: str, axis: Axis, bootstrap: Bootstrap
) -> dict[str, float | str]:
    x = arrivals(comparison, algorithm, scenario, axis)
    row: dict[str, float | str] = {"reached": int((~x.censored).sum()), f"{axis}_median": median_steps(x)}
    row[f"{axis}_by_run"] = " ".join(
        f"{'>' if late else ''}{steps:.0f}" for steps, late in zip(x.steps, x.censored, strict=True)
    )
    if algorithm == comparison.baseline:
        return row
    y = arrivals(comparison, comparison.baseline, scenario, axis)
    generator = bootstrap.generator("ratio", axis, algorithm, comparison.baseline, scenario)
    end = budget(comparison, scenario, axis)
    interval = ratio_interval(x, y, end, generator, resamples=bootstrap.resamples)
    bound = "none reached" if np.isnan(steps_ratio(x, y)) else "≥" if x.censored.all() else ""
    row[f"{axis}_bound"] = "≤" if not bound and y.censored.all() else bound
    return row | with_interval(f"{axis}_ratio", steps_ratio(x, y), interval) | {f"{axis}_log_rank_p": log_rank(x, y)}


def pooled_bound(marks: Iterable[str]) -> str:
    """The mark of a mean of ratios with these marks: "≥" or "≤", or "" if there are none or both."""
    present = {"≥", "≤"}.intersection(marks)
    return present.pop() if len(present) == 1 else ""


def pooled_ratio(comparison: Comparison, algorithm: str, bootstrap: Bootstrap) -> tuple[float, Interval, list[str]]:
    """Geometric mean of the env-step ratios over the counted scenarios that have one, its interval, and their names.

    Runs are resampled for each scenario and each algorithm by itself. The scenarios share the added run of the interval
    (see ``statistics``). The interval is NaN with a single seed.
    """
    both = algorithm, comparison.baseline
    pairs = {
        scenario: [arrivals(comparison, name, scenario, "env_steps") for name in both]
        for scenario in comparison.counted
        if not _note(comparison, scenario)
    }
    ratios = {scenario: ratio for scenario, (x, y) in pairs.items() if not np.isnan(ratio := steps_ratio(x, y))}
    if not ratios:
        return float("nan"), (float("nan"), float("nan")), []
    value = float(np.exp(np.mean(np.log(list(ratios.values())))))
    if comparison.n_seeds < 2:
        return value, (float("nan"), float("nan")), list(ratios)
    generator, added = bootstrap.generator("pooled", *both), ADDED / len(ratios)
    samples = [
        ratio_samples(x, y, budget(comparison, scenario), generator, bootstrap.resamples, added)
        for scenario, (x, y) in pairs.items()
        if scenario in ratios
    ]
    first, second = np.exp(np.mean(np.log(samples), axis=0))
    low, high = enclosing_interval((first, second))
    return value, (float(low), float(high)), list(ratios)
