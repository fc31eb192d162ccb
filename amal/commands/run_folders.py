"""The folder of a training run: which one it is, what may be in it, and how its run goes on."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from jsonargparse import Namespace

from amal.battle.scenario import name_of
from amal.rollout.load_policy import config_of
from amal.runtime.atomic import replacing
from amal.runtime.checkpoints import CheckpointError, check_is_file, command_to_go_on, read_checkpoint
from amal.runtime.locks import FolderNotOurs
from amal.runtime.yaml_files import read_yaml
from callbacks.telemetry import rows_until

RUN_FOLDER = "AMAL_RUN_FOLDER"  # environment variable
FILES_OF_A_RUN = ("config.yaml", "run.json", "evaluations.csv", "metrics.csv", "checkpoints")
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")  # whatever has launched the processes
LARGEST_NAME = 255  # bytes, on the usual file systems


def agreed_run_folder(config: Namespace) -> Path:
    """The first process chooses, and tells those that it launches (see ``told_to_launched``): by then the name that
    was free may be taken."""
    is_first = all(os.environ.get(name, "0") == "0" for name in _RANKS)
    told = os.environ.get(RUN_FOLDER)
    if not is_first and told is not None:
        return Path(told)
    if config.trainer.fast_dev_run:
        return Path(tempfile.mkdtemp(prefix="amal-fast_dev_run-"))
    folder, is_new = run_folder(config)
    if is_first and is_new:  # for the others it may no longer be free
        refuse_occupied(folder)
    return folder


@contextmanager
def told_to_launched(folder: Path) -> Iterator[None]:
    """Tells the processes that this one launches meanwhile where the run goes."""
    os.environ[RUN_FOLDER] = str(folder)
    try:
        yield
    finally:
        del os.environ[RUN_FOLDER]


def run_folder(config: Namespace) -> tuple[Path, bool]:
    """Where a run goes (where told, where its checkpoint came from, or the first free default name), and whether it
    begins there.

    Raises FolderNotOurs for a checkpoint that lies in no run, ValueError for no name.
    """
    refuse_empty("--out", config.out, "a folder")
    if config.ckpt_path is not None:
        origin = folder_of(Path(config.ckpt_path))
        if config.out is None or is_run_of(Path(config.out), Path(config.ckpt_path)):
            return origin, False
        if config.out == _recorded_out(origin):  # by its own configuration: it was moved
            print(f"note: going on in {origin}, where the checkpoint lies, not in {config.out}", file=sys.stderr)
            return origin, False
    if config.out is not None:
        return Path(config.out), True
    algorithm = config.model.class_path.rpartition(".")[2].lower()
    name = f"{algorithm}-{name_of(config.data.scenario)}-seed{config.seed_everything}"
    root = Path(config.trainer.default_root_dir or "runs")
    taken, folder = 1, root / name
    while folder.exists():
        taken += 1
        folder = root / f"{name}-{taken}"
    return folder, True


def refuse_empty(option: str, value: str | None, what: str) -> None:
    """Raises ValueError for a path of nothing but blanks, which would be the working directory."""
    if value is not None and not value.strip():
        raise ValueError(f"{option} is empty (a variable that is not set?); leave it out or name {what}")


def folder_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint lies in, as it is named; else, through links, where it really lies.

    Raises FolderNotOurs for a checkpoint that lies in no run.
    """
    for path in (checkpoint.absolute(), checkpoint.resolve()):
        folder = path.parent.parent
        if (folder / "config.yaml").is_file():
            return folder
    raise FolderNotOurs(
        f"--ckpt_path {checkpoint}: not in the checkpoints/ of a run's folder, where the run could go on"
    )


def with_own_config(command: str, args: list[str]) -> list[str]:
    """The arguments of validate and test with the configuration of the checkpoint's own run, where none is given.

    Raises ValueError if there is none."""
    options = [word.partition("=")[0] for word in args]
    if command == "fit" or "--ckpt_path" not in options or {"--config", "-c", "--help", "-h"} & set(options):
        return args
    at = options.index("--ckpt_path")
    value = args[at].partition("=")[2] or "".join(word for word in args[at + 1 : at + 2] if not word.startswith("--"))
    refuse_empty("--ckpt_path", value, "a checkpoint")
    check_is_file(Path(value))
    return [f"--config={config_of(Path(value))}", *args]


def is_run_of(folder: Path, checkpoint: Path) -> bool:
    """Whether it is the folder of the run that a checkpoint lies in."""
    return folder.resolve() == folder_of(checkpoint).resolve()


def _recorded_out(folder: Path) -> str | None:
    """The folder that a run's own configuration names."""
    try:
        config = read_yaml(folder / "config.yaml")
    except (OSError, ValueError):
        return None
    return config.get("out") if isinstance(config, dict) else None


def refuse_occupied(folder: Path) -> None:
    """Raises FolderNotOurs if there is a run in the folder, finished or not, or none could be there."""
    try:
        is_occupied = any((folder / name).exists() for name in FILES_OF_A_RUN)
        last = folder / "checkpoints" / "last.ckpt"
        has_checkpoint = last.exists()
    except OSError as error:
        raise FolderNotOurs(f"--out {_shortened(folder)} cannot be written to: {error.strerror}") from None
    if is_occupied and has_checkpoint:
        raise FolderNotOurs(
            f"--out {folder}: holds a run already; resume it with {command_to_go_on(folder)}, or choose another folder"
        )
    if is_occupied:
        raise FolderNotOurs(
            f"--out {folder}: holds a run already, without a checkpoint to resume; remove it or choose another folder"
        )


def _shortened(folder: Path) -> str:
    name = str(folder)
    return name if len(name) <= LARGEST_NAME else f"{name[:40]}… ({len(name)} letters)"


def refuse_to_go_back(checkpoint: Path, content: dict[str, Any]) -> None:
    """Raises FolderNotOurs if the run of a checkpoint has been saved at a later one: in the same folder the results
    since then would be lost.

    Args:
        checkpoint: to go on from.
        content: what it holds.
    """
    last = folder_of(checkpoint) / "checkpoints" / "last.ckpt"
    if not last.exists() or last.samefile(checkpoint):
        return
    try:
        later = _env_steps(read_checkpoint(last, mapped=True))
    except (CheckpointError, OSError):
        return  # it is of no use, which may be why an earlier one is taken
    if later > _env_steps(content):
        raise FolderNotOurs(
            f"--ckpt_path {checkpoint}: its run has gone on from {_env_steps(content):,} to {later:,} env steps, "
            f"which would be lost; go on from {last}, or from here in a folder of its own: --out FOLDER"
        )


def begin_as_it_was(checkpoint: Path, content: dict[str, Any], folder: Path) -> None:
    """Gives a folder what the checkpoint's own held when it was written, which is then its last.ckpt.

    ``metrics.csv`` and ``evaluations.csv`` up to there, and the best checkpoint if it was there already. A later one
    comes again, for from here on both runs are the same.
    """
    origin = folder_of(checkpoint)
    steps = _env_steps(content)
    with replacing(folder / "metrics.csv") as part:
        part.write_bytes(rows_until(origin / "metrics.csv", steps))
    rows = content["callbacks"].get("Evaluation", {}).get("rows", [])
    if rows:
        with replacing(folder / "evaluations.csv") as part:
            pd.DataFrame(rows).to_csv(part, index=False)
    best = origin / "checkpoints" / "best.ckpt"
    if best.exists() and _env_steps(read_checkpoint(best, mapped=True)) <= steps:
        _copy(best, folder / "checkpoints" / "best.ckpt")
    _copy(checkpoint, folder / "checkpoints" / "last.ckpt")


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as part:
        shutil.copyfile(source, part)


def _env_steps(content: dict[str, Any]) -> int:
    return int(content.get("RolloutDataModule", {}).get("env_steps", 0))


def discard_unbegun(folder: Path) -> None:
    """Removes what there is of a run that has not made an update."""
    if (folder / "metrics.csv").exists():
        return
    for name in ("config.yaml", "run.json", ".lock"):
        (folder / name).unlink(missing_ok=True)
    for place in (folder / "checkpoints", folder):
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def kept(folder: Path) -> str:
    """What there is of a run that was stopped."""
    last = folder / "checkpoints" / "last.ckpt"
    if last.exists():
        return f"results so far are kept in {folder}; last good checkpoint: {last}"
    return f"results so far are kept in {folder}; there is no checkpoint yet"
