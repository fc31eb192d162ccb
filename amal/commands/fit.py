"""fit, validate and test: LightningCLI with the project's classes and defaults.

Apart from cli.py, because importing Lightning takes seconds that the other commands need not wait for.
"""

from __future__ import annotations

import atexit
import logging
import sys
import warnings
from pathlib import Path

from jsonargparse import ArgumentError

from amal.algorithms.base import Algorithm
from amal.commands.arguments import fail, nearest_config
from amal.commands.fit_help import help_of
from amal.commands.loggers import let_save_dir_be_the_runs_folder
from amal.commands.parser_messages import one_line
from amal.commands.run_folders import with_own_config
from amal.commands.training_cli import ConfigOfRun, TrainingCLI
from amal.runtime.configuration import check_files, files_first, missing_config, with_shipped_files
from amal.runtime.distributed import leave_group
from amal.runtime.trusted_code import allow_only, taken_permissions
from callbacks.evolution import Evolution
from callbacks.progress import TrainingProgress
from callbacks.telemetry import Telemetry
from callbacks.tracking import Tracking
from datamodules.rollout import RolloutDataModule

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
    ".*callbacks used to create the checkpoint need to be provided.*",  # a run may go on without Lightning's
    ".*Checkpoint directory .* exists and is not empty.*",  # it holds last.ckpt and best.ckpt
)
# What Lightning tells by its logs although it is the answer to an option: --trainer.profiler, enable_model_summary.
_ASKED_FOR = ("profilers.profiler", "callbacks.model_summary")


def main(args: list[str]) -> None:
    """Runs one of fit, validate and test. Bad input ends with one line on stderr and exit code 2."""
    for advice in _NOT_FOR_USERS:
        warnings.filterwarnings("ignore", advice)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _ASKED_FOR:
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
    args, allowed_code = taken_permissions(args)
    try:
        args = [args[0], *files_first(with_own_config(args[0], with_shipped_files(args[1:])))]
    except ValueError as error:
        fail(str(error))
    sys.argv = [sys.argv[0], *args]
    try:
        if (config := missing_config(args)) is not None:
            raise ValueError(f"--config {config}: {_why_missing(Path(config))}")
        allow_only(allowed_code)
        check_files(args)
    except (ValueError, OSError) as error:
        fail(str(error))
    if {"--help", "-h"} & set(args):
        try:
            print(help_of(args[0], args[1:]))
        except (ValueError, OSError) as error:
            fail(one_line(str(error)))
        return
    atexit.register(leave_group)
    let_save_dir_be_the_runs_folder()
    try:
        TrainingCLI(
            allowed_code=allowed_code,
            model_class=Algorithm,
            datamodule_class=RolloutDataModule,
            subclass_mode_model=True,
            save_config_callback=ConfigOfRun,
            seed_everything_default=0,
            trainer_defaults={
                **TRAINER_DEFAULTS,
                "callbacks": [Telemetry(), TrainingProgress(), Tracking(), Evolution()],
            },
            parser_kwargs={**PARSER_OPTIONS, args[0]: PARSER_OPTIONS},
            auto_configure_optimizers=False,
        )
    except ArgumentError as error:
        fail(one_line(str(error)))


def _why_missing(config: Path) -> str:
    if not config.is_dir():
        return f"no such file, and no shipped config{nearest_config(str(config))}"
    inside = config / "config.yaml"  # of a run
    return f"is a folder{f' (did you mean {inside}?)' if inside.is_file() else ''}"
