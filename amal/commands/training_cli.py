"""LightningCLI with this project's links and run folders, and with errors in one line.

It also checks a checkpoint against the configuration, callbacks against the model, and that a run's folder is free.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from amal.algorithms.base import NonFiniteLoss
from amal.battle.scenario import check_same_content, load_scenario, name_of
from amal.commands.arguments import fail
from amal.commands.faults import fault
from amal.commands.loggers import check_loggers, check_places, go_on_logging, obey_wandb_mode, writing_into
from amal.commands.parser_messages import one_line
from amal.commands.portable import name_files_absolutely
from amal.commands.results_table import print_results
from amal.commands.resuming import (
    CODE,
    SETTINGS,
    check_code_unchanged,
    check_opponent,
    check_playable,
    check_resumable,
    decisive_settings,
    scenario_of,
)
from amal.commands.run_folders import (
    agreed_run_folder,
    begin_as_it_was,
    discard_unbegun,
    is_run_of,
    kept,
    refuse_empty,
    refuse_occupied,
    refuse_to_go_back,
    told_to_launched,
)
from amal.commands.suggestions import suggestion
from amal.commands.trainer_options import (
    check_arguments,
    check_callbacks,
    check_plugins,
    check_trainer,
    check_typed,
    tell_who_is_awaited,
)
from amal.runtime.argument_checks import LARGEST_SEED
from amal.runtime.atomic import remove_unfinished, replacing
from amal.runtime.checkpoints import CheckpointError, WholeCheckpoints, check_fits, check_is_file, read_checkpoint
from amal.runtime.configuration import DIMENSIONS, OF_BATTLES, check_parsed, spell_out_parts
from amal.runtime.distributed import check_processes, rank
from amal.runtime.locks import FolderNotOurs, locked
from amal.runtime.machine import keep_freed_memory
from amal.runtime.trusted_code import OPTION, code_digests, denied_import
from callbacks.checkpoint import RunCheckpoint
from callbacks.diagnosis import Diagnosis
from callbacks.evaluation import Evaluation


class ConfigOfRun(SaveConfigCallback):
    """Writes the complete configuration of a training run into its folder, and what counts of it into checkpoints."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.settings, self.code = decisive_settings(self.parser, self.config), code_digests()
        if stage == "fit" and trainer.is_global_zero:
            with replacing(Path(trainer.default_root_dir) / "config.yaml") as part:
                self.parser.save(self.config, part, skip_unset=False, overwrite=True, multifile=False)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[SETTINGS], checkpoint[CODE] = self.settings, self.code


class TrainingCLI(LightningCLI):
    """Links the battle's sizes to the model, and gives every training run a folder of its own.

    Args:
        allowed_code: code of others that a configuration may name, see ``amal.runtime.trusted_code``.
    """

    def __init__(self, allowed_code: list[str], **kwargs: Any) -> None:
        self.allowed_code = allowed_code
        self.checkpoint: dict[str, Any] | None = None  # what the one to begin from holds
        self.is_fork = False  # whether it goes on in another folder than the checkpoint's run
        super().__init__(**kwargs)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The command that was given and no other: the parser of each takes as long to build as this one to parse."""
        return {sys.argv[1]: LightningCLI.subcommands()[sys.argv[1]]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--out", type=str | None, default=None, help="Folder of the run. Default: runs/ALGORITHM-SCENARIO-seedN."
        )
        parser.add_argument(
            "--init_from", type=str | None, default=None, help="Checkpoint whose weights a new run begins with."
        )
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        for name in (*DIMENSIONS, *OF_BATTLES):  # ignored where an algorithm does not take it
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            denied = denied_import(str(error))
            if denied is not None:
                fail(str(denied))
            fail(one_line(str(error)) + suggestion(str(error), self._subcommand_parsers[sys.argv[1]]))
        sys.argv += [f"{OPTION}={name}" for name in self.allowed_code]  # for the processes that Lightning launches
        config = self.config[self.config.subcommand]
        if not isinstance(config.trainer, Namespace):
            fail(f"trainer must be the trainer's arguments by name, got {config.trainer!r}")
        try:
            check_parsed(self._parser(self.config.subcommand), config)
            spell_out_parts(config)
        except (TypeError, ValueError) as error:
            fail(one_line(str(error)))
        seed = config.seed_everything
        if isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
            fail(f"seed_everything must be between 0 and {LARGEST_SEED}, got {seed}")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if config.weights_only is False:
            fail("weights_only: false is refused, for loading such a checkpoint runs the code that it holds")
        config.weights_only = True
        try:
            check_typed(str(self.subcommand), sys.argv[1:])
            check_arguments(config)
            check_callbacks(config.trainer.callbacks, [type(one) for one in self.trainer_defaults["callbacks"]])
            for name in ("ckpt_path", "init_from", "data.opponent"):
                refuse_empty(f"--{name}", config[name], "a checkpoint")
            name_files_absolutely(config)
            if config.ckpt_path is not None:
                self._check_checkpoint(config)
            elif config.init_from is not None:
                check_is_file(Path(config.init_from))
            if self.subcommand == "fit":
                if config.trainer.fast_dev_run:
                    config.data.env_steps, config.data.episodes = None, config.data.episodes_per_update
                folder = agreed_run_folder(config)
                if self.checkpoint is not None:
                    self.is_fork = not is_run_of(folder, Path(config.ckpt_path))
                config.out = str(folder)
                check_loggers(config.trainer)
        except (ValueError, OSError) as error:
            fail(str(error))
        if self.subcommand != "fit":
            config.trainer.logger = False
            if config.ckpt_path is None:
                print(f"note: without --ckpt_path {self.subcommand} plays an untrained policy", file=sys.stderr)

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would let a checkpoint's hyper-parameters override the command's; here they must agree."""

    def _check_checkpoint(self, config: Namespace) -> None:
        """Raises ValueError or OSError for a checkpoint that is of no use to this command."""
        path = Path(config.ckpt_path)
        check_is_file(path)
        self.checkpoint = read_checkpoint(path, mapped=True)
        plays = {"name": name_of(config.data.scenario)}
        if config.data.backend == "embedded":
            scenario = load_scenario(config.data.scenario, random_delay=config.data.random_delay)
            check_same_content(scenario, scenario_of(self.checkpoint))
            plays = scenario.identity
        if self.subcommand == "fit":
            check_resumable(path, self.checkpoint, decisive_settings(self._parser("fit"), config))
        else:
            check_playable(path, self.checkpoint, plays)

    def before_fit(self) -> None:
        keep_freed_memory()

    def instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        try:
            with nullcontext() if config.out is None else writing_into(Path(config.out), config.trainer):
                super().instantiate_classes()
            if self.subcommand == "fit":
                # all raise, before anything is written: without a budget, for a checkpoint of another number of
                # processes, and for a module that has nothing of what a callback is for
                self.datamodule.max_updates  # noqa: B018
                source = self.datamodule.source
                self.model.check_episodes(source.episodes_per_update, source.snapshots)
                self._check_callbacks(self.trainer.callbacks)  # type: ignore[attr-defined]
                obey_wandb_mode(self.trainer.loggers)
                if self.checkpoint is None and config.init_from is not None:
                    self._take_weights(Path(config.init_from))
                if self.checkpoint is not None and not self.is_fork:
                    go_on_logging(self.trainer.loggers, self.checkpoint)
                check_places(self.trainer.loggers, Path(self.trainer.default_root_dir))
            self.trainer.strategy.checkpoint_io = WholeCheckpoints()
            if self.checkpoint is not None:
                told = f"the model on the scenario {config.data.scenario}"
                check_fits(self.checkpoint["state_dict"], self.model, Path(config.ckpt_path), told)
                if self.subcommand == "fit":
                    check_code_unchanged(self.checkpoint)
                    check_opponent(self.checkpoint, self.datamodule.source.opponent_sha256)
                    check_processes(len(self.checkpoint["RolloutDataModule"]["processes"]), self.trainer.world_size)
                    if not self.is_fork:
                        refuse_to_go_back(Path(config.ckpt_path), self.checkpoint)
                else:
                    self.model.load_state_dict(self.checkpoint["state_dict"])
                    used = self.checkpoint.get("RolloutDataModule", {})  # how far training was, for who explores by it
                    self.datamodule.budget.use(used.get("env_steps", 0), used.get("episodes", 0))
        except (ValueError, TypeError, OSError, ImportError, MisconfigurationException) as error:
            fail(one_line(str(error)))
        except (RuntimeError, MemoryError) as error:
            if (why := fault(error)) is None:
                raise
            fail(why)

    def _take_weights(self, path: Path) -> None:
        """Begins with the weights of another run. Raises CheckpointError or OSError."""
        content, scenario = read_checkpoint(path, mapped=True), self.datamodule.source.scenario
        plays = {"name": self.datamodule.source.spec.scenario} if scenario is None else scenario.identity
        check_fits(content["state_dict"], self.model, path, f"the model on the scenario {plays['name']}")
        check_playable(path, content, plays)
        self.model.load_state_dict(content["state_dict"])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Raises ValueError for what a trainer has no use for here, and if it cannot be made."""
        asked = self._get(self.config_init, "trainer")
        check_plugins(asked["plugins"])
        if asked["enable_progress_bar"] is False:
            everywhere = self.trainer_defaults["callbacks"]
            self.trainer_defaults["callbacks"] = [one for one in everywhere if not isinstance(one, ProgressBar)]
        if self.subcommand == "fit":
            kwargs["default_root_dir"] = self._get(self.config, "out")
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except RuntimeError as error:  # of two callbacks, or of what the environment says about processes
            why = " ".join(str(error).split())
            if why.startswith("Found more than one stateful callback"):
                why = f"trainer.callbacks: {why.partition('.')[0]}; a later file replaces an earlier one's list"
            raise ValueError(why) from error
        check_trainer(trainer)
        return trainer

    def _check_callbacks(self, callbacks: list[Callback]) -> None:
        """Raises ValueError if a callback is of no use to the model.

        Its own setup would be too late: each process would tell it, and the folder of a fork have files in it.
        """
        for callback in callbacks:
            if isinstance(callback, Diagnosis):
                callback.check(self.model, self.datamodule.source, self.trainer.world_size)

    def validate(self, **kwargs: Any) -> None:
        """The trainer's, without a checkpoint: its weights, all of it that playing needs, are loaded already."""
        quiet = kwargs | {"ckpt_path": None, "verbose": False}
        for results in getattr(self.trainer, str(self.subcommand))(**quiet):
            if kwargs["verbose"] and self.trainer.is_global_zero:
                print_results(str(self.subcommand), results)

    test = validate

    def fit(self, **kwargs: Any) -> None:
        """The trainer's, in a folder that nobody else writes to; what stops it is told in one line."""
        folder = Path(self.trainer.default_root_dir)
        try:
            with locked(folder) if self.trainer.is_global_zero else nullcontext():
                if self.trainer.is_global_zero:
                    if kwargs.get("ckpt_path") is None or self.is_fork:
                        refuse_occupied(folder)  # again, for now nobody else can begin here
                    for place in (folder, folder / "checkpoints"):
                        remove_unfinished(place)
                    if self.is_fork and self.checkpoint is not None:
                        begin_as_it_was(Path(kwargs["ckpt_path"]), self.checkpoint, folder)
                if self.is_fork:
                    kwargs["ckpt_path"] = str(folder / "checkpoints" / "last.ckpt")
                self.checkpoint = None
                tell_who_is_awaited(self.trainer)
                with told_to_launched(folder):
                    self.trainer.fit(**kwargs)
        except FolderNotOurs as error:
            fail(str(error))
        except CheckpointError as error:
            fail(str(error))
        except MisconfigurationException as error:  # found by Lightning's own check, or by a callback of others
            if self.trainer.is_global_zero and kwargs.get("ckpt_path") is None:
                discard_unbegun(folder)
            fail(str(error))
        except Exception as error:
            if (why := fault(error)) is None:
                if kwargs.get("ckpt_path") is None or self.datamodule.budget.was_used:
                    raise
                what = " ".join(f"{type(error).__name__}: {error}".split())
                fail(f"{kwargs['ckpt_path']}: damaged or not written here, and cannot be resumed: {what}")
            if rank() and isinstance(error, NonFiniteLoss):
                sys.exit(0)  # every process sees it in the same update; the first one tells
            print(f"error: {why}; {kept(folder)}", file=sys.stderr)
            sys.exit(1)
        finally:
            if self.trainer.fast_dev_run and self.trainer.is_global_zero:  # type: ignore[attr-defined]
                shutil.rmtree(folder)
