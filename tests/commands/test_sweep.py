"""The sweep command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.conftest import ROOT
from tests.runs import Cli

SPACE = "model.lr: {low: 1e-4, high: 1e-3, log: true}\nbatch: {choices: [{data.episodes_per_update: 8}]}\n"


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "space.yaml").write_text(SPACE)
    grid = ["--scenarios", "3m", "--seeds", "2", "--env_steps", "2000", "--trials", "2"]
    short = ["--overrides", "evaluation.every_n_episodes=16", "data.episode_limit=20"]
    return ["sweep", "--config", "configs/mappo.yaml", "--space", f"{tmp_path}/space.yaml", *grid, *short]


def evaluations(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "evaluations.csv").drop(columns="wall_seconds")


def test_a_sweep_that_is_killed_goes_on_and_writes_the_best_configuration(
    cli: Cli, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    process = subprocess.Popen([sys.executable, "cli.py", *words, "--out", str(out)], cwd=ROOT, start_new_session=True)
    first = out / "trial_0" / "3m" / "seed_0"
    while process.poll() is None and not (first / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(SystemExit) as stop:
        cli(*words, "--out", out)
    assert stop.value.code == 0, capsys.readouterr().err
    trials = pd.read_csv(out / "trials.csv")
    assert trials["trial"].tolist() == [0, 1] and set(trials["state"]) == {"COMPLETE"}
    outcomes = [json.loads(file.read_text())["outcome"] for file in out.glob("trial_*/3m/seed_*/run.json")]
    assert outcomes == ["finished"] * 4
    best = trials.sort_values("area_under_curve", ascending=False, kind="stable").iloc[0]
    found = yaml.safe_load((out / "best.yaml").read_text())
    assert found["model"]["init_args"]["lr"] == best["model.lr"] and found["data"]["episodes_per_update"] == 8
    again = ("--data.env_steps", "2000", "--evaluation.every_n_episodes", "16", "--out", tmp_path / "again")
    cli("fit", "--config", out / "best.yaml", *again)
    assert evaluations(tmp_path / "again").equals(evaluations(out / f"trial_{best['trial']:.0f}" / "3m" / "seed_0"))


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--trials", "0"), "--trials must be at least 1, got 0"),
        (("--space", "configs/sweep/mapo.yaml"), "did you mean configs/sweep/mappo.yaml?"),
        (("--scenarios", "3n"), "unknown scenario '3n'"),
        (("--storage", "postgres9://nobody"), "--storage postgres9://nobody"),
        (("--overrides", "data.scenario=8m"), "data.scenario is set by the study itself"),
        (("--config", "none.yaml"), "--config none.yaml: no such file"),
        (("--space", "sweep/mapo"), "--space sweep/mapo: no such file (did you mean sweep/mappo?)"),
        (("--scenarios", "3m", "3m"), "--scenarios: 3m is named twice"),
        (("--seeds", "60000", "--scenarios", "3m", "8m"), "120,000 runs are more than a study can have"),
        (("--env_steps", "0"), "--env_steps must be at least 1, got 0"),
        (("--overrides", "evaluation.every_n_episodes=0"), "evaluation.every_n_episodes must be at least 1, got 0"),
        (("--space", "{zero}"), "zero.yaml: evaluation.every_n_episodes must be at least 1, got 0: a report needs"),
        (("--space", "{whole}"), "whole.yaml: expected one argument of evaluation, as in"),
        (("--space", "{misspelt}"), "no run could begin: "),
    ],
)
def test_bad_input_is_one_line(
    cli: Cli, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str], args: tuple[str, ...], told: str
) -> None:
    spaces = {
        "zero": "evaluation.every_n_episodes: {choices: [8, 0]}",
        "whole": "evaluation: {choices: [8]}",
        "misspelt": "some: {choices: [{model.lr: 1}, {model.lrr: 1}]}",
    }
    for name, content in spaces.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    files = {name: str(tmp_path / f"{name}.yaml") for name in spaces}
    with pytest.raises(SystemExit) as stop:
        cli(*words, "--out", tmp_path / "sweep", *(arg.format(**files) for arg in args))
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.startswith("error: ") and message.count("\n") == 1 and told in message
    assert "misspelt" not in str(args) or "'lrr' is not accepted (did you mean lr?)" in message
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(("more", "mark"), [((), "sweep.db"), (("--storage", "sqlite://"), "trials.csv")])
def test_a_folder_of_something_else_is_left_alone(
    cli: Cli, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str], more: tuple[str, ...], mark: str
) -> None:
    (tmp_path / "precious.csv").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stop:
        cli(*words, *more, "--out", tmp_path)
    assert stop.value.code == 2 and sorted(tmp_path.iterdir()) == before
    assert f"holds precious.csv and no {mark}; choose a folder" in capsys.readouterr().err


def test_help_answers_without_torch() -> None:
    code = "import sys\nfrom cli import main\ntry: main(['sweep', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'lightning', 'optuna'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "--space" in done.stdout, done.stderr
