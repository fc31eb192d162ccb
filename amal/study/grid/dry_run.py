"""Whether ``fit`` takes the arguments of a study's runs, told before any of them is begun."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from amal.study.grid.launchers import describe_exit
from amal.study.grid.runs import Cell
from amal.study.records import StudyError

_ROOT = Path(__file__).resolve().parents[3]

# A process of its own, as a run is, for Lightning takes hundreds of megabytes, which a study would keep for days. One
# for all runs, for it takes seconds to load.
_PARSE = """
import sys
sys.path = [sys.argv[1], *filter(None, sys.path)]
import json
from cli import main
for arguments in json.load(sys.stdin):
    try:
        main(["fit", *arguments, "--print_config"])
    except SystemExit as end:
        if end.code:
            raise
"""


def refuse_unfit(runs: Sequence[Sequence[str]]) -> None:
    """Raises StudyError with what ``fit`` says against the arguments of the first of the runs that it would refuse, a
    misspelt one for instance. What only making the model shows, as a negative rate, is told when the run begins."""
    if not runs:
        return
    done = subprocess.run(
        [sys.executable, "-c", _PARSE, str(_ROOT)],
        input=json.dumps(list(map(list, runs))),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [describe_exit(done.returncode)]
        errors = [line for line in lines if line.startswith("error: ")] or lines
        raise StudyError(f"no run could begin: {errors[-1].removeprefix('error: ')}")


def unbegun(cells: Sequence[Cell]) -> list[Cell]:
    """The first cell of each algorithm of which no run has ever begun."""
    begun = {cell.algorithm for cell in cells if (cell.folder / "config.yaml").exists()}
    firsts = {cell.algorithm: cell for cell in reversed(cells) if cell.algorithm not in begun}
    return list(firsts.values())[::-1]
