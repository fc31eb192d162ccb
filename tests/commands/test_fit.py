"""A run of ``fit``: what it leaves, and that equal settings give equal runs, whatever happens to them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from amal.algorithms.mappo import MAPPO
from tests.conftest import ROOT, run_cli
from tests.runs import (
    SHORT,
    Cli,
    assert_equal_parameters,
    assert_equal_tables,
    assert_learned,
    fit,
    parameters,
    power_cut,
)

OFTEN = ("--evaluation.every_n_episodes", "50")
LONG = ("--data.env_steps", "12000")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MAPPO; not to be written to."""
    return fit(run_cli, tmp_path_factory.mktemp("finished") / "run", "--checkpoint.every_n_episodes", "64", *OFTEN)


@pytest.fixture(scope="module")
def long_finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A longer one."""
    return fit(run_cli, tmp_path_factory.mktemp("finished") / "long", *LONG)


def test_a_run_leaves_what_the_study_reads(finished: Path) -> None:
    evaluations = pd.read_csv(finished / "evaluations.csv")
    assert list(evaluations.columns) == [
        *(
            "env_steps",
            "episodes",
            "wall_seconds",
            "win_rate",
            "return_mean",
            "return_std",
            "episode_length",
            "dead_allies",
            "dead_enemies",
            "sampled_win_rate",
            "sampled_return_mean",
        ),
    ]
    assert (evaluations["episodes"].diff().dropna() > 0).all() and evaluations["env_steps"].iloc[-1] >= 3000
    metrics = pd.read_csv(finished / "metrics.csv")
    assert metrics["env_steps"].is_monotonic_increasing and metrics["env_steps"].iloc[-1] >= 3000
    assert metrics.notna().all(axis=None) and "train/approx_kl" in metrics
    record = json.loads((finished / "run.json").read_text())
    assert record["outcome"] == "finished" and record["algorithm"] == "MAPPO" and record["scenario"] == "3m"
    assert record["totals"]["env_steps"] == metrics["env_steps"].iloc[-1]
    assert record["evaluation"] == {"every_n_episodes": 50, "episodes": 32, "test_episodes": 320}
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["seed_everything"] == 0 and config["model"]["init_args"]["lr"] == 5e-4
    names = {path.name for path in (finished / "checkpoints").iterdir()}
    assert {"last.ckpt", "best.ckpt"} < names and any(name.startswith("episode_") for name in names)


def test_equal_seeds_give_equal_runs_and_evaluations_change_nothing(cli: Cli, finished: Path, tmp_path: Path) -> None:
    again = fit(cli, tmp_path / "again", *OFTEN)
    without = fit(cli, tmp_path / "c", "--evaluation.every_n_episodes", "0")
    other = fit(cli, tmp_path / "d", "--seed_everything", "1")
    assert_equal_tables(finished, again)
    assert_equal_parameters(finished, again)
    assert_equal_parameters(finished, without)
    assert any(
        not torch.equal(a, b) for a, b in zip(parameters(finished).values(), parameters(other).values(), strict=True)
    )
    assert not (without / "evaluations.csv").exists()


def test_the_number_of_threads_changes_nothing(tmp_path: Path) -> None:
    for threads in ("1", "2"):
        runs = {config: str(tmp_path / threads / config) for config in ("mappo", "amal_paper")}
        args = ["--data.scenario", "2s3z", "--data.env_steps", "2500", "--out"]
        fits = [["fit", "--config", f"configs/{config}.yaml", *args, run] for config, run in runs.items()]
        command = [sys.executable, "-c", f"from cli import main\nfor args in {fits}: main(args)"]
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        for run in runs.values():
            assert json.loads(Path(run, "run.json").read_text())["hardware"]["torch_threads"] == int(threads)
    for config in runs:
        assert_equal_parameters(tmp_path / "1" / config, tmp_path / "2" / config)


@pytest.mark.parametrize(
    ("config", "less"),
    [
        ("mappo", ()),
        ("amal_paper", ("--model.auxiliaries.evolution_frequency", "3", "--model.world_model.steps", "2")),
        (
            "amal",
            (
                *("--model.imagination.warm_up", "0", "--model.imagination.starts", "32"),
                *("--model.imagination.n_epochs", "1"),
                *("--model.world_model.steps", "2", "--model.imagination.auxiliaries.starts", "1"),
                *("--model.imagination.auxiliaries.evolution_frequency", "3"),
            ),
        ),
    ],
)
def test_an_interrupted_run_goes_on_from_its_checkpoint_as_if_nothing_had_happened(
    cli: Cli, tmp_path: Path, config: str, less: tuple[str, ...]
) -> None:
    """It had come an update further than its last checkpoint."""
    budget = ("--data.env_steps", "2000", "--data.episodes_per_update", "8", "--evaluation.every_n_episodes", "40")
    shipped = f"configs/{config}.yaml"
    whole, part = fit(cli, tmp_path / "whole", *budget, *less, config=shipped), tmp_path / "part"
    with power_cut(after=48):
        fit(cli, part, *budget, *less, config=shipped)
    assert json.loads((part / "run.json").read_text())["outcome"] == "failed: RuntimeError: power cut"
    cli("fit", "--config", part / "config.yaml", "--ckpt_path", part / "checkpoints" / "last.ckpt")
    assert_equal_parameters(whole, part)
    assert_equal_tables(whole, part)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_saves_and_tells_how_to_go_on(
    cli: Cli, long_finished: Path, tmp_path: Path, number: signal.Signals
) -> None:
    part = tmp_path / "part"
    command = [sys.executable, "cli.py", "fit", "--config", "configs/mappo.yaml", *SHORT, *LONG, "--out", str(part)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (part / "metrics.csv").exists():
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert json.loads((part / "run.json").read_text())["outcome"] == "interrupted"
    assert "Traceback" not in errors
    go_on = errors.strip().splitlines()[-1].partition("go on with: python cli.py ")[2]
    cli(*go_on.split())
    assert_equal_parameters(long_finished, part)
    assert_equal_tables(long_finished, part)


@pytest.mark.parametrize("config", ["configs/mappo_gru.yaml", "configs/amal_paper.yaml"])
def test_they_train_in_mixed_precision(cli: Cli, tmp_path: Path, config: str) -> None:
    """Nearly what full precision learns, and not the same."""
    runs = {}
    for precision in ("32-true", "bf16-mixed"):
        options = ("--data.env_steps", "1", "--evaluation.every_n_episodes", "0", "--trainer.precision", precision)
        runs[precision] = fit(cli, tmp_path / precision, *options, config=config)
        assert_learned(runs[precision])
    full, mixed = (parameters(run) for run in runs.values())
    for name in (name for name in full if name.startswith(("policy.", "critic.")) and full[name].is_floating_point()):
        assert mixed[name].dtype == torch.float32 and not torch.equal(full[name], mixed[name])
    told = [pd.read_csv(run / "metrics.csv")[["train/entropy", "train/value_loss"]].iloc[-1] for run in runs.values()]
    assert told[1].tolist() == pytest.approx(told[0].tolist(), rel=0.05)


def test_lightnings_profilers_change_neither_numbers_nor_threads(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policy and critic learn at the same time, which those that come with Lightning cannot follow."""
    critic_step, used = MAPPO.critic_step, set()

    def watched(*args: Any) -> Any:
        used.add(threading.current_thread())
        return critic_step(*args)

    monkeypatch.setattr(MAPPO, "critic_step", watched)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for name in ("null", "simple", "advanced"):
            fit(cli, tmp_path / name, "--data.env_steps", "1000", "--trainer.profiler", name)
            updates = len(pd.read_csv(tmp_path / name / "metrics.csv"))
            assert len(used) == updates and threading.main_thread() not in used, "a thread for each update"
            used.clear()
    finally:
        torch.set_num_threads(threads)
    for name in ("simple", "advanced"):
        assert_equal_parameters(tmp_path / "null", tmp_path / name)
    assert "".join(capfd.readouterr()).count("policy_and_critic") == 2, "in the report of each profiler"


def test_loggers_take_the_runs_folder(cli: Cli, tmp_path: Path) -> None:
    for name in ("wandb", "tensorboard"):
        run = fit(cli, tmp_path / name, "--config", f"configs/logger/{name}.yaml", "--data.env_steps", "500")
        assert (run / "evaluations.csv").exists()
    assert list((tmp_path / "wandb" / "wandb").glob("offline-run-*"))
    assert list((tmp_path / "tensorboard").rglob("events.out.tfevents.*"))


def test_default_root_dir_takes_the_run_folders(cli: Cli, tmp_path: Path) -> None:
    for _ in range(2):
        cli("fit", "--config", "configs/mappo.yaml", "--data.env_steps", "1", "--trainer.default_root_dir", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mappo-3m-seed0", "mappo-3m-seed0-2"}
    last = tmp_path / "mappo-3m-seed0" / "checkpoints" / "last.ckpt"
    cli("fit", "--config", tmp_path / "mappo-3m-seed0" / "config.yaml", "--ckpt_path", last)
    assert len(list(tmp_path.iterdir())) == 2, "a run goes on where it is"


def test_fast_dev_run_makes_one_update_and_one_evaluation_and_leaves_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A budget need not be set."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    learn, updates = MAPPO.learn, []
    monkeypatch.setattr(MAPPO, "learn", lambda *args: updates.append(1) or learn(*args))
    out = ("--trainer.default_root_dir", tmp_path / "runs", "--out", tmp_path / "run")
    cli("fit", "--config", "configs/mappo.yaml", "--trainer.fast_dev_run", "true", *out)
    assert len(updates) == 1 and capfd.readouterr().err.count("win rate") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"] and not list((tmp_path / "tmp").iterdir())


def test_a_finished_run_is_not_overwritten(cli: Cli, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "evaluations.csv").read_bytes()
    with pytest.raises(SystemExit) as stop:
        fit(cli, finished)
    assert stop.value.code == 2 and "holds a run already" in capsys.readouterr().err
    assert (finished / "evaluations.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("config", "there", "absent"),
    [
        ("mappo_tuned", ("--model.clip_param", "--data.episodes_per_update"), "--model.world_model"),
        (
            "amal_paper_tuned",
            ("--model.clip_param", "--model.world_model.batch_size", "--model.replay.coef"),
            "--model.n_agents",
        ),
    ],
)
def test_help_tells_the_arguments_of_the_configurations_model(
    cli: Cli, capsys: pytest.CaptureFixture[str], config: str, there: tuple[str, ...], absent: str
) -> None:
    cli("fit", "--config", f"configs/{config}.yaml", "--help")
    told = capsys.readouterr().out
    assert all(f"  {option} " in told for option in there) and absent not in told
    assert "--trainer.max_epochs" not in told and "--trainer.callbacks" in told
    episodes = told.partition("  --data.episodes_per_update ")[2].partition("  --data.num_envs")[0]
    chosen = yaml.safe_load(Path(f"configs/{config}.yaml").read_text())["data"]["episodes_per_update"]
    assert chosen != 32 and f"default: {chosen})" in episodes, "of the configuration, not of the constructor"


def test_help_without_or_with_a_bad_configuration(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli("fit", "--help")
    told = capsys.readouterr().out
    assert "shown with a configuration" in told and "--data.scenario" in told
    for content, words in (("model: os.system", "os.system is code from outside"), ("model: [", "no YAML")):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(SystemExit) as stop:
            cli("fit", "--config", tmp_path / "bad.yaml", "--help")
        message = capsys.readouterr().err
        assert stop.value.code == 2 and message.count("\n") == 1 and words in message


def test_help_leaves_out_parts_that_are_null_and_what_the_battles_give(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    cli("fit", "--config", "configs/amal.yaml", "--help")
    told = capsys.readouterr().out
    assert "--model.imagination.horizon" in told
    absent = ("information", "replay", "n_agents", "state_dim", "layout", "scenario")
    assert not any(f"--model.{name}" in told for name in absent)
