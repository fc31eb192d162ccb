"""Cost of a study, its runs one by one, and what they logged about their training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amal.study.analysis.comparison import Comparison
from amal.study.analysis.efficiency import threshold
from amal.study.analysis.scores import (
    OTHERS,
    Axis,
    Run,
    area_under_curve,
    final_score,
    read_metrics,
    steps_to_threshold,
)
from amal.study.analysis.tables import METRICS, Bootstrap, budget, with_interval

TOTALS = ["wall_seconds", "env_steps", "episodes", "env_steps_per_second", "peak_memory_mb"]


def cost(comparison: Comparison, bootstrap: Bootstrap) -> pd.DataFrame:
    """A row per scenario and algorithm: time and memory, and win rates at equal wall time and at equal numbers of the
    policy's gradient steps (if all runs have counted them).

    The equal amount is that of the scenario's run with the least time, or with the fewest steps. The win rate is the
    mean of the last evaluations up to there.
    """
    rows = []
    for scenario in comparison.scenarios():
        cells = {algorithm: comparison.cell(algorithm, scenario) for algorithm in comparison.compared(scenario)}
        seconds = min(float(run.evaluations["wall_seconds"].iloc[-1]) for runs in cells.values() for run in runs)
        counts = {run: count for runs in cells.values() for run in runs if (count := _policy_steps(run)) is not None}
        for algorithm, runs in cells.items():
            rates = np.array([_win_rate_by(run, "wall_seconds", seconds) for run in runs])
            interval = bootstrap.mean(rates, "equal time", algorithm, scenario)
            totals = pd.DataFrame([run.record["totals"] for run in runs]).reindex(columns=TOTALS).astype(float)
            row: dict[str, Any] = {"scenario": scenario, "algorithm": algorithm, "seeds": len(runs)}
            row |= {name: totals[name].mean() for name in TOTALS}
            row["peak_memory_mb"] = totals["peak_memory_mb"].max()
            row["equal_wall_seconds"] = seconds
            row |= with_interval("win_rate_at_equal_wall_time", rates.mean(), interval)
            if len(counts) == sum(map(len, cells.values())):
                row |= _at_equal_policy_steps(runs, counts, bootstrap, algorithm, scenario)
            rows.append(row)
    return pd.DataFrame(rows)


def _at_equal_policy_steps(
    runs: Sequence[Run], counts: Mapping[Run, pd.Series], bootstrap: Bootstrap, *names: str
) -> dict[str, float]:
    """The win rate of runs after as many steps as the run of the scenario with the fewest made.

    Args:
        runs: of one cell.
        counts: of all runs of the scenario, see ``_policy_steps``.
    """
    fewest = min(count.iloc[-1] for count in counts.values())
    ends = [float(counts[run].index[counts[run] <= fewest].max()) for run in runs]
    rates = np.array([_win_rate_by(run, "env_steps", end) for run, end in zip(runs, ends, strict=True)])
    interval = bootstrap.mean(rates, "equal policy steps", *names)
    return {"equal_policy_steps": fewest, **with_interval("win_rate_at_equal_policy_steps", rates.mean(), interval)}


def _policy_steps(run: Run) -> pd.Series | None:
    """The policy's gradient steps so far, by environment steps; None where metrics.csv does not count them."""
    rows = read_metrics(run.path)
    if rows is None or not {"env_steps", "train/policy_steps"} <= {*rows} or rows.empty:
        return None
    return rows.set_index("env_steps")["train/policy_steps"].cumsum()


def _win_rate_by(run: Run, axis: Axis, end: float) -> float:
    rows = run.evaluations[run.evaluations[axis] <= end]
    return final_score(replace(run, evaluations=rows)) if len(rows) else 0.0


def runs(comparison: Comparison) -> pd.DataFrame:
    """A row per run, and per cell without one: folder, relative to the study's, state and scores."""
    rows = [_run_row(comparison, run) for run in comparison.runs]
    for (algorithm, scenario, seed), state in comparison.absent.items():
        folder = f"{algorithm}/{scenario}/seed_{seed}"
        rows.append({**_place(algorithm, scenario, seed), "state": state, "in_statistics": False, "folder": folder})
    return pd.DataFrame(rows).sort_values(["scenario", "algorithm", "seed"], ignore_index=True)


def _place(algorithm: str, scenario: str, seed: int) -> dict[str, Any]:
    return {"scenario": scenario, "algorithm": algorithm, "seed": seed}


def _run_row(comparison: Comparison, run: Run) -> dict[str, Any]:
    row = {**_place(run.algorithm, run.scenario, run.seed), "state": run.record["outcome"]}
    folder = Path(os.path.relpath(run.path, comparison.study)).as_posix()
    row |= {"in_statistics": comparison.is_used(run), "evaluations": len(run.evaluations), "folder": folder}
    row |= {name: run.record["totals"].get(name) for name in TOTALS}
    if run.finished:
        row |= {f"final_{name}": final_score(run, column) for name, column in METRICS.items()}
        row |= {f"final_{other}": final_score(run, other) for other in OTHERS if other in run.evaluations}
        until = budget(comparison, run.scenario) if comparison.is_used(run) else None
        row["auc"] = area_under_curve(run, until=until)
    target = threshold(comparison, run.scenario)
    if run.finished and not np.isnan(target):
        row["steps_to_threshold"], row["censored"] = steps_to_threshold(run, target)
    hardware: Mapping[str, Any] = run.record.get("hardware", {})
    row |= {name: run.record.get(name) for name in ("code_version", "simulator_hash")}
    return row | {name: hardware.get(name) for name in ("processor", "cores", "torch_threads", "device")}


def diagnostics(comparison: Comparison) -> pd.DataFrame:
    """A row per scenario, algorithm and train/… column of metrics.csv: the mean over updates, then over runs."""
    rows = []
    for scenario in comparison.scenarios():
        for algorithm in comparison.compared(scenario):
            means = [_means(run) for run in comparison.cell(algorithm, scenario)]
            table = pd.DataFrame([mean for mean in means if mean is not None])
            rows += [
                {
                    **{"scenario": scenario, "algorithm": algorithm, "metric": name},
                    **{"mean": table[name].mean(), "std": table[name].std(), "seeds": int(table[name].count())},
                }
                for name in table
            ]
    return pd.DataFrame(rows, columns=["scenario", "algorithm", "metric", "mean", "std", "seeds"])


def _means(run: Run) -> pd.Series | None:
    rows = read_metrics(run.path)
    return None if rows is None else rows.filter(like="train/").mean()
