"""Threads."""

import os
import subprocess
import sys
from collections.abc import Iterator
from threading import Barrier

import pytest
import torch

from amal.runtime.machine import side_by_side
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_things_happen_at_the_same_time_on_a_thread_each() -> None:
    both = Barrier(2)

    def task() -> int:
        both.wait(timeout=20)  # raises if the other does not come
        return torch.get_num_threads()

    assert side_by_side(task, task) == (1, 1)
    assert torch.get_num_threads() == 2


def test_one_after_the_other_with_a_single_thread() -> None:
    torch.set_num_threads(1)
    order: list[str] = []
    side_by_side(lambda: order.append("first"), lambda: order.append("second"))
    assert order == ["first", "second"]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_of_either_is_raised_after_the_other_has_ended(failing: int) -> None:
    ended: list[int] = []

    def task(number: int) -> None:
        if number == failing:
            raise ArithmeticError(f"task {number}")
        ended.append(number)

    with pytest.raises(ArithmeticError, match=f"task {failing}"):
        side_by_side(lambda: task(0), lambda: task(1))
    assert ended == [1 - failing]
    assert torch.get_num_threads() == 2


THREADS_AFTER_A_BATTLE = """
import numba, numpy, torch
from amal.battle import VectorBattle
from amal.runtime.machine import share_threads
share_threads()
VectorBattle("3m", 512).step(numpy.ones((512, 3), int))  # of so many units that numba starts its threads
print(torch.get_num_threads(), numba.get_num_threads())
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_battles_take_as_many_threads_as_torch_has_and_leave_torch_its_own(threads: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_NUM_THREADS"}
    command = [sys.executable, "-c", THREADS_AFTER_A_BATTLE]
    asked = environment | {"OMP_NUM_THREADS": threads}
    done = subprocess.run(command, cwd=ROOT, env=asked, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [threads, threads]


FAULTS_OF_FREED_MEMORY = """
import resource, torch
from amal.runtime.machine import keep_freed_memory, side_by_side
keep_freed_memory()
torch.set_num_threads(2)
def use() -> None:
    for _ in range(20):
        torch.ones(2**20), torch.ones(2**21)  # 4 and 8 MB, a page fault for each 4 KB of new memory
def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def of_five() -> int:
    before = faults()
    for _ in range(5):
        side_by_side(use, use)
    return faults() - before
print(min(of_five() for _ in range(4)))  # the most that is ever held at once may be reached late
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory allocator of Linux")
def test_freed_memory_is_used_again_on_every_thread() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS_OF_FREED_MEMORY], cwd=ROOT, capture_output=True, text=True)
    assert int(done.stdout) < 5000, done.stderr  # of 40 000 without
