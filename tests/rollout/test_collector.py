"""Episodes as they are played and recorded."""

import copy
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from amal.battle import VectorBattle
from amal.battle.scenario import load_scenario
from amal.rollout.collector import EpisodeRecorder, record_battle


class Stopper:
    """Does as little as it may: every agent takes its first available action (no-op if dead, else stop)."""

    device = torch.device("cpu")

    def initial_hidden(self, num_battles: int) -> Tensor:
        return torch.zeros(num_battles, 2, 1)

    def act(
        self, obs: Tensor, available_actions: Tensor, hidden: Tensor, generator: torch.Generator | None, progress: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        actions = available_actions.to(torch.int64).argmax(dim=-1)
        return actions, torch.zeros(actions.shape), hidden + 1


class Wanderer(Stopper):
    """Acts at random, and remembers how long it has been acting."""

    def __init__(self) -> None:
        self.memories: list[Tensor] = []

    def act(
        self, obs: Tensor, available_actions: Tensor, hidden: Tensor, generator: torch.Generator | None, progress: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        self.memories.append(hidden[:, 0, 0].clone())
        weights = available_actions.flatten(0, 1).to(torch.float32)
        actions = torch.multinomial(weights, 1, generator=generator).view(available_actions.shape[:2])
        return actions, torch.full(actions.shape, -0.5), hidden + 1


def battle(num_battles: int, scenario: str = "2m_vs_1z", **options: int) -> VectorBattle:
    return VectorBattle(scenario, num_battles, auto_reset=False, **options)


def test_every_episode_is_whole_and_ends_once() -> None:
    batch = EpisodeRecorder(battle(4), 11).play(Wanderer(), 11, torch.Generator().manual_seed(0))
    lengths = batch.lengths
    assert batch.obs.shape[:2] == (11, int(lengths.max()) + 1)
    for episode in range(11):
        n = int(lengths[episode])
        ends = batch.terminated[episode] | batch.truncated[episode]
        assert batch.mask[episode, :n].all() and not batch.mask[episode, n:].any()
        assert ends[n - 1] and not ends[: n - 1].any()


def test_a_batch_holds_what_the_battles_said_step_by_step() -> None:
    seen: list[tuple[np.ndarray, ...]] = []

    def watch(b: VectorBattle) -> None:
        seen.append((b.obs[0].copy(), b.state[0].copy(), b.available_actions[0].copy(), b.rewards[0], b.units[0]))

    batch = EpisodeRecorder(battle(1), 1).play(Wanderer(), 1, torch.Generator().manual_seed(3), watch=watch)
    obs, state, available, rewards, units = (np.stack(column) for column in zip(*seen, strict=True))
    assert np.array_equal(batch.obs[0].numpy(), obs)  # the slot after the last step is the battle's end
    assert np.array_equal(batch.state[0].numpy(), state)
    assert np.array_equal(batch.available_actions[0].numpy(), available)
    assert np.allclose(batch.rewards[0].numpy(), rewards[1:])
    n = int(batch.lengths[0])
    assert np.array_equal(batch.alive[0].numpy(), units[:n, :2, 6] > 0)


def test_recording_is_the_same_whatever_was_recorded_before() -> None:
    used, fresh = (EpisodeRecorder(battle(2, seed=5), 6) for _ in range(2))
    used.play(Wanderer(), 6, torch.Generator().manual_seed(1))
    used.battle = battle(2, seed=5)
    first, second = (r.play(Wanderer(), 3, torch.Generator().manual_seed(2)) for r in (used, fresh))
    for name in ("mask", "obs", "state", "available_actions", "actions", "rewards"):
        assert torch.equal(getattr(first, name), getattr(second, name))  # padding included


def test_a_batch_that_is_kept_stays_as_it_is() -> None:
    recorder = EpisodeRecorder(battle(2), 4)
    kept = recorder.play(Wanderer(), 4, torch.Generator().manual_seed(1))
    copied = copy.deepcopy(kept)
    recorder.play(Wanderer(), 4, torch.Generator().manual_seed(2))
    for field in fields(kept):
        before, after = getattr(copied, field.name), getattr(kept, field.name)
        assert torch.equal(before, after) if isinstance(after, Tensor) else before == after, field.name


def test_an_actor_without_log_probabilities_is_recorded_with_zeros() -> None:
    class Valued(Wanderer):
        def act(self, *arguments: Any) -> Any:
            actions, _, hidden = super().act(*arguments)
            return actions, None, hidden

    recorder = EpisodeRecorder(battle(2), 4)
    assert recorder.play(Wanderer(), 4, torch.Generator().manual_seed(1)).log_probs.any()
    assert not recorder.play(Valued(), 4, torch.Generator().manual_seed(1)).log_probs.any()


def test_the_actor_is_told_how_far_training_is() -> None:
    told = []

    class Told(Stopper):
        def act(self, *arguments: Any) -> Any:
            told.append(arguments[-1])
            return super().act(*arguments)

    batch = EpisodeRecorder(battle(1, episode_limit=2), 1).play(Told(), 1, progress=0.25)
    assert told == [0.25, 0.25] and batch.progress == 0.25


def test_no_episode_is_left_out_for_being_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Battles of different lengths on few slots: those that are started are those that are kept, and no others."""
    started = []
    reset = VectorBattle.reset

    def counting(self: VectorBattle, battles: np.ndarray | None = None) -> None:
        started.append(self.num_battles if battles is None else int(battles.sum()))
        reset(self, battles=battles)

    monkeypatch.setattr(VectorBattle, "reset", counting)
    fought = battle(3)
    started.clear()
    batch = EpisodeRecorder(fought, 30).play(Wanderer(), 30, torch.Generator().manual_seed(0))
    assert len(batch.lengths) == sum(started) == 30 and len(batch.lengths.unique()) > 1
    assert (batch.terminated | batch.truncated).any(dim=1).all()


def test_memory_starts_anew_with_each_episode() -> None:
    actor = Wanderer()
    batch = EpisodeRecorder(battle(1), 4).play(actor, 4, torch.Generator().manual_seed(0))
    memories = torch.stack(actor.memories)[:, 0]
    expected = torch.cat([torch.arange(int(n)) for n in batch.lengths]).float()
    assert torch.equal(memories, expected)


def test_truncation_is_not_termination() -> None:
    batch = EpisodeRecorder(battle(2, episode_limit=3), 4).play(Stopper(), 4)
    assert batch.lengths.tolist() == [3, 3, 3, 3]
    assert batch.truncated[:, 2].all() and not batch.terminated.any() and not batch.won.any()


def test_a_batch_counts_the_dead_of_each_side_as_the_battles_do() -> None:
    dead: dict[str, list[int]] = {"ally": [], "enemy": []}

    def watch(b: VectorBattle) -> None:
        if (b.terminated | b.truncated).any():
            for side, counts in dead.items():
                counts.append(int(b.dead(side)[0]))

    batch = EpisodeRecorder(battle(1, "5m_vs_6m"), 3).play(Wanderer(), 3, torch.Generator().manual_seed(0), watch=watch)
    assert batch.dead_allies.tolist() == dead["ally"] and batch.dead_enemies.tolist() == dead["enemy"]
    assert dead["ally"] != dead["enemy"], "this test must tell the sides apart"


@pytest.mark.parametrize("episodes", [0, 4, 1.5])
def test_episodes_that_a_recorder_has_no_room_for_are_refused(episodes: float) -> None:
    with pytest.raises(ValueError, match="episodes must be "):
        EpisodeRecorder(battle(1), 3).play(Stopper(), episodes)  # type: ignore[arg-type]


def test_battles_that_reset_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="auto_reset=False"):
        EpisodeRecorder(VectorBattle("3m", 1), 1)


def test_a_recorded_battle_starts_at_the_placement_and_ends_with_a_dead_side() -> None:
    _, units = record_battle(Stopper(), load_scenario("2m_vs_1z"), seed=0)
    assert units.shape[1:] == (3, 9)
    assert (units[0, :, 6] == 1).all()
    assert (units[-1, :2, 6] == 0).all()  # marines that stand still lose
