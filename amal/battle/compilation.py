"""The kernel decorator, and where compiled kernels are kept.

numba's cache looks at the file of a kernel only, not at the files of the kernels it calls. So the cache folder is named
after all of the simulator's sources: after any change everything is compiled anew, never a mixture of old and new.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
from numba.core.event import Event, Listener, TimingListener, install_listener, register

MESSAGE = "amal: compiling the simulator, once per change to it (about half a minute) ..."  # fits 80 columns


def simulator_hash() -> str:
    """12 hex digits over the simulator's code and data; equal hashes fight equal battles."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.iterdir()):
        if path.suffix in (".py", ".yaml"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _cache_folder() -> str | None:
    """The first folder of numba's own setting, the user's cache and the temporary folder that can be written to."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    configured = [Path(numba.config.CACHE_DIR)] if numba.config.CACHE_DIR else []  # type: ignore[attr-defined]
    for root in [*configured, user_cache / "amal", Path(tempfile.gettempdir()) / f"amal-{os.getuid()}"]:
        folder = root / f"kernels-{simulator_hash()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return str(folder)
    return None


_CACHE_FOLDER = _cache_folder()


def kernel(function: Callable[..., Any] | None = None, *, inline: bool = True, parallel: bool = False) -> Any:
    """Compiles a function with numba on first call. No fastmath: the recordings hang on the last bit.

    Kernels run without numba's reference counts, whose atomic updates took half of the time; so they allocate
    nothing and write into arrays that are handed to them. They are inlined into their callers, because a call passes
    every array of a Scene as seven words, which took nearly half of the time; what is large and called from several
    places is not. They run without the interpreter's lock, so that threads can call them side by side.
    """
    if function is None:
        return lambda f: kernel(f, inline=inline, parallel=parallel)
    options: dict[str, Any] = {"error_model": "numpy", "nogil": True, "parallel": parallel, "_nrt": parallel}
    options["forceinline"] = inline and not parallel
    configured = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    try:
        numba.config.CACHE_DIR = _CACHE_FOLDER or configured  # type: ignore[attr-defined]
        cache = _CACHE_FOLDER is not None
        return numba.njit(cache=cache, **options)(function)
    finally:
        numba.config.CACHE_DIR = configured  # type: ignore[attr-defined]


class _Announcement(Listener):
    """Tells the person waiting, once, as soon as a kernel is really compiled and not loaded from the cache."""

    def __init__(self) -> None:
        self.told = False

    def on_start(self, event: Event) -> None:
        if not self.told:
            self.told = True
            print(MESSAGE, file=sys.stderr, flush=True)

    def on_end(self, event: Event) -> None:
        pass


_announcement = _Announcement()


@contextmanager
def announced() -> Iterator[None]:
    """Says so if anything is compiled meanwhile, but once in a process."""
    with install_listener("numba:compile", _announcement):
        yield


_compilation_time = TimingListener()
register("numba:compile", _compilation_time)


def compilation_seconds() -> float:
    """How long this process has compiled kernels, in seconds; loading them from the cache does not count."""
    return _compilation_time.duration if _compilation_time.done else 0.0
