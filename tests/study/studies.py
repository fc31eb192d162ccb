"""Synthetic studies whose numbers are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from amal.study.analysis.comparison import Comparison, read_comparison
from amal.study.analysis.scores import COLUMNS
from amal.study.analysis.tables import Bootstrap
from amal.study.report.report import make_tables
from amal.study.report.verdict import Verdict, judge

Cli = Callable[..., None]
BOOTSTRAP = Bootstrap(resamples=100)
EVALUATIONS, EVERY = 20, 1000


def write_run(
    study: Path,
    algorithm: str,
    scenario: str,
    seed: int,
    final: float = 1.0,
    arrival: int = 10,
    outcome: str = "finished",
    seconds_per_step: float = 0.01,
) -> Path:
    """A run whose win rate is 0 and, from one evaluation on, final."""
    folder = study / algorithm / scenario / f"seed_{seed}"
    folder.mkdir(parents=True)
    steps = EVERY * np.arange(1, EVALUATIONS + 1)
    rates = np.where(np.arange(1, EVALUATIONS + 1) >= arrival, final, 0.0)
    rows = {"env_steps": steps, "episodes": steps / 10, "wall_seconds": seconds_per_step * steps, "win_rate": rates}
    rows |= {"return_mean": 20 * rates, "episode_length": 40 - 10 * rates, "dead_allies": 3 * (1 - rates)}
    pd.DataFrame(rows).reindex(columns=COLUMNS, fill_value=1.0).to_csv(folder / "evaluations.csv", index=False)
    metrics = {"env_steps": steps, "train/entropy": np.linspace(1, 0, EVALUATIONS), "train/lr": 0.5}
    pd.DataFrame(metrics).to_csv(folder / "metrics.csv", index=False)
    totals = {"env_steps": int(steps[-1]), "episodes": int(steps[-1] // 10), "peak_memory_mb": 1000 + seed}
    totals |= {"wall_seconds": seconds_per_step * steps[-1], "env_steps_per_second": 1 / seconds_per_step}
    record = {"algorithm": algorithm.upper(), "scenario": scenario, "seed": seed, "outcome": outcome, "totals": totals}
    record |= {"code_version": "abc", "simulator_hash": "f00", "hardware": {"processor": "Z80", "cores": 1}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def write_study(
    study: Path,
    amal: Sequence[float] = (0.9, 0.92, 0.94, 0.96, 0.98),
    mappo: Sequence[float] = (0.5, 0.52, 0.54, 0.56, 0.58),
    arrivals: tuple[int, int] = (4, 12),
    scenarios: Sequence[str] = ("3m", "MMM"),
    seeds: int = 5,
) -> Path:
    """Final win rates by seed, the same on all scenarios; and the evaluations from which on runs win."""
    for scenario in scenarios:
        for seed in range(seeds):
            write_run(study, "amal", scenario, seed, amal[seed % 5], arrivals[0] + seed % 5)
            write_run(study, "mappo", scenario, seed, mappo[seed % 5], arrivals[1] + seed % 5)
    return study


def swapped(study: Path) -> Path:
    return write_study(study, (0.5, 0.52, 0.54, 0.56, 0.58), (0.9, 0.92, 0.94, 0.96, 0.98), (12, 4))


def of(study: Path, baseline: str = "mappo") -> Comparison:
    return read_comparison(study, baseline)


def verdict_of(comparison: Comparison, algorithm: str = "amal") -> Verdict:
    tables = make_tables(comparison, BOOTSTRAP)
    names = "summary", "aggregates", "sample_efficiency"
    return judge(comparison, algorithm, *(tables[name] for name in names), BOOTSTRAP)


def set_outcome(folder: Path, outcome: str) -> None:
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"outcome": outcome}))


def set_protocol(folder: Path, **evaluation: int) -> None:
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"evaluation": evaluation}))


def set_rates(folder: Path, rate: float) -> None:
    rows = pd.read_csv(folder / "evaluations.csv")
    rows.assign(win_rate=rate).to_csv(folder / "evaluations.csv", index=False)


def final_test(run: Path, best: float, last: float) -> None:
    rows = pd.DataFrame({"checkpoint": ["last", "best"], "win_rate": [last, best]})
    others = ("return_mean", "return_std", "episode_length", "dead_allies", "dead_enemies")
    rows.assign(**dict.fromkeys(others, 1.5)).to_csv(run / "final_test.csv", index=False)
