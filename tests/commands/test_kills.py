"""Runs that are killed again and again end as if nothing had happened, bit for bit.

``pytest -m slow tests/commands/test_kills.py -s`` prints what was killed; the tally of docs/reliability.md is
from there.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.commands.phased_fit import PHASES
from tests.conftest import ROOT

BUDGET = ("--data.scenario=3m", "--data.env_steps=5000", "--data.episodes_per_update=8", "--seed_everything=3")
OFTEN = ("--evaluation.every_n_episodes=24", "--checkpoint.every_seconds=0", "--checkpoint.every_n_episodes=64")
# how long a phase lasts at least, roughly, in seconds: the moment to kill is drawn from that
SECONDS = {"start": 5.0, "compile": 15.0, "play": 0.08, "update": 0.08, "evaluate": 0.2, "write": 0.02}
KILLS = {  # 29 in all
    "configs/mappo.yaml": ("compile", "start", "write", "write", "evaluate", "update", "play"),
    "configs/mappo_gru.yaml": ("compile", "write", "write", "evaluate", "evaluate", "update"),
    "configs/qmix.yaml": ("write", "write", "evaluate", "update", "play"),
    "configs/amal.yaml": ("write", "update", "update", "evaluate"),
    "configs/amal_paper.yaml": ("write", "write", "write", "evaluate", "evaluate", "update", "play"),
}


def start(config: str, run: Path, cache: Path) -> subprocess.Popen[bytes]:
    """Begins the run, or goes on with it if it has come to a checkpoint."""
    last = run / "checkpoints" / "last.ckpt"
    if last.exists():
        arguments = ["--config", str(run / "config.yaml"), "--ckpt_path", str(last)]
    else:
        shutil.rmtree(run, ignore_errors=True)
        arguments = ["--config", config, *BUDGET, *OFTEN, "--out", str(run)]
    command = [
        sys.executable,
        str(ROOT / "tests" / "commands" / "phased_fit.py"),
        str(run.with_suffix(".phase")),
        *arguments,
    ]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    with run.with_suffix(".log").open("ab") as log:
        run.with_suffix(".phase").write_bytes(bytes([0]))
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def kill_in(process: subprocess.Popen[bytes], phase_file: Path, phase: str, chance: random.Random) -> bool:
    """Kills the process at a random moment of a phase that begins after a random time of training; False if it ended
    before."""
    trained_from = None
    while process.poll() is None:
        now = PHASES[phase_file.read_bytes()[0]]
        if trained_from is None and now not in ("start", "compile"):
            trained_from = time.monotonic() + chance.uniform(0.0, 1.0)
        if now == phase and (phase in ("start", "compile") or (trained_from and time.monotonic() > trained_from)):
            time.sleep(chance.uniform(0.0, SECONDS[phase]))
            if PHASES[phase_file.read_bytes()[0]] == phase:  # else it was over sooner: the next one
                process.kill()
                return process.wait() == -signal.SIGKILL
        time.sleep(0.001)
    return False


def assert_same(ours: Any, theirs: Any, where: str) -> None:
    """Equal bit for bit, but for how long it took."""
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype and torch.equal(ours.view(-1), theirs.view(-1)), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            if "second" not in str(key):
                assert_same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    else:
        assert ours == theirs or ours != ours, where


def assert_same_run(whole: Path, part: Path) -> None:
    names = {path.name for path in (whole / "checkpoints").iterdir()}
    assert names == {path.name for path in (part / "checkpoints").iterdir()}
    for name in names:
        assert_same(*(torch.load(run / "checkpoints" / name, weights_only=True) for run in (whole, part)), name)
    for name in ("evaluations.csv", "metrics.csv"):
        expected, got = (pd.read_csv(run / name, dtype=str) for run in (whole, part))  # text: to the last digit
        timing = [column for column in expected if "second" in column]
        pd.testing.assert_frame_equal(expected.drop(columns=timing), got.drop(columns=timing))


@pytest.mark.slow
@pytest.mark.parametrize("config", KILLS)
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(config: str, tmp_path: Path) -> None:
    chance, tally, n_runs = random.Random(config), Counter[str](), 0
    whole, wanted = tmp_path / "whole", list(KILLS[config])
    cold = "compile" in wanted
    while wanted:
        run = tmp_path / f"part{n_runs}"
        n_runs += 1
        while True:
            process = start(config, run, tmp_path / "cache" if cold else Path.home() / ".cache" / "amal")
            if not wanted or not kill_in(process, run.with_suffix(".phase"), wanted[0], chance):
                assert process.wait() == 0, run.with_suffix(".log").read_text()
                break
            tally[wanted.pop(0)] += 1
    process = start(config, whole, tmp_path / "cache" if cold else Path.home() / ".cache" / "amal")
    assert process.wait() == 0
    for number in range(n_runs):
        assert_same_run(whole, tmp_path / f"part{number}")
    told = ", ".join(f"{count} in {phase}" for phase, count in sorted(tally.items()))
    print(f"\n{config}: {tally.total()} kills ({told}) of {n_runs} runs, each equal to the whole one")
    assert tally.total() == len(KILLS[config])
