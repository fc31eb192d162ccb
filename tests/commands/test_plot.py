"""The plot command."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from amal.study.bad_signs import BAD_SIGNS, find_bad_signs
from tests.conftest import ROOT, run_cli
from tests.runs import SHORT, Cli
from tests.study.studies import write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of MAPPO and of AMAL, in different places."""
    folder = tmp_path_factory.mktemp("runs")
    places = {"mappo": folder / "here", "amal_paper": folder / "there" / "deep"}
    less = ("--model.auxiliaries.num_auxiliary_agents=2", "--model.world_model.steps=1")
    for config, place in places.items():
        more = less if config == "amal_paper" else ()
        run_cli("fit", "--config", f"configs/{config}.yaml", *SHORT, "--data.env_steps", "1500", *more, "--out", place)
    return list(places.values())


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_it_draws_runs_from_anywhere(
    cli: Cli, tmp_path: Path, runs: list[Path], capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    out = tmp_path / f"plot.{suffix}"
    cli("plot", *runs, "--out", out)
    first = out.read_bytes()
    assert first.startswith({"png": b"\x89PNG", "pdf": b"%PDF"}[suffix]) and len(first) > 20_000
    assert capsys.readouterr().out.splitlines()[-1] == f"plot: {out}"
    cli("plot", *runs, "--out", out)
    assert out.read_bytes() == first


def test_each_panel_has_a_title_of_its_own_and_the_axis_a_name(
    cli: Cli, tmp_path: Path, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, part, **_: (drawn.append(figure), part.touch()))
    cli("plot", *runs, "--out", tmp_path / "plot.png")
    (figure,) = drawn
    titles = [title for axes in figure.axes if (title := axes.get_title(loc="left"))]
    assert len(set(titles)) == len(titles) and {"eval/episode_length", "train/episode_length"} <= set(titles)
    assert figure.get_supxlabel() == "environment steps"


def test_a_beginning_far_off_does_not_flatten_the_rest_of_a_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, part, **_: (drawn.append(figure), part.touch()))
    run = write_run(tmp_path, "mappo", "3m", 0)
    metrics = pd.read_csv(run / "metrics.csv")
    settled = np.linspace(0.9, 0.1, len(metrics))
    metrics["train/value_loss"] = np.where(metrics["env_steps"] <= 0.1 * metrics["env_steps"].max(), 130.0, settled)
    metrics["train/entropy"] = settled
    metrics.to_csv(run / "metrics.csv", index=False)
    cli("plot", run, "--out", tmp_path / "plot.png")
    top = {axes.get_title(loc="left"): axes.get_ylim()[1] for axes in drawn[0].axes}
    assert (metrics["train/value_loss"] == 130.0).any() and top["train/value_loss"] < 1.0
    assert 0.9 < top["train/entropy"] < 1.0, "all of it is in view"


def test_bad_values_are_told_with_their_run(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, "mappo", "3m", 0)
    metrics = pd.read_csv(run / "metrics.csv")
    metrics["train/clip_fraction"] = np.where(np.arange(len(metrics)) % 2, 0.5, 0.1)
    metrics["train/approx_kl"] = 0.01
    metrics["train/explained_variance"] = np.where(np.arange(len(metrics)) == 0, -1.0, 0.9)  # at first it may
    metrics.to_csv(run / "metrics.csv", index=False)
    cli("plot", run, "--out", tmp_path / "plot.png")
    told = capsys.readouterr().out
    assert re.search(r"^seed_0: train/clip_fraction is above 0.3 in 5\d% of updates: steps too large", told)
    assert "approx_kl" not in told and "explained_variance" not in told


def test_each_bad_sign_is_found_and_stands_on_the_page() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    listed = page.partition("## What `plot` flags")[2].partition("\n## ")[0]
    for sign in BAD_SIGNS:
        assert f"| `{sign.metric}` | {sign.bounds} | {sign.why} |" in listed
        assert page.count(f"| `{sign.metric}` |") == 2, "it is explained above"
        yardstick = {sign.high: 1.0} if isinstance(sign.high, str) and sign.high.startswith("train/") else {}
        for value, bad in ((2.0 if sign.high else 1.0, sign.high is not None), (-1.0, sign.low is not None)):
            rows = pd.DataFrame({"env_steps": np.arange(1.0, 11.0), sign.metric: 10.0 * value, **yardstick})
            config = {"model": {"init_args": {"max_grad_norm": 1.0}}}
            assert [found.sign for found in find_bad_signs(rows, config)] == ([sign] if bad else [])
    assert listed.count("| `train/") == len(BAD_SIGNS)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("{study}",), "no folder of a run, for it has no run.json (did you mean {run}?)"),
        (("{run}", "{run}"), "is named twice"),
        (("nowhere",), "nowhere: no folder of a run"),
        (("{run}", "--out", "plot.jpg"), "--out plot.jpg: the suffix must be one of .png, .pdf"),
        (("{run}", "--out", "no/such/plot.png"), "in a folder that is not there"),
        ((), "required: RUN"),
    ],
)
def test_bad_input_is_one_line(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], words: str
) -> None:
    run = write_run(tmp_path / "study", "mappo", "3m", 0)
    names = {"study": tmp_path / "study", "run": run}
    with pytest.raises(SystemExit) as stop:
        cli("plot", *(arg.format(**names) for arg in args))
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.count("\n") == 1 and words.format(**names) in message


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[1]", "config.yaml must be a mapping, got [1]"),
        ("model: [1]", "config.yaml: model must be a mapping, got [1]"),
        ("model: {init_args: [1]}", "config.yaml: model.init_args must be a mapping, got [1]"),
        ("model: {init_args: {max_grad_norm: {a: 1}}}", "model.init_args.max_grad_norm must be a number, got {'a': 1}"),
        ("model: {init_args: {max_grad_norm: x}}", "model.init_args.max_grad_norm must be a number, got 'x'"),
        (f"model: {{init_args: {{max_grad_norm: 1{'0' * 400}}}}}", "max_grad_norm must be a number, got 1000"),
        ("model: [", "no YAML"),
    ],
)
def test_a_broken_configuration_is_one_line_and_nothing_is_drawn(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str, words: str
) -> None:
    run = write_run(tmp_path, "mappo", "3m", 0)
    (run / "config.yaml").write_text(config)
    with pytest.raises(SystemExit) as stop:
        cli("plot", run, "--out", tmp_path / "plot.png")
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.count("\n") == 1 and words in message
    assert not (tmp_path / "plot.png").exists()


def test_the_largest_numbers_are_drawn_without_a_warning(
    cli: Cli, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    run = write_run(tmp_path, "mappo", "3m", 0)
    metrics = pd.read_csv(run / "metrics.csv")
    metrics["train/value_loss"] = np.resize([1e308, -1.7e308], len(metrics))
    metrics.to_csv(run / "metrics.csv", index=False)
    evaluations = pd.read_csv(run / "evaluations.csv")
    evaluations.assign(return_mean=np.resize([1.7e308, -1e308], len(evaluations))).to_csv(
        run / "evaluations.csv", index=False
    )
    cli("plot", run, "--out", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists() and not [str(warning.message) for warning in recwarn]


def test_names_are_told_apart_whatever_their_letters(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[Figure] = []
    draw = Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda figure, *args: (drawn.append(figure), draw(figure, *args))[1])
    names = ["_hidden", "算法", "plain"]
    runs = [
        write_run(tmp_path / "study", "mappo", "3m", seed).rename(tmp_path / name) for seed, name in enumerate(names)
    ]
    cli("plot", *runs, "--out", tmp_path / "plot.png")
    figure, told = drawn[0], capsys.readouterr().err
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    assert told == "note: the figures' font has no '算法'\n"


def test_a_run_that_is_under_way_is_drawn(cli: Cli, tmp_path: Path) -> None:
    run = write_run(tmp_path, "mappo", "3m", 0, outcome="running")
    (run / "evaluations.csv").unlink()
    cli("plot", run, "--out", tmp_path / "plot.png")
    assert json.loads((run / "run.json").read_text())["outcome"] == "running"
    (run / "metrics.csv").unlink()
    with pytest.raises(SystemExit):
        cli("plot", run, "--out", tmp_path / "plot.png")


def test_help_answers_without_torch() -> None:
    code = "import sys\nfrom cli import main\ntry: main(['plot', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'lightning', 'pandas', 'matplotlib'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "RUN" in done.stdout, done.stderr


def test_runs_that_fought_different_battles_are_not_drawn_together(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    off, on, more = runs = [write_run(tmp_path / name, "mappo", "3m", 0) for name in ("off", "on", "more")]
    for run in (on, more):
        record = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(record | {"random_delay": [-1, 2]}))
    with pytest.raises(SystemExit) as stop:
        cli("plot", *runs, "--out", tmp_path / "plot.png")
    place = "mappo/3m/seed_0"
    assert stop.value.code == 2 and not (tmp_path / "plot.png").exists()
    assert capsys.readouterr().err == (
        f"error: {tmp_path}: these runs fought different battles, whose win rates do not compare: without random delay "
        f"off/{place}; with random delay [-1, 2] on/{place} and 1 more; plot each kind by itself\n"
    )
    cli("plot", on, more, "--out", tmp_path / "plot.png")
    cli("plot", off, "--out", tmp_path / "plot.png")
