"""``fit`` as shipped, which tells what it is doing in a file of one byte, so that it can be killed while it does it.

Usage: python tests/commands/phased_fit.py FILE ARGUMENTS-OF-FIT…
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

PHASES = ("start", "compile", "play", "update", "evaluate", "write", "between")
_file = -1
_phase = "start"


def enter(phase: str) -> None:
    global _phase
    _phase = phase
    os.pwrite(_file, bytes([PHASES.index(phase)]), 0)


@contextmanager
def during(phase: str) -> Iterator[None]:
    outer = "between" if _phase == "start" else _phase
    enter(phase)
    try:
        yield
    finally:
        enter(outer)


def told(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def tells(*args: Any, **kwargs: Any) -> Any:
        with during(phase):
            return function(*args, **kwargs)

    return tells


def main() -> None:
    global _file
    _file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    enter("start")
    import cli
    from amal.algorithms.amal.algorithm import AMAL
    from amal.algorithms.mappo import MAPPO
    from amal.algorithms.value_decomposition import ValueDecomposition
    from amal.battle import vector
    from amal.runtime.checkpoints import WholeCheckpoints
    from callbacks import Evaluation
    from datamodules.episode_source import EpisodeSource

    vector.announced = lambda: during("compile")  # type: ignore[assignment]
    for owner, name, phase in (
        (EpisodeSource, "play_training", "play"),
        (MAPPO, "learn", "update"),
        (AMAL, "learn", "update"),
        (ValueDecomposition, "learn", "update"),
        (Evaluation, "_evaluate", "evaluate"),
        (WholeCheckpoints, "save_checkpoint", "write"),
    ):
        setattr(owner, name, told(phase, getattr(owner, name)))
    cli.main(["fit", *sys.argv[2:]])


if __name__ == "__main__":
    main()
