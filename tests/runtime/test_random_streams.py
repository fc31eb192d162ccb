"""Random streams of one seed, of neighbouring seeds and of several processes."""

from amal.runtime.random_streams import STREAMS, stream_seed


def test_no_stream_is_another_ones_whatever_the_seed_and_the_process() -> None:
    seeds = [stream_seed(seed, stream, process) for seed in range(50) for stream in STREAMS for process in range(8)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)


def test_a_stream_stays_what_it_was() -> None:
    """Else a checkpoint would be continued with other random numbers than its run had."""
    assert stream_seed(0, "battles") == 4334430513956379144
