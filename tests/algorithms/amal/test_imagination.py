"""The team's own imagination: its episodes, what it changes and what it leaves alone."""

from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lightning import seed_everything
from torch import Generator, Tensor

from amal.algorithms.amal import AMAL, Auxiliaries, Imagination, LogitAuxiliaries, OffPolicyReplay, WorldModelLearning
from amal.algorithms.amal.imagination import imagine
from amal.algorithms.amal.imagined_battles import EntityBattles, Outcome, SimulatedBattles, Views
from amal.battle import VectorBattle
from amal.battle.battlefield import FIELD_SIZE
from amal.networks.entity_model import DEATH, EntityWorldModel
from amal.networks.unit_views import X
from amal.networks.world_model_ensemble import WorldModelEnsemble
from amal.networks.world_models import WorldModel
from amal.ops.returns import generalized_advantages
from amal.replay import AsymmetricReplayBuffer, RealSequences
from amal.rollout.collector import EpisodeRecorder
from amal.types import EpisodeBatch
from tests.algorithms.episodes import (
    N_ACTIONS,
    N_AGENTS,
    SIZES,
    SMALL_CRITIC,
    SMALL_MLP,
    parameters,
    random_batch,
    train,
)
from tests.rollout.actors import RandomActor

LENGTHS = (6, 4, 5, 3)
ENDS = torch.tensor([2, 9, 1])  # the step in which each scripted battle ends
OPTIONS: dict[str, tuple[Any, Any]] = {  # what it is here, and another value
    "rounds": (2, 1),
    "starts": (6, 7),
    "horizon": (3, 2),
    "newest": (12, 4),
    "warm_up": (20, 10),
    "n_epochs": (1, 2),
    "n_minibatch": (2, 3),
}


class Script:
    """Battles whose views tell the step, with a reward of 1, 2, …; each ends as ``ENDS`` says."""

    past = 0

    def reset(self, moments: RealSequences, generator: Generator, copies: int = 1) -> Views:
        self.steps = 0
        return self._views()

    def step(self, actions: Tensor, generator: Generator) -> Outcome:
        self.steps += 1
        return Outcome(self._views(), torch.full((3,), float(self.steps)), self.steps >= ENDS)

    def _views(self) -> Views:
        available = torch.ones(3, N_AGENTS, N_ACTIONS, dtype=torch.bool)
        available[..., 0] = False
        return Views(torch.full((3, N_AGENTS, 6), float(self.steps)), torch.full((3, 7), float(self.steps)), available)


def real(seed: int = 0) -> AsymmetricReplayBuffer:
    buffer = AsymmetricReplayBuffer(40, **SIZES, num_auxiliary_agents=0)
    buffer.add_primary_episodes(random_batch(seed, LENGTHS))
    return buffer


def built(changes: dict[str, Any], **options: Any) -> AMAL:
    seed_everything(0, verbose=False)
    parts: dict[str, Any] = {"information": None, "auxiliaries": None, "replay": None}
    parts["world_model"] = WorldModelLearning(partial(WorldModel, hidden_dims=(16, 16)), steps=2, batch_size=8)
    chosen = {name: value for name, (value, _) in OPTIONS.items()} | changes
    networks: dict[str, Any] = {"policy": SMALL_MLP, "critic": SMALL_CRITIC, "n_minibatch": 2, "lr": 1e-2}
    return AMAL(**{**SIZES, **networks, **parts, "imagination": Imagination(**chosen)} | options)


def batch_of(i: int) -> EpisodeBatch:
    return random_batch(i, LENGTHS)


def test_imagined_episodes_end_as_they_are_told_and_are_cut_at_the_horizon() -> None:
    generator = Generator().manual_seed(0)
    episodes = imagine(Script(), RandomActor(), real().sample_sequences(3, 1), 4, generator, 0.5)
    assert episodes.mask.tolist() == [[True, True, False, False], [True] * 4, [True, False, False, False]]
    assert episodes.terminated.nonzero().tolist() == [[0, 1], [2, 0]]
    assert episodes.truncated.nonzero().tolist() == [[1, 3]]
    assert episodes.rewards.tolist() == [[1, 2, 0, 0], [1, 2, 3, 4], [1, 0, 0, 0]]
    assert episodes.obs[1, :, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert episodes.progress == 0.5
    values = torch.full((3, 5, N_AGENTS), 10.0)
    steps = (episodes.rewards, values, episodes.terminated, episodes.mask)
    advantages = generalized_advantages(*steps, gamma=1.0, gae_lambda=0.0)
    assert advantages[:, :, 0].tolist() == [[1, -8, 0, 0], [1, 2, 3, 4], [-9, 0, 0, 0]], "only the cut one bootstraps"


class DoubtfulScript(Script):
    """Battle 1 is uncertain after two steps, battle 2 where it ends anyway."""

    def step(self, actions: Tensor, generator: Generator) -> Outcome:
        outcome = super().step(actions, generator)
        return outcome._replace(uncertain=torch.tensor([False, self.steps == 2, True]))


def test_a_doubted_battle_is_cut_and_bootstrapped_there() -> None:
    generator = Generator().manual_seed(0)
    episodes = imagine(DoubtfulScript(), RandomActor(), real().sample_sequences(3, 1), 4, generator, 0.0)
    assert episodes.mask.tolist() == [[True, True, False, False], [True, True, False, False], [True] + [False] * 3]
    assert episodes.truncated.nonzero().tolist() == [[1, 1]]
    assert episodes.terminated.nonzero().tolist() == [[0, 1], [2, 0]]


def lived(ensemble: WorldModelEnsemble, max_disagreement: float | None, moments: RealSequences) -> EpisodeBatch:
    return imagine(
        EntityBattles(ensemble, max_disagreement), RandomActor(), moments, 3, Generator().manual_seed(0), 0.0
    )


def test_members_that_disagree_raise_doubt() -> None:
    moments, ensemble = real_moments(32)
    none, some, impossible = (
        int(lived(ensemble, max_disagreement, moments).truncated[:, :-1].sum()) for max_disagreement in (None, 0.5, 1e6)
    )
    assert none == 0 and some > 0 and impossible == 0


def test_each_battle_goes_on_in_a_member_of_its_own_whether_or_not_the_others_follow() -> None:
    moments, ensemble = real_moments(5)
    with torch.no_grad():
        for shift, member in enumerate(ensemble.members):
            member.head.bias[1], member.head.bias[DEATH] = 1.0 + shift, -9.0  # member 1 moves twice as far
    alone, followed = (lived(ensemble, max_disagreement, moments) for max_disagreement in (None, 1e6))
    torch.testing.assert_close(alone.obs, followed.obs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone.rewards, followed.rewards, rtol=1e-5, atol=1e-5)
    x = ensemble.members[0].views.units(alone.state)[..., :N_AGENTS, X] * FIELD_SIZE
    moved = (x[:, 1] - x[:, 0]).amax(dim=-1)  # the dead stay at 0
    assert moved.round().tolist() == [1.0, 2.0, 1.0, 2.0, 1.0]
    twice = EntityBattles(ensemble)
    twice.reset(moments[torch.arange(5).repeat(2)], Generator().manual_seed(0), copies=2)
    assert [rows.tolist() for rows in twice.own] == [[0, 2, 4, 5, 7, 9], [1, 3, 6, 8]], "copies in one member"
    every = EntityBattles(ensemble, 1e6)
    every.reset(moments, Generator().manual_seed(0))
    assert torch.equal(twice.units, every.units.repeat(2, 1, 1, 1)), "all copies begin as their moments"
    for memory, rows, whole in zip(twice.memories, twice.own, every.memories, strict=True):
        torch.testing.assert_close(memory, whole[rows % 5])
    one = lived(ensemble, None, moments[torch.tensor([1])])  # fewer battles than members
    torch.testing.assert_close(one.state[0, 0], alone.state[1, 0])


def real_moments(number: int) -> tuple[RealSequences, WorldModelEnsemble]:
    """Of random battles, and two members that have not learned."""
    battle = VectorBattle("3m", 4, seed=0, auto_reset=False)
    batch = EpisodeRecorder(battle, 8).play(RandomActor(), 8, Generator().manual_seed(0))
    sizes = {name: getattr(battle.spec, name) for name in SIZES}
    buffer = AsymmetricReplayBuffer(1000, **sizes, num_auxiliary_agents=0)
    buffer.add_primary_episodes(batch)
    torch.manual_seed(0)
    ensemble = WorldModelLearning(EntityWorldModel, ensemble_size=2).build(**sizes, scenario=battle.scenario)
    return buffer.sample_sequences(number, ensemble.past + 1), ensemble


def test_the_simulator_goes_on_from_real_moments() -> None:
    """Rewards and views are those of the simulator itself, from where the real battle stood."""
    battle = VectorBattle("3m", 4, seed=0, auto_reset=False)
    batch = EpisodeRecorder(battle, 8, snapshots=True).play(RandomActor(), 8, Generator().manual_seed(0))
    sizes = {name: getattr(battle.spec, name) for name in SIZES}
    buffer = AsymmetricReplayBuffer(1000, **sizes, num_auxiliary_agents=0, snapshot_size=batch.snapshots.shape[-1])
    buffer.add_primary_episodes(batch)
    moments = buffer.sample_sequences(16, 1)
    episodes = imagine(SimulatedBattles(battle.scenario), RandomActor(), moments, 6, Generator().manual_seed(1), 0)
    for name in ("obs", "state", "available_actions"):
        assert torch.equal(getattr(episodes, name)[:, 0], getattr(moments.last, name))

    replayed = VectorBattle("3m", 16, seed=5, auto_reset=False)
    chances = torch.randint(1, 2**62, (16,), generator=Generator().manual_seed(1)).numpy().astype(np.uint64)
    replayed.go_on_from(moments.snapshots.numpy(), chances, {"available_actions": moments.last.available_actions})
    for t in range(6):
        replayed.step(episodes.actions[:, t].numpy())
        running = episodes.mask[:, t].numpy()
        assert np.allclose(episodes.rewards[:, t].numpy()[running], replayed.rewards[running])
        assert np.array_equal(episodes.terminated[:, t].numpy()[running], replayed.terminated[running])


def test_processes_begin_in_the_same_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one with fewer real steps decides, else only some of them would wait for each other's gradients."""
    buffer, part = real(), Imagination(warm_up=15)
    assert buffer.primary_size == sum(LENGTHS) == 18 and part.is_due(buffer)
    monkeypatch.setattr("amal.algorithms.amal.imagination.gathered", lambda size: [size, 14])
    assert not part.is_due(buffer)


def test_imagination_needs_snapshots_for_the_simulator() -> None:
    battles = SimulatedBattles(VectorBattle("3m", 1).scenario)
    with pytest.raises(ValueError, match=r"data\.snapshots"):
        battles.reset(real().sample_sequences(3, 1), Generator())


def test_every_option_is_tried() -> None:
    assert set(OPTIONS) == {field.name for field in fields(Imagination)} - {
        "perfect",
        "auxiliaries",
        "max_disagreement",
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_has_an_effect(name: str) -> None:
    one, other = built({}), built({name: OPTIONS[name][1]})
    for module in (one, other):
        train(module, batch_of, n_batches=2)
    assert any(not torch.equal(a, b) for a, b in zip(parameters(one).values(), parameters(other).values(), strict=True))


def test_it_moves_policy_and_critic_but_neither_the_world_model_nor_running_statistics() -> None:
    with_it, without = built({"warm_up": 0}), built({"warm_up": 10**6})
    for module in (with_it, without):
        train(module, batch_of, n_batches=1)
    ours, theirs = parameters(with_it), parameters(without)
    moved = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert any(name.startswith("policy.") for name in moved) and any(name.startswith("critic.") for name in moved)
    assert not any(name.startswith("world_model.") for name in moved)
    for name, buffer in with_it.value_normalizer.named_buffers():
        assert torch.equal(buffer, dict(without.value_normalizer.named_buffers())[name])


def test_the_policys_gradient_steps_are_those_on_real_and_on_imagined_episodes() -> None:
    module = built({"warm_up": 0})
    metrics = train(module, batch_of, n_batches=1).callback_metrics
    rounds, epochs, minibatches = (OPTIONS[name][0] for name in ("rounds", "n_epochs", "n_minibatch"))
    assert metrics["train/imagination_policy_steps"] == rounds * epochs * minibatches
    assert metrics["train/policy_steps"] == module.n_epochs * module.n_minibatch + rounds * epochs * minibatches


def test_world_models_learn_the_same_whatever_is_imagined() -> None:
    """Isolation, over several updates on the same real episodes."""
    one, other = built({"rounds": 1, "horizon": 1}), built({"rounds": 3, "starts": 9, "warm_up": 0})
    for module in (one, other):
        train(module, batch_of, n_batches=3)
    assert one.world_model is not None and other.world_model is not None
    for ours, theirs in zip(one.world_model.parameters(), other.world_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_averaging_changes_what_is_imagined_but_not_what_is_learned() -> None:
    learning = WorldModelLearning(partial(WorldModel, hidden_dims=(16, 16)), steps=4, batch_size=8, learning_rate=0.1)
    with_it, without = (built({"warm_up": 0}, world_model=replace(learning, averaging=x)) for x in (0.9, 0.0))
    for module in (with_it, without):
        train(module, batch_of, n_batches=1)
    ours, theirs = parameters(with_it), parameters(without)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if name.startswith("world_model."))
    assert any(not torch.equal(ours[name], theirs[name]) for name in theirs if name.startswith("policy."))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world_model": None}, "imagination must be null without a world_model"),
        ({"imagination": Imagination(perfect=True)}, "imagination.perfect must be false"),
        ({"imagination": Imagination(max_disagreement=2.0)}, "imagination.max_disagreement needs .*EntityWorldModel"),
        (
            {
                "imagination": Imagination(auxiliaries=LogitAuxiliaries()),
                "auxiliaries": Auxiliaries(),
                "replay": OffPolicyReplay(),
            },
            "auxiliaries must be null with imagination.auxiliaries",
        ),
    ],
)
def test_combinations_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built({}, **options)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            Imagination(max_disagreement=2.0, perfect=True),
            "imagination.max_disagreement must be null with imagination.perfect",
        ),
        (
            Imagination(max_disagreement=2.0),
            "imagination.max_disagreement needs a world_model.ensemble_size of 2 at least, got 1",
        ),
    ],
)
def test_doubt_where_nobody_disagrees_is_refused(part: Imagination, message: str) -> None:
    scenario = VectorBattle("3m", 1).scenario
    spec, parts = scenario.spec(), {"information": None, "auxiliaries": None, "replay": None}
    sizes = {name: getattr(spec, name) for name in SIZES}
    with pytest.raises(ValueError, match=message):
        AMAL(**sizes, **parts, scenario=scenario, world_model=WorldModelLearning(EntityWorldModel), imagination=part)
