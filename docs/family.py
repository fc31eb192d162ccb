"""The tests of a published study, corrected over all of them: what docs/verdict.md states.

    python docs/family.py docs/results/amal/verdict

Reads the p-values of summary.csv and sample_efficiency.csv, and the plan in study.yaml, which tells how many tests were
planned. Holm's correction over two tests of every algorithm on every scenario that was not used for tuning.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from amal.study.analysis.statistics import holm
from amal.study.grid.runs import family, read_record

ARRIVAL = "env_steps_log_rank_p"


def corrected(folder: Path, final: str) -> pd.DataFrame:
    """A row per test that was made, the least p-value first.

    Args:
        folder: of summary.csv, sample_efficiency.csv and study.yaml.
        final: the test of the final win rate, a column of summary.csv.
    """
    record = read_record(folder)
    if record is None:
        raise ValueError(f"{folder}: no study.yaml")
    keys = ("algorithms", "scenarios", "baseline", "tuned_on")
    planned = family(*(record.get(key) or [] for key in keys))  # type: ignore[arg-type]
    tables = [
        pd.read_csv(folder / file).assign(test=name, p=lambda table, name=name: table[name])
        for file, name in (("summary.csv", final), ("sample_efficiency.csv", ARRIVAL))
    ]
    rows = pd.concat(tables)[["test", "scenario", "algorithm", "p"]].dropna()
    rows = rows[rows["scenario"].isin(planned["scenarios"]) & rows["algorithm"].isin(planned["algorithms"])]
    rows["p_holm"] = holm(rows["p"].to_numpy(np.float64), planned["tests"])
    rows.attrs["tests"] = planned["tests"]
    return rows.sort_values("p", ignore_index=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Correct a published study's p-values over all of its tests.")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    for test in ("welch_p", "mann_whitney_p"):
        found = corrected(options.folder, test)
        print(f"{test} and {ARRIVAL}, {found.attrs['tests']} planned tests:")
        print(found.head(8).to_string(index=False, float_format=lambda value: f"{value:.3g}"), end="\n\n")
