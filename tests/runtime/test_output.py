"""Display never ends what a command does: nobody reads it, its disk is full, its letters are few, its terminal ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.conftest import ROOT

FIT = ("fit", "--config", "configs/mappo.yaml", "--data.env_steps", "1500", "--evaluation.every_n_episodes", "32")


def command(*args: object) -> list[str]:
    return [sys.executable, "cli.py", *map(str, args)]


def test_training_ends_well_whatever_becomes_of_its_output_and_its_terminal(tmp_path: Path) -> None:
    """Nobody reads its standard output, its standard error is on a full disk, and under nohup its terminal closes."""
    run = tmp_path / "run"
    reading, writing = os.pipe()
    os.close(reading)
    words = ["nohup", *command(*FIT, "--out", run)]
    with open(writing, "wb") as nobody, Path("/dev/full").open("wb") as full:  # noqa: PTH123
        process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=nobody, stderr=full)
    begun(process, run)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=120) == 0
    assert json.loads((run / "run.json").read_text())["outcome"] == "finished"
    assert len(pd.read_csv(run / "evaluations.csv")) >= 2


def test_a_terminal_that_closes_stops_training_as_sigterm_does(tmp_path: Path) -> None:
    run = tmp_path / "my; run"
    words = command(*FIT, "--data.env_steps", "10000000", "--out", run)
    process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    begun(process, run)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGHUP
    assert json.loads((run / "run.json").read_text())["outcome"] == "interrupted"
    assert f"--config '{run}/config.yaml' --ckpt_path '{run}/checkpoints/last.ckpt'" in errors
    assert (run / "checkpoints" / "last.ckpt").exists()


def begun(process: subprocess.Popen[Any], run: Path) -> None:
    while process.poll() is None and not (run / "metrics.csv").exists():
        time.sleep(0.02)


@pytest.mark.parametrize(("args", "code"), [((), 0), (("3n",), 2)])
def test_a_command_whose_output_is_closed_does_what_it_would(args: tuple[str, ...], code: int) -> None:
    words = ["sh", "-c", '"$@" >&- 2>&-', "sh", *command("scenarios", *args)]
    assert subprocess.run(words, cwd=ROOT, check=False).returncode == code


@pytest.mark.parametrize("args", [("scenarios",), ("scenarios", "--help"), ("scenarios", "2s3z")])
def test_a_command_whose_reader_has_gone_ends_quietly(args: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as nobody:  # noqa: PTH123
        done = subprocess.run(command(*args), cwd=ROOT, stdout=nobody, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_answer_that_is_lost_is_told() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("scenarios"), cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1 and done.stderr == "error: standard output: No space left on device\n"


def test_an_output_of_few_letters_gets_what_it_can_write() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command("scenarios", "2s3z"), cwd=ROOT, env=environment, capture_output=True, check=False)
    assert done.returncode == 0 and b"2s3z" in done.stdout and done.stdout.isascii() and done.stderr == b""


@pytest.mark.parametrize("args", [("scenarios",), FIT])
def test_too_little_memory_to_start_is_one_line(args: tuple[str, ...]) -> None:
    limited = ["sh", "-c", 'ulimit -v 150000; "$@"', "sh", *command(*args)]
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: cannot start with 146 MiB of address space (ulimit -v): ")
