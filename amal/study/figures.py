"""Figures of a run, drawn without touching pyplot's state, sized for a column of a paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from amal.study.atomic import replacing

EVALUATION_EPISODES = 32  # battles behind every win rate in evaluations.csv
WIN_COLOUR, RETURN_COLOUR = "#0072B2", "#D55E00"  # Okabe-Ito blue and vermilion; also distinct in grey
INK, FAINT = "#333333", "#DDDDDD"


def wilson_interval(rate: np.ndarray, episodes: int, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval (Wilson 1927) of win rates [K] measured in that many episodes.

    centre = (p + z²/2n) / (1 + z²/n),  half = z √(p(1-p)/n + z²/4n²) / (1 + z²/n)
    """
    scale = 1 + z**2 / episodes
    centre = (rate + z**2 / (2 * episodes)) / scale
    half = z * np.sqrt(rate * (1 - rate) / episodes + z**2 / (4 * episodes**2)) / scale
    return centre - half, centre + half


def plot_win_rate(evaluations: pd.DataFrame, path: Path, title: str) -> None:
    """Learning curve of one run, from the rows of its evaluations.csv, as a PNG: win rate and return against
    environment steps."""
    if evaluations.empty:
        raise ValueError(f"{title}: no evaluation to plot")
    rows = evaluations.sort_values("env_steps")
    steps = rows["env_steps"].to_numpy(dtype=np.float64)
    rate, mean, spread = (rows[name].to_numpy(dtype=np.float64) for name in ("win_rate", "return_mean", "return_std"))
    figure = Figure(figsize=(3.6, 3.4), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1])
    figure.suptitle(title, fontsize=9, color=INK, fontweight="bold", x=0.02, ha="left")
    _draw_curve(top, steps, rate, *wilson_interval(rate, EVALUATION_EPISODES), WIN_COLOUR)
    _draw_curve(bottom, steps, mean, mean - spread, mean + spread, RETURN_COLOUR)
    top.set(ylim=(-0.03, 1.03), yticks=np.linspace(0, 1, 5))
    top.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    top.set_title(f"win rate in {EVALUATION_EPISODES} battles, 95% interval", fontsize=7.5, color=INK, loc="left")
    top.set_title(f"last: {rate[-1]:.0%}", fontsize=7.5, color=WIN_COLOUR, fontweight="bold", loc="right")
    bottom.set_title("return (mean ± std)", fontsize=7.5, color=INK, loc="left")
    bottom.yaxis.set_major_locator(MaxNLocator(4))
    bottom.set_xlim(0, max(steps[-1], 1) * 1.02)
    bottom.xaxis.set_major_locator(MaxNLocator(6))
    bottom.xaxis.set_major_formatter(EngFormatter(sep=""))
    bottom.set_xlabel("environment steps", fontsize=8, color=INK)
    with replacing(path) as part:
        figure.savefig(part, format="png")


def _draw_curve(
    axes: Axes, steps: np.ndarray, middle: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str
) -> None:
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
    marker = "o" if len(steps) <= 30 else ""
    axes.plot(steps, middle, color=colour, linewidth=1.5, marker=marker, markersize=2.5)
    axes.grid(color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7, color=INK, labelcolor=INK, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
