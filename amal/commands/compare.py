"""The ``compare`` command: runs the grid of a study, cell by cell, until all of it is finished."""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from amal.battle.entries import nearest
from amal.battle.scenario import load_scenario
from amal.commands.arguments import OneLineParser, algorithm_configs, refusing
from amal.commands.protocol import with_protocol
from amal.commands.study_arguments import add_grid_options, add_run_options, axes_of
from amal.runtime.argument_checks import whole_number
from amal.runtime.locks import locked
from amal.runtime.program import program
from amal.study.grid.board import Board
from amal.study.grid.dry_run import refuse_unfit, unbegun
from amal.study.grid.launchers import (
    TICK_SECONDS,
    CellInUse,
    Launcher,
    LocalLauncher,
    RayLauncher,
    import_ray,
    received_signals,
)
from amal.study.grid.runs import Grid
from amal.study.records import ACTING, GREEDY, StudyError, write_record


def main(args: list[str]) -> None:
    with refusing():
        options = read_options(args)
    with refusing(options.out):
        grid = grid_of(options)
        if options.launcher == "ray":
            import_ray()
        if options.parallel is not None and options.parallel < 1:
            raise StudyError(f"--parallel must be at least 1, got {options.parallel}")
        grid.join(options.out)  # refuses before anything is written
        refuse_unfit([cell.next_arguments() for cell in unbegun(grid.cells(options.out))])
        with locked(options.out):
            write_record(options.out, grid.join(options.out))
            code = run(grid, options)
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=f"{program()} compare",
        allow_abbrev=False,
        description="Train algorithms on scenarios with several seeds. The same command again continues what was "
        "interrupted and tries again what failed; finished runs are kept.",
    )
    parser.add_argument(
        "--algorithms",
        nargs="+",
        required=True,
        metavar="NAME[:FILE,...]",
        help="NAME for configs/NAME.yaml, or NAME:FILE[,FILE...] for those files, later over earlier",
    )
    add_grid_options(parser, seeds=5, out="the study's folder")
    parser.add_argument(
        "--baseline", metavar="NAME", help="the algorithm that report compares the others with (default mappo)"
    )
    parser.add_argument(
        "--tuned_on",
        nargs="+",
        default=[],
        metavar="NAME",
        help="scenarios used for tuning: shown, but without conclusions",
    )
    parser.add_argument(
        "--acting",
        choices=ACTING,
        default=GREEDY,
        help="whose win rates the report concludes from: of teams that take the likeliest actions or that sample them "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--budgets",
        nargs="+",
        default=[],
        metavar="SCENARIO=N",
        help="env steps of the runs on these scenarios, instead of --env_steps",
    )
    parser.add_argument("--names", nargs="+", default=[], metavar="NAME=TEXT", help="what reports call an algorithm")
    parser.add_argument(
        "--colours", nargs="+", default=[], metavar="NAME=#RRGGBB", help="of an algorithm in the figures of reports"
    )
    parser.add_argument("--protocol", metavar="FILE", help="YAML file with these settings, fixed before the first run")
    parser.add_argument(
        "--parallel", type=int, metavar="N", help="runs at a time, which share the cores (default: one a core)"
    )
    parser.add_argument("--launcher", choices=("local", "ray"), default="local", help="this machine or a Ray cluster")
    add_run_options(parser)
    return parser


def read_options(args: list[str]) -> argparse.Namespace:
    """The options, with those of a protocol. Raises StudyError."""
    return _parser().parse_args(with_protocol(args))


def grid_of(options: argparse.Namespace) -> Grid:
    """The grid that the options describe. Raises ValueError."""
    algorithms: dict[str, list[Path]] = {}
    for label, configs in map(algorithm_configs, options.algorithms):
        if label in algorithms:
            raise StudyError(f"--algorithms: {label!r} is named twice")
        algorithms[label] = configs
    scenarios, seeds = axes_of(options, {f"--algorithms {label}": files for label, files in algorithms.items()})
    return Grid(
        algorithms,
        [scenario.reference for scenario in scenarios],
        seeds,
        options.env_steps,
        options.overrides,
        options.allow_code,
        options.baseline,
        [load_scenario(name).name for name in options.tuned_on],
        options.acting,
        budgets_of(options.budgets, [scenario.name for scenario in scenarios]),
        mapping_of("--names", options.names),
        mapping_of("--colours", options.colours),
    )


def budgets_of(words: Sequence[str], scenarios: Sequence[str]) -> dict[str, int]:
    """By scenario, the env steps of SCENARIO=N. Raises StudyError."""
    found: dict[str, int] = {}
    for name, text in mapping_of("--budgets", words).items():
        if name not in scenarios:
            hint = nearest(name, scenarios)
            raise StudyError(f"--budgets: {name!r} is not among --scenarios{hint}; there are {', '.join(scenarios)}")
        try:
            found[name] = whole_number(text)
        except (ValueError, OverflowError):
            raise StudyError(f"--budgets {name}: expected a whole number, got {text!r}") from None
        if found[name] < 1:
            raise StudyError(f"--budgets {name} must be at least 1, got {text}")
    return found


def mapping_of(option: str, words: Sequence[str]) -> dict[str, str]:
    """By name, the texts of NAME=TEXT. Raises StudyError."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name in found:
            raise StudyError(f"{option}: {word!r} is no NAME=TEXT, or its name is there twice")
        found[name] = text
    return found


def run(grid: Grid, options: argparse.Namespace) -> int:
    """Run all unfinished cells. Returns the exit code."""
    launcher = RayLauncher(options.parallel) if options.launcher == "ray" else LocalLauncher(options.parallel)
    board = Board(grid.cells(options.out), launcher.parallel, Console())
    for cell in board.of_state("waiting"):
        if fault := cell.fault():
            print(f"note: {cell} is run again, its folder is set aside: {fault}", file=sys.stderr)
    with received_signals() as signals:
        try:
            with board.show():
                _run_until(lambda: bool(signals), launcher, board)
                if signals:
                    launcher.stop(signals)
                    board.put_back()
        finally:
            launcher.stop(signals)
    return board.summary(options.out, signals)


def _run_until(is_stopped: Callable[[], bool], launcher: Launcher, board: Board) -> None:
    waiting = deque(board.of_state("waiting"))
    running = 0
    while (waiting or running) and not is_stopped():
        while waiting and running < launcher.parallel:
            cell = waiting.popleft()
            try:
                launcher.start(cell)
                board.begin(cell)
                running += 1
            except (OSError, CellInUse) as error:
                board.end(cell, str(error))
        board.refresh()
        time.sleep(TICK_SECONDS)
        for cell, failure in launcher.poll():
            board.end(cell, failure)
            running -= 1
