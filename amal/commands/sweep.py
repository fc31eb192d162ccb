"""The ``sweep`` command: searches a configuration with Optuna, by runs like those of ``compare``."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from amal.commands.arguments import OneLineParser, nearest_config, refusing
from amal.commands.study_arguments import GRIDS_OWN, add_grid_options, add_run_options, axes_of, check_overrides
from amal.runtime.argument_checks import LARGEST_SEED, whole_number
from amal.runtime.locks import refuse_foreign
from amal.runtime.program import program
from amal.runtime.shipped import config_file, is_file
from amal.study.grid.dry_run import refuse_unfit
from amal.study.grid.launchers import TICK_SECONDS, CellInUse, LocalLauncher, received_signals
from amal.study.grid.runs import Grid
from amal.study.records import StudyError
from amal.study.space import as_overrides, examples, read_space

if TYPE_CHECKING:
    from amal.study.sweep import Candidate, Sweep


def main(args: list[str]) -> None:
    options = _parser().parse_args(args)
    with refusing(options.out):
        for name in ("trials", "parallel"):
            if getattr(options, name) < 1:
                raise StudyError(f"--{name} must be at least 1, got {getattr(options, name)}")
        if not 0 <= options.seed <= LARGEST_SEED:
            raise StudyError(f"--seed must be between 0 and {LARGEST_SEED}, got {options.seed}")
        if not is_file(options.space):
            raise StudyError(f"--space {options.space}: no such file{nearest_config(str(options.space))}")
        space = read_space(options.space, GRIDS_OWN)
        grid = _grid(options)
        tried = examples(space)
        for overrides in tried:
            check_overrides(f"--space {options.space}", overrides)
        refuse_foreign(options.out, "sweep.db" if options.storage is None else "trials.csv")
        from amal.study.sweep import Sweep, import_optuna  # which load pandas and Optuna: --help need not wait

        import_optuna()
        if not any(options.out.glob("trial_*/*/seed_*/config.yaml")):  # else fit has taken such arguments before
            grids = [replace(grid, overrides=[*grid.overrides, *overrides]) for overrides in tried]
            refuse_unfit([each.cells(options.out)[0].next_arguments() for each in grids])
        if options.storage is None:
            options.out.mkdir(parents=True, exist_ok=True)
        storage = options.storage or f"sqlite:///{options.out.resolve() / 'sweep.db'}"
        code = run(Sweep(grid, space, options.out, storage, options.seed), options.trials, options.parallel)
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=f"{program()} sweep",
        allow_abbrev=False,
        description="Search a configuration: each trial trains on all scenarios with all seeds, and the one with the "
        "largest mean area under the win-rate curve is written to OUT/best.yaml. The same command again continues "
        "what was interrupted. Several may share one --storage.",
    )
    parser.add_argument(
        "--config", nargs="+", type=config_file, required=True, metavar="NAME|FILE", help="later over earlier"
    )
    parser.add_argument(
        "--space", type=config_file, required=True, metavar="NAME|FILE", help="what is searched, see docs/sweeps.md"
    )
    parser.add_argument("--trials", type=whole_number, required=True, metavar="N", help="how many in all")
    add_grid_options(parser, seeds=1, out="of the runs and results")
    parser.add_argument("--storage", metavar="URL", help="of Optuna (default: the SQLite file OUT/sweep.db)")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="trials at a time (default 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampler (default %(default)s)")
    add_run_options(parser)
    return parser


def _grid(options: argparse.Namespace) -> Grid:
    for config in options.config:
        if not config.is_file():
            raise StudyError(f"--config {config}: no such file{nearest_config(str(config))}")
    scenarios, seeds = axes_of(options, {"--config": options.config})
    return Grid(
        {"config": options.config},
        [scenario.reference for scenario in scenarios],
        seeds,
        options.env_steps,
        options.overrides,
        options.allow_code,
    )


def run(sweep: Sweep, trials: int, parallel: int) -> int:
    """Runs trials until the study has so many. Returns the exit code."""
    sweep.write()  # the folder's mark
    launcher, failed = LocalLauncher(parallel), 0
    running: list[Candidate] = []
    waiting = sweep.candidates(trials)
    is_out = False  # of candidates
    with received_signals() as signals:
        try:
            while not signals and (running or not is_out):
                while not is_out and len(running) < parallel:
                    candidate = next(waiting, None)
                    is_out = candidate is None
                    if candidate is not None and not _go_on(sweep, launcher, candidate):
                        running.append(candidate)
                time.sleep(TICK_SECONDS)
                failures = dict(launcher.poll())
                for candidate in list(running):
                    end = _advance(sweep, launcher, candidate, failures.get(candidate.cell))
                    if end:
                        running.remove(candidate)
                        failed += end.startswith("failed")
                        _tell(sweep, candidate, end)
                        sweep.write()
        finally:
            launcher.stop(signals)
    sweep.write()
    if signals:
        print(f"stopped; go on with the same command ({sweep.out})", file=sys.stderr)
        return 128 + signals[0]
    if sweep.n_trials < trials:
        print(f"ended after {sweep.n_trials} of {trials} trials: the space has no other candidates")
    if sweep.best is not None:
        print(f"best: trial {sweep.best.number} · {sweep.out / 'best.yaml'} · {sweep.out / 'trials.csv'}")
    return 1 if failed else 0


def _advance(sweep: Sweep, launcher: LocalLauncher, candidate: Candidate, failure: str | None) -> str:
    """Judges a candidate and starts its next run when one has ended; how it ended, empty while it goes on.

    Args:
        failure: of its run; None while that still runs.
    """
    cell = candidate.cell
    if failure is not None and (failure or not cell.is_finished()):
        sweep.give_up(candidate, pruned=False)
        return f"failed: {failure or 'ended without being finished'} · {cell.last_error()}"
    candidate.done += failure is not None
    if sweep.judge(candidate):
        launcher.end(cell)
        sweep.give_up(candidate, pruned=True)
        return "pruned"
    return "" if failure is None else _go_on(sweep, launcher, candidate)


def _go_on(sweep: Sweep, launcher: LocalLauncher, candidate: Candidate) -> str:
    """Starts the next run of a candidate, which is complete with none left; how it ended, empty if it goes on."""
    if candidate.done == len(candidate.cells):
        return f"area under the win-rate curve {sweep.complete(candidate):.3f}"
    try:
        launcher.start(candidate.cell)
    except (OSError, CellInUse) as error:
        sweep.give_up(candidate, pruned=False)
        return f"failed: {error}"
    return ""


def _tell(sweep: Sweep, candidate: Candidate, what: str) -> None:
    best = sweep.best
    so_far = "" if best is None else f" · best {best.value:.3f}, trial {best.number}"
    print(f"trial {candidate.trial.number}: {what}{so_far} · {shlex.join(as_overrides(candidate.values))}", flush=True)
