"""The parent's side of a worker process."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

EXIT_SECONDS = 1.0  # between a process's last word and its end
SLICE_SECONDS = 1.0  # of waiting
TAIL_BYTES = 4096


class WorkerDown(RuntimeError):
    """A worker process crashed, failed or did not answer in time."""


class Worker:
    """One process that plays one battle. After WorkerDown it is of no more use; ``kill`` it.

    Args:
        start: arguments of ``worker.start``; its answer, a BattleSpec, is the first to ``receive``.
    """

    def __init__(self, *start: Any) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed by kill
        number = theirs.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "amal.backends.worker", str(number)],
            stdin=subprocess.PIPE,  # ends with this process
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=_environment(),
            pass_fds=(number,),
            start_new_session=True,
        )
        theirs.close()
        self.send("start", *start)

    def send(self, *request: Any) -> None:
        """Asks for something; a process that is down says so when the answer is received."""
        with suppress(OSError):
            self.connection.send(request)

    def receive(self) -> tuple[str, Any]:
        """What came of the request, 'done' or 'unusable', and the result. Raises WorkerDown."""
        try:
            outcome, result = self.connection.recv()
        except (EOFError, OSError):
            raise WorkerDown(self._how_it_ended()) from None
        if outcome == "failed":
            raise WorkerDown(result)
        return outcome, result

    def close(self, deadline: float) -> None:
        """Lets the simulator end in good order, reports on stderr if it cannot, and kills what then is left."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        with suppress(EOFError, OSError):
            while self.connection.poll():
                outcome, result = self.connection.recv()
                if outcome == "unclosed":
                    print(f"a game did not end in good order: {result}", file=sys.stderr)
        self.kill()

    def kill(self) -> None:
        """Ends the process and all that it started, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self.connection.close()
        self._output.close()

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        last = self._last_line()
        return f"{how}; its last words: {last}" if last else how

    def _last_line(self) -> str:
        self._output.seek(max(0, self._output.seek(0, os.SEEK_END) - TAIL_BYTES))
        lines = self._output.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def answers(workers: Mapping[int, Worker], seconds: float) -> tuple[dict[int, tuple[str, Any]], dict[int, str]]:
    """What each worker answers to its request, and what went wrong with those that do not within ``seconds``.

    Time in which this process was stopped does not count: the workers may have been stopped too, as a batch system
    does with all processes of a job."""
    waiting = {workers[e].connection: e for e in workers}
    results: dict[int, tuple[str, Any]] = {}
    failures: dict[int, str] = {}
    left = seconds
    while waiting:
        start = time.monotonic()
        ready = multiprocessing.connection.wait(list(waiting), min(left, SLICE_SECONDS))
        left -= min(time.monotonic() - start, SLICE_SECONDS, left)
        if not ready and left <= 0.0:
            return results, failures | dict.fromkeys(waiting.values(), f"no answer in {seconds:g} s")
        for connection in ready:
            e = waiting.pop(connection)  # type: ignore[call-overload]
            try:
                results[e] = workers[e].receive()
            except WorkerDown as error:
                failures[e] = str(error)
    return results, failures


def _environment() -> dict[str, str]:
    """Modules are found where this process finds them. The messages of StarCraft II's protocol package were generated
    for protobuf 3, and later ones take them only in pure Python."""
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)  # noqa: PTH109
    return {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"} | os.environ | {"PYTHONPATH": path}
