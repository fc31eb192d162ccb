"""Files that are replaced as a whole: readers see the old one or the new one, never half of one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PART = re.compile(r"\..+\.\d+(\.\w+)?")  # the names of unfinished files


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` (same suffix) to write to; moved over ``path`` at the end, removed if anything fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # same folder: a rename there is atomic
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what a process that was killed had not finished writing; for those who hold the folder's lock."""
    for path in folder.glob(".*"):
        if path.is_file() and _PART.fullmatch(path.name):
            path.unlink()
