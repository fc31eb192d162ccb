"""The process of a cell."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from amal.study.grid.launchers import CellInUse, launch
from tests.conftest import ROOT
from tests.study.cells import GRID, fake


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_only_a_cell_without_a_checkpoint_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    monkeypatch.setattr(sys, "platform", "other")
    fresh, stopped = GRID.cells(tmp_path / "study")[:2]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    for cell in (fresh, stopped):
        fake(cell, "running", checkpoint=cell is stopped)
        (cell.folder / "plots").mkdir()
        (cell.folder / "elsewhere").symlink_to(outside)
        launch(cell, threads=1).wait()
    assert list(fresh.folder.iterdir()) == [] and (outside / "precious").exists()
    names = {"run.json", "evaluations.csv", "checkpoints", "plots", "elsewhere"}
    assert {path.name for path in stopped.folder.iterdir()} == names


def test_a_cell_is_never_worked_on_by_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amal.study.grid.launchers.LOCK_SECONDS", 0.2)
    cell = GRID.cells(tmp_path)[0]
    first = launch(cell, threads=1)
    try:
        with pytest.raises(CellInUse):
            launch(cell, threads=1)
    finally:
        first.kill()
        first.wait()
    second = launch(cell, threads=1)
    second.kill()
    second.wait()
