"""What the process asks of the machine: threads and memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import numba
import torch
from lightning import Trainer
from lightning.pytorch.profilers import PassThroughProfiler

from amal.runtime.distributed import processes

First = TypeVar("First")
Second = TypeVar("Second")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread: where sharing the work costs more than it saves, or changes how it rounds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def side_by_side(first: Callable[[], First], second: Callable[[], Second]) -> tuple[First, Second]:
    """Runs two independent computations at the same time, each with half of torch's threads.

    Two threads on the small tensors of one computation wait for each other most of the time; two computations do not.
    One after the other where torch has a single thread; where a GPU computes (threads do not make it faster); under
    autocast, which holds for the thread that entered it only; and in distributed training, where all processes must
    communicate in one order.
    """
    threads = torch.get_num_threads()
    if threads < 2 or torch.cuda.is_initialized() or torch.is_autocast_enabled("cpu") or processes() > 1:
        return first(), second()

    def with_half(task: Callable[[], Result]) -> Result:
        torch.set_num_threads(threads // 2)
        return task()

    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(with_half, second)
        try:
            return with_half(first), later.result()
        finally:
            wait([later])
            torch.set_num_threads(threads)


@contextmanager
def profiled_as_one(trainer: Trainer, action: str) -> Iterator[None]:
    """Everything inside is one action to the trainer's profiler, and no action of its own.

    Lightning's profilers know actions by name only: SimpleProfiler raises ValueError when a second thread starts one of
    a name that is running. So they see ``side_by_side`` from outside, and no threads depend on being measured.
    """
    profiler = trainer.profiler  # type: ignore[attr-defined]
    with profiler.profile(action):
        trainer.profiler = PassThroughProfiler()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            trainer.profiler = profiler  # type: ignore[attr-defined]


def share_threads() -> None:
    """Gives numba as many threads as torch has, whom Lightning or ``OMP_NUM_THREADS`` may have limited.

    Before the first battle: numba starts its threads, as many as there are cores, when they are first needed, and where
    both use OpenMP torch has that many from then on.
    """
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Lets glibc keep the memory of freed tensors for the next ones, on any thread, instead of returning it to the
    system after each use, which costs page faults on every large one. Without glibc it does nothing."""
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # names of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    if not mallopt(mmap_threshold, 2**28):  # larger ones, as the copy of a replay buffer, do go back to the system
        mallopt(mmap_threshold, 2**25)  # the most that older versions of glibc take
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(arena_max, 1)
