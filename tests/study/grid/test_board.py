"""The table of a study that is under way."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from amal.study.grid.board import Board
from amal.study.grid.runs import Cell


def test_no_figure_is_cut_off_in_80_columns(tmp_path: Path) -> None:
    names = ("mappo_episodes_4", "amal_tuned")
    cells = [Cell(tmp_path, name, "protoss_10_vs_10", seed, 2_000_000) for name in names for seed in range(10)]
    for cell in cells[:3]:
        cell.folder.mkdir(parents=True)
        (cell.folder / "metrics.csv").write_text("env_steps,env_steps_per_second\n1000000,1234.5\n")
        (cell.folder / "evaluations.csv").write_text("env_steps,win_rate\n990000,1.0\n")
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    board = Board(cells, parallel=2, console=console)
    for cell in cells[:2]:
        board.begin(cell)
    board.begin(cells[2])
    board.end(cells[2], "exit code 1")
    text = io.StringIO()
    Console(file=text, width=80).print(board.table())
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in text.getvalue()
    assert any(
        re.fullmatch(r"\s*algorithm +scenario +finished +running +failed +trained +win rate +steps/s\s*", x)
        for x in lines
    )
    first = next(line for line in lines if "0 of 10" in line)
    assert first.split()[-8:] == ["0", "of", "10", "2", "1", "15%", "100%", "2,469"]
