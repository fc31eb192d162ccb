"""Which version of the project something was made with."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from amal import __version__

_HERE = Path(__file__).resolve()
_ROOT = _HERE.parents[2]


def code_version() -> str:
    """The commit, marked if files differ from it; outside a checkout of this project the package's version."""
    try:
        # of a checkout around the project this file has a longer name, or none where that leaves the project out
        if _git("ls-files", "--full-name", "--error-unmatch", str(_HERE)) == str(_HERE.relative_to(_ROOT)):
            return _git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.CalledProcessError):
        pass
    return __version__


def _git(*command: str) -> str:
    # GIT_DIR and its like, which a hook or a shell may have set, name a checkout of something else
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-C", str(_ROOT), *command], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
