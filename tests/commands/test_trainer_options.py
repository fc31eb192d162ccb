"""Every argument of Lightning's trainer has its effect here or is refused by name; the same for its callbacks."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from lightning import Trainer
from lightning.pytorch import callbacks as of_lightning

from amal.commands.trainer_options import MUST_STAY
from tests.conftest import ROOT

Cli = Callable[..., None]
TINY = ("--config", "configs/mappo.yaml", "--data.env_steps", "300")
# Arguments of the trainer that have their effect here, and what says so.
EFFECTIVE = {
    "accelerator": "tests/commands/test_bad_input.py",
    "strategy": "tests/runtime/test_distributed.py, and below",
    "devices": "tests/runtime/test_distributed.py",
    "num_nodes": "below",
    "precision": "tests/commands/test_fit.py",
    "logger": "tests/callbacks/test_tracking.py",
    "callbacks": "below",
    "log_every_n_steps": "Lightning's, of what loggers get",
    "enable_progress_bar": "below",
    "enable_model_summary": "below",
    "deterministic": "Lightning's, of torch",
    "benchmark": "Lightning's, of torch",
    "profiler": "below",
    "detect_anomaly": "Lightning's, of torch",
    "plugins": "Lightning's, of cluster environments; others are refused below",
    "default_root_dir": "tests/commands/test_fit.py",
    "fast_dev_run": "tests/commands/test_fit.py",
    "max_time": "tests/callbacks/test_evaluation.py",
}
OTHER_VALUES = {
    **dict.fromkeys(MUST_STAY, "1"),
    **dict.fromkeys(("max_epochs", "check_val_every_n_epoch", "accumulate_grad_batches", "overfit_batches"), "3"),
    **dict.fromkeys(("sync_batchnorm", "barebones"), "true"),
    **dict.fromkeys(("enable_checkpointing", "inference_mode", "use_distributed_sampler"), "false"),
    "enable_autolog_hparams": "false",
    "gradient_clip_algorithm": "norm",
    "model_registry": "models",
    "limit_test_batches": "0.01",
    "limit_val_batches": "0",
}
WELCOME = ("LearningRateMonitor", "DeviceStatsMonitor", "ModelSummary", "RichModelSummary")
WELCOME += ("EarlyStopping", "ModelCheckpoint")
NEED_ARGUMENTS = {
    "Timer": {"duration": "00:00:00:01"},
    "GradientAccumulationScheduler": {"scheduling": {"0": 2}},
    "StochasticWeightAveraging": {"swa_lrs": 0.1},
    "ModelPruning": {"pruning_fn": "l1_unstructured"},
    "OnExceptionCheckpoint": {"dirpath": "."},
}


def refusal(cli: Cli, capsys: pytest.CaptureFixture[str], *args: object) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli(*args)
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.startswith("error: ") and message.count("\n") == 1, message
    return message


def test_each_argument_of_the_trainer_is_accounted_for() -> None:
    known = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    assert known == set(EFFECTIVE) | set(MUST_STAY) and not set(EFFECTIVE) & set(MUST_STAY)


@pytest.mark.parametrize("name", MUST_STAY)
def test_an_argument_without_effect_is_refused_by_name(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    command = "test" if name == "limit_test_batches" else "validate" if name == "limit_val_batches" else "fit"
    value = f"--trainer.{name}={OTHER_VALUES[name]}"
    out = ("--out", tmp_path / "run") if command == "fit" else ()
    message = refusal(cli, capsys, command, "--config", "configs/mappo.yaml", value, *out)
    assert f"trainer.{name} must stay " in message and MUST_STAY[name][1] in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [name for name in of_lightning.__all__ if name not in WELCOME])
def test_a_callback_of_lightning_that_would_end_alter_or_do_nothing_is_refused_by_name(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    config = {"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": NEED_ARGUMENTS.get(name, {})}
    file = tmp_path / "callbacks.yaml"
    file.write_text(json.dumps({"trainer": {"callbacks": [config]}}))
    message = refusal(cli, capsys, "fit", *TINY, "--config", file, "--out", tmp_path / "run")
    assert name in message and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ("--trainer.strategy", "ddp_spawn"),
            "trainer.strategy must be auto or ddp, got DDPStrategy with start_method",
        ),
        (("--trainer.strategy", "ddp_fork"), "trainer.strategy must be auto or ddp"),
        (("--trainer.strategy", "ddp_notebook"), "trainer.strategy must be auto or ddp"),
        (
            ("--trainer.strategy", '{"class_path": "DDPStrategy", "init_args": {"start_method": "spawn"}}'),
            "got DDPStrategy with start_method spawn",
        ),
        (("--trainer.plugins", "lightning.pytorch.plugins.TorchSyncBatchNorm"), "plugins must be cluster environments"),
        (("--trainer.plugins", "lightning.pytorch.plugins.io.AsyncCheckpointIO"), "AsyncCheckpointIO is no class that"),
        (("--trainer.plugins", "lightning.pytorch.plugins.precision.DoublePrecision"), "is no class that a config"),
        (("--trainer.callbacks", "callbacks.Telemetry"), "every run has Telemetry already"),
        (("--trainer.callbacks", "null"), "--trainer.callbacks null has no meaning"),
        (("--trainer.callbacks=null",), "--trainer.callbacks null has no meaning"),
        (("--trainer.default_root_dir=",), "trainer.default_root_dir is empty"),
        (("--trainer.fast_dev_run", "3"), "trainer.fast_dev_run must be true or false, got 3: it makes one update"),
        (("--trainer.log_every_n_steps", "0"), "trainer.log_every_n_steps must be at least 1, got 0"),
        (("--model.n_agents", "7"), "model.n_agents must not be set, got 7: data.scenario gives it"),
        (("--model.init_args.obs_dim", "3"), "model.obs_dim must not be set, got 3"),
        (("--data.env_steps", str(10**30)), "env_steps must be at most 9007199254740992, got 1000000"),
        (("--data.episode_limit", str(10**20)), "episode_limit must be at most 100000, got 1000000"),
        (("--data.backend", "smaclite", "--data.backend_options", "{seed: 3}"), "seed is not one of them; seed_every"),
    ],
)
def test_an_option_is_refused_where_it_could_have_no_effect(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], words: str
) -> None:
    out = tmp_path / "run"
    assert words in refusal(cli, capsys, "fit", *TINY, "--out", out, *args)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"dirpath": "/tmp/elsewhere"},
            "dirpath must stay null, got /tmp/elsewhere: the run's",
        ),
        ({"filename": "../../best"}, "filename must not leave the run's folder, got ../../best"),
        ({"filename": "/tmp/best"}, "filename must not leave the run's folder, got /tmp/best"),
        ({"every_n_epochs": 2}, "every_n_epochs must be at most 1, got 2: a run is one epoch"),
    ],
)
def test_lightnings_checkpoints_stay_in_the_runs_folder(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: dict[str, object], words: str
) -> None:
    file, config = tmp_path / "callbacks.yaml", {"class_path": "ModelCheckpoint", "init_args": arguments}
    file.write_text(json.dumps({"trainer": {"callbacks": [config]}}))
    message = refusal(cli, capsys, "fit", *TINY, "--config", file, "--out", tmp_path / "run")
    assert f"trainer.callbacks: ModelCheckpoint: {words}" in message and not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--out", "--evaluation.every_n_episodes", "--checkpoint", "--trainer.logger"])
def test_an_option_of_training_is_refused_by_the_commands_that_play(
    cli: Cli, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    message = refusal(cli, capsys, "validate", "--config", "configs/mappo.yaml", f"{option}=3")
    assert f"{option} is for fit; validate has no use for it" in message or option.lstrip("-") in message


def test_the_display_can_be_switched_off_and_what_is_asked_for_is_shown(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = ("--trainer.profiler", "simple", "--trainer.enable_model_summary", "true")
    cli("fit", *TINY, *shown, "--trainer.enable_progress_bar", "false", "--out", tmp_path / "run")
    told = "".join(capfd.readouterr())
    assert "FIT Profiler Report" in told and "run_training_batch" in told
    assert "MAPPOCritic" in told and "run folder" not in told and "win rate" not in told
    assert len(pd.read_csv(tmp_path / "run" / "metrics.csv")) == 1


def test_what_a_cluster_says_of_processes_and_cannot_be_is_one_line(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "job")
    assert "--ntasks-per-node" in refusal(cli, capsys, "fit", *TINY, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_on_two_nodes_says_whom_it_waits_for(tmp_path: Path) -> None:
    two = ("--trainer.num_nodes", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu")
    command = [sys.executable, "cli.py", "fit", *TINY, *two, "--out", str(tmp_path / "run")]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | meeting, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        told = next(line for line in process.stderr if "waiting" in line)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert "waiting for 2 processes on 2 nodes to meet at 127.0.0.1:29999" in told
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
