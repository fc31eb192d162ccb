"""The grid of a study: its cells, their folders, and the settings that they share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from amal.study.grid.runs import Grid, last_row
from amal.study.records import StudyError, write_record
from tests.conftest import ROOT
from tests.study.cells import GRID, OF_STUDIES, fake


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_seeds_of_all_algorithms_advance_together(tmp_path: Path) -> None:
    names = [str(cell) for cell in GRID.cells(tmp_path)]
    assert names[:5] == ["mappo 3m seed_0", "ippo 3m seed_0", "mappo 8m seed_0", "ippo 8m seed_0", "mappo 3m seed_1"]
    assert len(set(names)) == 8


def test_a_cell_begins_continues_or_is_finished_as_its_folder_says(tmp_path: Path) -> None:
    begun, stopped, crashed, done = GRID.cells(tmp_path)[:4]
    fake(begun, "running")
    fake(stopped, "running", checkpoint=True)
    fake(crashed, "failed: RuntimeError: finished", checkpoint=True)
    fake(done, "finished", checkpoint=True)
    assert [cell.is_finished() for cell in (begun, stopped, crashed, done)] == [False, False, False, True]
    assert begun.next_arguments()[:3] == [f"--config={ROOT / 'configs/mappo.yaml'}", *OF_STUDIES]
    for cell in (stopped, crashed):
        config, checkpoint = cell.folder / "config.yaml", cell.folder / "checkpoints" / "last.ckpt"
        assert cell.next_arguments()[:4] == ["--config", str(config), "--ckpt_path", str(checkpoint)]


def test_allowed_code_is_passed_on_to_begin_and_to_continue(tmp_path: Path) -> None:
    grid = Grid(GRID.algorithms, ["8m"], [3], 500, allowed_code=["their", "critic.py"])
    cell = grid.cells(tmp_path)[0]
    assert cell.next_arguments()[-2:] == ["--allow_code=their", "--allow_code=critic.py"]
    fake(cell, "running", checkpoint=True)
    assert cell.next_arguments()[-2:] == ["--allow_code=their", "--allow_code=critic.py"]
    assert "their" not in str(grid.record())


def test_overrides_come_after_the_config_and_before_what_the_grid_sets(tmp_path: Path) -> None:
    grid = Grid(GRID.algorithms, ["8m"], [3], 500, ["data.num_envs=32"])
    words = [word for word in grid.cells(tmp_path)[0].next_arguments() if not word.startswith("--config")]
    assert words[:6] == [
        *OF_STUDIES,
        "--data.num_envs=32",
        "--data.scenario=8m",
        "--data.env_steps=500",
        "--seed_everything=3",
    ]


def test_a_study_grows_but_its_settings_stay(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("model: {}\n")
    study = tmp_path / "study"
    begun = Grid({"mine": [config]}, ["3m"], [0, 1], 1000)
    write_record(study, begun.join(study))
    grown = Grid({"mine": [config], **GRID.algorithms}, ["3m", "8m"], [0, 1, 2], 1000)
    write_record(study, grown.join(study))
    record = yaml.safe_load((study / "study.yaml").read_text())
    assert list(record["algorithms"]) == ["mine", "mappo", "ippo"]
    assert (record["scenarios"], record["seeds"]) == (["3m", "8m"], [0, 1, 2])
    assert record["history"][1]["added"] == {"algorithms": ["mappo", "ippo"], "scenarios": ["8m"], "seeds": [2]}
    assert begun.join(study) == grown.join(study) == record
    fake(begun.cells(study)[0], "interrupted")
    for other, words in (
        (Grid({"mine": [config]}, ["3m"], [0], 2000), "--env_steps 1000, not 2000"),
        (Grid({"mine": [config]}, ["3m"], [0], 1000, ["model.lr=1"]), "--overrides none, not model.lr=1"),
        (Grid({"mine": [config]}, ["3m"], [0], 1000, tuned_on=["8m"]), "--tuned_on none, not 8m"),
        (Grid({"mine": [config]}, ["3m"], [0], 1000, baseline="mine"), "--baseline none, not mine"),
        (Grid({"mine": [config, config]}, ["3m"], [0], 1000), "choose another label"),
    ):
        with pytest.raises(StudyError, match=words):
            other.join(study)
    config.write_text("model: {lr: 1}\n")
    with pytest.raises(StudyError, match="mine.yaml as 'mine', which has changed"):
        begun.join(study)


def test_a_study_grows_by_scenarios_with_budgets_of_their_own(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("model: {}\n")
    study, mine = tmp_path / "study", {"mine": [config]}
    begun = Grid(mine, ["3m", "8m"], [0], 1000, budgets={"3m": 500, "8m": 2000})
    write_record(study, begun.join(study))
    write_record(study, Grid(mine, ["3m"], [0], 1000, budgets={"3m": 500}).join(study))  # before any run
    fake(begun.cells(study)[0], "interrupted")
    assert Grid(mine, ["8m"], [1], 1000, budgets={"8m": 2000}).join(study)["budgets"] == begun.budgets
    more = Grid(mine, ["3m", "2s3z"], [0], 1000, budgets={"2s3z": 3000, "3m": 500})
    assert more.join(study)["budgets"] == begun.budgets | {"2s3z": 3000}
    for budgets, words in (({}, "2000 env steps on 8m, not 1000"), ({"8m": 1}, "2000 env steps on 8m, not 1")):
        with pytest.raises(StudyError, match=words):
            Grid(mine, ["8m"], [0], 1000, budgets=budgets).join(study)


def test_runs_of_unknown_origin_are_refused(tmp_path: Path) -> None:
    fake(GRID.cells(tmp_path)[5], "finished")
    with pytest.raises(StudyError, match="tells how it was made"):
        GRID.join(tmp_path)


def test_a_study_of_which_nothing_came_may_begin_anew_with_other_settings(tmp_path: Path) -> None:
    write_record(tmp_path, replace(GRID, overrides=["model.lrr=1"]).join(tmp_path))
    first = GRID.cells(tmp_path)[0].folder
    first.mkdir(parents=True)
    assert GRID.join(tmp_path)["overrides"] == []
    (first / "config.yaml").touch()
    with pytest.raises(StudyError, match="was begun with --overrides model.lrr=1, not none"):
        GRID.join(tmp_path)


def test_the_last_row_of_a_file_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert last_row(path) == {}
    path.write_text("env_steps,x\r\n")
    assert last_row(path) == {}
    path.write_text("env_steps,x\r\n1,2\r\n3,4\r\n5,")
    assert last_row(path) == {"env_steps": 3.0, "x": 4.0}


def test_only_the_latest_session_of_a_log_tells_the_error(tmp_path: Path) -> None:
    cell = GRID.cells(tmp_path)[0]
    cell.log.parent.mkdir()
    cell.log.write_text("=== first\nerror: old\n=== second\nTraceback …\nValueError: new\nbye\n")
    assert cell.last_error() == "ValueError: new"
    cell.log.write_text("=== first\nerror: old\n=== second\n")
    assert cell.last_error() == ""
