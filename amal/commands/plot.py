"""The ``plot`` command."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from amal.commands.arguments import OneLineParser, fail, path_argument, refusing
from amal.runtime.program import program

SUFFIXES = (".png", ".pdf")


def main(args: list[str]) -> None:
    options = _parser().parse_args(args)
    if options.out.suffix not in SUFFIXES:
        fail(f"--out {options.out}: the suffix must be one of {', '.join(SUFFIXES)}")
    if options.out.is_dir() or not options.out.absolute().parent.is_dir():
        fail(f"--out {options.out}: is a folder, or in a folder that is not there")
    from amal.study.analysis.comparison import check_same_battles
    from amal.study.analysis.scores import read_lone_run  # which loads pandas and matplotlib: --help need not wait
    from amal.study.diagnostics import plot_traces, read_trace

    with refusing(options.out):
        for run in options.runs:
            _check_is_run(run)
        runs = dict(zip(_labels(options.runs), map(read_lone_run, options.runs), strict=True))
        check_same_battles(_shared_folder(options.runs), runs, "plot each kind by itself")
        traces = [read_trace(run, label) for label, run in runs.items()]
        plot_traces(traces, options.out)
    for trace in traces:
        for found in trace.signs:
            print(f"{trace.label}: {found}")
    print(f"plot: {options.out}")


def _check_is_run(folder: Path) -> None:
    """Raises ValueError for a folder without a run, and says where runs are below it."""
    if not (folder / "run.json").exists():
        below = next(iter(sorted(folder.glob("**/run.json"))), None)
        hint = "" if below is None else f" (did you mean {below.parent}?)"
        raise ValueError(f"{folder}: no folder of a run, for it has no run.json{hint}")


def _labels(runs: list[Path]) -> list[str]:
    """The parts of the paths that tell the runs apart."""
    paths = [run.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise ValueError(f"{next(run for run in runs if paths.count(run.resolve()) > 1)}: is named twice")
    if len(paths) == 1:
        return [paths[0].name]
    shared = _shared_folder(runs)
    return [str(path.relative_to(shared)) if path != shared else path.name for path in paths]


def _shared_folder(runs: list[Path]) -> Path:
    return Path(os.path.commonpath([run.resolve() for run in runs]))


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=f"{program()} plot",
        allow_abbrev=False,
        description="Draw the learning curves and metrics of runs, finished or not, and tell the values that "
        "docs/metrics.md calls bad signs.",
    )
    parser.add_argument("runs", nargs="+", type=path_argument, metavar="RUN", help="folder of a run, wherever it is")
    parser.add_argument(
        "--out", type=path_argument, default=Path("plot.png"), metavar="FILE", help=".png or .pdf (default %(default)s)"
    )
    return parser
