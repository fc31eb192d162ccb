"""Costs and diagnostics."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from amal.study.analysis.comparison import compare_runs
from amal.study.analysis.ledger import cost, diagnostics, runs
from amal.study.analysis.scores import read_lone_run
from amal.study.analysis.tables import summary
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


def test_the_folder_of_a_run_is_told_relative_to_its_study_wherever_that_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(tmp_path / "study", seeds=1, scenarios=["3m"])
    monkeypatch.chdir(tmp_path)
    for place in (study, Path("study")):
        assert runs(of(place))["folder"].tolist() == ["amal/3m/seed_0", "mappo/3m/seed_0"]
    lone = [read_lone_run(Path("study") / name / "3m" / "seed_0") for name in ("amal", "mappo")]
    assert runs(compare_runs(lone))["folder"].tolist() == ["amal/3m/seed_0", "mappo/3m/seed_0"]


def test_sampled_win_rates_stand_beside_the_greedy_ones_where_runs_have_them(tmp_path: Path) -> None:
    study = write_study(tmp_path, seeds=2, scenarios=["3m"])
    for seed in range(2):
        path = study / "amal" / "3m" / f"seed_{seed}" / "evaluations.csv"
        rates = [0.0] * (EVALUATIONS - 5) + [0.1, 0.2, 0.3, 0.4, 0.5 + seed / 2]
        pd.read_csv(path).assign(sampled_win_rate=rates).to_csv(path, index=False)
    listed = runs(of(study)).set_index("algorithm")["final_sampled_win_rate"]
    assert listed["amal"].tolist() == pytest.approx([0.3, 0.4]) and listed["mappo"].isna().all()
    shown = summary(of(study), BOOTSTRAP).set_index("algorithm")["sampled_win_rate"]
    assert shown["amal"] == pytest.approx(0.35) and pd.isna(shown["mappo"])
