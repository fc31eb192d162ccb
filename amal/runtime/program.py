"""How this program is called, for hints that can be pasted into a shell."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def program() -> str:
    """What the user has typed before the command: ``amal``, or ``python`` and the path of ``cli.py``.

    The installed ``amal`` is named by its path where the shell would not find it. A process that was not started from
    the command line, such as a notebook's, gets ``amal``.
    """
    called = sys.argv[0]
    if Path(called).name == "cli.py":
        return shlex.join(["python", called])
    found = shutil.which("amal")
    is_elsewhere = Path(called).name == "amal" and (found is None or not Path(found).samefile(called))
    return shlex.quote(called) if is_elsewhere else "amal"
