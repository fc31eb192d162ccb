"""The ``scenarios`` command: what can be fought, and how one battle is seen."""

from __future__ import annotations

from collections import Counter

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from amal.battle.scenario import Scenario, ScenarioError, Side, load_scenario, scenario_names
from amal.study.arguments import OneLineParser, fail
from amal.study.layout import layout


def main(args: list[str]) -> None:
    parser = OneLineParser(
        prog="python cli.py scenarios",
        description="List the scenarios, or describe one: its actions, observation, state.",
    )
    parser.add_argument("scenario", nargs="?", metavar="NAME", help="the one to describe")
    name = parser.parse_args(args).scenario
    if name is None:
        list_all()
        return
    try:
        describe(load_scenario(name))
    except ScenarioError as error:
        fail(str(error))


def describe(scenario: Scenario) -> None:
    """Prints the layout of a scenario's actions, observation and state."""
    console = Console()
    console.print(f"{scenario.name}: {army(scenario, 'ally')} against {army(scenario, 'enemy')}\n", highlight=False)
    for table in layout(scenario):
        console.print(table)


def list_all() -> None:
    """Prints the scenarios with their armies and sizes."""
    table = Table(title="Scenarios for --data.scenario", title_justify="left", box=SIMPLE)
    table.add_column("scenario", no_wrap=True)
    table.add_column("allies")
    table.add_column("enemies")
    for column in ("actions", "obs", "state", "limit"):
        table.add_column(column, justify="right")
    for name in scenario_names():
        scenario = load_scenario(name)
        spec = scenario.spec()
        sizes = (spec.n_actions, spec.obs_dim, spec.state_dim, spec.episode_limit)
        table.add_row(name, army(scenario, "ally"), army(scenario, "enemy"), *map(str, sizes))
    Console().print(table)


def army(scenario: Scenario, side: Side) -> str:
    """'2 stalker, 3 zealot'."""
    counts = Counter(unit.name for unit in scenario.of_side(side))
    return ", ".join(f"{count} {name}" for name, count in counts.items())
