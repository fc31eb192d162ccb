"""The threads that step battles: no more than one in a forked process, and torch keeps its own number of them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_forked: list[bool] = []  # not empty in a process that was forked after this module was imported

# The threads of an OpenMP that the parent has used are not there in a forked child: waiting for them never ends, and
# numba kills the child instead.
os.register_at_fork(after_in_child=lambda: _forked.append(True))


def may_share_work() -> bool:
    """Whether this process may step battles on several threads."""
    return not _forked


@contextmanager
def openmp_threads_kept() -> Iterator[None]:
    """Puts OpenMP's number of threads back to what it was before. numba sets it to all cores when it starts its own,
    also in torch's OpenMP if that was loaded first."""
    before = [(openmp, openmp.omp_get_max_threads()) for openmp in _openmps()]
    try:
        yield
    finally:
        for openmp, threads in before:
            openmp.omp_set_num_threads(threads)


def _openmps() -> list[ctypes.CDLL]:
    """The OpenMP that is everybody's in this process and the one that came with numba, where there are any."""
    found = [ctypes.CDLL(None)]
    try:
        from numba.np.ufunc import omppool  # type: ignore[attr-defined]

        found.append(ctypes.CDLL(omppool.__file__))
    except (ImportError, OSError):  # numba has other threads here
        pass
    return [library for library in found if hasattr(library, "omp_set_num_threads")]
