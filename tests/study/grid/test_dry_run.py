"""Arguments of runs that are checked before any run."""

from __future__ import annotations

from pathlib import Path

from amal.study.grid.dry_run import unbegun
from tests.study.cells import GRID


def test_an_algorithm_is_checked_until_one_of_its_runs_has_begun(tmp_path: Path) -> None:
    cells = GRID.cells(tmp_path)
    assert [str(cell) for cell in unbegun(cells)] == ["mappo 3m seed_0", "ippo 3m seed_0"]
    begun = next(cell for cell in cells if str(cell) == "mappo 8m seed_1")
    begun.folder.mkdir(parents=True)
    assert [cell.algorithm for cell in unbegun(cells)] == ["mappo", "ippo"], "a folder alone is of no run"
    (begun.folder / "config.yaml").touch()
    assert [str(cell) for cell in unbegun(cells)] == ["ippo 3m seed_0"]
