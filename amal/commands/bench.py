"""The ``bench`` command: how fast the simulator and training are on this machine, and what the time is spent on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numba
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from amal.battle.entries import ScenarioError
from amal.battle.scenario import load_scenario
from amal.bench.simulator import SimulatorSpeed, measure_simulator
from amal.bench.training import BenchError, TrainingSpeed, measure_training
from amal.commands.arguments import OneLineParser, add_code_option, algorithm_configs, fail, path_argument
from amal.runtime.argument_checks import check_at_least, check_positive, whole_number
from amal.runtime.atomic import replacing
from amal.runtime.program import program

Algorithms = Sequence[tuple[str, Sequence[Path]]]
"""Labels and config files."""

SCALING_BATTLES = (8, 64, 512, 4096)
SCALING_AGENTS = ("3m", "8m", "25m")
COLUMNS = 4  # of runs, that fit into a terminal side by side
CROWDS = ("3m", "8m", "25m", "27m_vs_30m", "2c_vs_64zg")


def main(args: list[str]) -> None:
    options = _parser().parse_args(args)
    console = Console()
    try:
        check_at_least(1, **{"--battles": options.battles, "--env_steps": options.env_steps})
        check_positive(**{"--seconds": options.seconds})
        algorithms = [algorithm_configs(word) for word in options.algorithms]
        for name in [*options.scenarios, options.training_scenario]:
            load_scenario(name)
        if options.out is not None:
            _check_new(options.out)
        result: dict[str, Any] = {"simulator": _simulator(options, console)}
        result["training"] = _training(algorithms, options, console)
        if options.scaling:
            result |= _scaling(algorithms, options, console)
    except (ScenarioError, BenchError, ValueError) as error:
        fail(str(error))
    if options.out is not None:
        write(result, options.out)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=f"{program()} bench",
        allow_abbrev=False,
        description="Measure how fast battles and training are, and where the time goes. Nothing else should run.",
    )
    parser.add_argument("--scenarios", nargs="*", default=["3m", "2s3z", "3s5z", "MMM"], metavar="NAME|FILE")
    parser.add_argument("--battles", type=int, default=1024, help="battles at once (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each scenario (default %(default)s)")
    parser.add_argument(
        "--algorithms",
        nargs="*",
        default=["mappo"],
        metavar="NAME[:FILE,...]",
        help="NAME for configs/NAME.yaml, or NAME:FILE[,FILE...] for those files, later over earlier (default mappo)",
    )
    parser.add_argument("--training_scenario", default="2s3z", metavar="NAME|FILE", help="(default %(default)s)")
    parser.add_argument("--env_steps", type=whole_number, default=30_000, help="of each training (default %(default)s)")
    parser.add_argument(
        "--scaling", action="store_true", help="also over battles, agents, unit pairs and threads (several minutes)"
    )
    parser.add_argument(
        "--out", type=path_argument, metavar="FOLDER", help="write bench.json there, with --scaling a picture"
    )
    add_code_option(parser)
    return parser


def _check_new(out: Path) -> None:
    """Before the minutes of measuring: raises ValueError if the folder exists or cannot be made."""
    try:
        out.mkdir(parents=True)
        out.rmdir()
    except OSError as error:
        raise ValueError(f"--out {out} cannot be made ({error.strerror}); choose another folder") from error


def _simulator(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    speeds = [measure_simulator(name, options.battles, options.seconds) for name in options.scenarios]
    if speeds:
        console.print(simulator_table(f"Random battles, {options.battles:,} at once", speeds))
    return [speed.record() for speed in speeds]


def _training(algorithms: Algorithms, options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    budget = (options.training_scenario, options.env_steps, options.allow_code)
    speeds = [measure_training(label, configs, *budget) for label, configs in algorithms]
    if speeds:
        console.print(training_table("Training as shipped", speeds))
    return [speed.record() for speed in speeds]


def _scaling(algorithms: Algorithms, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    threads = sorted({1, numba.get_num_threads()})
    scenario, seconds = options.training_scenario, options.seconds
    battles = [measure_simulator(scenario, n, seconds, t) for t in threads for n in SCALING_BATTLES]
    console.print(simulator_table(f"Over battles and threads, {scenario}", battles))
    crowds = [measure_simulator(name, options.battles, seconds) for name in CROWDS]
    console.print(simulator_table(f"Over units, {options.battles} battles", crowds))
    agents = [
        measure_training(label, configs, name, options.env_steps, options.allow_code, t)
        for label, configs in algorithms
        for name in SCALING_AGENTS
        for t in threads
    ]
    for i in range(0, len(agents), COLUMNS):
        console.print(training_table("Over agents and threads", agents[i : i + COLUMNS]))
    return {
        "over_battles": [speed.record() for speed in battles],
        "over_units": [speed.record() for speed in crowds],
        "over_agents": [speed.record() for speed in agents],
    }


def simulator_table(title: str, speeds: Sequence[SimulatorSpeed]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("scenario")
    for column in ("battles", "threads", "env-steps/s", "slowest", "fastest", "ns per pair"):
        table.add_column(column, justify="right")
    for s in speeds:
        figures = (s.median, s.slowest, s.fastest)
        per_pair = 1e9 * s.threads / s.median / s.pairs
        cells = (f"{s.battles:,}", str(s.threads), *(f"{figure:,.0f}" for figure in figures), f"{per_pair:,.0f}")
        table.add_row(s.scenario, *cells)
    return table


def training_table(title: str, speeds: Sequence[TrainingSpeed]) -> Table:
    """A column for each run: there are more measures than fit side by side."""
    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("")
    for s in speeds:
        table.add_column(f"{s.algorithm}\n{s.scenario}\n{s.threads} thread{'s' * (s.threads != 1)}", justify="right")
    table.add_row("env-steps/s", *(f"{s.env_steps_per_second:,.0f}" for s in speeds))
    for part in ("battles", "acting", "compiled", "recording", "update", "rest"):
        table.add_row(f"  time in {part}", *(f"{getattr(s, part):.0%}" for s in speeds))
    table.add_row("GFLOP/s in matrix products", *(f"{s.gflops:.0f}" for s in speeds))
    table.add_row("GFLOP/s of one product alone", *(f"{s.product_gflops:.0f}" for s in speeds))
    table.add_row("  share of the time they need", *(f"{s.product_share:.0%}" for s in speeds))
    table.add_row("peak memory", *(f"{s.memory_mb:,.0f} MB" for s in speeds))
    table.add_row("start to first update", *(f"{s.startup:.1f} s" for s in speeds))
    return table


def write(result: dict[str, Any], out: Path) -> None:
    """bench.json, and scaling.png if there is something to draw."""
    out.mkdir(parents=True)
    with replacing(out / "bench.json") as part:
        part.write_text(json.dumps(result, indent=2) + "\n")
    if "over_battles" in result:
        from amal.bench.picture import draw_scaling

        draw_scaling(result, out / "scaling.png")
