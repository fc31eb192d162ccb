"""The ``scenarios`` command: what can be fought, and how one battle is seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from amal.battle.battlefield import Scenario, Side
from amal.battle.entries import ScenarioError
from amal.battle.scenario import load_scenario, scenario_names
from amal.commands.arguments import OneLineParser, fail
from amal.commands.layout import layout
from amal.runtime.program import program


def main(args: list[str]) -> None:
    parser = OneLineParser(
        prog=f"{program()} scenarios",
        description="List the scenarios, or describe some: their actions, observation, state.",
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="NAME|FILE", help="those to describe; a file of your own is checked"
    )
    names = parser.parse_args(args).scenarios
    try:
        scenarios = [load_scenario(name) for name in names or scenario_names()]
    except ScenarioError as error:
        fail(str(error))
    if not names:
        print_all(scenarios)
        return
    for scenario in scenarios:
        describe(scenario)


def describe(scenario: Scenario) -> None:
    """Prints the layout of a scenario's actions, observation and state."""
    console = Console()
    teams = f"{army(scenario, 'ally')} against {army(scenario, 'enemy')}"
    console.print(f"{scenario.name}: {teams}\n", highlight=False, soft_wrap=True)
    for table in layout(scenario):
        console.print(table)


def print_all(scenarios: Sequence[Scenario]) -> None:
    """Prints the scenarios with their armies and sizes."""
    table = Table(title="Scenarios for --data.scenario", title_justify="left", box=SIMPLE)
    table.add_column("scenario", no_wrap=True)
    table.add_column("allies")
    table.add_column("enemies")
    for column in ("actions", "obs", "state", "limit"):
        table.add_column(column, justify="right")
    for scenario in scenarios:
        spec = scenario.spec()
        sizes = (spec.n_actions, spec.obs_dim, spec.state_dim, spec.episode_limit)
        table.add_row(scenario.name, army(scenario, "ally"), army(scenario, "enemy"), *(f"{size:,}" for size in sizes))
    Console().print(table)


def army(scenario: Scenario, side: Side) -> str:
    """'2 stalker, 3 zealot', or '5 of 45 % stalker, 55 % zealot' where they are drawn by weight."""
    family = scenario.family
    if family is not None:
        shares = (f"{weight:.0%} {unit.name}" for unit, weight in zip(family.types, family.weights, strict=True))
        return f"{family.allies if side == 'ally' else family.enemies} of {', '.join(shares)}"
    counts = Counter(unit.name for unit in scenario.of_side(side))
    return ", ".join(f"{count} {name}" for name, count in counts.items())
