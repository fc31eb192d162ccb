import os
from pathlib import Path
from types import SimpleNamespace


def get(version=None):
    """The newest that is installed, whether its program is there or not."""
    builds = sorted(int(folder.name.removeprefix("Base")) for folder in (folder() / "Versions").glob("Base*"))
    if not builds:
        raise RuntimeError(f"No SC2 Versions found in {folder() / 'Versions'}")
    if version is not None and version.count(".") != 2:
        raise ValueError(f"Unknown game version: {version}. Known versions: ['latest'].")
    return SimpleNamespace(version=SimpleNamespace(build_version=builds[-1]), start=_start, save_replay=_save_replay)


def folder():
    return Path(os.environ["SC2PATH"])


def _start():
    for program in (folder() / "Versions").glob("Base*/SC2_x64"):
        return program
    raise RuntimeError("Trying to run the game, but it doesn't exist")


def _save_replay(data, replay_dir, prefix):
    target = folder() / "Replays" / replay_dir
    target.mkdir(parents=True, exist_ok=True)
    (target / f"{prefix}_2026-01-01-00-00-00.SC2Replay").write_text(data)
