"""Steps to the threshold, and their ratios."""

from __future__ import annotations

from pathlib import Path

import pytest

from amal.study.analysis.efficiency import pooled_ratio, sample_efficiency
from amal.study.analysis.ledger import runs
from amal.study.report import formats
from tests.study.studies import BOOTSTRAP, of, set_protocol, set_rates, verdict_of, write_run, write_study


def test_sample_efficiency_has_known_numbers_and_marks_censored_runs(tmp_path: Path) -> None:
    write_study(tmp_path, mappo=(0.6,) * 5, scenarios=["3m"])
    set_rates(tmp_path / "amal" / "3m" / "seed_0", 0.1)
    table = sample_efficiency(of(tmp_path), BOOTSTRAP).set_index("algorithm")
    ours, base = table.loc["amal"], table.loc["mappo"]
    assert ours["threshold"] == pytest.approx(0.54) and ours["reached"] == 4 and base["reached"] == 5
    # at three evaluations: amal's first two of 0.92 have a mean of 0.61 at the second, mappo's take all three
    assert ours["env_steps_by_run"] == ">20000 6000 7000 8000 9000"
    assert base["env_steps_by_run"] == "14000 15000 16000 17000 18000"
    assert ours["env_steps_median"] == 8000 and ours["episodes_median"] == 800
    # up to 20000, where the censored run ends: (20 + 6 + 7 + 8 + 9) over (14 + 15 + 16 + 17 + 18)
    assert ours["env_steps_ratio"] == pytest.approx(50 / 80) == ours["episodes_ratio"]
    assert ours["env_steps_ratio_low"] < 50 / 80 < ours["env_steps_ratio_high"]
    by_run = runs(of(tmp_path)).set_index(["algorithm", "seed"])
    assert by_run.loc[("amal", 0), "steps_to_threshold"] == 20000 and by_run.loc[("amal", 0), "censored"]
    assert by_run.loc[("mappo", 0), "steps_to_threshold"] == 14000 and not by_run.loc[("mappo", 0), "censored"]


def test_pools_ratios_as_a_geometric_mean(tmp_path: Path) -> None:
    for scenario, arrival in (("3m", 3), ("8m", 12)):
        for seed in range(5):
            write_run(tmp_path, "amal", scenario, seed, 1.0, arrival - 2)
            write_run(tmp_path, "mappo", scenario, seed, 1.0, 4)
    # all three evaluations have to be 1: 3000 of 6000 and 12000 of 6000
    ratio, (low, high), scenarios = pooled_ratio(of(tmp_path), "amal", BOOTSTRAP)
    assert scenarios == ["3m", "8m"] and ratio == pytest.approx(1.0) and 0.5 < low < 1 < high < 2


@pytest.mark.parametrize(("final", "reason"), [(0.0, "mappo never wins"), (0.03, "wins less than 1 battle in 32")])
def test_a_baseline_that_does_not_win_has_no_threshold(tmp_path: Path, final: float, reason: str) -> None:
    study = write_study(tmp_path, amal=(0.0,) * 5, mappo=(final,) * 5, scenarios=["corridor"])
    table = sample_efficiency(of(study), BOOTSTRAP)
    assert table["threshold"].isna().all() and table["note"].str.contains(reason).all()
    found = verdict_of(of(study))
    assert "cannot be compared: corridor, not applicable" in " ".join(found.sentences)
    assert reason in " ".join(found.sentences) and reason in formats.to_html(formats.sample_efficiency(table))
    assert "steps_to_threshold" not in runs(of(study))


def test_the_least_win_rate_that_has_a_threshold_is_one_battle_of_the_recorded_evaluations(tmp_path: Path) -> None:
    study = write_study(tmp_path, mappo=(0.02,) * 5, scenarios=["3m"], seeds=2)  # between 1 in 64 and 1 in 32
    assert sample_efficiency(of(study), BOOTSTRAP)["threshold"].isna().all()
    for folder in study.glob("*/3m/seed_*"):
        set_protocol(folder, every_n_episodes=50, episodes=64, test_episodes=100)
    assert sample_efficiency(of(study), BOOTSTRAP)["threshold"].tolist() == pytest.approx([0.018] * 2)
