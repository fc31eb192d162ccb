"""The ``report`` command."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from amal.commands.arguments import OneLineParser, fail, path_argument, refusing
from amal.runtime.program import program
from amal.study.analysis import RESAMPLES

MOST_RESAMPLES = 100_000  # some hundred megabytes; intervals do not get better by more


def main(args: list[str]) -> None:
    options = _parser().parse_args(args)
    if not 1 <= options.resamples <= MOST_RESAMPLES:
        fail(f"--resamples must be at least 1 and at most {MOST_RESAMPLES:,}, got {options.resamples}")
    if options.seed < 0:
        fail(f"--seed must be at least 0, got {options.seed}")
    from amal.runtime.locks import refuse_foreign
    from amal.study.analysis.comparison import compare_runs, read_comparison
    from amal.study.analysis.scores import read_lone_run
    from amal.study.analysis.tables import Bootstrap
    from amal.study.report.report import write_report

    names = options.study
    is_study = len(names) == 1 and not (names[0][1] / "run.json").exists()
    out = options.out or (names[0][1] / "report" if is_study else Path("report"))
    with refusing(out):
        if options.out is not None or not is_study:
            refuse_foreign(out, "report.html")
        if is_study:
            comparison = read_comparison(names[0][1], options.baseline, options.algorithms, options.count_stopped)
        else:
            runs = [read_lone_run(folder, name, options.count_stopped) for name, folder in names]
            comparison = compare_runs(runs, options.baseline, options.algorithms)
        comparison = comparison.named()
        bootstrap = Bootstrap(options.resamples, options.seed, comparison.folders)
        verdicts = write_report(comparison, out, bootstrap)
    for verdict in verdicts.values():
        print(verdict.headline)
    print(f"report: {out / 'report.html'}")


def _named_run(word: str) -> tuple[str | None, Path]:
    """(name, folder) of NAME=FOLDER, or of a folder without a name."""
    name, equals, folder = word.partition("=")
    if equals and re.fullmatch(r"\w[\w.-]*", name):
        return name, path_argument(folder)
    return None, path_argument(word)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=f"{program()} report",
        allow_abbrev=False,
        description="Write what a study found: report.html and its figures and tables as single files. Runs that are "
        "missing or unfinished are listed and left out.",
    )
    parser.add_argument(
        "study",
        nargs="+",
        type=_named_run,
        metavar="STUDY|[NAME=]RUN",
        help="folder of the study, as compare writes it; or folders of runs from anywhere, which go by their "
        "algorithm's name unless they are given another",
    )
    parser.add_argument("--baseline", metavar="NAME", help="compared with (default: the study's, else mappo)")
    parser.add_argument("--algorithms", nargs="+", default=[], metavar="NAME", help="only these beside the baseline")
    parser.add_argument(
        "--count_stopped",
        action="store_true",
        help="count runs that a callback has stopped, as EarlyStopping does; else they are listed as unfinished",
    )
    parser.add_argument("--out", type=path_argument, metavar="FOLDER", help="default STUDY/report; of runs: report")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, metavar="N", help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the resampling (default %(default)s)")
    return parser
