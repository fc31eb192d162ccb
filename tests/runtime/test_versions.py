"""The version that a run notes is this project's, whatever lies around it or is set."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import amal
from amal import __version__
from amal.runtime import versions
from amal.runtime.versions import code_version


def repository(folder: Path) -> str:
    """A checkout of something else, with one commit that holds all that is in the folder; the commit."""
    who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    for words in (("init", "-q"), ("add", "-A", "."), (*who, "commit", "-q", "--allow-empty", "-m", "theirs")):
        subprocess.run(["git", *words], cwd=folder, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
    return commit.stdout.strip()


def test_a_variable_for_another_checkout_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = code_version(), repository(tmp_path)
    for name, value in (("GIT_DIR", tmp_path / ".git"), ("GIT_WORK_TREE", tmp_path), ("GIT_INDEX_FILE", "nowhere")):
        monkeypatch.setenv(name, str(value))
    assert code_version() == ours and not code_version().startswith(theirs[:12])


@pytest.mark.parametrize("is_tracked", [False, True])
def test_inside_another_checkout_it_is_the_installed_version(tmp_path: Path, is_tracked: bool) -> None:
    place = tmp_path / "vendored"
    (place / "amal" / "runtime").mkdir(parents=True)
    shutil.copy(amal.__file__, place / "amal" / "__init__.py")
    if is_tracked:
        shutil.copy(versions.__file__, place / "amal" / "runtime" / "versions.py")
    theirs = repository(tmp_path)
    shutil.copy(versions.__file__, place / "amal" / "runtime" / "versions.py")
    code = "from amal.runtime.versions import code_version; print(code_version())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert not done.startswith(theirs[:12]) and done == __version__
