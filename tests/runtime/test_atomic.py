"""A file that is replaced is on the disk before its name is, and the folder's entry after it."""

import os
from pathlib import Path

import pytest

from amal.runtime.atomic import replacing


def test_a_power_cut_finds_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, done = tmp_path / "run.json", []
    path.write_text("old")
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        done.append(f"{self.name} becomes {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    with replacing(path) as part:
        part.write_text("new")
    assert done == [f"sync {part.name}", f"{part.name} becomes run.json", f"sync {tmp_path.name}"]
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_synced_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def only_files(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    with replacing(tmp_path / "run.json") as part:
        part.write_text("new")
    assert (tmp_path / "run.json").read_text() == "new"
