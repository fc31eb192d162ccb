"""The report command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import yaml

from amal.commands.report import main
from amal.study.analysis.tables import Bootstrap
from amal.study.grid.runs import Cell
from amal.study.report.report import make_tables
from tests.conftest import ROOT
from tests.study.studies import Cli, of, write_run, write_study


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A study with its report, and what the command printed."""
    study = write_study(tmp_path_factory.mktemp("reported") / "study")
    with redirect_stdout(StringIO()) as printed:
        main(["--resamples", "50", str(study)])
    return study, printed.getvalue()


def test_the_command_writes_everything(reported: tuple[Path, str]) -> None:
    study, printed = reported
    assert printed.startswith("Preliminary (5 seeds, 10 needed): amal is ahead of mappo")
    assert f"{study / 'report' / 'report.html'}" in printed
    figures = ["aggregate", "profile", "sample_efficiency", "win_rate_3m", "win_rate_MMM"]
    names = {f"{name}.{kind}" for name in figures for kind in ("png", "svg", "pdf")}
    names |= {f"{name}.csv" for name in ("summary", "aggregates", "sample_efficiency", "cost", "runs", "diagnostics")}
    names |= {"summary.md", "summary.tex", "marl_eval.json", "report.html"}
    assert {path.name for path in (study / "report").iterdir()} == names
    page = (study / "report" / "report.html").read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page) and "<script" not in page and "url(" not in page
    assert page.count("<img") == len(figures) == page.count('src="data:image/svg+xml;base64,')
    assert 'name="viewport"' in page and "@media print" in page
    assert page.index("amal is ahead of mappo") < page.index("smallest possible Mann") < page.index("<h2>")
    tex = (study / "report" / "summary.tex").read_text()
    counts = {tex.count(word) for word in (r"\begin{table}", r"\bottomrule", r"\caption{", r"\label{")}
    assert len(counts) == 1 and "amal & 0.94 [0.5" in tex and "over 5 seeds" in tex
    listed = pd.read_csv(study / "report" / "runs.csv")
    assert all((study / folder / "run.json").exists() for folder in listed["folder"]) and len(listed) == 20
    assert not any(Path(folder).is_absolute() for folder in listed["folder"])
    mean = listed[(listed["algorithm"] == "amal") & (listed["scenario"] == "3m")]["final_win_rate"].mean()
    assert mean == pytest.approx(pd.read_csv(study / "report" / "summary.csv")["win_rate"][1])


def test_names_and_colours_of_the_study_are_shown_and_change_no_number(
    reported: tuple[Path, str], tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = pd.read_csv(reported[0] / "report" / "summary.csv")
    study = write_study(tmp_path / "study")
    record = {"created": "now", "env_steps": 20000, "overrides": [], "algorithms": {"amal": [], "mappo": []}}
    record |= {"scenarios": ["3m", "MMM"], "seeds": [0, 1, 2, 3, 4], "history": [{"code_version": "abc"}]}
    record |= {"baseline": "mappo", "names": {"amal": "AMAL <as in the paper>"}, "colours": {"amal": "#123456"}}
    (study / "study.yaml").write_text(yaml.safe_dump(record))
    cli("report", study, "--resamples", 50)
    assert "AMAL <as in the paper> is ahead of mappo" in capsys.readouterr().out
    summary = pd.read_csv(study / "report" / "summary.csv")
    assert set(summary["algorithm"]) == {"AMAL <as in the paper>", "mappo"}
    pd.testing.assert_frame_equal(summary.drop(columns="algorithm"), plain.drop(columns="algorithm"))
    figure = (study / "report" / "win_rate_3m.svg").read_text()
    assert "#123456" in figure and "#d55e00" not in figure
    twice, unknown = {"names": {"amal": "mappo"}}, {"colours": {"amal": "red"}}
    for wrong, words in ((twice, "'mappo' would be the name"), (unknown, "like '#0072B2'")):
        (study / "study.yaml").write_text(yaml.safe_dump(record | wrong))
        with pytest.raises(SystemExit) as stop:
            cli("report", study)
        message = capsys.readouterr().err
        assert stop.value.code == 2 and words in message and message.count("\n") == 1


def test_equal_seeds_give_equal_files(reported: tuple[Path, str], tmp_path: Path, cli: Cli) -> None:
    study, _ = reported
    cli("report", study, "--out", tmp_path / "again", "--resamples", 50, "--seed", 0)
    same = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert same == {path.name: path.read_bytes() for path in (study / "report").iterdir()}
    tables = [make_tables(of(study), Bootstrap(50, seed))["summary"].to_csv(index=False).encode() for seed in (0, 1)]
    assert same["summary.csv"] == tables[0] != tables[1]


def test_several_algorithms_share_the_baseline(tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path / "study", scenarios=["3m"])
    for seed in range(5):
        write_run(study, "amal_no_replay", "3m", seed, 0.5 + seed / 50, 12)
    cli("report", study, "--resamples", 50)
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert "amal and amal_no_replay against mappo" in (study / "report" / "report.html").read_text()
    cli("report", study, "--resamples", 50, "--baseline", "amal", "--algorithms", "mappo")
    assert "mappo is behind amal: final win rate better on 0, worse on 1 of 1 scenario" in capsys.readouterr().out
    table = pd.read_csv(study / "report" / "summary.csv")
    assert table["algorithm"].tolist() == ["amal", "mappo"]


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["study", "--baseline", "mapo"], "--baseline: no algorithm 'mapo' in study (did you mean mappo?)"),
        (["study", "--algorithms", "aml"], "--algorithms: no algorithm 'aml' in study (did you mean amal?)"),
        (["study", "--resamples", "0"], "--resamples must be at least 1"),
        (["study", "--what"], "unrecognized arguments: --what"),
        (["study", "--basline=amal"], "unrecognized arguments: --basline=amal (did you mean --baseline?)"),
        (["study", "--out", "file/report"], "file"),
        ([], "STUDY"),
        (["broken"], "broken: no run in it; 2 are there that cannot be used (broken: broken/amal/3m/seed_0/eval"),
        (["plan"], "not the record of a study: plan/study.yaml: must be a mapping of created"),
        (["study", "--resamples", "100000000000"], "--resamples must be at least 1 and at most 100,000, got 1000"),
        (["study", "--seed", "-1"], "--seed must be at least 0"),
        (["study", "--out", ""], "argument --out: must not be empty"),
        ([""], "argument STUDY|[NAME=]RUN: must not be empty"),
        (["study", "--out", "foreign"], "--out foreign: holds precious.csv and no report.html"),
        (["study", "--out", "n" * 300], "File name too long"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("study", "broken", "plan"):
        write_study(Path(name), scenarios=["3m"], seeds=1)
    Path("file").write_text("")
    for path in Path("broken").glob("*/3m/seed_0/evaluations.csv"):
        path.write_text("a\n1\n")
    Path("foreign").mkdir()
    Path("foreign/precious.csv").touch()
    Path("plan/study.yaml").write_text("- 1\n")
    with pytest.raises(SystemExit) as stop:
        main(args)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and error.startswith("error: ") and complaint in error


def test_help_answers_at_once_and_the_report_needs_neither_torch_nor_lightning() -> None:
    code = "import time\nstart = time.perf_counter()\nimport sys, cli\n"
    code += "try: cli.main(['report', '--help'])\nexcept SystemExit: pass\n"
    code += "loaded = lambda *names: [name for name in names if name in sys.modules]\n"
    code += "print(time.perf_counter() - start < 10, loaded('torch', 'pandas', 'scipy', 'matplotlib'))\n"
    code += "import amal.study.report.report\nprint(loaded('torch', 'lightning'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--baseline NAME" in done.stdout and done.stdout.endswith("True []\n[]\n")


def test_runs_from_anywhere_are_compared(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path / "study", scenarios=("3m",), seeds=2)
    folders = []
    for number, folder in enumerate(sorted((tmp_path / "study").glob("*/3m/seed_*"))):
        folders.append(folder.rename(tmp_path / f"run{number}"))
    monkeypatch.chdir(tmp_path)
    cli("report", *folders, "--resamples", 50)
    listed = pd.read_csv(tmp_path / "report" / "runs.csv")
    assert listed["algorithm"].tolist() == ["amal", "amal", "mappo", "mappo"]
    assert sorted(listed["folder"]) == sorted(folder.name for folder in folders)  # below the folder of them all
    cli("report", f"new={folders[0]}", f"mappo={folders[2]}", "--resamples", 50, "--out", tmp_path / "other")
    assert set(pd.read_csv(tmp_path / "other" / "summary.csv")["algorithm"]) == {"new", "mappo"}
    capsys.readouterr()
    for bad, words in (([folders[0], folders[0]], "tell them apart by a name"), ([tmp_path / "no", "no2"], "run.json")):
        with pytest.raises(SystemExit) as stop:
            cli("report", *bad, "--out", tmp_path / "bad")
        message = capsys.readouterr().err
        assert stop.value.code == 2 and words in message and message.count("\n") == 1


def test_a_run_of_a_stranger_names_no_file_outside_of_the_report(
    tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "theirs", "mappo", "3m", 0)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"scenario": "x/../../../EVIL"}))
    out = tmp_path / "a" / "b" / "report"
    (out / "win_rate_x").mkdir(parents=True)  # through which the path would lead out
    (out / "report.html").touch()
    before = set(tmp_path.glob("**/*"))
    with pytest.raises(SystemExit) as stop:
        cli("report", run, "--out", out)
    message = capsys.readouterr().err
    assert stop.value.code == 2 and "run.json: scenario must be a name" in message and message.count("\n") == 1
    assert set(tmp_path.glob("**/*")) == before


def test_letters_that_the_figures_cannot_show_are_one_note(
    tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    run = write_run(tmp_path, "mappo", "3m", 0)
    cli("report", f"算法={run}", "--out", tmp_path / "report", "--resamples", 50)
    assert capsys.readouterr().err == "note: the figures' font has no '算法'\n"
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]


def test_the_trials_of_a_sweep_are_shown_under_tuning(tmp_path: Path, cli: Cli) -> None:
    write_run(tmp_path, "mappo", "3m", 0)
    (tmp_path / "trials.csv").write_text("trial,model.lr\n0,0.125\n1,<script>\n")
    cli("report", tmp_path, "--resamples", 50)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "0.125" in page.partition("Plan and tuning")[2] and "<script" not in page


def test_runs_that_a_callback_stopped_count_if_the_user_says_so(
    tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    """To compare they are done."""
    for name in ("mappo", "amal"):
        write_run(tmp_path, name, "3m", 0, outcome="stopped")
    cli("report", tmp_path, "--out", tmp_path / "a", "--resamples", 50)
    assert "on no scenario that counts has a seed been finished" in capsys.readouterr().out
    cli("report", tmp_path, "--out", tmp_path / "b", "--resamples", 50, "--count_stopped")
    assert "one seed allows no test" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "b" / "runs.csv")["final_win_rate"].dropna()) == 2
    assert Cell(tmp_path, "mappo", "3m", 0, 100).is_finished()
