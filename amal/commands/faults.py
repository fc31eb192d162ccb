"""What stops a run that is no mistake of this code: a full disk, no memory, numbers that are none."""

from __future__ import annotations

import errno

from amal.algorithms.base import NonFiniteLoss
from amal.backends.battles import WorkerFailure
from amal.rollout.collector import NonFiniteView

_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "Cannot allocate memory", "bad_alloc")


def fault(error: BaseException) -> str | None:
    """In one line what went wrong, or None for what deserves a traceback."""
    if isinstance(error, NonFiniteLoss | NonFiniteView | WorkerFailure):
        return str(error)
    is_memory_error = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if is_memory_error or (isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)):
        buffers = "model.world_model.buffer_size or model.replay_episodes"
        return f"out of memory; fewer data.num_envs, data.episodes_per_update, {buffers} need less"
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror or error}"
    if type(error).__module__.partition(".")[0] == "wandb":
        return f"wandb: {' '.join(str(error).split())}; configs/logger/wandb.yaml logs offline"
    return None
