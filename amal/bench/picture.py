"""The picture of ``bench --scaling``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from amal.runtime.atomic import replacing
from amal.study.figures import FAINT, INK, OTHER_COLOURS, names_as_text

DASHES = ("--", "-", ":", "-.")


@names_as_text
def draw_scaling(result: dict[str, Any], path: Path) -> None:
    """Simulator over battles, simulator over unit pairs, training over agents; a line for each number of threads."""
    battles, units = pd.DataFrame(result["over_battles"]), pd.DataFrame(result["over_units"])
    figure = Figure(figsize=(7.2, 2.5), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    over_battles, over_units, over_agents = figure.subplots(1, 3)
    _lines(over_battles, battles, "battles", "median")
    over_battles.set(xscale="log", xlabel="battles at once", title="simulator, env-steps/s")
    ordered = units.sort_values("pairs")
    pairs, micros = ordered["pairs"].to_numpy(float), 1e6 / ordered["median"].to_numpy(float)
    over_units.plot(pairs, micros, "o-", color=INK, markersize=3, linewidth=1)
    for number, (name, *place) in enumerate(zip(ordered["scenario"], pairs, micros, strict=True)):
        offset, side = ((4, -5), "left") if number % 2 == 0 and number + 1 < len(ordered) else ((-4, 1), "right")
        over_units.annotate(name, place, offset, fontsize=6, ha=side, textcoords="offset points")
    over_units.set(xscale="log", yscale="log", xlabel="pairs of units", title="simulator, µs per env step")
    over_units.margins(x=0.15)
    if result["over_agents"]:
        training = pd.DataFrame(result["over_agents"])
        for number, (label, rows) in enumerate(training.groupby("algorithm")):
            _lines(over_agents, rows, "scenario", "env_steps_per_second", OTHER_COLOURS[number], f"{label}, ")
    over_agents.set(xlabel="scenario", title="training, env-steps/s")
    for axes in (over_battles, over_agents):
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_ylim(bottom=0)
    for axes in (over_battles, over_units, over_agents):
        _plain(axes)
    with replacing(path) as part:
        figure.savefig(part, format="png")


def _lines(axes: Axes, rows: pd.DataFrame, x: str, y: str, colour: str = "#0072B2", label: str = "") -> None:
    for dashes, (threads, points) in zip(DASHES, rows.groupby("threads"), strict=False):
        name = f"{label}{threads} thread{'s' * (threads != 1)}"
        axes.plot(
            points[x].to_numpy(),
            points[y].to_numpy(),
            dashes,
            marker="o",
            color=colour,
            markersize=3,
            linewidth=1,
            label=name,
        )
    axes.legend(fontsize=6, frameon=False)


def _plain(axes: Axes) -> None:
    axes.set_title(axes.get_title(), fontsize=7.5, color=INK, loc="left")
    axes.set_title("", loc="center")
    axes.set_xlabel(axes.get_xlabel(), fontsize=7, color=INK)
    axes.tick_params(labelsize=6)
    axes.grid(color=FAINT, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
