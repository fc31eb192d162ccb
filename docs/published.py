"""What a published study's files still tell with today's statistics: what docs/verdict.md and docs/critics.md state.

    python docs/published.py docs/results/amal/verdict
    python docs/published.py docs/results/norms
    python docs/published.py docs/results/imagination
    python docs/published.py docs/results/imagination_adam

First its final win rates, greedy / sampled, or the other way around where the study is of sampling teams, if
summary.csv has both. Then its tests, corrected over all that
study.yaml planned, from the p-values in summary.csv and sample_efficiency.csv. Then the ratios of steps to the
threshold, from each run's steps in sample_efficiency.csv, and where there is a cost.csv how many times as long each
algorithm took as each other one. Final win rates of the verdict's single runs are in no file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amal.study.analysis import RESAMPLES
from amal.study.analysis.statistics import ADDED, enclosing_interval, holm
from amal.study.analysis.survival import Durations, durations, ratio_interval, ratio_samples, steps_ratio
from amal.study.analysis.tables import Bootstrap
from amal.study.records import planned_tests, read_record

ARRIVAL = "env_steps_log_rank_p"


def plan(folder: Path) -> dict[str, Any]:
    """study.yaml of a folder, with the algorithms called as in its tables."""
    record = read_record(folder)
    if record is None:
        raise ValueError(f"{folder}: no study.yaml")
    names = record.get("names", {})
    algorithms = {names.get(key, key): configs for key, configs in record["algorithms"].items()}
    return {**record, "algorithms": algorithms, "baseline": names.get(record["baseline"], record["baseline"])}


def correct_p_values(folder: Path, final: str) -> pd.DataFrame:
    """A row per test that was made, the least p-value first.

    Args:
        folder: of summary.csv, sample_efficiency.csv and study.yaml.
        final: the test of the final win rate, a column of summary.csv.
    """
    record = plan(folder)
    planned = planned_tests(record["algorithms"], record["scenarios"], record["baseline"], record["tuned_on"])
    tables = [
        pd.read_csv(folder / file).assign(test=name, p=lambda table, name=name: table[name])
        for file, name in (("summary.csv", final), ("sample_efficiency.csv", ARRIVAL))
    ]
    rows = pd.concat(tables)[["test", "scenario", "algorithm", "p"]].dropna()
    rows = rows[rows["scenario"].isin(planned["scenarios"]) & rows["algorithm"].isin(planned["algorithms"])]
    rows["p_holm"] = holm(rows["p"].to_numpy(np.float64), planned["tests"])
    rows.attrs["tests"] = planned["tests"]
    return rows.sort_values("p", ignore_index=True)


def win_rates(folder: Path, other: str) -> pd.DataFrame:
    """Final win rates by algorithm and scenario, those of the study [95 % interval] / the other ones, a column."""
    record, table = plan(folder), pd.read_csv(folder / "summary.csv").set_index(["algorithm", "scenario"])

    def words(algorithm: str, scenario: str) -> str:
        row = table.loc[(algorithm, scenario)]
        decisive = f"{row.win_rate:.2f} [{row.win_rate_low:.2f}, {row.win_rate_high:.2f}]"
        return f"{decisive} / {row[other]:.2f}"

    fought = [scenario for scenario in record["scenarios"] if scenario in table.index.get_level_values("scenario")]
    cells = [[words(algorithm, scenario) for scenario in fought] for algorithm in record["algorithms"]]
    return pd.DataFrame(cells, index=list(record["algorithms"]), columns=fought)


def ratios(folder: Path) -> pd.DataFrame:
    """Ratios of steps to the baseline's with the report's interval, of each scenario and as their geometric mean."""
    record, bootstrap = plan(folder), Bootstrap()
    baseline, budget = record["baseline"], float(record["env_steps"])
    table = pd.read_csv(folder / "sample_efficiency.csv").dropna(subset=["env_steps_by_run"])
    runs = {(row.scenario, row.algorithm): _arrivals(row.env_steps_by_run) for row in table.itertuples()}
    scenarios = list(dict.fromkeys(scenario for scenario, _ in runs))
    rows = []
    for algorithm in dict.fromkeys(name for _, name in runs if name != baseline):
        pairs = [(runs[scenario, algorithm], runs[scenario, baseline]) for scenario in scenarios]
        for scenario, (x, y) in zip(scenarios, pairs, strict=True):
            generator = bootstrap.generator("ratio", "env_steps", algorithm, baseline, scenario)
            rows.append((algorithm, scenario, steps_ratio(x, y), *ratio_interval(x, y, budget, generator)))
        generator, added = bootstrap.generator("pooled", algorithm, baseline), ADDED / len(scenarios)
        samples = [ratio_samples(x, y, budget, generator, RESAMPLES, added) for x, y in pairs]
        first, second = np.exp(np.mean(np.log(samples), axis=0))
        value = float(np.exp(np.mean([np.log(steps_ratio(x, y)) for x, y in pairs])))
        rows.append((algorithm, "geometric mean", value, *map(float, enclosing_interval((first, second)))))
    return pd.DataFrame(rows, columns=["algorithm", "scenario", "ratio", "low", "high"])


def time_ratios(folder: Path) -> pd.DataFrame:
    """Seconds of a run of each algorithm (row) ÷ those of each other (column), least and greatest over scenarios."""
    table = pd.read_csv(folder / "cost.csv").pivot(index="algorithm", columns="scenario", values="wall_seconds")
    ranges = {
        other: [f"{row.min():.1f} to {row.max():.1f}" for _, row in (table / table.loc[other]).iterrows()]
        for other in table.index
    }
    return pd.DataFrame(ranges, index=list(table.index))


def _arrivals(text: str) -> Durations:
    """Of '25250 >100044'; > marks a run that has not arrived."""
    return durations((float(word.lstrip(">")), word.startswith(">")) for word in text.split())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Say what a published study's files tell with today's statistics.")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    for other in {"sampled_win_rate", "greedy_win_rate"} & set(pd.read_csv(options.folder / "summary.csv")):
        print(win_rates(options.folder, other).to_string(), end="\n\n")
    for test in ("welch_p", "mann_whitney_p"):
        found = correct_p_values(options.folder, test)
        print(f"{test} and {ARRIVAL}, {found.attrs['tests']} planned tests:")
        print(found.head(8).to_string(index=False, float_format=lambda value: f"{value:.3g}"), end="\n\n")
    print(ratios(options.folder).to_string(index=False, float_format=lambda value: f"{value:.2f}"))
    if (options.folder / "cost.csv").exists():
        print("\nseconds of a run ÷ those of the column's algorithm, over scenarios:")
        print(time_ratios(options.folder).to_string())
