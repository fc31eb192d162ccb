"""What the process asks of the machine: threads and memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread: where sharing the work costs more than it saves, or changes how it rounds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Lets glibc keep the memory of freed tensors for the next ones, instead of returning it to the system after each
    use, which costs page faults on every large one. Without glibc it does nothing."""
    trim_threshold, mmap_threshold = -1, -3  # names of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(mmap_threshold, 2**30)
    mallopt(trim_threshold, 2**31 - 1)
