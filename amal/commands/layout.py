"""The layout of a scenario's actions, observation and state, as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.box import SIMPLE
from rich.table import Table

from amal.battle.battlefield import MOVE_ACTIONS, Scenario
from amal.battle.vector import ACTION_NAMES


def layout(scenario: Scenario) -> list[Table]:
    """Tables of an agent's actions, its observation and the state, with the index of everything."""
    actions = _table("Actions of an agent", "action")
    for index, action in action_rows(scenario):
        actions.add_row(index, action)
    tables = [actions]
    for title, features in (
        ("Observation of an agent", scenario.obs_features()),
        ("State", scenario.state_features()),
    ):
        table = _table(f"{title}: {len(features)} numbers", "of", "features")
        for row in feature_rows(features):
            table.add_row(*row)
        tables.append(table)
    return tables


def action_rows(scenario: Scenario) -> list[tuple[str, str]]:
    """(index, what it does)."""
    healers = [unit.name for unit in scenario.types("ally") if unit.weapon == "heal"]
    targets = [("target", "enemy", scenario.n_enemies)]
    if healers:
        healed = min(scenario.n_agents, scenario.n_actions - MOVE_ACTIONS)
        targets.append((f"a {healers[0]} instead: heal", "ally", healed))
    rows = [(str(index), name) for index, name in enumerate(ACTION_NAMES)]
    for verb, side, number in targets:
        span = _span(MOVE_ACTIONS, MOVE_ACTIONS + number - 1)
        rows.append((span, f"{verb} {side}0" + (f" … {side}{number - 1}" if number > 1 else "")))
    return rows


def feature_rows(features: Sequence[str]) -> list[tuple[str, str, str]]:
    """(indices, whose, features) for each block of neighbours that belong together."""
    rows = []
    for (owner, numbered), block in groupby(enumerate(features), lambda entry: _block(entry[1])):
        indices, names = zip(*((index, name.rpartition(".")[2]) for index, name in block), strict=True)
        shown = f"{names[0]} … {names[-1]}" if numbered else " ".join(names)
        rows.append((_span(indices[0], indices[-1]), owner, shown))
    return rows


def _block(feature: str) -> tuple[str, bool]:
    """Whose it is, and whether it is one of a numbered series."""
    owner, _, name = feature.rpartition(".")
    return owner or "own", name.startswith("last_action")


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column("index", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column)
    return table
