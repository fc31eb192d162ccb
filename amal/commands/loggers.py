"""Where loggers write, and that a run that goes on is one run to them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from amal.commands.run_folders import FILES_OF_A_RUN


def set_up_loggers(trainer: Namespace, folder: Path) -> None:
    """Has the loggers of a trainer's configuration write into a run's folder. Raises ValueError for an argument that
    would have no effect."""
    loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    for logger in loggers:
        if not isinstance(logger, Namespace):
            continue
        arguments = logger.init_args
        if arguments.get("log_model"):
            raise ValueError("trainer.logger: log_model must stay false, for checkpoints stay in the run's folder")
        if "save_dir" in arguments:
            arguments.save_dir = str(folder)
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 would insist on a database


def obey_wandb_mode(loggers: Sequence[Logger]) -> None:
    """Lets the variable WANDB_MODE, where it is set, decide over ``offline``, as it does wherever wandb is used."""
    mode = os.environ.get("WANDB_MODE")
    if mode is None:
        return
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            mode = "offline" if mode == "dryrun" else mode  # the name that Lightning sets, which is an older one
            logger._offline = mode == "offline"
            logger._wandb_init["mode"] = mode


def go_on_logging(loggers: Sequence[Logger], earlier: dict[str, Any]) -> None:
    """Has loggers that have not begun go on with the run that a checkpoint was written in, if it had the same ones.

    Not by their configuration, which is written to config.yaml: a run that is begun with that is another one.
    """
    known = earlier["callbacks"].get("Tracking", {}).get("loggers", [])
    if [kind for kind, _ in known] != [type(logger).__name__ for logger in loggers]:
        return
    for logger, (_, name) in zip(loggers, known, strict=True):
        if isinstance(logger, WandbLogger):
            logger._id = name
            logger._wandb_init |= {"id": name, "resume": "allow"}
        elif isinstance(logger, TensorBoardLogger):
            logger._version = name
            logger._kwargs["purge_step"] = earlier["RolloutDataModule"]["env_steps"] + 1  # what follows comes again


def check_places(loggers: Sequence[Logger], folder: Path) -> None:
    """Raises ValueError for a logger that would write over files of this run, of another one or of another logger.

    Args:
        loggers: as they are made.
        folder: of the run.
    """
    taken: list[Path] = []
    for logger in loggers:
        if not isinstance(logger, CSVLogger | TensorBoardLogger):
            continue
        place, own = Path(logger.log_dir).resolve(), folder.resolve()
        name = f"trainer.logger: {type(logger).__name__}"
        if not place.is_relative_to(own) or place == own or place.relative_to(own).parts[0] in FILES_OF_A_RUN:
            raise ValueError(
                f"{name} must write to a folder of its own below {folder}, not to {place}: name and version"
            )
        if place in taken or (isinstance(logger, CSVLogger) and (place / "metrics.csv").exists()):
            raise ValueError(f"{name} would write over what is in {place}; give it another version, or none")
        taken.append(place)
