"""What goes wrong in a stand-in: as often as there are files of that name in the folder STAND_IN_FAULTS."""

import os
import signal
import sys
import time
from pathlib import Path


def happens(kind: str) -> bool:
    """Whether it does, once; what ends or stops the process does so here."""
    for file in sorted(Path(os.environ["STAND_IN_FAULTS"]).glob(f"{kind}.*")):
        try:
            file.unlink()
        except FileNotFoundError:  # it happens to somebody else
            continue
        if kind.startswith("crash"):
            print("Segmentation fault, says the game", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if kind == "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
            time.sleep(1000)
        return True
    return False
