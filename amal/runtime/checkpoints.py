"""Checkpoint files: written as a whole or not at all, read as data only.

A checkpoint from a stranger is no more than tensors and Python's plain types: torch's restricted unpickler refuses
everything else before any of it is run.
"""

from __future__ import annotations

import os
import pickle
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any

import torch
from lightning import LightningModule
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor

from amal.runtime.atomic import replacing
from amal.runtime.program import program
from amal.runtime.trusted_code import OPTION, permissions

Kinds = Mapping[str, type | UnionType]  # of entries, by SECTION or SECTION.NAME, an outer one before what is in it
# What a checkpoint holds besides its tensors, as far as commands look into it.
PLAYED: Kinds = {
    **dict.fromkeys(("RolloutDataModule", "RolloutDataModule.scenario"), dict),
    **dict.fromkeys(("RolloutDataModule.env_steps", "RolloutDataModule.episodes"), int),
    **dict.fromkeys(("RolloutDataModule.scenario.name", "RolloutDataModule.simulator_hash"), str),
    "RolloutDataModule.scenario.random_delay": list | None,
}


class CheckpointError(ValueError):
    """A checkpoint that is of no use; the message is one line and names the file."""


def check_is_file(path: Path) -> None:
    """Raises CheckpointError for a path that is no file, and says which one is in a run's folder."""
    if path.is_dir():
        best = path / "checkpoints" / "best.ckpt"
        raise CheckpointError(f"{path}: is a folder{f' (did you mean {best}?)' if best.is_file() else ''}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")


def read_checkpoint(path: Path, mapped: bool = False) -> dict[str, Any]:
    """What a checkpoint of a run holds, on the CPU.

    Args:
        path: of the file.
        mapped: leave the tensors on disk until they are used; a replay buffer can be a gigabyte.

    Raises:
        CheckpointError: it is damaged, holds more than data, or is no checkpoint of a run.
        OSError: it cannot be opened.
    """
    with path.open("rb"):  # raises what the system has against it; all that goes wrong from here on is damage
        pass
    _check_bytes(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except MemoryError:
        raise
    except Exception as error:  # a broken file makes torch and pickle raise anything
        if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error).lower():
            raise CheckpointError(
                f"{path}: holds more than data (code that loading would run), which is refused"
            ) from None
        raise CheckpointError(f"{path}: damaged ({type(error).__name__})") from None
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path}: no checkpoint of a run, for it has no state_dict")
    check_contents(path, content, PLAYED)
    scenario = content.get("RolloutDataModule", {}).get("scenario")
    if scenario and "name" not in scenario:
        raise CheckpointError(f"{path}: damaged or not written here: RolloutDataModule.scenario has no name")
    return content


def _check_bytes(path: Path) -> None:
    """Compares the check sums in the file, which torch does not."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except zipfile.BadZipFile:
        raise CheckpointError(f"{path}: damaged or no checkpoint (truncated, or not written by torch.save)") from None
    except Exception as error:  # a broken directory or header makes zipfile raise anything
        raise CheckpointError(f"{path}: damaged ({type(error).__name__} in its zip directory)") from None
    if broken is not None:
        raise CheckpointError(f"{path}: damaged (the check sum of {broken!r} is wrong)")


def check_contents(path: Path, content: Mapping[str, Any], kinds: Kinds, required: bool = False) -> None:
    """Raises CheckpointError for the first entry that is of another kind than it should be.

    Args:
        path: of the checkpoint.
        content: what it holds.
        kinds: of the entries.
        required: whether an entry that is missing counts too.
    """
    for name, kind in kinds.items():
        *sections, key = name.split(".")
        place: Any = content
        for section in sections:
            place = place.get(section, {})
        if key not in place:
            if required:
                raise CheckpointError(f"{path}: no checkpoint of a run that could go on, for it has no {name}")
        elif not isinstance(place[key], kind):
            found, wanted = type(place[key]).__name__, getattr(kind, "__name__", kind)
            raise CheckpointError(f"{path}: damaged or not written here: {name} is a {found} and no {wanted}")


def check_fits(weights: Mapping[str, Any], module: LightningModule, checkpoint: Path, source: str) -> None:
    """Raises CheckpointError with the first parameter that the module does not have like that, or that is no number."""
    own, theirs = ({name: _told(x) for name, x in state.items()} for state in (module.state_dict(), weights))
    for name in own | theirs:
        if own.get(name) != theirs.get(name):
            found, wanted = theirs.get(name, "missing"), own.get(name, "none")
            raise CheckpointError(f"{checkpoint}: does not fit {source}: {name} is {found} and should be {wanted}")
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{checkpoint}: {name} holds NaN or infinity; nothing can be played with that")


def _told(value: Any) -> str:
    """What a parameter is, as far as another can take its place."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    plain = value.layout == torch.strided and value.device.type != "meta" and value.dtype == torch.float32
    return str(list(value.shape)) if plain else f"{list(value.shape)} ({value.dtype}, {value.layout}, {value.device})"


class WholeCheckpoints(CheckpointIO):
    """How Lightning's trainer writes and reads checkpoints here.

    Lightning's own way collects the file in memory and in the system's temporary folder first, and loads whatever
    ``weights_only`` says.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        with replacing(Path(path)) as part, part.open("wb") as file:
            try:
                torch.save(checkpoint, file)
                file.flush()
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # torch hides what went wrong with the file
                    raise OSError(error.__context__.errno, error.__context__.strerror, str(path)) from error
                raise

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        Path(path).unlink(missing_ok=True)


def changes_no_numbers(callback: str) -> bool:
    """Whether training is the same without a callback, by the path of its class, so that a run may go on without it.

    Lightning's say when a run ends and what is saved and shown. This project's draw, test and measure with random
    streams of their own.
    """
    return callback.startswith(("lightning.", "callbacks.", "amal."))


def command_to_go_on(folder: Path) -> str:
    """What to paste into a shell to go on with the run in a folder."""
    words = ["--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]
    allowed = [f"{OPTION}={name}" for name in permissions()]
    return f"{program()} {shlex.join(['fit', *words, *allowed])}"
