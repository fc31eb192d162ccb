"""Where loggers write, and that a run that goes on is one run to them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from amal.commands.run_folders import FILES_OF_A_RUN


def let_save_dir_be_the_runs_folder() -> None:
    """Has the command line take loggers without a ``save_dir``, and tell one that is given from Lightning's default:
    null, which ``writing_into`` fills in."""
    for kind in (CSVLogger, TensorBoardLogger, WandbLogger, MLFlowLogger):
        constructor: Any = kind.__init__
        signature = inspect.signature(constructor)
        place = signature.parameters["save_dir"].replace(default=None, annotation=str | None)
        constructor.__signature__ = signature.replace(
            parameters=[place if name == "save_dir" else other for name, other in signature.parameters.items()]
        )


def check_loggers(trainer: Namespace) -> None:
    """Raises ValueError for an argument of a logger that would have no effect."""
    for arguments in _arguments(trainer.logger):
        if arguments.get("log_model"):
            raise ValueError("trainer.logger: log_model must stay false, for checkpoints stay in the run's folder")


@contextmanager
def writing_into(folder: Path, trainer: Namespace) -> Iterator[None]:
    """Within it, the loggers and checkpoint callbacks of a trainer's configuration name the run's folder where they
    name none. The configuration itself goes on naming none: a run that is begun with it is another one."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 would insist on a database
    places = {"save_dir": folder, "dirpath": folder / "checkpoints"}
    filled = [
        (arguments, name)
        for arguments in (*_arguments(trainer.logger), *_arguments(trainer.callbacks))
        for name in places
        if name in arguments and arguments[name] is None
    ]
    for arguments, name in filled:
        arguments[name] = str(places[name])
    try:
        yield
    finally:
        for arguments, name in filled:
            arguments[name] = None


def _arguments(given: Any) -> list[Namespace]:
    """Constructor arguments of the classes that a configuration names in one place."""
    entries = given if isinstance(given, list) else [given]
    return [entry.init_args for entry in entries if isinstance(entry, Namespace) and entry.get("init_args")]


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
        base = Path(logger.save_dir).resolve()
        if place == base or not place.is_relative_to(base) or place.is_relative_to(own / "checkpoints"):
            raise ValueError(f"{name} must write to a folder of its own below {base}, not to {place}: name and version")
        if base == own and place.relative_to(own).parts[0] in FILES_OF_A_RUN:
            raise ValueError(f"{name} must not write to {place}, which is the run's own: name and version")
        if place in taken or (isinstance(logger, CSVLogger) and (place / "metrics.csv").exists()):
            raise ValueError(f"{name} would write over what is in {place}; give it another version, or none")
        taken.append(place)
