"""fit, validate and test: LightningCLI with the project's links, defaults and run folders.

Apart from cli.py, because importing Lightning takes seconds that the other commands need not wait for.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
import warnings
from pathlib import Path
from typing import NoReturn

import torch
from jsonargparse import ArgumentError, Namespace
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from amal.algorithms.mappo import NonFiniteLoss
from amal.backends.battles import WorkerFailure
from amal.distributed import check_processes, rank
from amal.machine import keep_freed_memory
from amal.study.atomic import replacing
from callbacks.checkpoint import RunCheckpoint
from callbacks.evaluation import Evaluation
from callbacks.evolution import Evolution
from callbacks.progress import TrainingProgress
from callbacks.suggestions import suggestion
from callbacks.telemetry import Telemetry
from callbacks.tracking import Tracking
from datamodules.rollout import RolloutDataModule

RUN_FOLDER = "AMAL_RUN_FOLDER"  # environment variable
SUBCOMMANDS = ("fit", "validate", "test")
DIMENSIONS = ("n_agents", "n_actions", "obs_dim", "state_dim")
PARSER_OPTIONS = {"exit_on_error": False, "allow_abbrev": False}
TRAINER_DEFAULTS = {
    "devices": 1,  # several are for those who ask for them
    "max_epochs": 1,  # the budget ends training, see RolloutDataModule
    "logger": False,  # metrics.csv is always written; configs/logger adds others
    "log_every_n_steps": 1,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "default_root_dir": "runs",
}

# Mostly Lightning's advice for data that is loaded from disk; ours is played in this process.
_NOT_FOR_USERS = (
    ".*does not have many workers.*",
    ".*Your `IterableDataset` has `__len__` defined.*",
    ".*Total length of `list` across ranks is zero.*",
    ".*dataloader is not resumable.*",  # the data module is
    ".*have no `val_dataloader`.*",  # the Evaluation callback plays instead
    ".*when logging on epoch level in distributed setting.*",  # every process evaluates the same
    ".*LeafSpec.*",  # Lightning's own use of torch
)


class ConfigOfRun(SaveConfigCallback):
    """Writes the complete configuration of a training run into its folder."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            with replacing(Path(trainer.default_root_dir) / "config.yaml") as part:
                self.parser.save(self.config, part, skip_unset=False, overwrite=True, multifile=False)


class TrainingCLI(LightningCLI):
    """Links the battle's sizes to the model, and gives every training run a folder of its own."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--out", type=str | None, default=None, help="Folder of the run. Default: runs/ALGORITHM-SCENARIO-seedN."
        )
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        for name in DIMENSIONS:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            command = next((word for word in sys.argv if word in SUBCOMMANDS), "fit")
            fail(str(error), suggestion(str(error), self._subcommand_parsers[command]))

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if config.ckpt_path is not None and not Path(config.ckpt_path).is_file():
            fail(f"--ckpt_path {config.ckpt_path}: no such file")
        if self.subcommand == "fit":
            folder = agreed_run_folder(config)
            config.out = config.trainer.default_root_dir = str(folder)
            for logger in _loggers(config):
                logger.init_args.save_dir = str(folder)
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 would insist on a database
        else:
            config.trainer.logger = False

    def before_fit(self) -> None:
        keep_freed_memory()
        gc.freeze()  # what the imports made stays; the collector need not look through it again and again

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
            if self.subcommand == "fit":
                # all raise, before anything is written: without a budget, for a checkpoint of another number of
                # processes, and for a module that has no generations
                self.datamodule.max_updates  # noqa: B018
                self._check_checkpoint()
                for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                    if isinstance(callback, Evolution):
                        callback.check(self.model)
        except (ValueError, TypeError, OSError, ImportError, MisconfigurationException) as error:
            fail(str(error))

    def _check_checkpoint(self) -> None:
        path = self.config.fit.ckpt_path
        if path is not None:
            # mapped: what is replayed, perhaps gigabytes, is not read
            checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            check_processes(len(checkpoint["RolloutDataModule"]["processes"]), self.trainer.world_size)


def agreed_run_folder(config: Namespace) -> Path:
    """The first process chooses, and tells those that it launches: by then the name that was free may be taken."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        told = os.environ.get(RUN_FOLDER)
        return run_folder(config) if told is None else Path(told)
    folder = run_folder(config)
    os.environ[RUN_FOLDER] = str(folder)
    return folder


def run_folder(config: Namespace) -> Path:
    """Where a run goes: where told, where its checkpoint came from, or the first free default name."""
    if config.ckpt_path is not None:
        return Path(config.out) if config.out else Path(config.ckpt_path).resolve().parent.parent
    if config.out is not None:
        if (Path(config.out) / "run.json").exists():
            fail(f"--out {config.out}: holds a run already; resume it with --ckpt_path or choose another folder")
        return Path(config.out)
    algorithm = config.model.class_path.rpartition(".")[2].lower()
    name = f"{algorithm}-{config.data.scenario}-seed{config.seed_everything}"
    taken, folder = 1, Path("runs") / name
    while folder.exists():
        taken += 1
        folder = Path("runs") / f"{name}-{taken}"
    return folder


def _loggers(config: Namespace) -> list[Namespace]:
    logger = config.trainer.logger
    entries = logger if isinstance(logger, list) else [logger]
    return [entry for entry in entries if isinstance(entry, Namespace)]


def main(args: list[str]) -> None:
    """Runs one of fit, validate and test. Bad input ends with one line on stderr and exit code 2."""
    for advice in _NOT_FOR_USERS:
        warnings.filterwarnings("ignore", advice)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.argv = [sys.argv[0], *args]
    try:
        TrainingCLI(
            model_class=LightningModule,
            datamodule_class=RolloutDataModule,
            subclass_mode_model=True,
            save_config_callback=ConfigOfRun,
            seed_everything_default=0,
            trainer_defaults={**TRAINER_DEFAULTS, "callbacks": [Telemetry(), TrainingProgress(), Tracking()]},
            parser_kwargs={**PARSER_OPTIONS, **dict.fromkeys(SUBCOMMANDS, PARSER_OPTIONS)},
            auto_configure_optimizers=False,
        )
    except ArgumentError as error:
        fail(str(error))
    except (NonFiniteLoss, WorkerFailure) as error:
        if rank() and isinstance(error, NonFiniteLoss):
            sys.exit(0)  # every process sees it in the same update; the first one tells
        print(f"error: {error}; what the run saved before is kept in its checkpoints/", file=sys.stderr)
        sys.exit(1)


def fail(message: str, hint: str = "") -> NoReturn:
    """One line on stderr, exit code 2."""
    print("error: " + one_line(message) + hint, file=sys.stderr)
    sys.exit(2)


def one_line(message: str) -> str:
    """The gist of a message of jsonargparse, which also tells of every other type that an argument could have had."""
    head, *errors = re.split(r"\n\s*Errors:\n|\n\s*Given value[^\n]*", message.strip())
    causes = [line.strip().removeprefix("- ") for line in (errors[0] if errors else head).splitlines()]
    causes = [cause for cause in causes if cause and "NoneType" not in cause and "Expected a path" not in cause]
    key = re.match(r'Parser key "[^"]*":', head) if errors else None
    return " ".join([key[0], *causes] if key else causes)
