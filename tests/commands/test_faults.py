"""What the world does to a run: a full disk, no memory, numbers that are none. Results so far are always kept."""

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lightning import Trainer

from amal.battle import VectorBattle
from amal.rollout import collector
from amal.rollout.compiled import Record
from amal.runtime.checkpoints import WholeCheckpoints, read_checkpoint
from amal.types import Actor, EpisodeBatch, PlainNetwork
from callbacks.progress import TrainingProgress
from datamodules.episode_source import EpisodeSource
from tests.conftest import ROOT

Cli = Callable[..., None]
TINY = ("--data.scenario", "3m", "--data.env_steps", "1500", "--data.episodes_per_update", "8")
OFTEN = ("--evaluation.every_n_episodes", "8", "--checkpoint.every_seconds", "0")


def failing_fit(cli: Cli, run: Path, capsys: pytest.CaptureFixture[str], *args: object) -> str:
    """The line that a run which stops at a fault ends with; what went before are evaluations."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli("fit", "--config", "configs/mappo.yaml", *TINY, *OFTEN, "--out", run, *args)
    errors = capsys.readouterr().err
    assert stop.value.code == 1 and "Traceback" not in errors, errors
    message = errors.splitlines()[-1]
    assert message.startswith("error: ") and f"results so far are kept in {run}" in message
    return message


def outcome(run: Path) -> str:
    return str(json.loads((run / "run.json").read_text())["outcome"])


def left_over(run: Path) -> list[Path]:
    return [path for path in run.rglob(".*") if path.name != ".lock"]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """What a full disk is to a process: a write fails in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_at_the_second_checkpoint_leaves_the_first(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    last, save = run / "checkpoints" / "last.ckpt", WholeCheckpoints.save_checkpoint

    def save_until_full(io: WholeCheckpoints, checkpoint: dict[str, Any], path: Path, storage_options: Any) -> None:
        if last.exists() and path == last:
            with no_file_larger_than(100_000):
                save(io, checkpoint, path)
        save(io, checkpoint, path)

    monkeypatch.setattr(WholeCheckpoints, "save_checkpoint", save_until_full)
    message = failing_fit(cli, run, capsys)
    assert f"error: {last}: File too large" in message and f"last good checkpoint: {last}" in message
    assert outcome(run).startswith("failed: OSError")
    assert not left_over(run)
    assert "optimizer_states" in read_checkpoint(last)
    monkeypatch.undo()
    monkeypatch.chdir(ROOT)
    cli("fit", "--config", run / "config.yaml", "--ckpt_path", last)
    assert outcome(run) == "finished"


def test_a_disk_that_is_full_from_the_start_loses_no_row(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with no_file_larger_than(3000):
        message = failing_fit(cli, run, capsys, "--evaluation.every_n_episodes", "0")
    assert "there is no checkpoint yet" in message
    assert (run / "metrics.csv").read_bytes().endswith(b"\n")
    assert pd.read_csv(run / "metrics.csv").notna().all(axis=None)
    assert not left_over(run)


@pytest.mark.parametrize("out", ["README.md", "README.md/run", "/proc/run"])
def test_a_folder_that_cannot_be_written_to_is_named(cli: Cli, capsys: pytest.CaptureFixture[str], out: str) -> None:
    with pytest.raises(SystemExit) as stop:
        cli("fit", "--config", "configs/mappo.yaml", *TINY, "--out", out)
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.startswith(f"error: --out {out} cannot be written to: ") and message.count("\n") == 1


def test_out_of_memory_is_told_and_what_was_saved_stays(tmp_path: Path) -> None:
    run = tmp_path / "run"
    limited = (
        "import resource, sys, cli, amal.commands.fit\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "limit = pages * resource.getpagesize() + 400 * 2**20\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "cli.main()"
    )
    many = ["--data.num_envs", "200000", "--data.episodes_per_update", "200000"]
    command = [sys.executable, "-c", limited, "fit", "--config", "configs/mappo.yaml", *TINY, *many, "--out", str(run)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "error: out of memory; fewer data.num_envs" in done.stderr.splitlines()[-1]
    assert "MemoryError" in outcome(run)


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint_and_names_it(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    play, run = EpisodeSource.play_training, tmp_path / "run"

    def play_badly_later(source: EpisodeSource, actor: Actor) -> EpisodeBatch:
        batch = play(source, actor)
        if source.budget.episodes >= 40:
            batch.rewards[0, 0] = float("nan")
        return batch

    monkeypatch.setattr(EpisodeSource, "play_training", play_badly_later)
    message = failing_fit(cli, run, capsys)
    last = run / "checkpoints" / "last.ckpt"
    assert "diverged" in message and f"last good checkpoint: {last}" in message
    assert all(tensor.isfinite().all() for tensor in read_checkpoint(last)["state_dict"].values())
    assert outcome(run).startswith("failed: NonFiniteLoss")
    assert pd.read_csv(run / "metrics.csv")["episodes"].max() == 32


def test_a_run_that_a_callback_ends_early_is_not_finished_and_can_go_on(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(self: TrainingProgress, trainer: Trainer, *rest: object) -> None:
        trainer.should_stop = True

    run = tmp_path / "run"
    with monkeypatch.context() as ending:
        ending.setattr(TrainingProgress, "on_train_batch_end", end)
        cli("fit", "--config", "configs/mappo.yaml", *TINY, "--out", run)
    assert outcome(run) == "stopped" and len(pd.read_csv(run / "metrics.csv")) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("ended by a callback after ")
    cli(*told.partition("go on with: amal ")[2].split())
    assert outcome(run) == "finished" and len(pd.read_csv(run / "metrics.csv")) > 1


def test_a_loss_that_is_no_number_in_the_first_update_says_that_there_is_no_checkpoint(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diverging = ("--model.lr", "1e18", "--model.max_grad_norm", "1e18")
    message = failing_fit(cli, tmp_path / "run", capsys, *diverging)
    assert "diverged" in message and message.endswith("there is no checkpoint yet")
    assert outcome(tmp_path / "run").startswith("failed: NonFiniteLoss")


@pytest.mark.parametrize(("view", "where"), [("obs", "battle 1, agent 2, feature 5"), ("state", "battle 1, feature 5")])
def test_an_observation_that_is_no_number_is_found_where_it_is(
    cli: Cli,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    view: str,
    where: str,
) -> None:
    step, steps = VectorBattle.step, iter(range(10**9))

    def step_badly(battle: VectorBattle, actions: np.ndarray) -> None:
        step(battle, actions)
        if next(steps) == 6:
            getattr(battle, view)[(1, 2, 5) if view == "obs" else (1, 5)] = np.nan

    monkeypatch.setattr(VectorBattle, "step", step_badly)
    step_by_step = ("--model.policy", "amal.networks.GRUPolicy")
    message = failing_fit(cli, tmp_path / "run", capsys, *step_by_step)
    assert f"error: 3m shows {view} = nan: {where}, step 7 of a rollout" in message


def test_an_observation_that_is_no_number_is_found_in_a_compiled_rollout(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    play = collector.play_episodes

    def play_badly(battle: VectorBattle, network: PlainNetwork, arrays: dict[str, np.ndarray], *rest: Any) -> Record:
        record = play(battle, network, arrays, *rest)
        arrays["obs"][1, 3, 2, 5] = np.inf
        return record

    monkeypatch.setattr(collector, "play_episodes", play_badly)
    message = failing_fit(cli, tmp_path / "run", capsys)
    assert "error: 3m shows obs = inf: step 3, agent 2, feature 5, episode 1 of a rollout" in message


def test_wandb_that_cannot_be_reached_is_told_in_one_line(tmp_path: Path) -> None:
    """Without a network it fails at once for want of an account; logging offline, as shipped, needs neither."""
    online = ["--config", "configs/logger/wandb.yaml", "--trainer.logger.init_args.offline", "false"]
    command = [
        sys.executable,
        "cli.py",
        "fit",
        "--config",
        "configs/mappo.yaml",
        *TINY,
        *online,
        "--out",
        f"{tmp_path}/run",
    ]
    environment = {
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_API_KEY": "",
        "HOME": str(tmp_path),
        "PATH": "/usr/bin",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "error: wandb: " in done.stderr and "logs offline" in done.stderr.splitlines()[-1]


def test_ctrl_c_before_training_ends_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "cli.py", "fit", "--config", "configs/mappo.yaml", *TINY, "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():  # it imports, which takes seconds
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert not (tmp_path / "run").exists()
