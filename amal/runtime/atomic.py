"""Files that are replaced as a whole: readers see the old one or the new one, never half of one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PART = re.compile(r"\..+\.\d+(\.\w+)?")  # the names of unfinished files


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` (same suffix) to write to; moved over ``path`` at the end, removed if anything fails.

    After that a power cut leaves the new file, before it the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # same folder: a rename there is atomic
    try:
        yield part
        sync(part)  # else the new name could be on the disk before what the file holds
        part.replace(path)
        with suppress(OSError):  # some file systems cannot sync a folder
            sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until the disk has all that was written to a file, or the names that are in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Removes what a process that was killed had not finished writing; for those who hold the folder's lock."""
    for path in folder.glob(".*"):
        if path.is_file() and _PART.fullmatch(path.name):
            path.unlink()
