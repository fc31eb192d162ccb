"""Costs and diagnostics."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from amal.study.analysis.ledger import cost, diagnostics
from tests.study.studies import BOOTSTRAP, EVALUATIONS, of, write_run, write_study


def test_cost_compares_at_equal_wall_time(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, "mappo", "3m", seed, 0.8, 4, seconds_per_step=0.01)
        write_run(tmp_path, "amal", "3m", seed, 1.0, 8, seconds_per_step=0.02)
    table = cost(of(tmp_path), BOOTSTRAP).set_index("algorithm")
    assert table.loc["amal", "wall_seconds"] == 400 and table.loc["amal", "peak_memory_mb"] == 1001
    assert (table["equal_wall_seconds"] == 200).all()
    # amal has got to evaluation 10 by then: of its last five, 6 to 10, three are 1
    assert table["win_rate_at_equal_wall_time"].to_dict() == pytest.approx({"mappo": 0.8, "amal": 0.6})


def test_cost_compares_at_equal_policy_steps(tmp_path: Path) -> None:
    for algorithm, steps, arrival in (("mappo", 16, 4), ("amal", 32, 8)):
        path = write_run(tmp_path, algorithm, "3m", 0, 1.0, arrival) / "metrics.csv"
        pd.read_csv(path).assign(**{"train/policy_steps": steps}).to_csv(path, index=False)
    table = cost(of(tmp_path), BOOTSTRAP).set_index("algorithm")
    assert (table["equal_policy_steps"] == 16 * EVALUATIONS).all()
    # amal has made them by evaluation 10: of its last five, 6 to 10, three are 1
    assert table["win_rate_at_equal_policy_steps"].to_dict() == pytest.approx({"mappo": 1.0, "amal": 0.6})


def test_diagnostics_are_means_of_what_was_logged(tmp_path: Path) -> None:
    study = write_study(tmp_path, seeds=2, scenarios=["3m"])
    (study / "mappo" / "3m" / "seed_0" / "metrics.csv").unlink()
    table = diagnostics(of(study)).set_index(["algorithm", "metric"])
    assert table.loc[("amal", "train/entropy"), "mean"] == pytest.approx(0.5)
    assert table["seeds"].tolist() == [1, 1, 2, 2] and ("amal", "env_steps") not in table.index
