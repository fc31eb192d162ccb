"""Results in marl-eval's raw-data format, for others' tools (Gorsane et al. 2022).

{environment: {task: {algorithm: {run: {step_k: {step_count, metric: [value]}, absolute_metrics: {metric: [value]}}}}}}

marl-eval needs equal numbers of steps, runs and algorithms everywhere. Runs here are evaluated by episodes and so at
different env steps: each step holds the latest evaluation at or before a point of a grid common to its scenario.
Checked with id-marl-eval 0.0.4: ``DiagnoseData.check_data`` calls it valid, and ``data_process_pipeline`` and
``create_matrices_for_rliable`` read it. They convert all names to lower case. elapsed_time is left out: the check takes
it for a metric that absolute_metrics lack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from amal.study.analysis.comparison import Comparison
from amal.study.analysis.scores import FloatArray, Run, common_grid, curve, final_score
from amal.study.analysis.tables import METRICS

ENVIRONMENT = "smac"
STEPS = 50


def marl_eval_data(comparison: Comparison) -> dict[str, Any]:
    """The runs that enter aggregates. Their absolute_metrics are those of the best checkpoint in the final test, as
    marl-eval means them. If any run has no final test, they are the final scores of all runs."""
    cells = {algorithm: comparison.counted_runs(algorithm) for algorithm in comparison.algorithms}
    every = [run for scenarios in cells.values() for runs in scenarios.values() for run in runs]
    tested = all(run.final_test is not None for run in every)
    tasks: dict[str, Any] = {}
    for scenario in comparison.counted:
        grid = _grid([run for scenarios in cells.values() for run in scenarios[scenario]])
        tasks[scenario] = {
            algorithm.replace(",", " "): {
                f"run_{number}": {**_steps(run, grid), "absolute_metrics": _absolute(run, tested)}
                for number, run in enumerate(scenarios[scenario])
            }
            for algorithm, scenarios in cells.items()
        }
    return {ENVIRONMENT: tasks} if tasks else {}


def _grid(runs: Sequence[Run]) -> FloatArray:
    """From the first env steps at which every run has been evaluated to the end of the shortest run."""
    first = max(float(run.evaluations["env_steps"].iloc[0]) for run in runs)
    return np.linspace(first, common_grid(runs)[-1], STEPS)


def _steps(run: Run, grid: FloatArray) -> dict[str, Any]:
    values = {name: curve([run], column, grid)[0] for name, column in METRICS.items()}
    return {
        f"step_{k}": {"step_count": int(point), **{name: [float(values[name][k])] for name in METRICS}}
        for k, point in enumerate(grid)
    }


def _absolute(run: Run, tested: bool) -> dict[str, list[float]]:
    if tested and run.final_test is not None:
        return {name: [float(run.final_test[column]["best"])] for name, column in METRICS.items()}
    return {name: [final_score(run, column)] for name, column in METRICS.items()}
