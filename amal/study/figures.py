"""Figures of a run and of a study, without pyplot's global state, sized for a column of a paper."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter
from scipy.stats import binomtest

from amal.runtime.atomic import replacing

WIN_COLOUR, RETURN_COLOUR = "#0072B2", "#D55E00"  # Okabe-Ito blue and vermilion; also distinct in grey
INK, FAINT = "#333333", "#DDDDDD"

# the colour and dashes of an algorithm in every figure of every study; others take what is left
STYLES = {
    "mappo": ("#0072B2", (5, 1.5)),
    "mappo_tuned": ("#332288", (2, 1)),
    "amal": ("#D55E00", ()),
    "ippo": ("#009E73", (1, 1)),
    "mappo_gru": ("#CC79A7", (5, 1.5, 1, 1.5)),
    "mappo_epymarl": ("#56B4E9", (3, 1)),
    "qmix": ("#E69F00", ()),
    "vdn": ("#8C564B", (1, 1)),
    "happo": ("#000000", (5, 1.5)),
}
OTHER_COLOURS = ("#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000")
OTHER_DASHES = ((2, 1), (7, 2), (1, 2), (5, 1, 1, 1, 1, 1), (3, 3))
COLUMN_INCHES = 3.4
LARGEST_RATIO = 3.0  # shown; longer bars are cut and marked
Style = tuple[str, tuple[float, ...]]
# a decorator: names of runs, scenarios and folders must not be parsed as formulas
names_as_text = matplotlib.rc_context({"text.parse_math": False})
_MISSING_GLYPH = re.compile(r"Glyph (\d+) .* missing from font")


@contextmanager
def telling_missing_glyphs() -> Iterator[None]:
    """One note on stderr with the characters that the figures' font does not have, for matplotlib's many warnings."""
    missing: dict[str, None] = {}
    others = warnings.showwarning

    def show(message: Warning | str, *more: Any, **named: Any) -> None:
        if glyph := _MISSING_GLYPH.match(str(message)):
            missing[chr(int(glyph[1]))] = None
        else:
            others(message, *more, **named)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", _MISSING_GLYPH.pattern)
        warnings.showwarning = show
        yield
    if missing:
        print(f"note: the figures' font has no {''.join(missing)!r}", file=sys.stderr)


def wilson_interval(rate: np.ndarray, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval (Wilson 1927) of win rates [K] measured in that many episodes, (low, high) of [K]."""
    wins = np.rint(rate * episodes).astype(int)
    low, high = zip(*(binomtest(k, episodes).proportion_ci(method="wilson") for k in wins), strict=True)
    return np.array(low), np.array(high)


@telling_missing_glyphs()
@names_as_text
def plot_win_rate(evaluations: pd.DataFrame, episodes: int, path: Path, title: str) -> None:
    """Learning curve of one run as a PNG: win rate and return against environment steps.

    Args:
        evaluations: the rows of its evaluations.csv.
        episodes: of each evaluation.
        path: of the file.
        title: of the figure.
    """
    if evaluations.empty:
        raise ValueError(f"{title}: no evaluation to plot")
    rows = evaluations.sort_values("env_steps")
    steps = rows["env_steps"].to_numpy(dtype=np.float64)
    rate, mean, spread = (rows[name].to_numpy(dtype=np.float64) for name in ("win_rate", "return_mean", "return_std"))
    figure = Figure(figsize=(3.6, 3.4), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1])
    figure.suptitle(title, fontsize=9, color=INK, fontweight="bold", x=0.02, ha="left")
    _draw_curve(top, steps, rate, *wilson_interval(rate, episodes), WIN_COLOUR)
    _draw_curve(bottom, steps, mean, mean - spread, mean + spread, RETURN_COLOUR)
    top.set(ylim=(-0.03, 1.03), yticks=np.linspace(0, 1, 5))
    top.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    top.set_title(f"win rate in {episodes} battles, 95% interval", fontsize=7.5, color=INK, loc="left")
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
    tidy(axes)


def tidy(axes: Axes) -> None:
    """Thin grid, small labels, no box: the look of all figures."""
    axes.grid(color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7, color=INK, labelcolor=INK, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)


def styles(algorithms: Sequence[str], colours_of: Mapping[str, str] = MappingProxyType({})) -> dict[str, Style]:
    """Colour and dashes of each algorithm, by its name.

    Args:
        algorithms: their names.
        colours_of: some of them, which the study has chosen itself.
    """
    unnamed = sorted(set(algorithms) - STYLES.keys())
    used = {STYLES[name][0] for name in algorithms if name in STYLES}
    colours = [colour for colour in OTHER_COLOURS if colour not in used] or list(OTHER_COLOURS)
    others = {name: (colours[i % len(colours)], OTHER_DASHES[i % len(OTHER_DASHES)]) for i, name in enumerate(unnamed)}
    found = {name: STYLES.get(name) or others[name] for name in algorithms}
    return {name: (colours_of.get(name, colour), dashes) for name, (colour, dashes) in found.items()}


class Line(NamedTuple):
    """One algorithm's line of a figure, all [point]; low and high are NaN with a single seed."""

    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


@names_as_text
def plot_lines(
    lines: Mapping[str, Line],
    style: Mapping[str, Style],
    path: Path,
    title: str,
    x_label: str,
    y_label: str,
    named_at_ends: bool = True,
) -> None:
    """One line of shares in [0, 1] per algorithm, as PATH.png, PATH.svg and PATH.pdf.

    Args:
        lines: by algorithm, the baseline first. Up to three have their bands; of more, the baseline and the other one
            that ends highest, of equal ones that with the largest mean.
        style: by algorithm.
        path: without a suffix.
        title: of the figure.
        x_label: of its axis.
        y_label: of its axis.
        named_at_ends: of the lines; otherwise in a legend, for lines that all end in one place.
    """
    figure, axes = _column(2.3)
    banded = _with_bands(lines)
    drawn: dict[str, Artist] = {}
    for name, line in lines.items():
        colour, dashes = style[name]
        if name in banded:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
        (drawn[name],) = axes.plot(line.x, line.middle, color=colour, dashes=dashes or (None, None), linewidth=1.4)
    tidy(axes)
    end = max(float(line.x[-1]) for line in lines.values())
    axes.set(ylim=(-0.03, 1.03), yticks=np.linspace(0, 1, 5), xlim=(0, end))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    if end > 1:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    else:
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel(x_label, fontsize=7.5, color=INK)
    axes.set_ylabel(y_label, fontsize=7.5, color=INK)
    _head(figure, axes, title, {} if named_at_ends else drawn)
    if named_at_ends:
        _name_ends(axes, lines, style)
    _save(figure, path)


def _with_bands(lines: Mapping[str, Line]) -> set[str]:
    baseline, *others = lines
    if len(lines) <= 3:
        return set(lines)
    return {baseline, max(others, key=lambda name: (lines[name].middle[-1], lines[name].middle.mean()))}


def _name_ends(axes: Axes, lines: Mapping[str, Line], style: Mapping[str, Style]) -> None:
    """Writes each algorithm's name beside the end of its line; of equal ends, that with the larger mean stands higher.
    A thin line leads to the beginning of a name, so that none crosses another name."""
    ends = {name: float(line.middle[-1]) for name, line in lines.items()}
    rising = sorted(ends, key=lambda name: (ends[name], lines[name].middle.mean()))
    for name, place in zip(rising, apart([ends[name] for name in rising]), strict=True):
        colour = style[name][0]
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
        axes.annotate(
            name,
            (1.0, ends[name]),
            (1.07, place),
            xycoords=("axes fraction", "data"),
            fontsize=6.5,
            color=colour,
            va="center",
            arrowprops=leader,
        )


def apart(heights: Sequence[float], gap: float = 0.075) -> list[float]:
    """Heights in rising order moved up and, above 1, down again, until neighbours have a gap between them."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + gap) if moved else height)
    limit = 1.0
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - gap
    return moved


class Bar(NamedTuple):
    """A ratio to the baseline; NaN with a reason in ``note`` if there is none. ``mark`` is ≥, ≤ or empty."""

    group: str
    algorithm: str
    ratio: float
    low: float
    high: float
    mark: str = ""
    note: str = ""


@names_as_text
def plot_ratios(bars: Sequence[Bar], style: Mapping[str, Style], path: Path, title: str, x_label: str) -> None:
    """Bars from 0 with their intervals, grouped, and a line at 1, the baseline; as PATH.png, PATH.svg and PATH.pdf."""
    groups = list(dict.fromkeys(bar.group for bar in bars))
    algorithms = list(dict.fromkeys(bar.algorithm for bar in bars))
    figure, axes = _column(0.75 + 0.3 * len(groups) + 0.16 * len(groups) * (len(algorithms) - 1))
    ends = [min(end, LARGEST_RATIO) for bar in bars for end in (bar.ratio, bar.high) if not np.isnan(end)]
    limit = max([1.25, *ends]) * 1.02
    height = 0.72 / len(algorithms)
    drawn: dict[str, Artist] = {}  # one of each algorithm
    for bar in bars:
        y = groups.index(bar.group) + (algorithms.index(bar.algorithm) - (len(algorithms) - 1) / 2) * height
        if (patch := _draw_bar(axes, bar, y, 0.86 * height, limit, style[bar.algorithm][0])) is not None:
            drawn[bar.algorithm] = patch
    axes.axvline(1, color=INK, linewidth=0.9, dashes=(3, 2))
    tidy(axes)
    axes.grid(visible=False, axis="y")
    axes.set(xlim=(0, limit), ylim=(len(groups) - 0.5, -0.5))
    axes.set_yticks(range(len(groups)), groups, fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(x_label, fontsize=7.5, color=INK)
    _head(figure, axes, title, drawn if len(algorithms) > 1 else {})
    _save(figure, path)


def _draw_bar(axes: Axes, bar: Bar, y: float, height: float, limit: float, colour: str) -> Artist | None:
    """The bar; None where a note stands in its place."""
    if np.isnan(bar.ratio):
        axes.text(0.03, y, bar.note, fontsize=7, color=INK, va="center", style="italic")
        return None
    (drawn,) = axes.barh(y, min(bar.ratio, limit), height, color=colour, alpha=0.75, linewidth=0)
    if not np.isnan(bar.low):
        axes.plot([bar.low, min(bar.high, limit)], [y, y], color=INK, linewidth=1.2, solid_capstyle="butt")
        axes.plot([bar.low], [y], "|", color=INK, markersize=5)
        axes.plot([min(bar.high, limit)], [y], "|" if bar.high <= limit else ">", color=INK, markersize=5)
    axes.annotate(
        f"{bar.mark}{bar.ratio:.2f}", (1.01, y), xycoords=("axes fraction", "data"), fontsize=7, color=INK, va="center"
    )
    return drawn


def _column(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(COLUMN_INCHES, height), dpi=300, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _head(figure: Figure, axes: Axes, title: str, handles: Mapping[str, Artist]) -> None:
    """The title above, and under it the legend, in as few rows as fit.

    Args:
        handles: of the legend by name; matplotlib's own collection would hide names that begin with _.
    """
    columns = _legend_columns(list(handles))
    rows = -(-len(handles) // columns)
    axes.set_title(title, fontsize=8, color=INK, fontweight="bold", loc="left", pad=6 + 10 * rows)
    if handles:
        axes.legend(
            handles.values(),
            handles.keys(),
            loc="lower left",
            bbox_to_anchor=(-0.01, 0.985),
            ncols=columns,
            fontsize=7,
            frameon=False,
            handlelength=2.4,
            columnspacing=1.2,
            labelspacing=0.25,
            borderpad=0.1,
            labelcolor=INK,
        )


def _legend_columns(names: Sequence[str]) -> int:
    """The most columns whose widest names, with their samples, are no wider together than the axes."""
    widths = [0.42 + 0.055 * len(name) for name in names]  # inches
    fitting = (n for n in range(len(names), 1, -1) if sum(max(widths[i::n]) for i in range(n)) < 0.85 * COLUMN_INCHES)
    return next(fitting, 1)


def _save(figure: Figure, path: Path) -> None:
    # equal figures give equal files; publishers want fonts of type 42 in a PDF
    with matplotlib.rc_context({"svg.hashsalt": "amal", "pdf.fonttype": 42}):
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None}), ("pdf", {"CreationDate": None})):
            with replacing(path.with_name(f"{path.name}.{kind}")) as part:
                figure.savefig(part, format=kind, metadata=metadata)
