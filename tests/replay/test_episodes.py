"""Which episodes are remembered and drawn, and that they are what was put in."""

import io
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from amal.replay import EpisodeReplay, ReplayedEpisodes
from amal.types import EpisodeBatch
from tests.algorithms.episodes import SIZES, random_batch


def numbered(seed: int, lengths: tuple[int, ...]) -> EpisodeBatch:
    """Random episodes; the first reward tells which is which: 100 · seed + number."""
    batch = random_batch(seed, lengths)
    batch.rewards[:, 0] = 100.0 * seed + torch.arange(len(lengths))
    return batch


def replay(capacity: int = 8, seed: int = 0) -> EpisodeReplay:
    return EpisodeReplay(capacity, **SIZES, seed=seed)


def by_name(episodes: ReplayedEpisodes) -> dict[int, dict[str, torch.Tensor]]:
    """Each drawn episode without its padding."""
    found = {}
    for i, length in enumerate(episodes.lengths.tolist()):
        views = {name: getattr(episodes, name)[i, : length + 1] for name in ("obs", "state", "available_actions")}
        steps = {name: getattr(episodes, name)[i, :length] for name in ("actions", "rewards", "terminated")}
        found[int(episodes.rewards[i, 0])] = views | steps
    return found


@pytest.mark.parametrize("capacity", [3, 5, 8, 100])
def test_the_newest_episodes_come_out_as_they_went_in(capacity: int) -> None:
    """Of different lengths, so that the table wraps and grows at different places."""
    kept, put_in = replay(capacity), {}
    chance = np.random.default_rng(1)
    for seed in range(1, 12):
        batch = numbered(seed, tuple(chance.integers(1, 9, size=3).tolist()))
        kept.add(batch)
        for i, length in enumerate(batch.lengths.tolist()):
            whole = {name: getattr(batch, name)[i, : length + 1] for name in ("obs", "state", "available_actions")}
            steps = {name: getattr(batch, name)[i, :length] for name in ("actions", "rewards", "terminated")}
            put_in[100 * seed + i] = whole | steps
        newest = list(put_in)[-capacity:]
        assert len(kept) == len(newest)
        drawn = by_name(kept.sample(len(newest)))
        assert sorted(drawn) == sorted(newest)
        for name in newest:
            for field, value in put_in[name].items():
                assert torch.equal(drawn[name][field], value), field


def test_what_happened_and_what_was_seen_is_told() -> None:
    kept = replay()
    kept.add(numbered(1, (4, 2)))
    drawn = kept.sample(2)
    assert torch.equal(drawn.mask.sum(dim=1), drawn.lengths) and torch.equal(drawn.seen.sum(dim=1), drawn.lengths + 1)
    assert drawn.obs.shape[:2] == (2, 5) and drawn.rewards.shape == (2, 4)
    assert all(getattr(drawn, name).isfinite().all() for name in ("obs", "state", "rewards"))  # the padding too


def test_episodes_are_drawn_alike_whatever_their_length_and_none_twice() -> None:
    kept = replay(10)
    kept.add(numbered(1, (1, 9, 2, 1, 9)))
    counts: Counter[int] = Counter()
    for _ in range(2000):
        drawn = by_name(kept.sample(2))
        assert len(drawn) == 2
        counts.update(list(drawn))
    assert all(abs(count - 800) < 100 for count in counts.values()), counts


def test_memory_grows_with_what_is_stored() -> None:
    kept = replay(5000)
    assert kept._table.nbytes == 0
    for seed in range(1, 30):
        kept.add(numbered(seed, (4, 2)))
        stored = sum(kept._rows) * kept._table.itemsize
        assert stored <= kept._table.nbytes <= 2 * stored


@pytest.mark.parametrize("copies", [{}, {"mmap": True}], ids=["loaded", "mapped"])
def test_it_goes_on_where_it_was_saved(tmp_path: Any, copies: dict[str, Any]) -> None:
    first, second = replay(5), replay(5, seed=7)
    for seed in range(1, 5):
        first.add(numbered(seed, (4, 2, 3)))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True, **copies))
    for seed in range(5, 9):
        for one in (first, second):
            one.add(numbered(seed, (6, 1)))
        ours, theirs = first.sample(4), second.sample(4)
        assert all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in ("obs", "actions", "lengths"))
    texts = []
    for one in (first, second):
        torch.save(one.state_dict(), text := io.BytesIO())
        texts.append(text.getvalue())
    assert texts[0] == texts[1]


def test_an_empty_one_can_be_saved(tmp_path: Any) -> None:
    torch.save(replay().state_dict(), tmp_path / "state.pt")
    again = replay()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    again.add(numbered(1, (4, 2)))
    assert len(again) == 2


@pytest.mark.parametrize("batch_size", [0, 3])
def test_no_more_are_drawn_than_there_are(batch_size: int) -> None:
    kept = replay()
    kept.add(numbered(1, (4, 2)))
    with pytest.raises(ValueError, match=f"from 1 to the 2 episodes that are stored, got {batch_size}"):
        kept.sample(batch_size)
