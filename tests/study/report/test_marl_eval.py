"""Results for others' tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from amal.study.analysis.tables import summary
from amal.study.report.formats import final_scores
from amal.study.report.marl_eval import marl_eval_data
from tests.study.studies import BOOTSTRAP, final_test, of, write_study


def test_the_absolute_metric_is_the_best_checkpoints_where_every_run_was_tested(tmp_path: Path) -> None:
    study = write_study(tmp_path, seeds=2, scenarios=["3m"])
    assert "tested_best" not in summary(of(study), BOOTSTRAP)
    for k, path in enumerate(sorted(study.glob("*/3m/seed_*"))):
        assert marl_eval_data(of(study))["smac"]["3m"]["mappo"]["run_1"]["absolute_metrics"]["return"] != [1.5]
        final_test(path, 0.5 + k / 10, 0.25)
    rows = summary(of(study), BOOTSTRAP).set_index("algorithm")
    assert rows["tested_best"].to_dict() == pytest.approx({"amal": 0.55, "mappo": 0.75})
    assert rows["tested_last"].to_dict() == {"amal": 0.25, "mappo": 0.25}
    run = marl_eval_data(of(study))["smac"]["3m"]["mappo"]["run_1"]
    assert run["absolute_metrics"]["win_rate"] == [0.8] and run["absolute_metrics"]["return"] == [1.5]
    assert {"best, tested", "last, tested"} < set(final_scores(summary(of(study), BOOTSTRAP)))


def test_marl_eval_has_its_schema(tmp_path: Path) -> None:
    data = marl_eval_data(of(write_study(tmp_path, seeds=2)))
    assert list(data) == ["smac"] and list(data["smac"]) == ["3m", "MMM"]
    shapes = {
        (len(steps), tuple(sorted(steps["absolute_metrics"])), tuple(sorted(steps["step_3"])))
        for task in data["smac"].values()
        for algorithm in task.values()
        for steps in algorithm.values()
    }
    metrics = ("dead_allies", "dead_enemies", "episode_length", "return", "win_rate")
    assert shapes == {(51, metrics, tuple(sorted((*metrics, "step_count"))))}
    run = data["smac"]["3m"]["amal"]["run_1"]
    assert list(data["smac"]["3m"]["amal"]) == ["run_0", "run_1"]
    assert (run["step_0"]["step_count"], run["step_49"]["step_count"]) == (1000, 20000)
    assert run["step_0"]["win_rate"] == [0.0] and run["absolute_metrics"]["win_rate"] == [0.92]
