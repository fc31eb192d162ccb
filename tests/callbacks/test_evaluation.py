"""Callbacks of Lightning and of Optuna that look at the evaluations."""

import json
import shlex
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Timer
from optuna_integration import PyTorchLightningPruningCallback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import callbacks.evaluation
from amal.algorithms.mappo import MAPPO
from callbacks import Evaluation, RunCheckpoint, Telemetry
from datamodules import RolloutDataModule
from tests.runs import Cli, assert_equal_parameters, assert_equal_tables

OFTEN = ("--data.env_steps", "2500", "--data.episodes_per_update", "4", "--data.num_envs", "4")
OFTEN += ("--evaluation.every_n_episodes", "4")
WIN_RATES = (0.0, 0.5, 0.25, 0.5, 0.25, 0.0)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations find the win rates above, and then none at all."""
    played, found = callbacks.evaluation.measure, iter(WIN_RATES)
    monkeypatch.setattr(callbacks.evaluation, "measure", lambda them: played(them) | {"win_rate": next(found, 0.0)})


def fit(cli: Cli, out: Path, *args: str, **given: object) -> Path:
    """A run with these callbacks of Lightning, by name with their arguments."""
    entries = [{"class_path": name, "init_args": arguments} for name, arguments in given.items()]
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump({"trainer": {"callbacks": entries}}))
    cli("fit", "--config", "configs/mappo.yaml", "--config", file, *OFTEN, *args, "--out", out)
    return out


def outcome(run: Path) -> str:
    return json.loads((run / "run.json").read_text())["outcome"]


@pytest.mark.usefixtures("scripted")
def test_early_stopping_ends_a_run_which_can_go_on_as_if_it_had_not(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    patient = {"monitor": "eval/win_rate", "mode": "max", "patience": 2}
    pictures = {"callbacks.Pictures": {"battle": False}}  # as the quickstart has
    run = fit(cli, tmp_path / "run", EarlyStopping=patient, **pictures)
    assert outcome(run) == "stopped"
    assert pd.read_csv(run / "evaluations.csv")["win_rate"].tolist() == list(WIN_RATES[:4])
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("ended by EarlyStopping after ") and "checkpoints/last.ckpt" in last
    cli(*shlex.split(last.partition("go on with: amal ")[2]))
    assert outcome(run) == "finished" and len(pd.read_csv(run / "evaluations.csv")) > len(WIN_RATES)


@pytest.mark.usefixtures("scripted")
def test_model_checkpoint_keeps_the_best_of_all_evaluations_and_can_be_resumed(cli: Cli, tmp_path: Path) -> None:
    keep = {"monitor": "eval/win_rate", "mode": "max", "filename": "{step}", "auto_insert_metric_name": False}
    run = fit(cli, tmp_path / "run", ModelCheckpoint=keep)
    kept = {path.name for path in (run / "checkpoints").iterdir()} - {"last.ckpt", "best.ckpt"}
    assert len(kept) == 1, "the one with the win rate of 0.5 that came first"
    fork = ("--ckpt_path", str(run / "checkpoints" / kept.pop()), "--out", str(tmp_path / "fork"))
    cli("fit", "--config", run / "config.yaml", *fork)
    assert_equal_parameters(run, tmp_path / "fork")
    evaluations = [pd.read_csv(folder / "evaluations.csv") for folder in (run, tmp_path / "fork")]
    assert evaluations[0]["env_steps"].tolist() == evaluations[1]["env_steps"].tolist()


def test_max_time_ends_a_run_which_can_go_on_without_it(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the first update takes half an hour
    monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage="train": 1800.0 * bool(self.start_time(stage)))
    run = fit(cli, tmp_path / "run", "--trainer.max_time", "00:00:30:00")
    assert outcome(run) == "stopped"
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("ended by trainer.max_time after ")
    cli(*shlex.split(last.partition("go on with: amal ")[2]))
    assert outcome(run) == "finished"


@pytest.mark.usefixtures("scripted")
def test_a_stopped_run_keeps_callbacks_of_others_when_it_goes_on(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They may change training."""
    watch = {"tests.runtime.fingerprints.Fingerprints": {}}
    stopping = {"EarlyStopping": {"monitor": "eval/win_rate", "mode": "max", "patience": 2}}
    run = fit(cli, tmp_path / "run", "--allow_code", "tests.runtime.fingerprints", **stopping, **watch)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"; take it out of {run / 'config.yaml'} and go on with: amal " in last
    command = shlex.split(last.partition("go on with: amal ")[2])
    with pytest.raises(SystemExit):
        cli(*command, "--trainer.callbacks", "[]")
    assert "trainer.callbacks" in capsys.readouterr().err
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"]["callbacks"] = [one for one in config["trainer"]["callbacks"] if "Early" not in one["class_path"]]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    cli(*command)
    assert outcome(run) == "finished"


def test_watching_changes_nothing_and_learning_rates_have_the_networks_names(cli: Cli, tmp_path: Path) -> None:
    patient = {"monitor": "train/return", "mode": "max", "patience": 100}
    logger = ("--trainer.logger", "TensorBoardLogger")
    watched = fit(cli, tmp_path / "watched", *logger, EarlyStopping=patient, LearningRateMonitor={})
    alone = fit(cli, tmp_path / "alone")
    assert_equal_parameters(alone, watched)
    assert_equal_tables(alone, watched)
    events = EventAccumulator(str(watched / "lightning_logs" / "version_0"))
    events.Reload()
    assert {"lr-Adam/policy", "lr-Adam-1/critic"} < set(events.Tags()["scalars"])


def test_a_metric_that_is_not_there_is_named_in_one_line(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("EarlyStopping", "ModelCheckpoint"):
        with pytest.raises(SystemExit):
            fit(cli, tmp_path / name, **{name: {"monitor": "eval/wins"}})
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("error: ") and "eval/wins" in last and "did you mean eval/win_rate" in last


@pytest.mark.usefixtures("scripted")
def test_optunas_pruning_sees_each_evaluation_and_the_pruned_run_can_go_on(tmp_path: Path) -> None:
    def objective(trial: optuna.Trial) -> float:
        seed_everything(0)
        data = RolloutDataModule("3m", episodes=20, episodes_per_update=4, num_envs=4)
        model = MAPPO(data.n_agents, data.n_actions, data.obs_dim, data.state_dim)
        pruning = PyTorchLightningPruningCallback(trial, monitor="eval/win_rate")
        parts = [pruning, Evaluation(4), RunCheckpoint(), Telemetry()]
        options = {"max_epochs": 1, "logger": False, "enable_progress_bar": False, "default_root_dir": tmp_path}
        Trainer(callbacks=parts, **options).fit(model, data)
        return 0.0

    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(lower=0.3, n_warmup_steps=3))
    study.optimize(objective, n_trials=1)
    (trial,) = study.trials
    assert trial.state == optuna.trial.TrialState.PRUNED
    assert trial.intermediate_values == dict(enumerate(WIN_RATES[:3], start=1))
    assert outcome(tmp_path) == "stopped" and (tmp_path / "checkpoints" / "last.ckpt").exists()
