"""Arguments that ``compare`` and ``sweep`` share: of the grid, and of its runs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from amal.commands.arguments import add_code_option, path_argument
from amal.runtime.argument_checks import LARGEST_SEED, whole_number
from amal.study.records import StudyError

MOST_RUNS = 100_000  # of a study; to list far more cells than anybody can run takes minutes and gigabytes
GRIDS_OWN = (  # arguments of fit that neither --overrides nor a space may set
    *("config", "ckpt_path", "out", "allow_code", "seed_everything"),
    *("data", "data.scenario", "data.env_steps", "data.episodes"),
    *("trainer", "trainer.callbacks"),  # trainer.callbacks+ adds one
)


def add_grid_options(parser: argparse.ArgumentParser, seeds: int, out: str) -> None:
    """Scenarios, seeds, budget and folder.

    Args:
        parser: of the command.
        seeds: how many by default.
        out: what the folder is of.
    """
    parser.add_argument("--scenarios", nargs="+", required=True, metavar="NAME|FILE")
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[seeds],
        metavar="N",
        help=f"how many, or several by value (default {seeds})",
    )
    parser.add_argument("--env_steps", type=whole_number, required=True, metavar="N", help="budget of every run")
    parser.add_argument("--out", type=path_argument, required=True, metavar="FOLDER", help=out)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """What every run is given, and what code of others it may run."""
    parser.add_argument(
        "--overrides", nargs="+", default=[], metavar="KEY=VALUE", help="for every run, as in data.num_envs=32"
    )
    add_code_option(parser)


def checked_overrides(overrides: list[str]) -> list[str]:
    """The same. Raises StudyError for one that is no KEY=VALUE, or whose key the study sets itself."""
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not re.fullmatch(r"\w[\w.]*\+?", key):
            raise StudyError(f"--overrides: expected KEY=VALUE, got {override!r}")
        if key in GRIDS_OWN or key.removesuffix("+") in GRIDS_OWN[:-1]:
            raise StudyError(f"--overrides: {key} is set by the study itself, or by options of the command")
    return overrides


def seeds_of(numbers: list[int]) -> list[int]:
    """The seeds that ``--seeds`` means: so many, or these. Raises StudyError."""
    if len(numbers) == 1:
        if numbers[0] < 1:
            raise StudyError(f"--seeds must be at least 1, got {numbers[0]}")
        if numbers[0] > MOST_RUNS:
            raise StudyError(f"--seeds must be at most {MOST_RUNS:,}, got {numbers[0]}")
        return list(range(numbers[0]))
    refuse_repeated("--seeds", numbers)
    for seed in numbers:
        if not 0 <= seed <= LARGEST_SEED:
            raise StudyError(f"--seeds must be between 0 and {LARGEST_SEED}, got {seed}")
    return numbers


def refuse_repeated(option: str, values: Sequence[object]) -> None:
    """Raises StudyError if a value is there twice."""
    repeated = next((value for value in values if values.count(value) > 1), None)
    if repeated is not None:
        raise StudyError(f"{option}: {repeated} is named twice")
