"""Who fired when and at whom, and how a battle ended, read back from recordings made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from amal.battle.scenario import Scenario, load_scenario, place
from amal.viewer.recording import (
    ALIVE,
    COOLDOWN,
    ENERGY,
    HP,
    SHIELD,
    TARGET,
    Recording,
    find_attacks,
    times_of_death,
)


def standing(scenario: Scenario, steps: int) -> np.ndarray:
    """A recording [steps+1, U, 9] in which nobody does anything."""
    row = np.zeros((len(scenario.units), 9))
    row[:, :2] = place(scenario)
    row[:, HP] = [unit.hp for unit in scenario.units]
    row[:, SHIELD] = [unit.shield for unit in scenario.units]
    row[:, ENERGY] = [unit.starting_energy for unit in scenario.units]
    row[:, ALIVE], row[:, TARGET] = 1, -1
    return np.repeat(row[None], steps + 1, axis=0)


def kill(units: np.ndarray, unit: int, step: int) -> None:
    units[step:, unit, HP : SHIELD + 1] = 0
    units[step:, unit, ALIVE] = 0


def test_nobody_fires_when_nothing_happens() -> None:
    scenario = load_scenario("MMM")
    assert find_attacks(scenario, standing(scenario, 3)) == []


def test_a_shot_is_dated_by_the_cooldown_that_is_left() -> None:
    units = standing(load_scenario("3m"), 2)
    units[1:, 0, TARGET] = 4
    units[1, 0, COOLDOWN] = 0.61 - 0.25  # fired five ticks ago, in the fourth of eight
    units[2, 0, COOLDOWN] = 0.0
    units[1:, 4, HP] -= 6
    (attack,) = find_attacks(load_scenario("3m"), units)
    assert (attack.kind, attack.attacker, attack.targets) == ("shot", 0, (4,))
    assert attack.time == pytest.approx(3 / 8)


def test_a_shot_shows_even_if_the_cooldown_is_as_high_as_before() -> None:
    scenario = load_scenario("3m")
    units = standing(scenario, 1)
    units[:, 0, COOLDOWN] = 0.3
    units[1, 0, TARGET] = 3
    assert [attack.attacker for attack in find_attacks(scenario, units)] == [0]


def test_the_dead_do_not_fire_with_their_last_cooldown() -> None:
    scenario = load_scenario("3m")
    units = standing(scenario, 3)
    units[:, 0, COOLDOWN] = 0.3
    units[:, 0, TARGET] = 3
    kill(units, 0, 1)
    assert find_attacks(scenario, units) == []


def test_the_target_of_a_killing_shot_is_found_though_no_longer_recorded() -> None:
    scenario = load_scenario("3m")
    units = standing(scenario, 1)
    units[:, 3:, 0] -= 9  # into reach
    units[1, 0, COOLDOWN] = 0.36
    kill(units, 4, 1)
    (attack,) = find_attacks(scenario, units)
    assert attack.targets == (4,)
    death = times_of_death(units, [attack])
    assert death[4] == attack.time and np.isinf(death[[0, 1, 2, 3, 5]]).all()


def test_healing_is_seen_by_the_energy_it_takes() -> None:
    scenario = load_scenario("MMM")
    units = standing(scenario, 1)
    units[:, 0, TARGET] = 2
    units[1, 0, ENERGY] -= 1
    units[0, 2, HP] -= 4
    (attack,) = find_attacks(scenario, units)
    assert (attack.kind, attack.attacker, attack.targets) == ("heal", 0, (2,))


def test_a_blast_hits_everyone_near() -> None:
    scenario = load_scenario("so_many_baneling")
    units = standing(scenario, 1)
    baneling = len(scenario.of_side("ally"))
    units[:, baneling, :2] = units[0, 0, :2] + (0.9, 0)
    kill(units, baneling, 1)
    units[1, baneling, COOLDOWN] = 1
    units[1, :2, SHIELD] -= 40
    (attack,) = find_attacks(scenario, units)
    assert (attack.kind, attack.attacker, attack.targets) == ("blast", baneling, (0, 1))


def test_a_laser_hits_those_beside_its_target() -> None:
    scenario = load_scenario("2c_vs_64zg")
    units = standing(scenario, 1)
    units[1, 0, COOLDOWN] = 1
    units[1, 0, TARGET] = 30
    units[1, [29, 30, 65], HP] -= 10  # 65 stands far away: hit by something else
    (attack,) = find_attacks(scenario, units)
    assert (attack.kind, attack.targets) == ("laser", (30, 29))


@pytest.mark.parametrize(("dead", "outcome"), [((3, 4, 5), "victory"), ((0, 1, 2), "defeat"), ((0, 3), "draw")])
def test_the_outcome_is_the_allies(dead: tuple[int, ...], outcome: str) -> None:
    units = standing(load_scenario("3m"), 3)
    for unit in dead:
        kill(units, unit, 2)
    assert Recording(load_scenario("3m"), units).outcome == outcome


def test_a_recording_of_another_scenario_is_refused() -> None:
    with pytest.raises(ValueError, match="8m: expected a recording"):
        Recording(load_scenario("8m"), standing(load_scenario("3m"), 2))
