"""Run folders read, and reduced to final scores, curves and steps to a threshold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from amal.study.analysis.comparison import read_comparison
from amal.study.analysis.scores import (
    COLUMNS,
    Axis,
    EvaluationProtocol,
    Run,
    area_under_curve,
    common_grid,
    curve,
    final_scores,
    read_run,
    steps_to_threshold,
)


def table(win_rates: list[float], every: float = 100.0) -> pd.DataFrame:
    steps = every * np.arange(1, len(win_rates) + 1)
    rows = {"env_steps": steps, "episodes": steps / 50, "wall_seconds": steps / 1000, "win_rate": win_rates}
    return pd.DataFrame(rows | {"return_mean": 20 * np.array(win_rates)}).reindex(columns=COLUMNS, fill_value=1.0)


def final_test(win_rates: dict[str, float]) -> str:
    rows = {"checkpoint": list(win_rates), "win_rate": list(win_rates.values())}
    return pd.DataFrame(rows).reindex(columns=["checkpoint", *COLUMNS[3:]], fill_value=1.0).to_csv(index=False)


def run(win_rates: list[float], algorithm: str = "amal", scenario: str = "3m", seed: int = 0, done: bool = True) -> Run:
    return Run(algorithm, scenario, seed, Path("study") / algorithm, done, table(win_rates), {})


def write(study: Path, algorithm: str, scenario: str, seed: int, win_rates: list[float], outcome: str) -> Path:
    folder = study / algorithm / scenario / f"seed_{seed}"
    folder.mkdir(parents=True)
    record = {"algorithm": algorithm.upper(), "scenario": scenario, "seed": seed, "outcome": outcome, "totals": {}}
    (folder / "run.json").write_text(json.dumps(record))
    table(win_rates).to_csv(folder / "evaluations.csv", index=False)
    return folder


def test_reads_the_grid_in_order_and_flags_what_is_unfinished(tmp_path: Path) -> None:
    for algorithm in ("mappo", "amal"):
        for seed in (10, 2):
            write(tmp_path, algorithm, "3m", seed, [0.0, 0.5], "finished")
    write(tmp_path, "amal", "2s3z", 2, [0.25], "running")
    (write(tmp_path, "amal", "2s3z", 10, [], "failed: OSError: disk full") / "evaluations.csv").unlink()
    (tmp_path / "amal" / "3m" / "seed_2.old").mkdir()
    (tmp_path / "logs").mkdir()
    (tmp_path / "amal" / "3m" / "seed_3").write_text("a file")
    runs = read_comparison(tmp_path).runs
    cells = [("amal", "2s3z", 2), ("amal", "2s3z", 10), ("amal", "3m", 2), ("amal", "3m", 10)]
    assert [(r.algorithm, r.scenario, r.seed) for r in runs] == [*cells, ("mappo", "3m", 2), ("mappo", "3m", 10)]
    assert [r.finished for r in runs] == [False, False, True, True, True, True]
    assert runs[0].evaluations["win_rate"].tolist() == [0.25] and runs[1].evaluations.empty
    assert list(runs[1].evaluations) == COLUMNS and (runs[1].evaluations.dtypes == np.float64).all()
    assert runs[2].path == tmp_path / "amal" / "3m" / "seed_2" and runs[2].record["algorithm"] == "AMAL"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("run.json", None, "cannot be read"),
        ("run.json", "{", "no JSON"),
        ("run.json", "[]", "must be a mapping of algorithm"),
        ("run.json", '{"algorithm": "MAPPO", "scenario": "3m", "seed": "0", "outcome": "finished"}', "lacks totals"),
        ("run.json", '{"algorithm": "A", "scenario": "8m", "seed": 0, "outcome": "x", "totals": {}}', "scenario 8m"),
        (
            "run.json",
            '{"algorithm": "A", "scenario": "3m", "seed": 0, "outcome": "x", "totals": {"env_steps": "x"}}',
            "totals must be a mapping to numbers of at least 0 and at most 9,.*, got {'env_steps': 'x'}",
        ),
        ("evaluations.csv", ",".join(COLUMNS) + "\n1,1,1,1.5,1,1,1,1,1\n", r"win rates outside \[0, 1\]"),
        ("evaluations.csv", None, "cannot be read"),
        ("evaluations.csv", "", "no table"),
        ("evaluations.csv", "env_steps,win_rate\n1,0.5\n", "no column episodes"),
        ("evaluations.csv", ",".join(COLUMNS) + "\n", "no evaluation"),
        ("evaluations.csv", ",".join(COLUMNS) + "\n1,1,1,many,1,1,1,1,1\n", "something else than numbers"),
        ("evaluations.csv", ",".join(COLUMNS) + "\n1,1,1,,1,1,1,1,1\n", "gaps or infinite values in win_rate"),
        (
            "evaluations.csv",
            ",".join(COLUMNS) + "\n-5,1,-1,1,1,1,1,1,1\n",
            "negative values in env_steps, wall_seconds",
        ),
        ("evaluations.csv", ",".join(COLUMNS) + 2 * "\n1,1,1,1,1,1,1,1,1", "do not increase"),
        ("metrics.csv", "env_steps,train/lr\n1,0.5\n2,tor", "something else than numbers"),
        ("final_test.csv", final_test({"best": 0.5, "last": 1.5}), r"win rates in \[0, 1\]"),
        ("final_test.csv", final_test({"best": 0.5}), "expected the rows best and last"),
        ("final_test.csv", final_test({"best": 0.5, "last": 0.5}).replace("win_rate", "rate"), "no column win_rate"),
    ],
)
def test_names_a_missing_or_broken_file(tmp_path: Path, name: str, content: str | None, complaint: str) -> None:
    path = write(tmp_path, "mappo", "3m", 0, [0.5], "finished") / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=complaint) as error:
        read_run(path.parent, 0)
    assert str(error.value).startswith(str(path))


def test_reads_the_final_test_and_evaluations_a_step_apart(tmp_path: Path) -> None:
    folder = write(tmp_path, "mappo", "3m", 0, [0.5, 1.0], "finished")
    assert read_run(folder, 0).final_test is None
    table([0.5, 1.0], every=1.0).to_csv(folder / "evaluations.csv", index=False)
    (folder / "final_test.csv").write_text(final_test({"last": 0.0, "best": 0.5}))
    read = read_run(folder, 0)
    assert read.evaluations["env_steps"].tolist() == [1, 2]
    assert read.final_test is not None and read.final_test["win_rate"].to_dict() == {"last": 0.0, "best": 0.5}


def test_of_an_unfinished_run_neither_a_torn_row_of_metrics_nor_a_final_test_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, "mappo", "3m", 0, [0.5], "running")
    (folder / "metrics.csv").write_text("env_steps,train/lr\n1,0.5\n2,tor")
    (folder / "final_test.csv").write_text(final_test({"last": 0.0, "best": 0.5}))
    assert read_run(folder, 0).final_test is None


@pytest.mark.parametrize(("study", "complaint"), [(".", "no run in it"), ("nowhere", "nowhere: no such folder")])
def test_a_study_without_runs_is_an_error(tmp_path: Path, study: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_comparison(tmp_path / study)


def test_the_evaluation_protocol_is_the_recorded_one_or_that_of_the_time_before() -> None:
    assert run([1.0]).protocol == EvaluationProtocol(32, 320, None)
    recorded = {"every_n_episodes": 50, "episodes": 64, "test_episodes": 100}
    assert replace(run([1.0]), record={"evaluation": recorded}).protocol == EvaluationProtocol(64, 100, 50)


def test_final_scores_are_means_over_the_last_five_evaluations() -> None:
    runs = [run([0.9, 0.0, 0.5, 1.0, 1.0, 0.5]), run([0.2, 0.4]), run([0.3])]
    np.testing.assert_array_equal(final_scores(runs), [0.6, 0.3, 0.3])
    np.testing.assert_array_equal(final_scores(runs, "return_mean"), [12.0, 6.0, 6.0])


def test_equal_evaluations_in_another_order_are_a_tie() -> None:
    a, b = [0.1, 0.2, 0.3, 0.6, 0.7], [0.7, 0.6, 0.3, 0.2, 0.1]
    assert sum(a) != sum(b)
    first, second = final_scores([run(a), run(b)])
    assert first == second


def test_curves_step_from_evaluation_to_evaluation() -> None:
    runs = [run([0.25, 0.5]), run([1.0]), run([])]
    grid = np.array([0.0, 99.0, 100.0, 199.0, 200.0, 300.0])
    expected = [[0, 0, 0.25, 0.25, 0.5, 0.5], [0, 0, 1, 1, 1, 1], [0] * 6]
    np.testing.assert_array_equal(curve(runs, "win_rate", grid), expected)
    np.testing.assert_array_equal(curve(runs[:1], "return_mean", grid), [[np.nan, np.nan, 5, 5, 10, 10]])
    assert curve([], "win_rate", grid).shape == (0, 6)


def test_the_common_grid_ends_where_every_run_has_been_evaluated() -> None:
    runs = [run([0.0] * 5), run([0.0] * 4), run([])]
    np.testing.assert_array_equal(common_grid(runs, points=5), [0, 100, 200, 300, 400])
    with pytest.raises(ValueError, match="evaluated"):
        common_grid([run([])])


def test_area_under_curve() -> None:
    rising = run([0.5, 1.0])
    assert area_under_curve(rising) == pytest.approx((0.5 * 0.25 + 0.5 * 0.75), abs=1e-12)
    assert area_under_curve(rising, until=100) == pytest.approx(0.25)
    assert area_under_curve(rising, until=150) == pytest.approx((100 * 0.25 + 50 * 0.625) / 150)
    assert area_under_curve(rising, until=400) == pytest.approx((100 + 200 * 1.0) / 400)
    assert area_under_curve(rising, "return_mean") == pytest.approx((10 + 15) / 2)
    assert area_under_curve(run([1.0] * 4), until=50) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="no evaluation"):
        area_under_curve(run([]))


@pytest.mark.parametrize(
    ("axis", "amount", "budget"), [("env_steps", 400, 500), ("episodes", 8, 10), ("wall_seconds", 0.4, 0.5)]
)
def test_steps_to_threshold_on_each_axis(axis: Axis, amount: float, budget: float) -> None:
    rates = [0.0, 0.9, 0.0, 0.9, 0.9]
    assert steps_to_threshold(run(rates), 0.6, axis=axis) == (pytest.approx(amount), False)
    assert steps_to_threshold(run(rates), 0.7, axis=axis) == (pytest.approx(budget), True)


def test_smoothing_keeps_a_lucky_evaluation_from_counting() -> None:
    lucky = run([0.0, 1.0, 0.0, 0.0, 0.5, 1.0])
    assert steps_to_threshold(lucky, 0.5, smooth=1) == (200.0, False)
    assert steps_to_threshold(lucky, 0.5, smooth=3) == (600.0, False)
    assert steps_to_threshold(lucky, 0.5, smooth=7) == (600.0, True)
    assert steps_to_threshold(run([]), 0.5) == (0.0, True)
    assert steps_to_threshold(run([0.1, 0.2, 0.3]), 0.2) == (300.0, False), "0.1 + 0.2 + 0.3 differs from 0.6"
    assert steps_to_threshold(run([0.3, 0.2, 0.1]), 0.2) == (300.0, False), "a mean that rounding leaves below 0.2"
    assert steps_to_threshold(run([0.4, 0.6]), 8.0, smooth=1, metric="return_mean") == (100.0, False)
    with pytest.raises(ValueError, match="at least 1"):
        steps_to_threshold(lucky, 0.5, smooth=0)
