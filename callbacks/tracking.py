"""What experiment trackers get beside the metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from amal.runtime.yaml_files import read_yaml
from datamodules.rollout import budget_of

FILES = ("run.json", "evaluations.csv", "diagnosis.csv", "win_rate.png", "battle.gif")
PICTURES = {"win_rate_curve": "win_rate.png", "battle": "battle.gif"}  # by the names that loggers know them by


class Tracking(Callback):
    """Gives Weights & Biases and MLflow, if they log, the run's configuration, code version and machine when training
    starts, and its evaluations and pictures when it ends; TensorBoard gets the pictures, and the last win rate as
    ``hp_metric``. The x-axis is ``env_steps``. It reads what Telemetry, which has to come before it, and Pictures leave
    in the run's folder. Checkpoints tell by which name each logger knows the run, so that it goes on there too."""

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
        for board in trainer.loggers:
            if isinstance(board, TensorBoardLogger):
                _add_pictures(board, files, budget_of(trainer).env_steps)
                if (win_rate := trainer.callback_metrics.get("eval/win_rate")) is not None:
                    # what the table of hyper-parameters shows beside them
                    board.log_metrics({"hp_metric": win_rate.item()}, budget_of(trainer).env_steps)

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


def _add_pictures(logger: TensorBoardLogger, files: dict[str, Path], env_steps: int) -> None:
    """Adds the files as they are: TensorBoard's own ``add_video`` needs MoviePy, and makes a GIF of it as well."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    for tag, name in PICTURES.items():
        if name in files:
            with Image.open(files[name]) as opened:
                width, height = opened.size
            data = files[name].read_bytes()
            picture = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=data)
            summary = Summary(value=[Summary.Value(tag=tag, image=picture)])
            logger.experiment._get_file_writer().add_summary(summary, env_steps)


def _media(files: dict[str, Path]) -> dict[str, Any]:
    import wandb

    media: dict[str, Any] = {}
    for name in ("evaluations", "diagnosis"):
        if f"{name}.csv" in files:
            media[name] = wandb.Table(dataframe=pd.read_csv(files[f"{name}.csv"]))
    for tag, name in PICTURES.items():
        if name in files:
            path = str(files[name])
            media[tag] = wandb.Video(path, format="gif") if path.endswith(".gif") else wandb.Image(path)
    return media
