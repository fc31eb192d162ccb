"""The learning curve as a file, and the interval in it."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from PIL import Image

from amal.study.figures import Bar, Line, apart, plot_lines, plot_ratios, plot_win_rate, styles, wilson_interval


def evaluations(rows: int) -> pd.DataFrame:
    progress = np.linspace(0, 1, rows)
    return pd.DataFrame(
        {"env_steps": progress * 1_000_000, "win_rate": progress, "return_mean": 20 * progress, "return_std": 1.0}
    )


def test_wilson_interval_has_its_known_values() -> None:
    low, high = wilson_interval(np.array([0.0, 0.5, 1.0]), 32)
    assert low == pytest.approx([0.0, 0.3363, 0.8928], abs=1e-4)
    assert high == pytest.approx([0.1072, 0.6637, 1.0], abs=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_draws_a_picture_fit_for_print(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "new folder" / "curve.png"
    plot_win_rate(evaluations(rows), 32, path, "mappo on 3m")
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width >= 600
        assert round(picture.info["dpi"][0]) == 200
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    assert list(path.parent.iterdir()) == [path]


def test_leaves_pyplot_alone(tmp_path: Path) -> None:
    before, figures = dict(plt.rcParams), plt.get_fignums()
    plot_win_rate(evaluations(3), 32, tmp_path / "curve.png", "mappo on 3m")
    assert plt.get_fignums() == figures and dict(plt.rcParams) == before


def test_a_failing_plot_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "curve.png"
    path.write_bytes(b"old")

    def fail(self: Figure, part: Path, **options: object) -> None:
        part.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot_win_rate(evaluations(3), 32, path, "mappo on 3m")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_run_without_evaluations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no evaluation"):
        plot_win_rate(evaluations(3).head(0), 32, tmp_path / "curve.png", "mappo on 3m")


def test_names_at_the_ends_of_lines_keep_their_order_and_their_distance() -> None:
    for heights in ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.1, 0.5, 0.52, 0.98, 1.0], [0.3]):
        places = apart(heights, gap=0.1)
        assert all(high - low > 0.0999 for low, high in itertools.pairwise(places)) and max(places) <= 1.0
    assert apart([0.2, 0.6], gap=0.1) == [0.2, 0.6]


def test_of_many_lines_the_baseline_and_the_best_have_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("amal.study.figures._save", lambda figure, path: drawn.append(figure))
    x, names = np.array([0.0, 1000.0]), ["mappo", *"abcde"]
    for number in (3, 6):
        lines = {
            name: Line(x, np.array([0.0, 0.1 * k]), np.array([0.0, 0.1 * k - 0.05]), np.array([0.0, 0.1 * k + 0.05]))
            for k, name in enumerate(names[:number])
        }
        plot_lines(lines, styles(names), tmp_path / "x", "3m", "steps", "win rate")
        (axes,) = drawn.pop().axes
        bands = [tuple(band.get_facecolor()[0][:3]) for band in axes.collections]
        banded = names[:3] if number == 3 else ["mappo", "e"]
        assert bands == [to_rgb(styles(names)[name][0]) for name in banded]
        assert {text.get_text() for text in axes.texts} == set(names[:number]) and axes.get_legend() is None


def test_a_legend_hides_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("amal.study.figures._save", lambda figure, path: drawn.append(figure))
    names, line = ["mappo", "_mine"], Line(*np.ones((4, 3)))
    plot_lines(dict.fromkeys(names, line), styles(names), tmp_path / "x", "3m", "τ", "runs", named_at_ends=False)
    bars = [Bar(group, name, 0.9, 0.8, 1.0) for group in ("3m", "8m") for name in names]
    plot_ratios(bars, styles(names), tmp_path / "x", "Steps", "steps")
    for figure in drawn:
        legend = figure.axes[0].get_legend()
        assert legend is not None and [text.get_text() for text in legend.get_texts()] == names
    assert len(drawn) == 2


def test_lines_that_end_in_one_place_have_names_that_no_leader_strikes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("amal.study.figures._save", lambda figure, path: drawn.append(figure))
    names, nothing = ["mappo", "amal", "mappo_epymarl", "happo", "qmix", "ippo"], np.full(3, np.nan)
    x = np.array([0.0, 500.0, 1000.0])
    lines = {name: Line(x, np.array([0.0, 0.9 - 0.1 * k, 1.0]), nothing, nothing) for k, name in enumerate(names)}
    plot_lines(lines, styles(names), tmp_path / "x", "3m", "steps", "win rate")
    (figure,) = drawn
    figure.canvas.draw()
    texts = [text for text in figure.axes[0].texts if isinstance(text, Annotation)]
    words = {text.get_text(): Text.get_window_extent(text) for text in texts}
    assert sorted(words, key=lambda name: -words[name].y0) == names, "that which won earlier stands higher"
    for text in texts:
        leader = text.arrow_patch
        assert leader is not None
        path = leader.get_transform().transform_path(leader.get_path())
        assert not [name for name, box in words.items() if path.intersects_bbox(box.padded(-1), filled=False)]


def test_an_algorithm_keeps_its_colour() -> None:
    alone, among = styles(["mappo", "amal"]), styles(["amal", "x", "mappo", "ippo", "y"])
    assert alone["mappo"] == among["mappo"] and alone["amal"] == among["amal"]
    assert len(set(among.values())) == 5 and len({colour for colour, _ in among.values()}) == 5
