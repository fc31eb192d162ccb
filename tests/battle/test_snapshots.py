"""Battles that go on from a moment as they went on then, or with other chances."""

import numpy as np
import pytest

from amal.battle import VectorBattle

VIEWS = ("obs", "state", "available_actions")


def random_actions(battle: VectorBattle, rng: np.random.Generator) -> np.ndarray:
    return np.where(battle.available_actions, rng.random(battle.available_actions.shape), -1.0).argmax(axis=-1)


def course(battle: VectorBattle, seed: int, steps: int) -> list[np.ndarray]:
    """What happens when the same random actions are chosen."""
    rng, seen = np.random.default_rng(seed), []
    for _ in range(steps):
        battle.step(random_actions(battle, rng))
        seen += [battle.units.copy(), battle.rewards.copy(), battle.obs.copy(), battle.state.copy()]
    return seen


@pytest.mark.parametrize("scenario", ["2s3z", "MMM", "terran_5_vs_5"])
def test_a_moment_goes_on_as_it_did_with_the_same_chances_and_otherwise_with_others(scenario: str) -> None:
    real = VectorBattle(scenario, 6, seed=3, auto_reset=False, random_delay=True)
    course(real, seed=1, steps=12)
    assert not (real.terminated | real.truncated).any()
    snapshots, views = real.snapshots, {name: getattr(real, name).copy() for name in VIEWS}
    chances = real.state_dict()["battles"].view(np.uint64)[:, 0].copy()
    expected = course(real, seed=2, steps=10)

    other = VectorBattle(scenario, 6, seed=99, auto_reset=False, random_delay=True)
    course(other, seed=5, steps=40)
    other.go_on_from(snapshots, chances, views)
    for name, view in views.items():
        assert np.array_equal(getattr(other, name), view)
    for then, now in zip(expected, course(other, seed=2, steps=10), strict=True):
        assert np.array_equal(then, now)

    other.go_on_from(snapshots, chances + np.uint64(1), views)
    changed = course(other, seed=2, steps=10)
    assert not all(np.array_equal(then, now) for then, now in zip(expected, changed, strict=True))


def test_a_battle_that_is_over_goes_on_from_a_moment_before() -> None:
    battle = VectorBattle("3m", 2, seed=0, auto_reset=False)
    course(battle, seed=0, steps=2)
    snapshots, views = battle.snapshots, {name: getattr(battle, name).copy() for name in VIEWS}
    course(battle, seed=1, steps=60)
    assert (battle.terminated | battle.truncated).all()
    battle.go_on_from(snapshots, np.array([1, 2], np.uint64), views)
    before = battle.units.copy()
    course(battle, seed=3, steps=1)
    assert (battle.units != before).any()


def test_the_memory_of_an_opponent_is_not_in_a_snapshot() -> None:
    battle = VectorBattle("3m", 1, auto_reset=False, with_opponent=True)
    with pytest.raises(ValueError, match="opponent"):
        battle.go_on_from(battle.snapshots, np.array([1], np.uint64), {})
