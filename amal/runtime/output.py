"""Standard output and standard error that never end what a command does.

A reader that has gone (``| head``, a terminal that was closed) or a full disk behind them would otherwise raise in the
middle of training, at the next line of the display.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class _Lasting(io.FileIO):
    """A descriptor that takes whatever is written. What went wrong first, if anybody should know, is in ``lost``."""

    lost: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.lost = self.lost or error
            return len(data)


def make_output_last() -> None:
    """Puts such streams in the place of ``sys.stdout`` and ``sys.stderr``, unless somebody else has done so, as pytest.

    They write what their encoding does not have as ``?`` or in escapes.
    """
    for name, number, errors in (("stdout", 1, "replace"), ("stderr", 2, "backslashreplace")):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before the process began; the number must not become a file's
            _open_nowhere(number)
        elif stream is not getattr(sys, f"__{name}__"):
            continue
        else:
            stream.flush()
        setattr(sys, name, _stream(number, stream, errors))


def _stream(number: int, old: io.TextIOWrapper | None, errors: str) -> io.TextIOWrapper:
    raw = _Lasting(number, "wb", closefd=False)
    encoding = "utf-8" if old is None else old.encoding
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=number == 2 or raw.isatty())


def _open_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)


def lost_output() -> str | None:
    """Why something that was written to standard output is lost, or None if nothing is that anybody waits for."""
    stream = sys.stdout
    if isinstance(stream, io.TextIOWrapper) and isinstance(stream.buffer, io.BufferedWriter):
        stream.flush()
        raw = stream.buffer.raw
        if isinstance(raw, _Lasting) and raw.lost is not None:
            return raw.lost.strerror
    return None
