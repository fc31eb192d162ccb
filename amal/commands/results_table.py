"""What ``validate`` and ``test`` print."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

DECIMALS = 4  # more than 320 battles tell


def print_results(command: str, results: Mapping[str, float]) -> None:
    """A table of rounded values, by name. Lightning's has all digits that a sum in single precision leaves."""
    table = Table()
    table.add_column(f"{command.capitalize()} metric", style="cyan")
    table.add_column("Value", justify="right", style="magenta")
    for name, value in sorted(results.items()):
        table.add_row(name, f"{round(value, DECIMALS) + 0.0:.{DECIMALS}f}")
    Console().print(table)
