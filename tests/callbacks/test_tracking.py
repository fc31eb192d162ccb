"""What experiment trackers get of a run, from the shipped configs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from amal.algorithms.metric_groups import grouped
from amal.runtime.yaml_files import read_yaml
from tests.runs import Cli, power_cut

MLFLOW = find_spec("mlflow")

QUICK = ("fit", "--config", "configs/quickstart.yaml", "--data.scenario", "3m", "--data.env_steps", "3000")
SHORT = ("fit", "--config", "configs/mappo.yaml", "--data.env_steps", "3000")


def finished_records(file: Path, seconds: float = 30.0) -> list[Record]:
    """All that wandb wrote, which it goes on doing for a moment after the run."""
    deadline = time.monotonic() + seconds
    while True:
        found = list(records(file.read_bytes()))
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < deadline, "wandb did not finish its file"
        time.sleep(0.1)


def records(data: bytes) -> Iterator[Record]:
    """Of wandb's own offline format: LevelDB's log, in blocks of 32 KiB after a header of 7 bytes."""
    at, whole = 7, b""
    while at < len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), int.from_bytes(data[at + 6 : at + 7], "little")
        if at + 7 + length > len(data):
            return
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def test_wandb_gets_steps_as_the_axis_the_config_the_version_a_table_and_a_battle(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    cli(*QUICK, "--config", "configs/logger/wandb.yaml", "--out", run)
    (offline,) = (run / "wandb").glob("offline-run-*")
    (file,) = offline.glob("*.wandb")
    config: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    axes: dict[str, str] = {}
    for record in finished_records(file):
        config |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.config.update}
        if record.HasField("metric"):
            axes[record.metric.glob_name or record.metric.name] = record.metric.step_metric
        if record.HasField("history"):
            items = record.history.item
            history.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    assert axes["*"] == "env_steps"
    assert config["data"]["scenario"] == "3m" and config["seed_everything"] == 0
    assert config["code_version"] == json.loads((run / "run.json").read_text())["code_version"]
    steps = [row["env_steps"] for row in history if "train/return" in row]
    assert steps == list(pd.read_csv(run / "metrics.csv")["env_steps"])
    assert steps == [row["trainer/global_step"] for row in history if "train/return" in row]
    assert history[-1]["evaluations.nrows"] == len(pd.read_csv(run / "evaluations.csv"))
    assert history[-1]["battle._type"] == "video-file"
    (battle,) = (offline / "files" / "media" / "videos").glob("battle*.gif")
    assert battle.read_bytes() == (run / "battle.gif").read_bytes()


@pytest.mark.skipif(MLFLOW is not None, reason="mlflow is installed")
def test_mlflow_that_is_not_installed_is_one_line(cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli(*QUICK, "--config", "configs/logger/mlflow.yaml", "--out", tmp_path / "run")
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.startswith("error: ") and "mlflow" in message
    assert message.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.skipif(MLFLOW is None, reason="mlflow is an extra")
def test_mlflow_gets_steps_as_the_axis_the_config_and_the_files(cli: Cli, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    run = tmp_path / "run"
    cli(*QUICK, "--config", "configs/logger/mlflow.yaml", "--out", run)
    client = MlflowClient(f"file:{run}")
    (experiment,) = (found for found in client.search_experiments() if found.name == "amal")
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.status == "FINISHED" and logged.data.params["data/scenario"] == "3m"
    assert logged.data.params["code_version"] == json.loads((run / "run.json").read_text())["code_version"]
    steps = [metric.step for metric in client.get_metric_history(logged.info.run_id, "train/return")]
    assert sorted(steps) == list(pd.read_csv(run / "metrics.csv")["env_steps"])
    assert {file.path for file in client.list_artifacts(logged.info.run_id)} >= {"evaluations.csv", "battle.gif"}


def interrupted(cli: Cli, run: Path, logger: str) -> None:
    """A run that has gone on for some updates after its last checkpoint; it tells the loggers of all of them."""
    often = ("--evaluation.every_n_episodes", "64", "--checkpoint.every_seconds", "0")
    with power_cut(after=96):
        cli(*SHORT, *often, "--config", f"configs/logger/{logger}.yaml", "--out", run)


def resume(cli: Cli, run: Path) -> None:
    cli("fit", "--config", run / "config.yaml", "--ckpt_path", run / "checkpoints" / "last.ckpt")


def test_a_run_that_goes_on_is_one_run_in_tensorboard(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    interrupted(cli, run, "tensorboard")
    resume(cli, run)
    (version,) = (run / "lightning_logs").iterdir()
    hyper_parameters = read_yaml(version / "hparams.yaml")
    assert hyper_parameters["lr"] == 5e-4 and hyper_parameters["scenario"] == "3m"
    assert not [name for name in hyper_parameters if name.startswith("_")]
    events = EventAccumulator(str(version))
    events.Reload()
    steps = [event.step for event in events.Scalars("train/return")]
    assert steps == list(pd.read_csv(run / "metrics.csv")["env_steps"])


def test_tensorboard_gets_amals_metrics_by_part_the_diagnosis_and_the_pictures(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tiny = ("--data.env_steps", "300", "--data.episodes_per_update", "8", "--evaluation.every_n_episodes", "16")
    diagnosed = '{"class_path": "callbacks.Diagnosis", "init_args": {"every_n_updates": 1, "reference_episodes": 8}}'
    added = ("--trainer.callbacks+=callbacks.Pictures", f"--trainer.callbacks+={diagnosed}")
    cli(
        "fit",
        "--config",
        "amal_paper",
        "--data.scenario",
        "3m",
        *tiny,
        "--config",
        "logger/tensorboard",
        *added,
        "--out",
        run,
    )
    (version,) = (run / "lightning_logs").iterdir()
    events = EventAccumulator(str(version), {"images": 0, "scalars": 0})
    events.Reload()
    tags = events.Tags()
    updates = pd.read_csv(run / "metrics.csv")
    assert {"train/model_obs_loss", "train/auxiliary_diversity", "train/bonus_share"} <= set(updates)
    assert {"model/obs_loss", "auxiliary/diversity", "bonus/share", "bonus/lambda"} <= set(tags["scalars"])
    assert {tag for tag in tags["scalars"] if "/" in tag and not tag.startswith(("eval/", "diagnosis/"))} == {
        grouped(name) for name in updates if "/" in name
    }
    diagnosis = pd.read_csv(run / "diagnosis.csv")
    steps = [event.step for event in events.Scalars("diagnosis/surprise_correlation")]
    assert steps == diagnosis["env_steps"].tolist()
    shown = events.Scalars("hp_metric")[-1]  # in the table of hyper-parameters
    assert shown.value == pytest.approx(pd.read_csv(run / "evaluations.csv")["win_rate"].iloc[-1])
    for tag, name in (("win_rate_curve", "win_rate.png"), ("battle", "battle.gif")):
        (image,) = events.Images(tag)
        assert image.encoded_image_string == (run / name).read_bytes() and image.step == updates["env_steps"].iloc[-1]


def test_a_run_that_goes_on_is_one_run_in_wandb_and_a_new_one_is_another(cli: Cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    interrupted(cli, run, "wandb")
    wandb.finish()
    resume(cli, run)
    first, second = sorted((run / "wandb").glob("offline-run-*"))
    # offline-run-TIME-IDENTITY, and a number more if two begin in one second
    identity = first.name.split("-")[3]
    assert second.name.split("-")[3] == identity
    assert identity not in (run / "config.yaml").read_text()
    fork = ("--ckpt_path", run / "checkpoints" / "last.ckpt", "--out", tmp_path / "fork")
    cli("fit", "--config", run / "config.yaml", *fork)
    (other,) = (tmp_path / "fork" / "wandb").glob("offline-run-*")
    assert other.name.split("-")[3] != identity


@pytest.mark.parametrize("logger", ["TensorBoardLogger", "CSVLogger", "WandbLogger"])
def test_a_logger_writes_into_the_runs_folder_unless_it_has_one_of_its_own(
    cli: Cli, tmp_path: Path, logger: str
) -> None:
    own = ("--trainer.logger.save_dir", tmp_path / "logs")
    offline = ("--trainer.logger.offline", "true") if logger == "WandbLogger" else ()
    for name, where in (("default", ()), ("own", own)):
        run = tmp_path / name
        cli(*SHORT, "--data.env_steps", "1", "--trainer.logger", logger, *where, *offline, "--out", run)
        wandb.finish()
        folder = "wandb" if logger == "WandbLogger" else "lightning_logs"
        assert (run / folder).is_dir() != bool(where) and (tmp_path / "logs" / folder).is_dir() == bool(where)
    cli("fit", "--config", tmp_path / "default" / "config.yaml", "--out", tmp_path / "again")
    assert (tmp_path / "again" / folder).is_dir(), "a run that is begun with another one's configuration is another run"
    wandb.finish()


def test_wandb_that_is_switched_off_writes_nothing(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    cli(*SHORT, "--config", "configs/logger/wandb.yaml", "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "wandb").exists()
    assert (tmp_path / "run" / "evaluations.csv").exists()


@pytest.mark.parametrize("kind", ["CSVLogger", "TensorBoardLogger"])
@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("{other}", ""),
        ("", ""),
        (".", "."),
        ("..", "other"),
        ("logs/../..", ""),
        ("checkpoints", "last.ckpt"),
        ("metrics.csv", "x"),
    ],
)
def test_a_logger_cannot_write_over_this_run_or_another(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, name: str, version: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.csv").write_bytes(b"mine")
    logger = {"name": name.format(other=other), "version": version}
    config = {"trainer": {"logger": {"class_path": f"lightning.pytorch.loggers.{kind}", "init_args": logger}}}
    (tmp_path / "logger.yaml").write_text(json.dumps(config))
    with pytest.raises(SystemExit) as stop:
        cli(*SHORT, "--config", tmp_path / "logger.yaml", "--out", tmp_path / "run")
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.count("\n") == 1
    assert f"{kind} must " in message and "name and version" in message
    assert (other / "metrics.csv").read_bytes() == b"mine" and not (tmp_path / "run").exists()


def test_a_csv_logger_keeps_what_it_wrote_before_and_two_do_not_share(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = tmp_path / "run", tmp_path / "logger.yaml"
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"version": 3}}
    file.write_text(json.dumps({"trainer": {"logger": logger}}))
    cli(*SHORT, "--config", file, "--out", run)
    logged = run / "lightning_logs" / "version_3" / "metrics.csv"
    before = logged.read_bytes()
    with pytest.raises(SystemExit):
        resume(cli, run)
    assert "CSVLogger would write over what is in" in capsys.readouterr().err and logged.read_bytes() == before
    file.write_text(json.dumps({"trainer": {"logger": [logger, logger]}}))
    with pytest.raises(SystemExit):
        cli(*SHORT, "--config", file, "--out", tmp_path / "two")
    assert "CSVLogger would write over what is in" in capsys.readouterr().err and not (tmp_path / "two").exists()
