"""Arguments that ``compare`` and ``sweep`` share: of the grid, and of its runs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from amal.battle.battlefield import Scenario
from amal.battle.scenario import load_scenario
from amal.commands.arguments import add_code_option, path_argument
from amal.runtime.argument_checks import LARGEST_SEED, whole_number
from amal.runtime.yaml_files import read_yaml
from amal.study.records import StudyError

MOST_RUNS = 100_000  # of a study; to list far more cells than anybody can run takes minutes and gigabytes
EVALUATIONS = "evaluation.every_n_episodes"
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


def axes_of(options: argparse.Namespace, algorithms: Mapping[str, Sequence[Path]]) -> tuple[list[Scenario], list[int]]:
    """The scenarios and seeds of a grid whose options are sound. Raises ValueError.

    Args:
        options: those that the functions above add.
        algorithms: config files by the option that names them, for errors.
    """
    scenarios = [load_scenario(name) for name in options.scenarios]
    refuse_repeated("--scenarios", [scenario.name for scenario in scenarios])
    if options.env_steps < 1:
        raise StudyError(f"--env_steps must be at least 1, got {options.env_steps}")
    check_overrides("--overrides", options.overrides)
    _refuse_without_evaluations(algorithms, options.overrides)
    seeds = seeds_of(options.seeds)
    runs = len(algorithms) * len(scenarios) * len(seeds)
    if runs > MOST_RUNS:
        raise StudyError(f"--seeds: {runs:,} runs are more than a study can have, which is {MOST_RUNS:,}")
    return scenarios, seeds


def check_overrides(source: str, overrides: Sequence[str]) -> None:
    """Raises StudyError for one that is no KEY=VALUE, whose key the study sets itself, or that would leave runs without
    the evaluations that they are judged by.

    Args:
        source: option, and file, that they are from.
        overrides: arguments of every ``fit``.
    """
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not re.fullmatch(r"\w[\w.]*\+?", key):
            raise StudyError(f"{source}: expected KEY=VALUE, got {override!r}")
        if key in GRIDS_OWN or key.removesuffix("+") in GRIDS_OWN[:-1]:
            raise StudyError(f"{source}: {key} is set by the study itself, or by options of the command")
        if key.rstrip("+") in ("evaluation", "checkpoint"):
            raise StudyError(f"{source}: expected one argument of {key}, as in {EVALUATIONS}=50, got {override!r}")
        if key == EVALUATIONS and not _is_positive(value):
            raise StudyError(f"{source}: {EVALUATIONS} must be at least 1, got {value}: a report needs evaluations")


def _refuse_without_evaluations(algorithms: Mapping[str, Sequence[Path]], overrides: Sequence[str]) -> None:
    """Raises StudyError if an algorithm's own configuration lets its runs have no evaluations."""
    if any(override.startswith(f"{EVALUATIONS}=") for override in overrides):
        return
    for option, configs in algorithms.items():
        for config in reversed(configs):
            given = _evaluation_of(config)
            if given is not None and not _is_positive(given):
                raise StudyError(f"{option}: {config} sets {EVALUATIONS} to {given}, but a report needs evaluations")
            if given is not None:
                break


def _evaluation_of(config: Path) -> str | None:
    """evaluation.every_n_episodes of a file, as written; None if it is not set or the file cannot be read."""
    try:
        section = read_yaml(config)["evaluation"]
        return str(section["every_n_episodes"] if isinstance(section, dict) else section)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _is_positive(value: str) -> bool:
    try:
        return float(value) >= 1
    except ValueError:
        return False


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
