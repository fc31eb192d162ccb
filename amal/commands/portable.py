"""A configuration that means the same from any folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from amal.battle.scenario import is_file


def name_files_absolutely(config: Namespace) -> None:
    """Makes the names of the files that a run needs to go on absolute: its scenario, its opponent, its first weights,
    its critic's source, its replay buffer's folder, its loggers' folders."""
    if is_file(config.data.scenario):
        config.data.scenario = _absolute(config.data.scenario)
    if config.init_from is not None:
        config.init_from = _absolute(config.init_from)
    if config.data.opponent is not None:
        config.data.opponent = _absolute(config.data.opponent)
    loggers = config.trainer.logger if isinstance(config.trainer.logger, list) else [config.trainer.logger]
    for logger in loggers:
        if isinstance(logger, Namespace) and logger.get("init_args.save_dir") is not None:
            logger.init_args.save_dir = _absolute(logger.init_args.save_dir)
    _name_sources_absolutely(config.model)
    arguments = config.model.get("init_args") or Namespace()
    if arguments.get("world_model.buffer_folder") is not None:
        arguments.world_model.buffer_folder = _absolute(arguments.world_model.buffer_folder)


def _name_sources_absolutely(value: Any) -> None:
    if isinstance(value, list):
        for entry in value:
            _name_sources_absolutely(entry)
    elif isinstance(value, Namespace):
        arguments = value.get("init_args")
        if str(value.get("class_path")).endswith("EPyMARLCritic") and isinstance(arguments, Namespace):
            location, separator, name = str(arguments.get("source")).rpartition(":")
            if location.endswith(".py"):
                arguments.source = f"{_absolute(location)}{separator}{name}"
        for inner in vars(value).values():
            _name_sources_absolutely(inner)


def _absolute(path: str) -> str:
    return str(Path(path).resolve())
