"""Which of the trainer's arguments have a meaning here; the others must stay as they are.

Lightning's trainer is made for data sets, epochs and automatic optimization. Here battles are played until a budget is
met, and algorithms step their optimizers themselves. An argument that could have no effect, or end a run so that it
would pass for finished, is refused by name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import Callback, Trainer
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
)
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from amal.runtime.configuration import DIMENSIONS, OF_BATTLES
from datamodules.rollout import TEST_EPISODES, VALIDATION_EPISODES

_BUDGET = "data.env_steps ends training"
_EVALUATION = "evaluation.every_n_episodes says when a run is evaluated"
_CLIPPING = "model.max_grad_norm clips gradients"

MUST_STAY: dict[str, tuple[Any, str]] = {
    "max_epochs": (1, _BUDGET),
    "min_epochs": (None, _BUDGET),
    "max_steps": (-1, _BUDGET),
    "min_steps": (None, _BUDGET),
    "limit_train_batches": (None, _BUDGET),
    "overfit_batches": (0.0, _BUDGET),
    "limit_val_batches": (None, f"validate plays {VALIDATION_EPISODES} episodes"),
    "limit_test_batches": (None, f"test plays {TEST_EPISODES} episodes"),
    "limit_predict_batches": (None, "there is no command that predicts"),
    "val_check_interval": (None, _EVALUATION),
    "check_val_every_n_epoch": (1, _EVALUATION),
    "num_sanity_val_steps": (0, _EVALUATION),
    "reload_dataloaders_every_n_epochs": (0, "battles are played, not loaded"),
    "accumulate_grad_batches": (1, "model.n_minibatch says how many steps a gradient is of"),
    "gradient_clip_val": (None, _CLIPPING),
    "gradient_clip_algorithm": (None, _CLIPPING),
    "enable_checkpointing": (None, "checkpoint.* says what is saved"),
    "inference_mode": (True, "battles are always played without gradients"),
    "use_distributed_sampler": (True, "each process plays battles of its own"),
    "sync_batchnorm": (False, "no network here has batch normalisation"),
    "barebones": (False, "a run without records would be of no use"),
    "enable_autolog_hparams": (True, "loggers that can take the configuration get it"),
    "model_registry": (None, "no logger here has one"),
}
# Views and the replay buffer are of single precision; and 16-mixed scales losses up, where gradients are clipped here.
PRECISIONS = (None, 32, "32", "32-true", "bf16", "bf16-mixed")
# A strategy that forks or starts processes anew after the battles are made, or splits a network, is not for this data.
STRATEGIES = (SingleDeviceStrategy, DDPStrategy)

_OTHER_LEARNING = "it is for automatic optimization, and the algorithms here optimize themselves"
_OTHER_CHECKPOINTS = "a failed run keeps its last checkpoint anyway"
_OTHER_DISPLAY = "callbacks.TrainingProgress shows training, or nothing does with trainer.enable_progress_bar false"
_OF_LIGHTNING = (LearningRateMonitor, DeviceStatsMonitor, ModelSummary, EarlyStopping, ModelCheckpoint)
_NOT_OF_LIGHTNING = {
    "Timer": "trainer.max_time ends training by the clock",
    "SpikeDetection": _OTHER_LEARNING,
    **dict.fromkeys(("OnExceptionCheckpoint", "Checkpoint"), _OTHER_CHECKPOINTS),
    **dict.fromkeys(("ProgressBar", "RichProgressBar", "TQDMProgressBar"), _OTHER_DISPLAY),
    **dict.fromkeys(
        (
            *("BackboneFinetuning", "BaseFinetuning", "BatchSizeFinder", "GradientAccumulationScheduler"),
            *("LearningRateFinder", "ModelPruning", "StochasticWeightAveraging", "EMAWeightAveraging"),
            "WeightAveraging",
        ),
        _OTHER_LEARNING,
    ),
}
# What validate and test do not look at, though a run's own configuration holds it.
OF_TRAINING = (
    *("out", "init_from", "evaluation", "checkpoint", "data.env_steps", "data.episodes"),
    *("trainer.logger", "trainer.log_every_n_steps", "trainer.enable_progress_bar"),
)


def check_arguments(config: Namespace) -> None:
    """Raises ValueError for the first argument that must stay as it is and did not."""
    trainer = config.trainer
    for name, (value, why) in MUST_STAY.items():
        if trainer[name] != value:
            told = "null" if value is None else value
            raise ValueError(f"trainer.{name} must stay {told}, got {trainer[name]}: {why}")
    if trainer.fast_dev_run not in (False, True):
        raise ValueError(f"trainer.fast_dev_run must be true or false, got {trainer.fast_dev_run}: it makes one update")
    if trainer.default_root_dir is not None and not str(trainer.default_root_dir).strip():
        raise ValueError("trainer.default_root_dir is empty (a variable that is not set?); name a folder")
    given = config.model.get("init_args") or Namespace()
    for name in (*DIMENSIONS, *OF_BATTLES):
        if given.get(name) is not None:
            raise ValueError(f"model.{name} must not be set, got {given[name]}: data.scenario gives it")
    if trainer.precision not in PRECISIONS:
        raise ValueError(f"trainer.precision must be 32-true or bf16-mixed, got {trainer.precision}")
    if trainer.log_every_n_steps is None or trainer.log_every_n_steps < 1:
        raise ValueError(f"trainer.log_every_n_steps must be at least 1, got {trainer.log_every_n_steps}")


def check_typed(command: str, words: Sequence[str]) -> None:
    """Raises ValueError for an option on the command line that a command has no use for."""
    names = [word.lstrip("-").partition("=")[0].rstrip("+") for word in words if word.startswith("--")]
    if command != "fit":
        for name in names:
            if any(name == prefix or name.startswith(f"{prefix}.") for prefix in OF_TRAINING):
                raise ValueError(f"--{name} is for fit; {command} has no use for it")
    pairs = [*zip(words, words[1:], strict=False), *(word.split("=", 1) for word in words if "=" in word)]
    if any(name == "--trainer.callbacks" and value in ("null", "None", "~", "") for name, value in pairs):
        raise ValueError(
            "--trainer.callbacks null has no meaning: what every run needs stays; for no others write '[]'"
        )


def check_callbacks(callbacks: Any, everywhere: Sequence[type[Callback]]) -> None:
    """Raises ValueError for a callback of Lightning that has no place here, and for one that every run has already.

    Args:
        callbacks: of the trainer's configuration.
        everywhere: what every run has.
    """
    entries = callbacks if isinstance(callbacks, list) else [callbacks]
    for entry in entries:
        if not isinstance(entry, Namespace):
            continue
        module, _, name = entry.class_path.rpartition(".")
        kind = getattr(sys.modules[module], name)  # which has been imported to see its arguments
        if kind in everywhere:
            raise ValueError(f"trainer.callbacks: every run has {name} already")
        if kind.__module__.partition(".")[0] == "lightning" and not issubclass(kind, _OF_LIGHTNING):
            why = _NOT_OF_LIGHTNING.get(name, "it would do nothing")
            raise ValueError(f"trainer.callbacks: Lightning's {name} has no place here: {why}")
        if issubclass(kind, ModelCheckpoint):
            _check_model_checkpoint(entry.init_args)


def _check_model_checkpoint(arguments: Namespace) -> None:
    """Raises ValueError for one that would write outside the run's folder, or never."""
    name = "trainer.callbacks: ModelCheckpoint"
    if arguments.get("dirpath") is not None:
        raise ValueError(f"{name}: dirpath must stay null, got {arguments.dirpath}: the run's checkpoints/ takes them")
    filename = Path(arguments.get("filename") or "")
    if filename.is_absolute() or ".." in filename.parts:
        raise ValueError(f"{name}: filename must not leave the run's folder, got {filename}")
    if (arguments.get("every_n_epochs") or 0) > 1:
        raise ValueError(
            f"{name}: every_n_epochs must be at most 1, got {arguments.every_n_epochs}: a run is one epoch, and this "
            "callback looks at every evaluation; evaluation.every_n_episodes says how often that is"
        )


def check_plugins(plugins: Any) -> None:
    """Raises ValueError for a plugin that is not about the cluster."""
    for plugin in plugins if isinstance(plugins, list) else [plugins]:
        if plugin is not None and not isinstance(plugin, ClusterEnvironment):
            raise ValueError(
                f"trainer.plugins must be cluster environments, got {type(plugin).__name__}: precision has an argument "
                "of its own, and checkpoints are always written as a whole"
            )


def check_trainer(trainer: Trainer) -> None:
    """Raises ValueError if a trainer has a strategy, or a part of one, that nothing here is made for."""
    strategy = trainer.strategy
    if type(strategy) not in STRATEGIES or isinstance(strategy.launcher, _MultiProcessingLauncher):
        start = f" with start_method {strategy._start_method}" if isinstance(strategy, DDPStrategy) else ""
        raise ValueError(
            f"trainer.strategy must be auto or ddp, got {type(strategy).__name__}{start}: battles stay in the process "
            "that plays them, and each process has the whole network"
        )
    if trainer.precision not in PRECISIONS:
        raise ValueError(f"trainer.precision must be 32-true or bf16-mixed, got {trainer.precision}")
    if type(strategy.checkpoint_io) is not TorchCheckpointIO:
        raise ValueError("trainer.strategy.checkpoint_io must stay null: checkpoints are always written as a whole")


def tell_who_is_awaited(trainer: Trainer) -> None:
    """Says on stderr what the first process waits for, where others have to be started elsewhere: it is silent until
    they have come, or for half an hour."""
    if trainer.num_nodes > 1 and trainer.local_rank == 0:
        strategy = trainer.strategy
        environment = getattr(strategy, "cluster_environment", None)
        where = "" if environment is None else f" at {environment.main_address}:{environment.main_port}"
        print(
            f"waiting for {trainer.world_size} processes on {trainer.num_nodes} nodes to meet{where}, for at most half "
            f"an hour; this is node {trainer.node_rank}. Start the same command on the others, see docs/distributed.md",
            file=sys.stderr,
        )
