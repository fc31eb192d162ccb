"""Scores of a study: the run folders ``STUDY/ALGORITHM/SCENARIO/seed_K`` read, and reduced to numbers per run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from amal.study.records import RUN, RUN_MAY_HAVE, check_record

FloatArray = NDArray[np.float64]
Axis = Literal["env_steps", "episodes", "wall_seconds"]

COLUMNS = ["env_steps", "episodes", "wall_seconds", "win_rate", "return_mean", "return_std", "episode_length"]
COLUMNS += ["dead_allies", "dead_enemies"]
OTHERS = ("sampled_win_rate", "greedy_win_rate")  # win rate of the actions that are not concluded from
FINAL_EVALUATIONS = 5  # whose mean is a final score
ARRIVAL_EVALUATIONS = 3  # whose mean has to reach a threshold
_DECIMALS = 12  # two runs with the same evaluations in another order differ by rounding, and are a tie


class EvaluationProtocol(NamedTuple):
    """How a run is evaluated, as its run.json says; where it does not, as all runs were before it did.

    Attributes:
        episodes: greedy episodes of each evaluation.
        test_episodes: greedy episodes of the final test.
        every_n_episodes: training episodes between two evaluations; None if run.json does not say.
    """

    episodes: int = 32
    test_episodes: int = 320
    every_n_episodes: int | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """One cell of a study's grid.

    Args:
        algorithm: the name of the folder; variants of one algorithm differ in it.
        scenario, seed: as in the folder's name and in run.json.
        path: the folder.
        finished: whether training came to its planned end, its budget's or, where stopped runs count, a callback's.
        evaluations: the rows of evaluations.csv, by env_steps; none if an unfinished run has not got that far.
        record: run.json.
        final_test: the rows of final_test.csv, by checkpoint, "best" and "last"; None where there is no such file.
    """

    algorithm: str
    scenario: str
    seed: int
    path: Path
    finished: bool
    evaluations: pd.DataFrame
    record: dict[str, Any]
    final_test: pd.DataFrame | None = None

    @property
    def protocol(self) -> EvaluationProtocol:
        return EvaluationProtocol(**(self.record.get("evaluation") or {}))


def read_run(path: Path, seed: int, count_stopped: bool = False) -> Run:
    """A run's folder; ValueError if a file is missing or broken, which the message names.

    Args:
        path: of the folder.
        seed: of the run, by its folder's name.
        count_stopped: whether a run that a callback has stopped, as EarlyStopping does, is finished.
    """
    record = _read_record(path / "run.json")
    scenario, algorithm = path.parent.name, path.parent.parent.name
    if (record["scenario"], record["seed"]) != (scenario, seed):
        claim = f"scenario {record['scenario']} and seed {record['seed']}"
        raise ValueError(f"{path / 'run.json'}: is of {claim}, against its folder's name")
    return _read(path, algorithm, record, count_stopped)


def read_lone_run(path: Path, algorithm: str | None = None, count_stopped: bool = False) -> Run:
    """A run's folder wherever it lies, which goes by its run.json. Raises as ``read_run``.

    Args:
        path: of the folder.
        algorithm: what to call it; by default its class's name in small letters.
        count_stopped: as of ``read_run``.
    """
    record = _read_record(path / "run.json")
    return _read(path, algorithm or record["algorithm"].lower(), record, count_stopped)


def _read(path: Path, algorithm: str, record: dict[str, Any], count_stopped: bool) -> Run:
    finished = record["outcome"] in (("finished", "stopped") if count_stopped else ("finished",))
    evaluations = _read_evaluations(path / "evaluations.csv", required=finished)
    final_test = _read_final_test(path / "final_test.csv") if finished else None
    if finished:  # of one that was stopped the last row may be torn, and is written again
        read_metrics(path)
    return Run(algorithm, record["scenario"], record["seed"], path, finished, evaluations, record, final_test)


def _table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file that has at least these columns; ValueError, of one line, if it is something else."""
    try:
        rows = pd.read_csv(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{path}: is no table ({' '.join(str(error).split())})") from error
    missing = [name for name in columns if name not in rows]
    if missing:
        raise ValueError(f"{path}: has no column {', '.join(missing)}")
    return rows


def _numbers(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    try:
        return rows.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: holds something else than numbers ({' '.join(str(error).split())})") from error


def read_metrics(folder: Path) -> pd.DataFrame | None:
    """metrics.csv of a run, if there is one. Raises ValueError if it is no table of numbers."""
    path = folder / "metrics.csv"
    return _numbers(path, _table(path, ["env_steps"])) if path.exists() else None


def _read_final_test(path: Path) -> pd.DataFrame | None:
    if not path.exists():
        return None
    rows = _numbers(path, _table(path, ["checkpoint", *COLUMNS[3:]]).set_index("checkpoint"))
    if sorted(rows.index) != ["best", "last"] or not rows["win_rate"].between(0.0, 1.0).all():
        raise ValueError(f"{path}: expected the rows best and last, with win rates in [0, 1]")
    return rows


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON ({error})") from error
    return check_record(path, record, RUN, RUN_MAY_HAVE)


def _read_evaluations(path: Path, required: bool) -> pd.DataFrame:
    if not required and not path.exists():
        return pd.DataFrame(columns=COLUMNS, dtype=np.float64)
    rows = _table(path, COLUMNS)
    known = [*COLUMNS, *({*OTHERS} & {*rows})]
    rows = rows.assign(**_numbers(path, rows[known]))
    broken = [name for name in COLUMNS if not np.isfinite(rows[name]).all()]
    if broken:
        raise ValueError(f"{path}: holds gaps or infinite values in {', '.join(broken)}")
    if not all(rows[name].dropna().between(0.0, 1.0).all() for name in known if name.endswith("win_rate")):
        raise ValueError(f"{path}: holds win rates outside [0, 1]")
    if negative := [name for name in COLUMNS[:3] if (rows[name] < 0).any()]:
        raise ValueError(f"{path}: holds negative values in {', '.join(negative)}")
    if required and rows.empty:
        raise ValueError(f"{path}: holds no evaluation")
    if not (rows["env_steps"].diff().iloc[1:] > 0).all():
        raise ValueError(f"{path}: env_steps do not increase from row to row")
    return rows


def of_sampled(run: Run) -> Run:
    """The run with win rates of sampled actions in the place of greedy ones. Raises ValueError if there are none."""
    names = {"win_rate": "greedy_win_rate", "sampled_win_rate": "win_rate"}
    if len(run.evaluations) and "sampled_win_rate" not in run.evaluations:
        raise ValueError(f"{run.path / 'evaluations.csv'}: has no win rates of sampled actions")
    return replace(run, evaluations=run.evaluations.rename(columns=names))


def final_score(run: Run, metric: str = "win_rate") -> float:
    """Mean of a run's last ``FINAL_EVALUATIONS`` evaluations, or of all if it has fewer.

    It estimates the same as the last evaluation with less noise. The best evaluation would be biased.

    Args:
        run: with at least one evaluation.
        metric: a column of evaluations.csv.
    """
    return float(round(run.evaluations[metric].iloc[-FINAL_EVALUATIONS:].mean(), _DECIMALS))


def final_scores(runs: Sequence[Run], metric: str = "win_rate") -> FloatArray:
    """``final_score`` of several runs, [run]."""
    return np.array([final_score(run, metric) for run in runs])


def common_grid(runs: Sequence[Run], points: int = 101) -> FloatArray:
    """Equally spaced env steps from 0 to the largest number at which every run has been evaluated.

    Runs without any evaluation are left out.

    Returns:
        [point].
    """
    ends = [run.evaluations["env_steps"].iloc[-1] for run in runs if len(run.evaluations)]
    if not ends:
        raise ValueError("no run has been evaluated yet, so there is no grid of env steps")
    return np.linspace(0.0, min(ends), points)


def curve(runs: Sequence[Run], metric: str, grid: FloatArray) -> FloatArray:
    """Learning curves on a grid common to all runs: the value of the last evaluation at or before each point.

    An earlier value, never an interpolated one: at a point of the grid a run has not yet got what comes later.

    Args:
        runs: the runs, usually of one algorithm on one scenario.
        metric: a column of evaluations.csv.
        grid: [point] env steps.

    Returns:
        [run, point]; before the first evaluation 0 for the win rate and NaN for anything else.
    """
    values = np.empty((len(runs), len(grid)))
    start = _untrained(metric)
    for row, run in zip(values, runs, strict=True):
        known = np.searchsorted(run.evaluations["env_steps"], grid, side="right")
        row[:] = np.concatenate([[start], run.evaluations[metric].to_numpy(np.float64)])[known]
    return values


def area_under_curve(run: Run, metric: str = "win_rate", until: float | None = None) -> float:
    """Mean of a metric over training, (1/S) ∫₀ˢ metric ds, by the trapezoidal rule between evaluations.

    The win rate starts at 0; of any other metric the first evaluation stands for what was before it.

    Args:
        run: a run with at least one evaluation.
        metric: a column of evaluations.csv.
        until: S in env steps, by default the last evaluation's; give one S when runs are compared. The last value
            holds beyond the last evaluation.
    """
    if run.evaluations.empty:
        raise ValueError(f"{run.path}: has no evaluation, so no area under its curve")
    values = run.evaluations[metric].to_numpy(np.float64)
    steps = np.concatenate([[0.0], run.evaluations["env_steps"]])
    start = _untrained(metric)
    values = np.concatenate([[values[0] if np.isnan(start) else start], values])
    end = steps[-1] if until is None else until
    inside = steps < end
    steps, values = np.append(steps[inside], end), np.append(values[inside], np.interp(end, steps, values))
    return float(np.trapezoid(values, steps) / end)


def steps_to_threshold(
    run: Run, threshold: float, smooth: int = ARRIVAL_EVALUATIONS, axis: Axis = "env_steps", metric: str = "win_rate"
) -> tuple[float, bool]:
    """What a run needs until the mean of its latest evaluations reaches a threshold, dated to the last one of them.

    One evaluation is lucky now and then; the mean of a few keeps luck from counting as learning. A
    threshold of 0, of a baseline that never wins, is reached at once and measures nothing.

    Args:
        run: a run.
        threshold: to be reached from below.
        smooth: so many evaluations are averaged; before a run has that many it has reached nothing.
        axis: what is counted.
        metric: a column of evaluations.csv.

    Returns:
        The amount, and whether it is censored: the threshold was not reached in all the run has been evaluated for,
        which is the amount then.
    """
    if smooth < 1:
        raise ValueError(f"smooth is {smooth}; it takes at least 1 evaluation")
    amounts = run.evaluations[axis].to_numpy(np.float64)
    values = run.evaluations[metric].to_numpy(np.float64)
    if len(values) < smooth:
        return (float(amounts[-1]) if len(amounts) else 0.0), True
    means = np.lib.stride_tricks.sliding_window_view(values, smooth).mean(axis=1)
    reached = np.flatnonzero(means.round(_DECIMALS) >= round(threshold, _DECIMALS))
    return (float(amounts[-1]), True) if not len(reached) else (float(amounts[reached[0] + smooth - 1]), False)


def _untrained(metric: str) -> float:
    return 0.0 if metric == "win_rate" else float("nan")
