"""Nothing of a study is lost or done twice, however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from amal.commands.compare import main
from amal.study.analysis.comparison import read_comparison
from tests.conftest import ROOT
from tests.study.cells import BRIEF, STAND_IN, arguments


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def start(out: Path, *more: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "cli.py", "compare", *arguments(out, *more, **options)]  # type: ignore[arg-type]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes_of(out: Path) -> list[str]:
    lines = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if f"--out {out}/" in line]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the runs of a killed compare go on to their end")
def test_a_killed_study_leaves_no_process_and_goes_on_as_if_nothing_had_happened(
    cli: Callable[..., None], tmp_path: Path
) -> None:
    out = tmp_path / "study"
    killed = start(out, seeds="1")
    wait_until(lambda: any(out.glob("mappo/3m/*/checkpoints/last.ckpt")))
    killed.kill()
    killed.communicate()
    wait_until(lambda: not processes_of(out), seconds=5)
    outcomes = [json.loads(path.read_text())["outcome"] for path in out.glob("mappo/3m/*/run.json")]
    assert outcomes == ["running"]
    stdout, stderr = (again := start(out, seeds="1")).communicate(timeout=120)
    assert again.returncode == 0 and "1 of 1 finished" in stdout, stderr
    assert any("--ckpt_path" in path.read_text() for path in out.glob("logs/*.log"))
    overrides = [f"--{override}" for override in BRIEF]
    cli("fit", "--config=configs/mappo.yaml", *overrides, "--data.scenario=3m", "--data.env_steps=600",
        "--seed_everything=0", "--out", tmp_path / "whole")  # fmt: skip
    files = [folder / "evaluations.csv" for folder in (tmp_path / "whole", out / "mappo/3m/seed_0")]
    expected, got = (pd.read_csv(file).drop(columns="wall_seconds") for file in files)
    pd.testing.assert_frame_equal(expected, got)
    whole, last = (torch.load(file.parent / "checkpoints" / "last.ckpt", weights_only=True) for file in files)
    assert all(torch.equal(whole["state_dict"][name], tensor) for name, tensor in last["state_dict"].items())
    assert "optimizer_states" in whole and "optimizer_states" not in last


def test_a_failing_run_is_reported_with_its_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments(tmp_path / "study", "--overrides", "model.lr=-1", seeds="1"))
    log = tmp_path / "study/logs/mappo-3m-seed_0.log"
    told = f"  mappo 3m seed_0: exit code 2 · {log} · error: lr must be greater than 0, got -1.0\n"
    assert stop.value.code == 1 and told in capfd.readouterr().err


def test_the_others_go_on_after_a_failure_which_is_tried_again_by_the_next_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cli.py").write_text(STAND_IN)
    monkeypatch.setattr("amal.study.grid.launchers._ROOT", tmp_path)
    out = tmp_path / "study"
    for patience, n_failed in ((0, 2), (1, 0), (1, 0)):
        (tmp_path / "patience").write_text(str(patience))
        with pytest.raises(SystemExit) as stop:
            main(arguments(out, "--parallel", "2", seeds="5"))
        captured = capfd.readouterr()
        assert stop.value.code == (1 if n_failed else 0)
        assert captured.err.count("\n  mappo 3m seed_") == n_failed
    assert [path.read_text().count("=== ") for path in sorted(out.glob("logs/*.log"))] == [1, 2, 2, 1, 1]
    assert "5 of 5 finished" in captured.out
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert (out / "logs/mappo-3m-seed_0.log").read_text().endswith(f"\n{threads}\n")


def test_finished_runs_whose_files_are_broken_are_set_aside_and_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cli.py").write_text(STAND_IN)
    (tmp_path / "patience").write_text("1")
    monkeypatch.setattr("amal.study.grid.launchers._ROOT", tmp_path)
    out = tmp_path / "study"

    def compare() -> str:
        with pytest.raises(SystemExit) as stop:
            main(arguments(out, "--parallel", "4", seeds="5"))
        assert stop.value.code == 0
        return capfd.readouterr().err

    compare()
    cells = out / "mappo" / "3m"
    (cells / "seed_0" / "run.json").write_bytes(b"\0" * 300)  # as after a power cut
    (cells / "seed_1" / "evaluations.csv").unlink()
    (cells / "seed_2" / "evaluations.csv").write_bytes(b"\0" * 300)
    (cells / "seed_3" / "metrics.csv").write_text("env_steps,train/lr\n1,much\n")
    told = compare()
    for seed, file in enumerate(("run.json", "evaluations.csv", "evaluations.csv", "metrics.csv")):
        assert f"note: mappo 3m seed_{seed} is run again, its folder is set aside: {cells}/seed_{seed}/{file}: " in told
        assert json.loads((cells / f"seed_{seed}" / "run.json").read_text())["outcome"] == "finished"
        assert (cells / f"broken_seed_{seed}").is_dir()
    assert (cells / "broken_seed_0" / "run.json").read_bytes() == b"\0" * 300, "nothing is lost"
    assert [path.read_text().count("fit") for path in sorted(out.glob("logs/*.log"))] == [2, 2, 2, 2, 1]
    assert compare() == "" and not (cells / "broken_seed_0-2").exists()
    assert {run.seed for run in read_comparison(out).runs} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_study_ends_its_runs_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path)
    wait_until(lambda: len(processes_of(tmp_path)) == 2)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=40)
    assert process.returncode == 128 + number and not processes_of(tmp_path)
    assert stderr == "stopped with 2 of 2 runs left; resume with the same command\n"


@pytest.mark.slow
def test_ray_continues_the_cell_of_a_lost_node_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        lost = cluster.add_node(num_cpus=1)
        out = tmp_path / "study"
        os.environ["RAY_ADDRESS"] = cluster.address
        process = start(out, "--launcher", "ray", "--env_steps", "20000")
        checkpoints = [out / f"mappo/3m/seed_{seed}/checkpoints/last.ckpt" for seed in (0, 1)]
        wait_until(lambda: all(path.exists() for path in checkpoints), seconds=180)
        cluster.remove_node(lost, allow_graceful=False)
        stdout, stderr = process.communicate(timeout=400)
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        cluster.shutdown()
    assert process.returncode == 0 and "2 of 2 finished" in stdout, stderr
    sessions = sorted(path.read_text().count("=== ") for path in out.glob("logs/*.log"))
    assert sessions == [1, 2]
    for path in out.glob("mappo/3m/*/evaluations.csv"):
        rows = pd.read_csv(path)
        assert rows["env_steps"].is_monotonic_increasing and rows["env_steps"].iloc[-1] >= 20000
