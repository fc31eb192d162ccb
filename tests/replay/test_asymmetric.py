"""What is remembered, how it is drawn, and that imagined experience never passes for real."""

import errno
import gc
import io
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amal.replay import REAL, AsymmetricReplayBuffer, Experience, ProvenanceError, RealExperience
from amal.types import EpisodeBatch

N, O, S, A = 2, 3, 4, 5  # noqa: E741
NAMES = [f.name for f in fields(Experience)]


def buffer(capacity: int = 8, **options: Any) -> AsymmetricReplayBuffer:
    sizes: dict[str, Any] = {"num_auxiliary_agents": 3, "auxiliary_capacity": 4}
    return AsymmetricReplayBuffer(capacity, N, O, S, A, **(sizes | options))


def experience(number: int, provenance: int = REAL, seed: int = 0, first: int = 0) -> Experience:
    """Random transitions; the agents' rewards tell which is which: first, first + 1, …"""
    g = torch.Generator().manual_seed(seed)
    return Experience(
        obs=torch.rand(number, N, O, generator=g),
        state=torch.rand(number, S, generator=g),
        available_actions=torch.rand(number, N, A, generator=g) < 0.5,
        actions=torch.randint(A, (number, N), generator=g),
        log_probs=-torch.rand(number, N, generator=g),
        rewards=torch.arange(first, first + number, dtype=torch.float32).unsqueeze(-1).expand(number, N),
        next_obs=torch.rand(number, N, O, generator=g),
        next_state=torch.rand(number, S, generator=g),
        next_available_actions=torch.rand(number, N, A, generator=g) < 0.5,
        done=torch.rand(number, generator=g) < 0.5,
        provenance=torch.full((number,), provenance),
    )


def step(e: Experience, row: int = 0) -> dict[str, Any]:
    return {name: getattr(e, name)[row].numpy() for name in NAMES if name != "provenance"}


def remember(b: AsymmetricReplayBuffer, number: int, seed: int = 0, first: int = 0) -> Experience:
    real = experience(number, seed=seed, first=first)
    for row in range(number):
        b.add_primary(step(real, row))
    return real


def same(one: Experience, other: Experience) -> bool:
    """Bit for bit, NaN included."""
    pairs = ((getattr(one, name), getattr(other, name)) for name in NAMES)
    return all(x.dtype == y.dtype and x.numpy().tobytes() == y.numpy().tobytes() for x, y in pairs)


def labels(e: Experience) -> set[float]:
    return set(e.rewards[:, 0].tolist())


def episodes(lengths: list[int], terminated: list[bool]) -> EpisodeBatch:
    """Episodes in which every number is different; padding is NaN."""
    n, longest = len(lengths), max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    ends = torch.arange(1, longest + 1) == torch.tensor(lengths)[:, None]
    won = torch.tensor(terminated)
    obs = torch.arange(n * (longest + 1) * N * O, dtype=torch.float32).view(n, longest + 1, N, O)
    state = -torch.arange(n * (longest + 1) * S, dtype=torch.float32).view(n, longest + 1, S)
    for episode, length in enumerate(lengths):
        obs[episode, length + 1 :] = torch.nan
        state[episode, length + 1 :] = torch.nan
    return EpisodeBatch(
        obs=obs,
        state=state,
        available_actions=torch.rand(n, longest + 1, N, A) < 0.5,
        actions=torch.randint(A, (n, longest, N)),
        log_probs=torch.where(mask[..., None], torch.rand(n, longest, N), torch.nan),
        rewards=torch.where(mask, torch.arange(n * longest).view(n, longest).float(), torch.nan),
        terminated=ends & won[:, None],
        truncated=ends & ~won[:, None],
        mask=mask,
        won=won,
        dead_allies=torch.zeros(n, dtype=torch.int64),
        dead_enemies=torch.zeros(n, dtype=torch.int64),
        progress=0.0,
    )


def test_what_is_sampled_is_what_was_added() -> None:
    b = buffer()
    real = remember(b, 5)
    sample = b.sample_primary(200)
    assert isinstance(sample, RealExperience) and b.primary_size == 5
    assert same(sample, real[sample.rewards[:, 0].long()])
    assert labels(sample) == set(range(5))
    assert torch.equal(sample.alive, ~sample.available_actions[..., 0])


def test_a_sample_is_not_overwritten_by_what_comes_later() -> None:
    b = buffer()
    remember(b, 8)
    sample = b.sample_primary(6)
    before = sample[torch.arange(6)]
    remember(b, 8, seed=1, first=100)
    b.sample_primary(6)
    b.sample_mixed(6)
    assert same(sample, before)


def test_a_shared_reward_goes_to_every_agent() -> None:
    b = buffer()
    b.add_primary(step(experience(1)) | {"rewards": 2.5, "provenance": REAL})
    assert (b.sample_primary(1).rewards == 2.5).all()


def test_episodes_become_transitions_up_to_their_ends() -> None:
    batch = episodes([3, 1, 4], [True, False, False])
    b = buffer(capacity=20)
    b.add_primary_episodes(batch)
    assert b.primary_size == 8
    sample = b.sample_primary(400)
    label = sample.rewards[:, 0].long()
    assert labels(sample) == {0, 1, 2, 4, 8, 9, 10, 11}  # episode · 4 + t
    e, t = label // 4, label % 4
    for name in ("obs", "state", "available_actions"):
        assert torch.equal(getattr(sample, name), getattr(batch, name)[e, t])
        assert torch.equal(getattr(sample, f"next_{name}"), getattr(batch, name)[e, t + 1])
    assert torch.equal(sample.actions, batch.actions[e, t])
    assert torch.equal(sample.log_probs, batch.log_probs[e, t])
    assert torch.equal(sample.rewards[:, 1], batch.rewards[e, t])
    assert torch.equal(sample.done, label == 2)  # the others were only cut off


def test_the_oldest_are_overwritten_however_they_are_added() -> None:
    one, many = buffer(capacity=8), buffer(capacity=8)
    for row in range(3 * 7):
        batch = episodes([1], [True])
        one.add_primary_episodes(replace(batch, rewards=torch.full((1, 1), float(row))))
    many.add_primary_episodes(episodes([7, 7, 7], [True, True, True]))
    assert labels(one.sample_primary(300)) == labels(many.sample_primary(300)) == set(range(13, 21))


@pytest.mark.parametrize("earlier", range(5))
def test_a_batch_larger_than_the_store_keeps_the_newest(earlier: int) -> None:
    b = buffer(capacity=4)
    remember(b, earlier, first=100)
    b.add_primary_episodes(episodes([11], [False]))
    assert labels(b.sample_primary(200)) == {7, 8, 9, 10}
    b.add_primary_episodes(replace(episodes([1], [False]), rewards=torch.tensor([[50.0]])))
    assert labels(b.sample_primary(200)) == {8, 9, 10, 50}


def test_each_auxiliary_agent_has_a_store_of_its_own() -> None:
    b = buffer()
    remember(b, 1, first=-1)
    mix = experience(8)
    b.add_auxiliary_batch(replace(mix, provenance=torch.tensor([0, 2, 0, 0, 2, 0, 0, 0])))  # agent 0: six, room for 4
    b.add_auxiliary(2, step(mix, 7) | {"provenance": 2})
    assert b.auxiliary_sizes == [4, 0, 3]
    sample = b.sample_mixed(400, aux_ratio=1.0)
    drawn = set(zip(sample.provenance.tolist(), sample.rewards[:, 0].tolist(), strict=True))
    assert drawn == {(0, 3), (0, 5), (0, 6), (0, 7), (2, 1), (2, 4), (2, 7)}
    expected = replace(mix[sample.rewards[:, 0].long()], provenance=sample.provenance)
    assert same(sample, expected)


def test_a_mixture_has_the_share_that_was_asked_for() -> None:
    b = buffer()
    remember(b, 8)
    assert (b.sample_mixed(256).provenance == REAL).all()  # nothing was imagined yet
    b.add_auxiliary_batch(replace(experience(5), provenance=torch.tensor([0, 2, 2, 2, 2])))
    for ratio, imagined in ((0.0, 0), (0.3, 77), (1.0, 256)):
        sample = b.sample_mixed(256, ratio)
        assert int((sample.provenance != REAL).sum()) == imagined
    drawn = b.sample_mixed(20_000, 1.0).provenance
    assert abs(float((drawn == 2).float().mean()) - 0.8) < 0.02  # by amount stored: six standard deviations
    without = buffer(num_auxiliary_agents=0)
    remember(without, 2)
    assert len(without.sample_mixed(10)) == 10 and without.auxiliary_sizes == []


def test_imagined_experience_is_refused_as_real() -> None:
    b = buffer()
    imagined = experience(3, provenance=1)
    with pytest.raises(ProvenanceError, match="provenance 1"):
        b.add_primary(step(imagined) | {"provenance": 1})
    with pytest.raises(ProvenanceError, match="1 of 3 rows"):
        RealExperience(**{n: getattr(replace(imagined, provenance=torch.tensor([-1, 0, -1])), n) for n in NAMES})
    assert b.primary_size == 0


def test_real_experience_is_refused_as_imagined() -> None:
    b = buffer()
    for wrong in (REAL, 3):
        with pytest.raises(ProvenanceError, match="1 of 2 rows"):
            b.add_auxiliary_batch(replace(experience(2), provenance=torch.tensor([0, wrong])))
    with pytest.raises(ProvenanceError, match="provenance -1"):
        b.add_auxiliary(0, step(experience(1)) | {"provenance": REAL})
    assert b.auxiliary_sizes == [0, 0, 0]


def test_corrupted_storage_is_noticed() -> None:
    b = buffer()
    remember(b, 4)
    state = b.state_dict()
    state["rows"]["provenance"][:] = 2
    b.load_state_dict(state)
    with pytest.raises(ProvenanceError, match="6 of 6 rows"):
        b.sample_primary(6)


@settings(max_examples=40, deadline=None)
@given(
    events=st.lists(st.sampled_from(["primary", "mixed", "imagine", "poison", "real"]), max_size=20),
    agents=st.integers(0, 4),
    room=st.integers(1, 6),
)
def test_nothing_imagined_changes_what_is_drawn_for_the_world_model(events: list[str], agents: int, room: int) -> None:
    alone = buffer(num_auxiliary_agents=0, seed=3)
    other = buffer(num_auxiliary_agents=agents, auxiliary_capacity=room, seed=3)
    for b in (alone, other):
        remember(b, 3)
    for number, event in enumerate(events):
        if event == "primary":
            assert same(alone.sample_primary(5), other.sample_primary(5))
        elif event == "real":
            for b in (alone, other):
                remember(b, 2, seed=number)
        elif event == "mixed":
            other.sample_mixed(7, 0.5)
        elif agents:
            imagined = experience(4, provenance=number % agents, seed=number)
            if event == "poison":
                imagined = replace(imagined, **{n: getattr(imagined, n) * torch.nan for n in ("obs", "next_state")})
            other.add_auxiliary_batch(imagined)
    assert same(alone.sample_primary(9), other.sample_primary(9))


def test_the_seed_decides_what_is_drawn() -> None:
    first, again, other = buffer(seed=1), buffer(seed=1), buffer(seed=2)
    for b in (first, again, other):
        remember(b, 8)
    sample = first.sample_primary(32)
    assert same(sample, again.sample_primary(32)) and not same(sample, other.sample_primary(32))
    assert not same(again.sample_primary(32), again.sample_mixed(32))


@pytest.mark.parametrize("number", [3, 11])
@pytest.mark.parametrize("agents", [0, 3])
def test_a_saved_buffer_continues_bit_for_bit(number: int, agents: int) -> None:
    b, restored = buffer(num_auxiliary_agents=agents), buffer(num_auxiliary_agents=agents, seed=99)
    remember(b, number)
    if agents:
        b.add_auxiliary_batch(replace(experience(7), provenance=torch.tensor([1, 1, 1, 1, 1, 1, 2])))
    b.sample_primary(3)
    b.sample_mixed(3)
    file = io.BytesIO()
    torch.save(b.state_dict(), file)
    file.seek(0)
    remember(restored, 1, seed=5)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert restored.auxiliary_sizes == b.auxiliary_sizes
    for row in range(3):
        assert same(b.sample_primary(20), restored.sample_primary(20))
        assert same(b.sample_mixed(20), restored.sample_mixed(20))
        for either in (b, restored):
            remember(either, 2, seed=row, first=100 * row)  # overwrites the same places
            if agents:
                either.add_auxiliary(1, step(experience(1, seed=row)))


def test_a_saved_state_does_not_follow_the_buffer() -> None:
    b = buffer(capacity=2)
    remember(b, 2)
    state = b.state_dict()
    remember(b, 2, first=10)
    b.load_state_dict(state)
    assert labels(b.sample_primary(50)) == {0, 1}


def test_a_state_of_other_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="auxiliary_capacity 4, this one has 5"):
        buffer(auxiliary_capacity=5).load_state_dict(buffer().state_dict())


def test_files_hold_the_same_as_memory(tmp_path: Path) -> None:
    memory, files = buffer(), buffer(memory_map=True, folder=tmp_path)
    for b in (memory, files):
        remember(b, 11)
        b.add_auxiliary_batch(experience(6, provenance=1))
    assert {path.name for path in tmp_path.glob("*/*")} == {"primary", "auxiliary"}
    assert same(memory.sample_primary(40), files.sample_primary(40))
    assert same(memory.sample_mixed(40), files.sample_mixed(40))
    files.load_state_dict(memory.state_dict())
    assert same(memory.sample_primary(40), files.sample_primary(40))


def test_only_a_large_buffer_goes_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = buffer(folder=tmp_path)
    assert not list(tmp_path.iterdir()) and small.primary_size == 0
    monkeypatch.setattr("amal.replay.asymmetric.MAPPED_ABOVE", 1000)
    assert not list(tmp_path.iterdir()) and buffer(folder=tmp_path, memory_map=False).primary_size == 0
    large = buffer(folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1 and large.primary_size == 0


def test_files_go_when_the_buffer_is_forgotten(tmp_path: Path) -> None:
    forgotten = buffer(memory_map=True, folder=tmp_path, num_auxiliary_agents=0)
    assert len(list(tmp_path.iterdir())) == 1
    del forgotten
    gc.collect()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("full_at", [0, 1])
def test_a_full_disk_is_noticed_at_once_and_leaves_nothing(
    full_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[int] = []

    def allocate(file: int, offset: int, length: int) -> None:
        needed.append(length)
        if len(needed) > full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    # without really growing, the first file cannot be mapped: let it be as large as it should
    monkeypatch.setattr(np, "memmap", lambda path, record, mode, shape: np.zeros(shape, record))
    with pytest.raises(OSError, match=f"{tmp_path}: .* bytes needed, .* bytes free") as caught:
        buffer(memory_map=True, folder=tmp_path)
    assert caught.value.errno == errno.ENOSPC and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("below", [".", "deeper"])
def test_a_folder_that_cannot_be_written_is_named(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="file.*bytes needed, .* bytes free"):
        buffer(memory_map=True, folder=tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "not a folder"


def test_wrong_transitions_are_refused_by_name() -> None:
    b = buffer()
    good = step(experience(1))
    with pytest.raises(ValueError, match="missing in the transition: next_obs, state"):
        b.add_primary({name: value for name, value in good.items() if name not in ("next_obs", "state")})
    with pytest.raises(ValueError, match="missing in the transition: rewards"):
        b.add_primary({name: value for name, value in good.items() if name != "rewards"})
    with pytest.raises(ValueError, match="unknown in the transition: reward"):
        b.add_primary(good | {"reward": 1.0})
    with pytest.raises(ValueError, match=r"obs has shape \(3, 3\), expected \(2, 3\)"):
        b.add_auxiliary(0, good | {"obs": np.zeros((3, 3))})
    with pytest.raises(ValueError, match=r"rewards has shape \(3,\), expected \(2,\)"):
        b.add_primary(good | {"rewards": np.zeros(3)})
    with pytest.raises(ValueError, match=r"state has shape \(2, 3, 1\), expected \(2, 3, 4\)"):
        b.add_primary_episodes(replace(episodes([3, 2], [True, True]), state=torch.zeros(2, 4, 1)))
    with pytest.raises(ValueError, match=r"done has shape \(1,\), expected \(2,\)"):
        b.add_auxiliary_batch(replace(experience(2, provenance=0), done=torch.zeros(1, dtype=torch.bool)))
    for agent_id in (-1, 3):
        with pytest.raises(ValueError, match=f"no auxiliary agent {agent_id}: there are 3"):
            b.add_auxiliary(agent_id, good)
    assert b.primary_size == 0 and b.auxiliary_sizes == [0, 0, 0]


def test_senseless_sizes_and_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="capacity must be at least 1, got 0"):
        buffer(capacity=0)
    with pytest.raises(ValueError, match="num_auxiliary_agents must be at least 0, got -1"):
        buffer(num_auxiliary_agents=-1)
    b = buffer()
    for draw in (b.sample_primary, b.sample_mixed):
        with pytest.raises(ValueError, match="no real experience"):
            draw(4)
    remember(b, 1)
    for draw in (b.sample_primary, b.sample_mixed):
        with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
            draw(0)
    for ratio in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"aux_ratio must be in \[0, 1\]"):
            b.sample_mixed(4, ratio)


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    capacity=st.integers(4, 20),
    length=st.integers(1, 5),
    newest=st.none() | st.integers(1, 30),
)
def test_a_stretch_is_of_one_episode_and_in_order(
    lengths: list[int], capacity: int, length: int, newest: int | None
) -> None:
    b = buffer(capacity)
    batch = episodes(lengths, [True] * len(lengths))
    b.add_primary_episodes(batch)
    stretches = b.sample_sequences(50, length, newest)
    steps = [(e, t) for e, n in enumerate(lengths) for t in range(n)]
    kept = steps[-capacity:]
    allowed = kept if newest is None else kept[-newest:]
    rows = {tuple(batch.state[e, t].tolist()): (e, t) for e, t in steps}
    for m in range(50):
        e, t = rows[tuple(stretches.last.state[m].tolist())]
        assert (e, t) in allowed
        assert torch.equal(stretches.states[m, -1], batch.state[e, t + 1])
        for back in range(length):
            real = t >= back and (e, t - back) in kept
            assert stretches.happened[m, length - 1 - back] == real
            if real:
                assert torch.equal(stretches.states[m, length - 1 - back], batch.state[e, t - back])
                assert torch.equal(stretches.actions[m, length - 1 - back], batch.actions[e, t - back])


def test_single_stretches_are_what_sample_primary_draws() -> None:
    """So that flat world models learn from the same transitions as by the first design."""
    one, other, batch = buffer(8), buffer(8), episodes([3, 6, 4], [True, True, True])
    for b in (one, other):
        b.add_primary_episodes(batch)
    assert same(one.sample_primary(40), other.sample_sequences(40, 1).last)


def test_snapshots_come_with_their_steps_and_are_missed_where_there_are_none() -> None:
    batch = episodes([3, 4], [True, True])
    marks = torch.arange(2 * 5 * 2, dtype=torch.uint8).view(2, 5, 2)
    b = buffer(6, snapshot_size=2)
    b.add_primary_episodes(replace(batch, snapshots=marks))
    restored = buffer(6, snapshot_size=2)
    restored.load_state_dict(b.state_dict())
    for each in (b, restored):
        drawn = each.sample_sequences(30, 2)
        assert drawn.snapshots is not None
        for state, mark in zip(drawn.last.state, drawn.snapshots, strict=True):
            e, t = (batch.state[:, :4] == state).all(dim=-1).nonzero()[0].tolist()
            assert torch.equal(mark, marks[e, t])
    with pytest.raises(ValueError, match=r"data\.snapshots"):
        b.add_primary_episodes(batch)
