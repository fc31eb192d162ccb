"""Training in two processes, by the shipped command line on the shipped configs."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.conftest import ROOT

ONE = ("--trainer.devices", "1", "--trainer.strategy", "auto")
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
# 8 episodes in each of 2 processes, 3 times, and 3 more that are rounded up to 4
SHORT = ("--data.scenario", "3m", "--data.episodes_per_update", "8", "--data.episodes", "51")
SETTINGS = (*TWO, *SHORT, "--evaluation.every_n_episodes", "16", "--checkpoint.every_n_episodes", "32")
WATCHED = ("--trainer.callbacks+=tests.runtime.fingerprints.Fingerprints", "--allow_code", "tests.runtime.fingerprints")
LITTLE_IMAGINATION = (
    *("--model.imagination.warm_up", "0", "--model.imagination.starts", "8", "--model.world_model.steps", "1"),
    *("--model.imagination.n_epochs", "1"),
    *("--model.imagination.auxiliaries.evolution_frequency", "3", "--model.imagination.auxiliaries.starts", "1"),
)
LITTLE_WORK = (
    *("--model.world_model.steps", "2", "--model.replay.batch_size", "32"),
    *("--model.auxiliaries.imagination_starts", "2", "--model.auxiliaries.evolution_frequency", "3"),
)
RANKS = (0, 1)
SOONER = ("--model.batch_size", "8")  # it learns from the first update on
ALGORITHMS = ("mappo", "mappo_gru", "amal", "amal_paper", "qmix", "happo")


def fit(algorithm: str, out: Path, *args: str) -> list[str]:
    # AMAL's second generation, and the audit after it, come after the checkpoint that is resumed
    own = {"amal": LITTLE_IMAGINATION, "amal_paper": LITTLE_WORK, "qmix": SOONER}.get(algorithm, ())
    return ["fit", "--config", f"configs/{algorithm}.yaml", *SETTINGS, *own, *WATCHED, "--out", str(out), *args]


def fingerprints(run: Path) -> list[pd.DataFrame]:
    return [pd.read_csv(run / f"rank_{r}.csv", names=["state", "played", "episodes", "steps"]) for r in RANKS]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each algorithm's run, uninterrupted and resumed from its checkpoint, one after the other in two processes that
    were not started by Lightning, as a cluster would start them."""
    folder = tmp_path_factory.mktemp("runs")
    sums = f"from tests.runtime.fingerprints import save_sums\nsave_sums({str(folder)!r})"
    run_in_two([fit(name, folder / name) for name in ALGORITHMS], sums)
    earlier = {name: folder / name / "checkpoints" / "episode_32.ckpt" for name in ALGORITHMS}
    run_in_two([fit(name, folder / f"{name}_resumed", "--ckpt_path", str(earlier[name])) for name in ALGORITHMS])
    return folder


def run_in_two(commands: list[list[str]], afterwards: str = "") -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from cli import main\nfor args in {commands}: main(args)\n{afterwards}"
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ | meeting | {"LOCAL_RANK": str(r)})
        for r in RANKS
    ]
    assert [process.wait() for process in started] == [0, 0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_processes_have_the_same_parameters_after_every_update(runs: Path, algorithm: str) -> None:
    first, second = fingerprints(runs / algorithm)
    assert first["state"].equals(second["state"]) and first["state"].is_unique
    assert first["episodes"].equals(second["episodes"]) and first["episodes"].tolist() == [8, 8, 8, 2]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_process_plays_episodes_of_its_own_and_all_of_them_count(runs: Path, algorithm: str) -> None:
    first, second = fingerprints(runs / algorithm)
    assert not set(first["played"]) & set(second["played"])
    metrics = pd.read_csv(runs / algorithm / "metrics.csv")
    assert metrics["env_steps"].tolist() == (first["steps"] + second["steps"]).cumsum().tolist()
    assert metrics["episodes"].tolist() == [16, 32, 48, 52]
    weighted = (first["steps"] + second["steps"]) / (2 * first["episodes"])
    assert metrics["train/episode_length"].tolist() == pytest.approx(weighted.tolist())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_process_evaluates_and_writes(runs: Path, algorithm: str) -> None:
    evaluations = pd.read_csv(runs / algorithm / "evaluations.csv")
    assert evaluations["episodes"].tolist() == [16, 32, 48, 52]
    names = {path.name for path in (runs / algorithm).iterdir()}
    assert names == {
        *(".lock", "checkpoints", "config.yaml", "evaluations.csv", "metrics.csv", "run.json"),
        *("rank_0.csv", "rank_1.csv"),
    }


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(runs: Path, algorithm: str) -> None:
    whole, resumed = runs / algorithm, runs / f"{algorithm}_resumed"
    for expected, got in zip(fingerprints(whole), fingerprints(resumed), strict=True):
        pd.testing.assert_frame_equal(expected[2:].reset_index(drop=True), got)
    rows = [pd.read_csv(run / "evaluations.csv").drop(columns="wall_seconds") for run in (whole, resumed)]
    pd.testing.assert_frame_equal(*rows)


def test_moments_are_of_all_entries_gradients_are_means_and_metrics_need_not_be_everywhere(runs: Path) -> None:
    first, second = (torch.load(runs / f"sums_{r}.pt") for r in RANKS)
    assert all(first[name] == second[name] for name in ("moments", "gradients", "metrics"))
    counted = first["counted"] + second["counted"]
    assert len(first["counted"]) != len(second["counted"])
    assert first["moments"] == pytest.approx([np.mean(counted), np.var(counted), len(counted)], rel=1e-6)
    assert first["gradients"] == [[1.5, 1.5], [2.0]]
    assert first["metrics"] == {"both": 1.5, "one": 7.0}


def test_another_number_of_processes_is_refused(
    runs: Path, cli: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs / "mappo"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(SystemExit) as stop:
        resumed = ("--ckpt_path", run / "checkpoints" / "last.ckpt", *ONE)
        cli("fit", "--config", run / "config.yaml", *resumed, *WATCHED[1:])
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.count("\n") == 1
    assert message.startswith("error: ") and "trainer.devices was '2' and is now '1'" in message
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_one_process_can_validate_what_two_have_trained(
    runs: Path, cli: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs / "amal"
    checkpoint = ("--ckpt_path", run / "checkpoints" / "last.ckpt")
    cli("validate", "--config", run / "config.yaml", *checkpoint, *ONE, *WATCHED[1:])
    assert "eval/win_rate" in capsys.readouterr().out


def test_the_command_starts_the_processes_and_a_signal_to_one_stops_both_in_the_same_update(tmp_path: Path) -> None:
    args = (*TWO, *SHORT, "--data.episodes", "100000", *WATCHED)
    command = [sys.executable, str(ROOT / "cli.py"), "fit", "--config", str(ROOT / "configs/mappo.yaml"), *args]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    run = tmp_path / "runs" / "mappo-3m-seed0"
    while process.poll() is None and not (run / "metrics.csv").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in errors and errors.count("go on with:") == 1
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    first, second = fingerprints(run)
    assert first["state"].equals(second["state"])
    metrics = pd.read_csv(run / "metrics.csv")
    assert metrics["env_steps"].iloc[-1] == first["steps"].sum() + second["steps"].sum()
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["RolloutDataModule"]["env_steps"] == metrics["env_steps"].iloc[-1]
