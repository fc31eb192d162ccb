"""Random streams: one for each purpose, so that none changes when another is used more or less.

Neighbouring seeds have nothing in common: a stream's seed is a hash of the run's and of the purpose.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Stream = Literal[
    "battles", "policy", "evaluation", "test", "minibatches", "evolution", "imagination", "sampled_evaluation"
]
STREAMS: tuple[Stream, ...] = get_args(Stream)


def stream_seed(seed: int, stream: Stream, process: int = 0, played: int = 0) -> int:
    """Of a run's stream, in each of several processes another one; 63 bits.

    Args:
        seed: of the run.
        stream: what it is for.
        process: rank of the process.
        played: episodes of the run so far, for a stream that cannot be saved and so begins anew.
    """
    key = (STREAMS.index(stream), played) if played else (STREAMS.index(stream),)
    sequence = np.random.SeedSequence(seed, spawn_key=key)
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)) + process
