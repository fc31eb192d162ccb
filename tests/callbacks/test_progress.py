"""What a person at a terminal of 80 columns sees of training."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import callbacks.evaluation
from amal.battle import compilation
from callbacks.progress import WINDOW_SECONDS, Pace, in_words, of_parts
from datamodules.budget import Budget
from tests.conftest import ROOT
from tests.runs import Cli

MANY = ("--data.episodes", "120", "--data.episodes_per_update", "2", "--data.num_envs", "2")
MANY += ("--data.episode_limit", "4", "--model.n_minibatch", "1")


def test_lines_are_of_each_tenth_and_of_each_new_best(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    played = callbacks.evaluation.measure
    greedy = [1.0 if number == 44 else 0.5 if number > 30 else 0.25 for number in range(60)]
    found = iter([{"win_rate": rate, "sampled_win_rate": 1.0 - rate} for rate in greedy])  # the greedy one is the best
    monkeypatch.setattr(callbacks.evaluation, "measure", lambda them: played(them) | next(found))
    cli("fit", "--config", "configs/mappo.yaml", *MANY, "--evaluation.every_n_episodes=2", "--out", tmp_path / "run")
    lines = [line for line in capfd.readouterr().err.splitlines() if "win rate" in line]
    evaluations = pd.read_csv(tmp_path / "run" / "evaluations.csv")
    told = [int(line.split("steps")[0].replace(",", "")) for line in lines]
    expected = [0, 5, 11, 17, 23, 29, 31, 35, 41, 44, 47, 53, 59]
    assert len(evaluations) == 60 and told == evaluations["env_steps"].iloc[expected].tolist()
    shown = [re.search(r"win rate +(\d+)%, sampled +(\d+)% · ", line) for line in lines]
    rates = [tuple(int(rate) for rate in found.groups()) for found in shown if found]
    assert rates == [(100 * greedy[number], 100 * (1 - greedy[number])) for number in expected]
    assert [line.endswith(" · best") for line in lines] == [number in (0, 31, 44) for number in expected]
    assert max(map(len, lines)) <= 80


def test_amal_has_a_second_line_on_its_world_model_replay_and_bonus(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny = ("--data.scenario", "3m", "--data.episodes", "24", "--data.episodes_per_update", "8")
    often = ("--evaluation.every_n_episodes", "8", "--trainer.logger", "false")
    cli(
        "fit",
        "--config",
        "amal_paper",
        "--config",
        "ablations/paper/shaped_bonus",
        *tiny,
        *often,
        "--out",
        tmp_path / "run",
    )
    lines = [line for line in capfd.readouterr().err.splitlines() if " · " in line]
    assert ["win rate" in line for line in lines] == [True, False] * (len(lines) // 2) and len(lines) >= 2
    updates = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert updates["train/lambda"].tolist() == pytest.approx([0.3, 0.1, 0.0]), "falls over half of the budget"
    row = updates.iloc[-1]
    error = row["train/model_obs_error_1"] / row["train/model_obs_trivial_error_1"]
    imagined, bonus = row["train/replay_imagined_share"], row["train/bonus_share"]
    told = f"model error {error:.0%} of trivial · imagined {imagined:.0%} · bonus {bonus:.1%} of rewards"
    assert lines[-1].strip() == told and max(map(len, lines)) <= 80


def test_the_second_design_tells_how_much_of_the_policys_learning_is_imagined() -> None:
    metrics = {"model_health_error_1": 0.18, "policy_steps": 64.0, "imagination_policy_steps": 48.0}
    assert of_parts({f"train/{name}": value for name, value in metrics.items()}) == (
        "model error 18% of trivial · imagined 75%"
    )
    assert of_parts({"train/policy_steps": 16.0}) == "", "not AMAL"


def test_the_bar_is_of_useful_width_in_80_columns(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "cli.py", "fit", "--config", "configs/mappo.yaml", "--data.scenario", "protoss_10_vs_10"]
    command += [*MANY, "--evaluation.every_n_episodes", "60", "--out", str(tmp_path / "run")]
    environment = os.environ | {"COLUMNS": "80", "LINES": "24", "TERM": "xterm"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # it has ended
            break
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown.decode())
    bars = [line for line in re.split(r"[\r\n]+", text) if "MAPPO on protoss_10_vs_10" in line]
    assert any("steps/s" in bar and " left" in bar for bar in bars)
    assert all(len(bar) <= 80 and len(re.findall("[━╸╺]", bar)) >= 15 for bar in bars)


def test_speed_and_time_left_are_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("callbacks.progress.time.monotonic", lambda: clock)
    budget = Budget(env_steps=100_000)
    pace = Pace(budget)
    assert pace.seconds_left is None
    for seconds, steps in [(100.0, 100), *[(1.0, 500)] * 40]:  # it began slowly
        clock += seconds
        budget.use(steps, 1)
        pace.note()
    assert WINDOW_SECONDS < 40 and pace.steps_per_second == pytest.approx(500)
    assert pace.seconds_left == pytest.approx((100_000 - 20_100) / 500)


def halved(x: float) -> float:
    return x / 2


def test_speed_leaves_out_the_compilation_of_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("callbacks.progress.time.monotonic", lambda: clock)
    pace = Pace(Budget(env_steps=100_000))
    before = compilation.compilation_seconds()
    monkeypatch.setattr(compilation, "_CACHE_FOLDER", str(tmp_path))  # which is empty
    assert compilation.kernel(halved)(5.0) == 2.5
    compiled = compilation.compilation_seconds() - before
    assert compiled > 0.0
    clock += compiled + 2.0
    pace.budget.use(1_000, 1)
    pace.note()
    assert pace.steps_per_second == pytest.approx(500)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (44.6, "45 s left"), (59.9, "1 min left"), (3000, "50 min left"), (11_100, "3 h 05 min left")],
)
def test_the_time_left_is_readable(seconds: float | None, words: str) -> None:
    assert in_words(seconds) == words
