"""The simulator against recordings of SMAClite, and its compiled kernels against the same kernels uncompiled.

The recordings were made with the units acting in id order, from start positions moved off the exact placement by up to
0.02, by four policies, and run at most 150 steps whatever the episode limit. Run as a script, this file writes the
battles of ``short_battles`` to the npz file named as its argument.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from amal.battle import VectorBattle
from amal.battle.scenario import load_scenario, place
from tests.conftest import SMAC

RECORDINGS = Path(__file__).parent / "recordings"
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.npz"))
POLICIES = {"random", "focus", "mixed", "walls"}
COLUMNS = ("x", "y", "hp", "shield", "energy", "cooldown", "alive", "target", "shield_delay")
ALIVE = COLUMNS.index("alive")
# Both sides of the comparison are the same sums in the same order: units agree to the last bit. What is left is room
# for a platform's own square root or pow; a change in rounding shows up at once, for it decides battles within seconds.
UNITS_TOLERANCE = 1e-9
TOLERANCE = 1e-4
# recording, steps, shuffled, with random delay: few steps, for uncompiled kernels take a second for each crowded one
SHORT_BATTLES = (
    ("2s3z-walls-103", 12, False, False),
    ("MMM-focus-101", 8, False, False),
    ("bane_vs_bane-random-100", 6, False, False),
    ("2c_vs_64zg-walls-103", 4, False, False),
    ("3s_vs_5z-mixed-102", 12, True, False),
    ("corridor-mixed-102", 6, True, False),
    ("3s5z-mixed-102", 10, True, True),
)


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(RECORDINGS / f"{name}.npz") as arrays:
        return dict(arrays)


def play_along(record: dict[str, np.ndarray]) -> VectorBattle:
    """A battle under the recordings' conditions, at the recording's start."""
    limit = len(record["actions"]) + 1000
    battle = VectorBattle(str(record["scenario"]), 1, shuffle_units=False, auto_reset=False, episode_limit=limit)
    battle.reset(positions=record["units"][:1, :, :2])
    return battle


def assert_close(what: str, t: int, mine: np.ndarray, theirs: np.ndarray, names: list[str], tolerance: float) -> None:
    """Compares [..., F] and names step, row and feature of the first differences."""
    differing = np.argwhere(~(np.abs(mine.astype(np.float64) - theirs) <= tolerance))
    found = [f"{tuple(at[:-1])} {names[at[-1]]}: {mine[tuple(at)]} not {theirs[tuple(at)]}" for at in differing[:4]]
    assert not found, f"{what} after step {t}: {'; '.join(found)}"


def short_battles() -> dict[str, np.ndarray]:
    """What became of the units, [T+1, U, 9], in each of the short battles.

    The first available action takes the place of one that is not, for shuffled battles leave the recording's course.
    """
    courses = {}
    for name, steps, shuffled, delayed in SHORT_BATTLES:
        record = load(name)
        scenario = load_scenario(str(record["scenario"]), random_delay=delayed)
        battle = VectorBattle(scenario, 1, seed=3, shuffle_units=shuffled, auto_reset=False)
        battle.reset(positions=record["units"][:1, :, :2])
        course = [battle.units[0]]
        for actions in record["actions"][:steps]:
            available = battle.available_actions[0]
            allowed = available[np.arange(len(actions)), actions]
            battle.step(np.where(allowed, actions, available.argmax(axis=1))[None])
            course.append(battle.units[0])
        courses[name] = np.array(course)
    return courses


def test_every_scenario_is_recorded_with_every_policy() -> None:
    assert len(NAMES) == 92
    recorded = {tuple(name.rsplit("-", 2)[:2]) for name in NAMES}
    assert recorded == {(scenario, policy) for scenario in SMAC for policy in POLICIES}


@pytest.mark.parametrize("name", NAMES)
def test_recorded_battle_is_fought_again_step_by_step(name: str) -> None:
    record = load(name)
    battle = play_along(record)
    last = len(record["actions"])
    features, state_features = battle.scenario.obs_features(), battle.scenario.state_features()
    actions_by_name = [f"action {a}" for a in range(battle.spec.n_actions)]
    for t in range(last + 1):
        if t > 0:
            battle.step(record["actions"][t - 1][None].astype(np.int64))
            assert battle.rewards[0] == pytest.approx(record["reward"][t - 1], abs=TOLERANCE), f"reward of step {t}"
        mine, theirs = battle.units[0], record["units"][t]
        np.testing.assert_array_equal(mine[:, ALIVE], theirs[:, ALIVE], f"who lives after step {t}")
        lives = theirs[:, ALIVE] > 0  # what the recordings hold of the dead is of no consequence
        assert_close("living units", t, mine[lives], theirs[lives], list(COLUMNS), UNITS_TOLERANCE)
        assert_close("obs", t, battle.obs[0], record["obs"][t], features, TOLERANCE)
        assert_close("state", t, battle.state[0], record["state"][t], state_features, TOLERANCE)
        assert_close("available actions", t, battle.available_actions[0], record["avail"][t], actions_by_name, 0)
        ends = t == last and bool(record["terminated"])
        assert bool(battle.terminated[0]) == ends, f"terminated after step {t}"
        assert bool(battle.won[0]) == (ends and bool(record["battle_won"])), f"won after step {t}"
        assert not battle.truncated[0]


@pytest.mark.parametrize("name", [name for name in NAMES if "-focus-" in name])
def test_scenario_has_the_units_sides_and_places_of_its_recording(name: str) -> None:
    record = load(name)
    scenario = load_scenario(str(record["scenario"]))
    assert [unit.name for unit in scenario.units] == record["unit_type"].tolist()
    assert [("ally", "enemy")[faction] for faction in record["faction"]] == scenario.sides
    for side, faction in (("ally", 0), ("enemy", 1)):
        ids = record["id_in_faction"][record["faction"] == faction]
        assert ids.tolist() == list(range(len(scenario.of_side(side))))  # type: ignore[arg-type]
    np.testing.assert_allclose(place(scenario), record["placed"], rtol=0, atol=1e-12)
    spec = scenario.spec()
    assert record["obs"].shape[1:] == (spec.n_agents, spec.obs_dim)
    assert record["avail"].shape[1:] == (spec.n_agents, spec.n_actions)
    assert record["state"].shape[1:] == (spec.state_dim,)


def test_recorded_battle_among_seven_others_goes_as_it_goes_alone() -> None:
    record = load("2s3z-walls-103")
    alone = play_along(record)
    rng = np.random.default_rng(0)
    starts = record["units"][:1, :, :2] + rng.uniform(-0.3, 0.3, (8, len(record["placed"]), 2))
    mine = 3
    starts[mine] = record["units"][0, :, :2]
    batch = VectorBattle("2s3z", 8, shuffle_units=False, auto_reset=False, episode_limit=1000)
    batch.reset(positions=starts)
    for recorded in record["actions"]:
        actions = (rng.random(batch.available_actions.shape) * batch.available_actions).argmax(axis=2)
        actions[mine] = recorded
        batch.step(actions)
        alone.step(recorded[None].astype(np.int64))
        for name in ("units", "obs", "state", "available_actions", "rewards", "terminated", "won"):
            np.testing.assert_array_equal(getattr(batch, name)[mine], getattr(alone, name)[0], name)
    courses = batch.units[:, :, :2]
    assert len(np.unique(courses.reshape(8, -1), axis=0)) == 8, "the other battles were meant to differ"


def test_uncompiled_kernels_fight_the_same_battles_bit_for_bit(tmp_path: Path) -> None:
    file = tmp_path / "uncompiled.npz"
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, __file__, str(file)], env=environment, check=True, timeout=300)
    compiled = short_battles()
    with np.load(file) as uncompiled:
        assert sorted(uncompiled.files) == sorted(name for name, *_ in SHORT_BATTLES)
        for name, course in compiled.items():
            np.testing.assert_array_equal(uncompiled[name], course, name)
        assert (course[-1, :, 2:4] < course[0, :, 2:4]).any(), f"{name} was meant to reach the weapons"


if __name__ == "__main__":
    with np.errstate(over="ignore"):  # splitmix64 is arithmetic modulo 2**64
        np.savez(sys.argv[1], **short_battles())  # type: ignore[arg-type]
