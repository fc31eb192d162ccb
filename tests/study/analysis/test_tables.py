"""Final scores, tests and aggregates of studies whose numbers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from amal.study.analysis.tables import aggregates, summary
from amal.study.report.report import make_tables
from tests.study.studies import BOOTSTRAP, of, set_protocol, write_study


def test_summary_has_known_numbers(tmp_path: Path) -> None:
    tables = make_tables(of(write_study(tmp_path)), BOOTSTRAP)
    rows = tables["summary"].set_index(["scenario", "algorithm"])
    assert list(rows.index) == [("3m", "mappo"), ("3m", "amal"), ("MMM", "mappo"), ("MMM", "amal")]
    ours, base = rows.loc[("3m", "amal")], rows.loc[("3m", "mappo")]
    assert ours["win_rate"] == pytest.approx(0.94) and base["win_rate"] == pytest.approx(0.54)
    # of five runs up to two may be the one that is added, at 0 or at 1
    assert 0.5 < ours["win_rate_low"] < 0.9 and 0.94 < ours["win_rate_high"] <= 1
    assert ours["return"] == pytest.approx(18.8) and ours["episode_length"] == pytest.approx(30.6)
    assert ours["dead_allies"] == pytest.approx(0.18) and ours["dead_enemies"] == 1
    assert ours["difference"] == pytest.approx(0.4) and 0 <= ours["difference_low"] < 0.3
    # both groups have a standard deviation of √0.001: t = 0.4 / √(2 · 0.001 / 5) = 20 with 8 degrees of freedom
    assert ours["cohens_d"] == pytest.approx(0.4 / np.sqrt(0.001))
    assert ours["welch_p"] == pytest.approx(2 * stats.t.sf(20, 8))
    # the family: two tests of one algorithm on two scenarios
    assert ours["welch_p_holm"] == pytest.approx(4 * ours["welch_p"])
    assert ours["mann_whitney_p"] == pytest.approx(2 / 252) and ours["mann_whitney_p_holm"] == pytest.approx(4 / 252)
    assert np.isnan(base["difference"]) and np.isnan(base["welch_p_holm"])
    # it wins from evaluation k of 20 on, the rise from the one before counting half: final (20.5 − k) / 20
    finals, ks = np.array([0.9, 0.92, 0.94, 0.96, 0.98]), np.arange(4, 9)
    assert ours["auc"] == pytest.approx((finals * (20.5 - ks) / 20).mean())


def test_aggregates_have_known_numbers(tmp_path: Path) -> None:
    table = aggregates(of(write_study(tmp_path)), BOOTSTRAP).set_index("algorithm")
    assert list(table.index) == ["mappo", "amal"] and (table["seeds"] == 5).all() and (table["scenarios"] == 2).all()
    ours = table.loc["amal"]
    # of 10 scores, each twice, ⌊10/4⌋ = 2 are left out at each end
    assert ours[["iqm", "median", "mean"]].tolist() == pytest.approx([0.94] * 3)
    assert ours["optimality_gap"] == pytest.approx(0.06)
    assert ours["improvement"] == ours["improvement_high"] == 1 and 0.5 < ours["improvement_low"] < 0.9
    assert ours["iqm_low"] < 0.94 < ours["iqm_high"] and np.isnan(table.loc["mappo", "improvement"])


def test_another_cell_does_not_change_the_intervals_of_the_first(tmp_path: Path) -> None:
    write_study(tmp_path, scenarios=["3m"])
    first = summary(of(tmp_path), BOOTSTRAP).filter(regex="_(low|high)$")
    write_study(tmp_path, scenarios=["2s3z"])
    both = summary(of(tmp_path), BOOTSTRAP)
    again = both[both["scenario"] == "3m"].filter(regex="_(low|high)$").reset_index(drop=True)
    pd.testing.assert_frame_equal(first, again)


def test_an_aggregate_is_not_known_better_than_to_one_battle_of_the_recorded_evaluations(tmp_path: Path) -> None:
    study = write_study(tmp_path, amal=(0.5,) * 5, mappo=(0.5,) * 5, scenarios=["3m", "8m", "MMM"])
    for episodes in (32, 64):  # the runs of which less is known decide
        set_protocol(study / "amal" / "3m" / "seed_0", every_n_episodes=50, episodes=episodes, test_episodes=100)
        row = aggregates(of(study), BOOTSTRAP).set_index("algorithm").loc["mappo"]
        assert (row["iqm_low"], row["iqm_high"]) == pytest.approx((0.5 - 1 / 160, 0.5 + 1 / 160))
    for folder in study.glob("*/*/seed_*"):
        set_protocol(folder, every_n_episodes=50, episodes=64, test_episodes=100)
    row = aggregates(of(study), BOOTSTRAP).set_index("algorithm").loc["mappo"]
    assert (row["iqm_low"], row["iqm_high"]) == pytest.approx((0.5 - 1 / 320, 0.5 + 1 / 320))
