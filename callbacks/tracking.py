"""What experiment trackers get beside the metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

from amal.runtime.yaml_files import read_yaml

FILES = ("run.json", "evaluations.csv", "win_rate.png", "battle.gif")


class Tracking(Callback):
    """Gives Weights & Biases and MLflow, if they log, the run's configuration, code version and machine when training
    starts, and its evaluations and pictures when it ends. The x-axis is ``env_steps``. It reads what Telemetry, which
    has to come before it, and Pictures leave in the run's folder. Checkpoints tell by which name each logger knows the
    run, so that it goes on there too."""

    def __init__(self) -> None:
        self._loggers: list[list[Any]] = []  # class and name of the run, of each logger

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        for logger in _trackers(trainer):
            if isinstance(logger, WandbLogger):
                logger.experiment.define_metric("env_steps")
                logger.experiment.define_metric("*", step_metric="env_steps", step_sync=True)
            logger.log_hyperparams(_description(Path(trainer.default_root_dir)))
        self._loggers = [[type(logger).__name__, logger.version] for logger in trainer.loggers]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        files = {name: Path(trainer.default_root_dir) / name for name in FILES}
        files = {name: file for name, file in files.items() if file.exists()}
        for logger in _trackers(trainer):
            if isinstance(logger, WandbLogger):
                logger.experiment.log(_media(files))
                logger.experiment.finish()  # else the next run of this process would go on in this one
            else:
                for file in files.values():
                    logger.experiment.log_artifact(logger.run_id, str(file))

    def state_dict(self) -> dict[str, Any]:
        return {"loggers": self._loggers}


def _trackers(trainer: Trainer) -> list[WandbLogger | MLFlowLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger | MLFlowLogger)]


def _description(folder: Path) -> dict[str, Any]:
    """The run's configuration, and what run.json tells at the start."""
    run = json.loads((folder / "run.json").read_text())
    config = folder / "config.yaml"  # which only the command line writes
    settings = read_yaml(config) if config.exists() else {}
    return settings | {name: value for name, value in run.items() if name not in ("outcome", "totals")}


def _media(files: dict[str, Path]) -> dict[str, Any]:
    import wandb

    media: dict[str, Any] = {}
    if "evaluations.csv" in files:
        media["evaluations"] = wandb.Table(dataframe=pd.read_csv(files["evaluations.csv"]))
    if "win_rate.png" in files:
        media["win_rate_curve"] = wandb.Image(str(files["win_rate.png"]))
    if "battle.gif" in files:
        media["battle"] = wandb.Video(str(files["battle.gif"]), format="gif")
    return media
