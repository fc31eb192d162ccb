"""Checkpoint files: written as a whole or not at all, read as data only.

A checkpoint from a stranger is no more than tensors and Python's plain types: torch's restricted unpickler refuses
everything else before any of it is run.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor

from amal.atomic import replacing


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
    _check_bytes(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower():
            raise CheckpointError(
                f"{path}: holds more than data (code that loading would run), which is refused"
            ) from None
        raise CheckpointError(f"{path}: damaged ({type(error).__name__})") from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__})") from None
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{path}: no checkpoint of a run, for it has no state_dict")
    return content


def _check_bytes(path: Path) -> None:
    """Compares the check sums in the file, which torch does not."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except zipfile.BadZipFile:
        raise CheckpointError(f"{path}: damaged or no checkpoint (truncated, or not written by torch.save)") from None
    if broken is not None:
        raise CheckpointError(f"{path}: damaged (the check sum of {broken} is wrong)")


def check_fits(weights: Mapping[str, Tensor], module: LightningModule, checkpoint: Path, source: str) -> None:
    """Raises CheckpointError with the first parameter that the module does not have like that."""
    own = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    theirs = {name: list(tensor.shape) for name, tensor in weights.items()}
    for name in own | theirs:
        if own.get(name) != theirs.get(name):
            found, wanted = theirs.get(name, "missing"), own.get(name, "none")
            raise CheckpointError(f"{checkpoint}: does not fit {source}: {name} is {found} and should be {wanted}")


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
                os.fsync(file.fileno())  # else a power cut could leave the new name with the old file's nothing
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
