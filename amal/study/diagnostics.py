"""One figure of a few runs: learning curves, and all that their metrics tell, with bad values marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from amal.runtime.atomic import replacing
from amal.study.analysis.scores import Run, read_metrics
from amal.study.bad_signs import BAD_SIGNS, BadSign, Found, configuration, find_bad_signs, limits
from amal.study.figures import INK, OTHER_COLOURS, OTHER_DASHES, names_as_text, telling_missing_glyphs, tidy

COLUMNS = 4  # of panels
PANEL_INCHES = (2.6, 1.9)
BAD_COLOUR = "#D55E00"
MOST_POINTS = 400  # of a line; longer ones are averaged in groups
CURVES = ("win_rate", "sampled_win_rate", "return_mean", "episode_length")  # of evaluations.csv
NOT_DRAWN = (
    *("env_steps", "episodes", "wall_seconds", "train/win_rate"),
    *("train/policy_steps", "train/imagination_policy_steps"),
)
LARGEST_DRAWN = 1e100  # matplotlib's own sums would overflow with the largest floats
FLATTENING = 3.0  # times the range of all others: a first tenth that is so far out leaves the panel


class Trace(NamedTuple):
    """What a run left behind.

    Attributes:
        label: that tells it from the others.
        signs: the bad signs it shows.
    """

    label: str
    run: Run
    metrics: pd.DataFrame
    config: Mapping[str, Any]
    signs: list[Found]


def read_trace(run: Run, label: str) -> Trace:
    """Raises ValueError without metrics.csv, or for a broken one."""
    metrics, config = read_metrics(run.path), configuration(run.path)
    if metrics is None or metrics.empty:
        raise ValueError(f"{run.path}: has no metrics.csv with an update yet")
    return Trace(label, run, metrics, config, find_bad_signs(metrics, config))


@telling_missing_glyphs()
@names_as_text
def plot_traces(traces: Sequence[Trace], path: Path) -> None:
    """Writes the figure, as the path's suffix says. A panel with values that are a bad sign has a red title, and their
    range is shaded."""
    columns = dict.fromkeys(str(name) for trace in traces for name in trace.metrics)
    diagnostics = [name for name in columns if name not in NOT_DRAWN]
    curves = [name for name in CURVES if any(name in trace.run.evaluations for trace in traces)]
    panels = len(curves) + len(diagnostics)
    rows = -(-panels // COLUMNS)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(COLUMNS * width, rows * height + 0.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid = list(np.ravel(figure.subplots(rows, COLUMNS, squeeze=False)))
    for axes, name in zip(grid, [*curves, *diagnostics], strict=False):
        _draw(axes, name, traces, evaluated=name in curves)
    for axes in grid[panels:]:
        axes.set_axis_off()
    figure.supxlabel("environment steps", fontsize=8, color=INK)
    labels = [trace.label for trace in traces]  # of which matplotlib by itself hides those that begin with _
    handles = grid[0].lines[: len(labels)]
    figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 3), fontsize=8, frameon=False)
    with replacing(path) as part:
        metadata = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
        figure.savefig(part, format=path.suffix[1:], metadata=metadata)


def _draw(axes: Axes, name: str, traces: Sequence[Trace], evaluated: bool) -> None:
    for number, trace in enumerate(traces):
        rows = trace.run.evaluations if evaluated else trace.metrics
        colour = OTHER_COLOURS[::-1][number % len(OTHER_COLOURS)]
        dashes = OTHER_DASHES[number // len(OTHER_COLOURS) % len(OTHER_DASHES)] if number >= len(OTHER_COLOURS) else ()
        x, y = _thinned(rows, name) if name in rows else (np.array([]), np.array([]))
        (line,) = axes.plot(x, y, color=colour, linewidth=1.1, dashes=dashes or (None, None))
        if len(x) <= 30:
            line.set(marker="o", markersize=2.0)
    bad = any(found.sign.metric == name for trace in traces for found in trace.signs)
    tidy(axes)
    title = f"eval/{name}" if evaluated else name
    size = 8 if len(title) < 30 else 6.5  # as wide as the panel at most
    axes.set_title(title, fontsize=size, loc="left", color=BAD_COLOUR if bad else INK)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}".replace("-", "−")))
    if name.endswith("win_rate"):
        axes.set_ylim(-0.03, 1.03)
    elif not evaluated:
        _leave_out_the_beginning(axes)
    for sign in BAD_SIGNS if bad else ():
        if sign.metric == name:
            _shade(axes, sign, traces)


def _leave_out_the_beginning(axes: Axes) -> None:
    """Fits the view to the values after the first tenth of each line, if those before would flatten them."""
    xy = [np.asarray(line.get_xydata()) for line in axes.lines]
    later = [points[points[:, 0] > 0.1 * points[-1, 0], 1] for points in xy if len(points)]
    if not later or not (settled := np.concatenate(later)).size:
        return
    bottom, top = settled.min(), settled.max()
    seen = axes.dataLim
    if top > bottom and seen.height > FLATTENING * (top - bottom):
        margin = 0.05 * (top - bottom)
        axes.set_ylim(bottom - margin, top + margin)


def _shade(axes: Axes, sign: BadSign, traces: Sequence[Trace]) -> None:
    """The range that is a bad sign, as far as it is in view; a yardstick that changes is a dotted line."""
    bottom, top = axes.get_ylim()
    for trace in traces:
        low, high = limits(sign, trace.metrics, trace.config)
        if low > bottom:
            axes.axhspan(bottom, min(low, top), color=BAD_COLOUR, alpha=0.12 / len(traces), linewidth=0)
        if isinstance(sign.high, str) and sign.high in trace.metrics:
            x, y = _thinned(trace.metrics, sign.high)
            axes.plot(x, y, color=BAD_COLOUR, linewidth=0.9, linestyle=":")
        elif np.isfinite(high[0]) and high[0] < top:
            axes.axhspan(max(high[0], bottom), top, color=BAD_COLOUR, alpha=0.12 / len(traces), linewidth=0)
    if not isinstance(sign.high, str) or sign.high == "max_grad_norm":
        axes.set_ylim(bottom, top)


def _thinned(rows: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Env steps and values, both [point]: means over groups of neighbours where there are too many to see, and no
    larger than what can be drawn."""
    known = rows[["env_steps", name]].dropna()
    known = known.where(~np.isfinite(known), known.clip(-LARGEST_DRAWN, LARGEST_DRAWN))
    group = -(-len(known) // MOST_POINTS) or 1
    means = known.groupby(np.arange(len(known)) // group).mean()
    return means["env_steps"].to_numpy(np.float64), means[name].to_numpy(np.float64)
