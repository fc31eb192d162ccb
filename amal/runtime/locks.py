"""Folders that one process at a time may write to."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FolderNotOurs(ValueError):
    """A folder that this process cannot have; the message is one line."""


def refuse_foreign(folder: Path, mark: str) -> None:
    """Raises FolderNotOurs if a folder holds something, but not the file that tells whose it is."""
    if folder.is_dir() and not (folder / mark).exists():
        other = next((path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".")), None)
        if other is not None:
            raise FolderNotOurs(f"--out {folder}: holds {other} and no {mark}; choose a folder that is new or empty")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder, made if it is not there, for this process; the system lets go of it however the process ends.

    Raises FolderNotOurs if another process holds it or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise FolderNotOurs(f"--out {folder} cannot be written to: {error.strerror}") from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderNotOurs(f"--out {folder} is in use: another process writes to it") from None
        yield
