"""The entity-wise world model: symmetric, learning, remembering."""

import math
from functools import cache

import pytest
import torch

from amal.battle import VectorBattle
from amal.battle.battlefield import FIELD_SIZE
from amal.networks.entity_model import (
    CHANGES,
    DEATH,
    MOTION,
    OUTPUTS,
    UNCHANGED,
    EntityWorldModel,
    entity_errors,
    outcome_kl,
)
from amal.networks.unit_views import HP, SHIELD, X
from amal.networks.world_model_ensemble import WorldModelEnsemble
from amal.networks.world_models import combined
from amal.ops.information import UnitDisagreement
from amal.replay import AsymmetricReplayBuffer, RealExperience, RealSequences
from amal.rollout.collector import EpisodeRecorder
from amal.types import EpisodeBatch
from tests.rollout.actors import RandomActor

SIZES = ("n_agents", "n_actions", "obs_dim", "state_dim")


@cache
def played(scenario: str, episodes: int = 64) -> EpisodeBatch:
    battle = VectorBattle(scenario, 8, seed=1, auto_reset=False, random_delay=True)
    return EpisodeRecorder(battle, episodes).play(RandomActor(), episodes, torch.Generator().manual_seed(0))


def remembered(batch: EpisodeBatch) -> AsymmetricReplayBuffer:
    sizes = {"n_agents": batch.actions.shape[2], "n_actions": batch.available_actions.shape[-1]}
    sizes |= {"obs_dim": batch.obs.shape[-1], "state_dim": batch.state.shape[-1], "num_auxiliary_agents": 0}
    buffer = AsymmetricReplayBuffer(int(batch.mask.sum()), **sizes)
    buffer.add_primary_episodes(batch)
    return buffer


def model(scenario: str, seed: int = 0, **options: int) -> EntityWorldModel:
    fought = VectorBattle(scenario, 1).scenario
    torch.manual_seed(seed)
    return EntityWorldModel(*(getattr(fought.spec(), name) for name in SIZES), fought, **options)


def learn(world_model: EntityWorldModel, buffer: AsymmetricReplayBuffer, steps: int) -> None:
    optimizer = torch.optim.Adam(world_model.parameters(), lr=2e-3)
    for _ in range(steps):
        real = buffer.sample_sequences(32, world_model.past + 1)
        world_model.learn_rest(real)
        optimizer.zero_grad()
        combined(world_model.losses(real)).backward()
        optimizer.step()


def test_permuting_enemies_permutes_what_is_expected() -> None:
    world_model = model("3m")
    world_model.head.weight.data.normal_()
    sequences = remembered(played("3m")).sample_sequences(16, world_model.past + 1)
    units, memory = world_model.recall(sequences)
    moves = sequences.last.actions.clamp_max(5)  # nobody is aimed at
    order = torch.tensor([0, 1, 2, 5, 3, 4])
    output, following = world_model(units[:, 0], units[:, 1], moves, memory)
    permuted = world_model(units[:, 0, order], units[:, 1, order], moves, memory[:, order])
    torch.testing.assert_close(permuted[0], output[:, order])
    torch.testing.assert_close(permuted[1], following[:, order])


def test_the_dead_tell_nothing() -> None:
    world_model = model("3m")
    world_model.head.weight.data.normal_()
    units, memory = world_model.recall(remembered(played("3m")).sample_sequences(16, world_model.past + 1))
    actions = torch.ones(16, 3, dtype=torch.int64)
    now = units[:, 1].clone()
    now[:, 4] = 0.0
    one = world_model(units[:, 0], now, actions, memory)
    changed, noise = memory.clone(), torch.randn(16, memory.shape[-1])
    changed[:, 4] = noise
    other = world_model(units[:, 0], now, actions, changed)
    lives = now[..., HP] > 0
    torch.testing.assert_close(one[0][lives], other[0][lives])


def test_what_is_recalled_at_a_moment_is_what_was_followed_up_to_it() -> None:
    """The memory before a stretch's last step depends on its earlier steps, and on nothing that did not happen."""
    world_model = model("3m")
    sequences = remembered(played("3m")).sample_sequences(64, world_model.past + 1)
    assert not sequences.happened.all(), "some stretches should begin with their episodes"
    noise = torch.where(sequences.happened.unsqueeze(-1), 0.0, 1.0) * torch.rand(64, world_model.past + 1, 1)
    states = sequences.states.clone()
    states[:, :-1] += noise
    noisy = RealSequences(sequences.last, states, sequences.actions, sequences.happened)
    for clean, dirty in zip(world_model.recall(sequences), world_model.recall(noisy), strict=True):
        torch.testing.assert_close(clean, dirty)
    _, outputs = world_model.outputs(sequences)
    units, memory = world_model.recall(sequences)
    output, _ = world_model(units[:, 0], units[:, 1], sequences.last.actions, memory)
    torch.testing.assert_close(output, outputs[:, -1])


def test_it_learns_to_expect_more_than_that_nothing_changes() -> None:
    batch = played("3m")
    world_model = model("3m")
    learn(world_model, remembered(batch[:56]), 150)
    judged = batch[56:]
    errors = entity_errors(world_model, judged.state, judged.actions, judged.mask, [1, 5])
    assert errors["position_error_1"] < 0.4
    assert errors["health_error_1"] < 0.8
    assert errors["position_error_5"] < 0.4


def test_rewards_are_found_by_least_squares() -> None:
    batch = played("2s3z")
    world_model, buffer = model("2s3z"), remembered(batch)
    for _ in range(10):
        world_model.learn_rest(buffer.sample_sequences(64, world_model.past + 1))
    real = buffer.sample_sequences(256, 1)
    units = world_model.views.units(real.states)
    expected = world_model.reward_features(units[:, 0], units[:, 1]) @ world_model.reward_weights
    # what shields regain between two shots is not seen
    assert (expected - real.last.rewards[:, 0]).square().mean() < 0.05 * real.last.rewards[:, 0].square().mean()


def test_a_unit_dies_by_chance_and_stays_dead() -> None:
    world_model = model("3m")
    world_model.head.bias.data[DEATH] = 0.0  # half of them
    units, memory = world_model.recall(remembered(played("3m")).sample_sequences(400, world_model.past + 1))
    before, now = units.unbind(dim=1)
    actions = torch.ones(400, 3, dtype=torch.int64)
    after, _, memory = world_model.step(before, now, actions, memory, torch.Generator().manual_seed(0))
    lived, lives = now[..., HP] > 0, after[..., HP] > 0
    assert 0.4 < lives.sum() / lived.sum() < 0.6
    later, _, _ = world_model.step(now, after, actions, memory, torch.Generator().manual_seed(1))
    assert not ((later[..., HP] > 0) & ~lives).any()
    assert (later[later[..., HP] == 0] == 0).all()


def certain(world_model: EntityWorldModel, hp: dict[int, float]) -> None:
    """Has the model expect, of every unit, these log-chances of changes of hp, no other change, and no death."""
    world_model.head.weight.data.zero_()
    bias = world_model.head.bias.data.fill_(-40.0)
    bias[:MOTION] = 0.0
    for change, log_chance in hp.items():
        bias[DEATH + 1 + change] = log_chance
    bias[DEATH + 1 + len(CHANGES) + UNCHANGED] = 0.0


def test_damage_is_drawn_whole_and_in_the_mean_is_what_is_expected() -> None:
    world_model = model("3m")
    hit, spared = CHANGES.index(-0.3), UNCHANGED
    certain(world_model, {hit: math.log(0.25), spared: math.log(0.75)})
    units, memory = world_model.recall(remembered(played("3m")).sample_sequences(400, world_model.past + 1))
    now = units[:, 1]
    now[..., HP] = torch.where(now[..., HP] > 0, 0.9, 0.0)
    output, _ = world_model(units[:, 0], now, torch.ones(400, 3, dtype=torch.int64), memory)
    lives = now[..., HP] > 0
    drawn = world_model.outcome(now, output, torch.Generator().manual_seed(0))[..., HP][lives]
    assert set(drawn.mul(10).round().int().tolist()) == {6, 9}
    assert drawn.mean() == pytest.approx(0.9 - 0.25 * 0.3, abs=0.01)
    torch.testing.assert_close(world_model.outcome(now, output, None)[..., HP][lives], torch.full_like(drawn, 0.825))


def test_what_members_can_disagree_about() -> None:
    world_model = model("3m")
    certain(world_model, {CHANGES.index(-0.3): math.log(0.25), UNCHANGED: math.log(0.75)})
    world_model.head.bias.data[: DEATH + 1] = torch.tensor([0.5, 1.0, -2.0, math.log(3.0)])
    units, memory = world_model.recall(remembered(played("3m")).sample_sequences(4, world_model.past + 1))
    output, _ = world_model(units[:, 0], units[:, 1], torch.ones(4, 3, dtype=torch.int64), memory)
    expected = torch.tensor([-0.25 * 0.3 * 5.0, 0.0, 0.5, 1.0, -2.0, 0.75]).expand(4, 6, 6)
    torch.testing.assert_close(world_model.expected(output), expected)


def test_a_shot_that_reaches_the_health_has_taken_the_shield() -> None:
    world_model = model("2s3z")
    hit = CHANGES.index(-0.3)
    certain(world_model, {hit: math.log(0.3), UNCHANGED: math.log(0.7)})
    shields = world_model.head.bias.data[DEATH + 1 + len(CHANGES) :]
    shields[hit], shields[UNCHANGED] = math.log(0.6), math.log(0.4)
    units, memory = world_model.recall(remembered(played("2s3z")).sample_sequences(400, world_model.past + 1))
    now = torch.full_like(units[:, 1], 0.9)
    output, _ = world_model(units[:, 0], now, torch.ones(400, 5, dtype=torch.int64), memory)
    drawn = world_model.outcome(now, output, torch.Generator().manual_seed(0))
    hurt, shaken = drawn[..., HP] < 0.8, drawn[..., SHIELD] < 0.8
    assert hurt.float().mean() == pytest.approx(0.3, abs=0.03) and shaken.float().mean() == pytest.approx(0.6, abs=0.03)
    assert not (hurt & ~shaken).any()


def test_it_learns_who_can_be_hurt_and_how_much() -> None:
    """Of survivors it draws as much damage as there is, and to units that no enemy reaches next to none."""
    batch = played("3m")
    world_model = model("3m")
    learn(world_model, remembered(batch), 150)
    sequences = remembered(batch).sample_sequences(4096, world_model.past + 1)
    units, outputs = world_model.outputs(sequences)
    now, after = units[:, -2], units[:, -1]
    drawn = world_model.outcome(now, outputs[:, -1], torch.Generator().manual_seed(0))
    survivors = (now[..., HP] > 0) & (after[..., HP] > 0) & (drawn[..., HP] > 0)
    near = (now[:, :3, None, X] - now[:, None, 3:, X]).abs().amin(dim=2) * FIELD_SIZE < 6.0
    reached, alone = (near & survivors[:, :3], ~near & survivors[:, :3])
    ours, real = ((now - later)[:, :3, HP] for later in (drawn, after))
    assert ours[reached].mean() == pytest.approx(real[reached].mean().item(), rel=0.15)
    assert ours[alone].mean() < 0.2 * ours[reached].mean()


def test_the_divergence_of_what_two_models_expect_of_a_unit() -> None:
    ours, theirs = torch.randn(2, 5, 3, OUTPUTS, generator=torch.Generator().manual_seed(1)).unbind()
    p, q = (
        {
            "death": torch.distributions.Bernoulli(logits=outputs[..., DEATH]),
            "motion": torch.distributions.Normal(outputs[..., :MOTION], 1.0),
            "changes": torch.distributions.Categorical(logits=outputs[..., DEATH + 1 :].unflatten(-1, (2, -1))),
        }
        for outputs in (ours, theirs)
    )
    death, motion, changes = (torch.distributions.kl_divergence(p[part], q[part]) for part in p)
    expected = death + (1 - p["death"].probs) * (motion.sum(dim=-1) + changes.sum(dim=-1))
    torch.testing.assert_close(outcome_kl(ours, theirs), expected)
    assert torch.equal(outcome_kl(ours, ours), torch.zeros(5, 3))


def test_other_back_ends_are_refused() -> None:
    with pytest.raises(ValueError, match="flat WorldModel"):
        EntityWorldModel(3, 9, 30, 40, None)


def test_an_ensemble_disagrees_about_units_unless_its_members_are_alike() -> None:
    batch = played("3m")
    scenario = VectorBattle("3m", 1).scenario
    torch.manual_seed(0)
    ensemble = WorldModelEnsemble(EntityWorldModel, 2, *(getattr(scenario.spec(), name) for name in SIZES), scenario)
    for member in ensemble.members:
        member.head.weight.data.normal_()
    steps = RealExperience.of_episodes(batch)
    apart = UnitDisagreement().per_transition(ensemble, None, steps)
    units = ensemble.members[0].views.units(steps.state)
    memory = ensemble.members[0].initial_memory(len(units))
    one, other = (member.expected(member(units, units, steps.actions, memory)[0]) for member in ensemble.members)
    squared = ((one - other) / 2).square().sum(dim=-1)
    lives = units[..., HP] > 0
    torch.testing.assert_close(apart, (squared * lives).sum(dim=-1) / lives.sum(dim=-1), rtol=1e-4, atol=1e-5)

    ensemble.members[1].load_state_dict(ensemble.members[0].state_dict())
    assert (UnitDisagreement().per_transition(ensemble, None, steps) == 0).all()
