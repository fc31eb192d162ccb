"""Driven enemies: they see and do what the allies would in their place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from amal.battle import UnavailableAction, VectorBattle
from amal.battle.battlefield import FIELD_SIZE, Scenario, place
from amal.battle.scenario import load_scenario
from tests.conftest import SMAC

HP, ENERGY, ALIVE = 2, 4, 6
VIEWS = ("obs", "state", "available_actions")
EQUAL = [
    name
    for name in SMAC
    if sorted(unit.name for unit in load_scenario(name).of_side("ally"))
    == sorted(unit.name for unit in load_scenario(name).of_side("enemy"))
]


def driven(scenario: str | Scenario, num_battles: int = 2, **options: bool) -> VectorBattle:
    return VectorBattle(scenario, num_battles, **{"auto_reset": False, "with_opponent": True, **options})


def counterparts(battle: VectorBattle) -> np.ndarray:
    """[U]: for each unit the one of the other side that takes its place when they exchange sides."""
    types = np.array([unit.name for unit in battle.scenario.units])
    other = np.zeros(len(types), int)
    for name in set(types):
        allies = [i for i in battle.scene.allies if types[i] == name]
        enemies = [i for i in battle.scene.enemies if types[i] == name]
        other[allies], other[enemies] = enemies, allies
    return other


def exchanged(battle: VectorBattle, starts: np.ndarray) -> VectorBattle:
    """Battles in which every unit stands where its counterpart does, on the field turned by half a turn."""
    twin = driven(battle.scenario.name, battle.num_battles, shuffle_units=battle.shuffle_units)
    twin.reset(positions=FIELD_SIZE - starts[:, counterparts(battle)])
    return twin


def charge(available: np.ndarray) -> np.ndarray:
    """[E, N]: the first target in reach, else east, else stop, or nothing for the dead."""
    target = 6 + available[..., 6:].argmax(axis=-1)
    walk = np.where(available[..., 4], 4, available.argmax(axis=-1))
    return np.where(available[..., 6:].any(axis=-1), target, walk)


def test_the_scenarios_of_equal_teams_are_the_ones_that_are_documented() -> None:
    assert EQUAL == ["3m", "8m", "25m", "MMM", "2s3z", "3s5z", "1c3s5z", "bane_vs_bane"]


@pytest.mark.parametrize("scenario", EQUAL)
def test_an_enemy_sees_what_its_counterpart_sees_when_sides_are_exchanged(scenario: str) -> None:
    battle = driven(scenario, 8)
    starts = np.random.default_rng(1).uniform(8.5, 23.5, (*battle.units.shape[:2], 2))
    battle.reset(positions=starts)
    twin = exchanged(battle, starts)
    assert (battle.obs != twin.obs).any(), "positions at random were meant to differ"
    for name in VIEWS:
        np.testing.assert_array_equal(getattr(battle, f"opponent_{name}"), getattr(twin, name), name)
        np.testing.assert_array_equal(getattr(battle, name), getattr(twin, f"opponent_{name}"), name)


@pytest.mark.parametrize("scenario", EQUAL)
def test_at_the_start_an_enemy_sees_the_world_as_in_an_allys_training(scenario: str) -> None:
    battle = driven(scenario, 1)
    battle.reset(positions=place(battle.scenario)[None])
    for name in VIEWS:
        ours, theirs = (getattr(battle, prefix + name).astype(np.float64) for prefix in ("", "opponent_"))
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("scenario", ["3m", "MMM", "1c3s5z"])
def test_orders_to_move_have_the_same_effect_on_either_side(scenario: str) -> None:
    battle, other = driven(scenario, 4), counterparts(driven(scenario))
    rng = np.random.default_rng(0)
    # apart: where many push each other, it matters who has the lower id
    grid = np.stack(np.meshgrid(np.arange(4.0, 30, 4), np.arange(10.0, 24, 4)), axis=-1).reshape(-1, 2)
    starts = np.stack([rng.permutation(grid)[: len(other)] for _ in range(4)]) + rng.uniform(-0.1, 0.1)
    battle.reset(positions=starts)
    twin = exchanged(battle, starts)
    for _ in range(3):
        ours, theirs = (
            (rng.random(view[..., :6].shape) * view[..., :6]).argmax(axis=-1)
            for view in (battle.available_actions, battle.opponent_available_actions)
        )
        battle.step(ours, theirs)
        twin.step(theirs, ours)
        turned = battle.units[:, other]
        np.testing.assert_allclose(FIELD_SIZE - turned[..., :2], twin.units[..., :2], atol=1e-9)
        np.testing.assert_allclose(battle.opponent_obs, twin.obs, atol=1e-6)
        np.testing.assert_allclose(battle.opponent_state, twin.state, atol=1e-6)  # the last actions are in it


def test_driven_enemies_hit_as_hard_as_the_allies() -> None:
    battle = driven("3m", 1)
    starts = battle.units[..., :2].copy()
    starts[0, :3], starts[0, 3:] = [(14, 14), (14, 16), (14, 18)], [(18, 18), (18, 16), (18, 14)]
    battle.reset(positions=starts)
    battle.step(np.full((1, 3), 7), np.full((1, 3), 6))  # all at the middle one, all at the first
    assert battle.units[0, :, HP].tolist() == [27, 45, 45, 45, 27, 45]
    battle.step(np.ones((1, 3), int), np.ones((1, 3), int))
    assert battle.units[0, :, HP].tolist() == [27, 45, 45, 45, 27, 45], "told to stop they do nothing of their own"


def test_a_driven_healer_heals_its_own_side() -> None:
    battle = driven("MMM", 1)
    starts = battle.units[..., :2].copy()
    starts[0, battle.scene.enemies, 0] -= 7  # the foremost are in reach
    starts[0, battle.scene.enemies[0]] = 19, 16
    battle.reset(positions=starts)
    stop = np.ones((1, 10), int)
    while (battle.units[0, battle.scene.enemies, HP] == [unit.hp for unit in battle.scenario.of_side("enemy")]).all():
        attack = charge(battle.available_actions)
        attack[:, 0] = 1
        battle.step(attack, stop)
    health = battle.units[0, battle.scene.enemies, HP] / [unit.hp for unit in battle.scenario.of_side("enemy")]
    hurt = battle.scene.enemies[health.argmin()]
    medivac, before = battle.scene.enemies[0], battle.units[0, hurt, HP]
    available, patient = battle.opponent_available_actions[0, 0], 6 + health.argmin()
    assert available[patient] and not available[6], "never itself"
    heal = stop.copy()
    heal[0, 0] = patient
    battle.step(stop, heal)
    battle.step(stop, heal)
    assert battle.units[0, hurt, HP] > before and battle.units[0, medivac, ENERGY] < 50


def test_enemies_that_are_driven_can_be_saved_and_reset_as_others() -> None:
    rng = np.random.default_rng(3)
    battle, twin = driven("8m", 3, auto_reset=True), driven("8m", 3, auto_reset=True)
    fresh = {name: getattr(battle, f"opponent_{name}")[0].copy() for name in VIEWS}
    ends = 0
    for step in range(150):
        actions = [charge(battle.available_actions), charge(battle.opponent_available_actions)]
        for team in actions:
            team[rng.random(team.shape) < 0.1] = 1
        dead = [battle.available_actions[..., 0], battle.opponent_available_actions[..., 0]]
        actions = [np.where(gone, 0, team) for gone, team in zip(dead, actions, strict=True)]
        battle.step(*actions)
        if step >= 20:
            twin.step(*actions)
        if step == 19:
            twin.load_state_dict(battle.state_dict())
        for name in (*VIEWS, *(f"opponent_{name}" for name in VIEWS)):
            if step >= 19:
                np.testing.assert_array_equal(getattr(battle, name), getattr(twin, name), name)
        for e in np.flatnonzero(battle.terminated | battle.truncated):
            ends += 1
            for name, view in fresh.items():
                np.testing.assert_allclose(getattr(battle, f"opponent_{name}")[e].astype(float), view, atol=0.01)
    assert ends > 3


def test_driven_battles_start_a_little_off_their_places_each_in_its_own_way() -> None:
    battle, places = driven("2s3z", 3, auto_reset=True), place(load_scenario("2s3z"))
    starts = [battle.units[..., :2]]
    battle.reset(battles=np.array([True, False, False]))
    starts.append(battle.units[..., :2])
    np.testing.assert_array_equal(starts[0][1:], starts[1][1:])
    assert all((abs(start - places) > 0).all() and (abs(start - places) <= 0.02).all() for start in starts)
    assert len(np.unique([*starts[0][:, 0, 0], starts[1][0, 0, 0]])) == 4
    twin = driven("2s3z", 3)
    np.testing.assert_array_equal(twin.units[..., :2], starts[0])
    twin.reset(positions=battle.units[..., :2])
    for name in (*VIEWS, *(f"opponent_{name}" for name in VIEWS)):
        np.testing.assert_array_equal(getattr(battle, name), getattr(twin, name), name)


def test_battles_can_change_hands() -> None:
    scripted = VectorBattle("3m", 1, auto_reset=False)
    stop = np.ones((1, 3), int)
    for _ in range(4):
        scripted.step(stop)
    held = driven("3m", 1)
    held.load_state_dict(scripted.state_dict())
    where = held.units[..., :2].copy()
    held.step(stop, stop)
    np.testing.assert_array_equal(held.units[..., :2], where)
    scripted.load_state_dict(held.state_dict())
    scripted.step(stop)
    assert (scripted.units[0, 3:, 0] < where[0, 3:, 0]).all(), "the script marches on"


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("5m_vs_6m", "5m_vs_6m: only teams .* the allies are 5 marine and the enemies 6 marine"),
        ("3s_vs_3z", "the allies are 3 stalker and the enemies 3 zealot"),
        ("MMM2", "1 medivac, 7 marine, 2 marauder and the enemies 1 medivac, 8 marine, 3 marauder"),
    ],
)
def test_unequal_teams_are_refused(scenario: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        driven(scenario)


def test_enemies_of_which_one_scene_does_not_tell_all_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^terran_5_vs_5: enemies that are drawn for every battle cannot be driven"):
        driven("terran_5_vs_5")
    with pytest.raises(ValueError, match=r"^3m: enemies cannot be driven where agents see only 90°"):
        driven(replace(load_scenario("3m"), view_angle=90.0))


def test_enemies_of_a_changed_scenario_are_driven_by_its_rules() -> None:
    battle = driven(replace(load_scenario("3m"), sight=30.0))
    own = battle.scenario.obs_features().index("enemy0.distance")
    assert (battle.opponent_obs[:, :, own] > 0).all(), "everybody is in sight"


def test_whoever_confuses_driven_and_scripted_enemies_is_told() -> None:
    scripted, battle, stop = VectorBattle("3m", 2), driven("3m", 2), np.ones((2, 3), int)
    with pytest.raises(ValueError, match="make them by with_opponent=True"):
        scripted.step(stop, stop)
    with pytest.raises(ValueError, match="make them by with_opponent=True"):
        scripted.opponent_obs  # noqa: B018
    with pytest.raises(ValueError, match="opponent_actions are missing"):
        battle.step(stop)
    with pytest.raises(
        ValueError, match=r"opponent_actions must be integers of shape \[E, M\] = \(2, 3\), got int64 \(3,"
    ):
        battle.step(stop, stop[0])


def test_an_enemys_unavailable_action_is_refused_by_name_and_nothing_is_stepped() -> None:
    battle = driven("MMM", 2)
    before, stop = battle.state_dict(), np.ones((2, 10), int)
    for agent, action, words in (
        (3, 6, r"^battle 1, enemy 3 \(marine\): action 6 target ally 0 is not available; available: 1 stop, 2 move n"),
        (0, 6, r"^battle 1, enemy 0 \(medivac\): action 6 target enemy 0 is not available; available: 1 stop"),
        (9, 99, r"^battle 1, enemy 9 \(marauder\): action 99 \(there are 16\)"),
    ):
        wrong = stop.copy()
        wrong[1, agent] = action
        with pytest.raises(UnavailableAction, match=words):
            battle.step(stop, wrong)
    for name, array in battle.state_dict().items():
        np.testing.assert_array_equal(array, before[name], name)
