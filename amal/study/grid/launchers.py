"""Where the cells of a study run: as processes of this machine, or through Ray on a cluster.

Both start a cell's process by ``launch``, which guarantees:

- A cell has one process. It holds a lock on its log, which is its standard output. The system releases the lock when
  the process ends, so that no second one starts, even after compare itself was killed.
- On Linux the process dies with the process that started it. Elsewhere the processes of a killed compare run to their
  end; until then another compare reports their cells as failed, because of the lock.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol

from amal.study.grid.runs import START_MARK, Cell
from amal.study.records import StudyError

PATIENCE_SECONDS = 20.0  # for a process that was asked to end
LOCK_SECONDS = 20.0  # for a predecessor that is about to end
RAY_RETRIES = 3  # of a cell whose worker was lost
TICK_SECONDS = 0.2  # between two polls

_ROOT = Path(__file__).resolve().parents[3]

# The setting outlives exec, so a small interpreter makes it and then becomes the cell. Python's own way, preexec_fn,
# can deadlock in a process with threads, as Ray's are.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class CellInUse(RuntimeError):
    """Another process is still running the cell."""


class Launcher(Protocol):
    """Runs up to ``parallel`` cells at a time."""

    parallel: int
    threads: int  # of each cell

    def start(self, cell: Cell) -> None:
        """Raises OSError or CellInUse if the cell cannot be started."""

    def poll(self) -> list[tuple[Cell, str]]:
        """The cells that ended since the last call, each with its failure, which is empty if it succeeded."""

    def stop(self, signals: Sequence[int] = ()) -> None:
        """Terminate all cells; kill those that do not end in time, or all as soon as ``signals`` has a second entry."""


def launch(cell: Cell, threads: int) -> subprocess.Popen[bytes]:
    """Start or continue a cell. A folder with broken files is set aside first; one without a checkpoint is emptied."""
    log = _locked_log(cell)
    try:
        if fault := cell.fault():
            log.write(f"{START_MARK}set aside as {cell.set_aside()}: {fault}\n".encode())
        cell.folder.mkdir(parents=True, exist_ok=True)
        if not cell.checkpoint.is_file():
            for path in cell.folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        command = [sys.executable, str(_ROOT / "cli.py"), "fit", *cell.next_arguments()]
        log.write(f"{START_MARK}{datetime.now():%Y-%m-%d %H:%M:%S} {shlex.join(command)}\n".encode())
        log.flush()
        if sys.platform == "linux":
            command = [sys.executable, "-IS", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
        return subprocess.Popen(
            command,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for compare, which then asks the cells to end
        )
    finally:
        log.close()


def _locked_log(cell: Cell) -> IO[bytes]:
    """The log, open for appending. The lock belongs to the open file, which the cell's process inherits."""
    cell.log.parent.mkdir(parents=True, exist_ok=True)
    log = cell.log.open("ab")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return log
        except BlockingIOError:
            if time.monotonic() > deadline:
                log.close()
                raise CellInUse("a process of an earlier compare still works in it") from None
            time.sleep(0.1)


def terminate(processes: Collection[subprocess.Popen[bytes]], signals: Sequence[int] = ()) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline and len(signals) < 2:
        time.sleep(0.05)
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def received_signals() -> Iterator[list[int]]:
    """Within the context, signals to stop are appended to the list and have no other effect."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores one
    previous = {number: signal.signal(number, lambda number, frame: received.append(number)) for number in heard}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def describe_exit(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}" if exit_code else ""
    killer = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"signal {-exit_code}"
    return f"exit code {exit_code}, killed by {killer}"


class LocalLauncher:
    """Processes of this machine."""

    def __init__(self, parallel: int | None = None) -> None:
        # What this process may use, which in a container or a batch job is less than the machine has.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.parallel = parallel or cores
        self.threads = max(1, cores // self.parallel)
        self._processes: dict[Cell, subprocess.Popen[bytes]] = {}

    def start(self, cell: Cell) -> None:
        self._processes[cell] = launch(cell, self.threads)

    def poll(self) -> list[tuple[Cell, str]]:
        codes = [(cell, process.poll()) for cell, process in self._processes.items()]
        ended = [(cell, describe_exit(code)) for cell, code in codes if code is not None]
        for cell, _ in ended:
            del self._processes[cell]
        return ended

    def end(self, cell: Cell) -> None:
        """Terminate one cell, if it runs."""
        if cell in self._processes:
            terminate([self._processes.pop(cell)])

    def stop(self, signals: Sequence[int] = ()) -> None:
        terminate(self._processes.values(), signals)
        self._processes.clear()


def run_cell(cell: Cell, threads: int) -> int:
    """Run a cell in one call, for Ray. Returns the exit code; ends the process if the call is cancelled."""
    if cell.is_finished():  # by a worker that was lost before it could say so
        return 0
    process = launch(cell, threads)
    try:
        while process.poll() is None:  # Ray cancels between two instructions; it would not interrupt a wait()
            time.sleep(0.2)
        return process.returncode
    except BaseException:
        terminate([process])
        raise


class RayLauncher:
    """Tasks of a Ray cluster: that of RAY_ADDRESS or of this machine, else a new one on this machine.

    The repository, the Python environment and the study's folder must be on a disk that all nodes share, under the same
    paths. A cell whose worker or node is lost then continues from its checkpoint on another.
    """

    def __init__(self, parallel: int | None = None) -> None:
        ray = import_ray()
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        environment = {"env_vars": {"PYTHONPATH": path}}
        ray.init(log_to_driver=False, logging_level="ERROR", runtime_env=environment)
        per_node = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        cores = max(1, sum(per_node))
        self.parallel = parallel or cores
        # A cell with more threads than a node has cores could never be placed there.
        self.threads = max(1, min([cores // self.parallel, *(count for count in per_node if count)]))
        self._ray = ray
        self._run = ray.remote(num_cpus=self.threads, max_retries=RAY_RETRIES)(run_cell)
        self._tasks: dict[Any, Cell] = {}

    def start(self, cell: Cell) -> None:
        self._tasks[self._run.remote(cell, self.threads)] = cell

    def poll(self) -> list[tuple[Cell, str]]:
        ready, _ = (
            self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0) if self._tasks else ([], [])
        )
        return [(self._tasks.pop(task), self._failure(task)) for task in ready]

    def _failure(self, task: Any) -> str:
        try:
            return describe_exit(self._ray.get(task))
        except self._ray.exceptions.RayTaskError as error:
            return str(error.cause)
        except self._ray.exceptions.RayError as error:
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"

    def stop(self, signals: Sequence[int] = ()) -> None:
        for task in self._tasks:
            self._ray.cancel(task)
        deadline = time.monotonic() + PATIENCE_SECONDS + 5
        while self._tasks and time.monotonic() < deadline and len(signals) < 2:
            self.poll()
            time.sleep(0.1)
        self._tasks.clear()
        self._ray.shutdown()


def import_ray() -> Any:
    """Ray's module. Raises StudyError if it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise StudyError("--launcher ray needs Ray, which is not installed: pip install ray") from error
    return ray
