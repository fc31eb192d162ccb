"""Scenarios: what ships is complete, what is malformed is refused with file and key, a new one needs no code."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from amal.battle import VectorBattle
from amal.battle.scenario import (
    FIELD_SIZE,
    Scenario,
    ScenarioError,
    load_scenario,
    parse_scenario,
    parse_terrain,
    parse_unit,
    place,
    scenario_names,
    terrains,
    unit_types,
    wall_rectangles,
)
from tests.conftest import SMAC

# scenario: agents, enemies, actions, observation, state, episode limit; all but the limits follow from SMAClite's rules
SIZES = {
    "3m": (3, 3, 9, 30, 48, 60),
    "8m": (8, 8, 14, 80, 168, 120),
    "5m_vs_6m": (5, 6, 12, 55, 98, 70),
    "2s3z": (5, 5, 11, 80, 120, 120),
    "2s_vs_1sc": (2, 1, 7, 17, 27, 300),
    "MMM": (10, 10, 16, 160, 290, 150),
    "3s5z": (8, 8, 14, 128, 216, 150),
    "corridor": (6, 24, 30, 156, 282, 400),
    "6h_vs_8z": (6, 8, 14, 78, 140, 150),
}
MARINE: dict[str, Any] = {
    "hp": 45,
    "size": 0.75,
    "speed": 3.15,
    "attributes": ["light"],
    "targets": ["ground"],
    "attack_range": 5,
    "damage": 6,
    "cooldown": 0.61,
}
SKIRMISH: dict[str, Any] = {
    "terrain": "simple",
    "episode_limit": 60,
    "attack_point": [9, 16],
    "groups": [
        {"side": "ally", "centre": [9, 16], "units": {"marine": 3}},
        {"side": "enemy", "centre": [23, 16], "units": {"zealot": 2, "stalker": 1}},
    ],
}
REMOVED = object()


def changed(entry: Mapping[str, Any], path: tuple[Any, ...], value: Any) -> Any:
    """A copy of an entry with one value replaced or removed."""
    entry = copy.deepcopy(entry)
    inner: Any = entry
    for key in path[:-1]:
        inner = inner[key]
    if value is REMOVED:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return entry


def skirmish(entry: Any = SKIRMISH) -> Scenario:
    return parse_scenario("mine", entry, unit_types(), terrains(), "scenarios.yaml: mine")


@pytest.mark.parametrize("name", SMAC)
def test_scenario_ships_complete_and_on_open_ground(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name and scenario.spec().scenario == name
    positions = place(scenario)
    assert positions.shape == (len(scenario.units), 2)
    assert scenario.ground[positions[:, 1].astype(int), positions[:, 0].astype(int)].all()


def test_all_twenty_three_scenarios_and_six_families_ship() -> None:
    assert len(SMAC) == 23 and set(SIZES) < set(SMAC)
    families = {f"{race}_{n}_vs_{n}" for race in ("terran", "protoss", "zerg") for n in (5, 10)}
    assert set(scenario_names()) == {*SMAC, *families}


@pytest.mark.parametrize("name", SIZES)
def test_scenario_has_its_published_sizes(name: str) -> None:
    spec = load_scenario(name).spec()
    mine = (spec.n_agents, spec.n_enemies, spec.n_actions, spec.obs_dim, spec.state_dim, spec.episode_limit)
    assert mine == SIZES[name]
    assert load_scenario(name).spec(episode_limit=7).episode_limit == 7


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("terrian",), "simple", r"scenarios.yaml: mine: unknown key 'terrian' \(did you mean terrain\?\)"),
        (("terrain",), REMOVED, "scenarios.yaml: mine: missing key 'terrain'"),
        (("groups",), REMOVED, "scenarios.yaml: mine: missing key 'groups'"),
        (("terrain",), "simpel", r"mine: terrain: unknown value 'simpel' \(did you mean simple\?\)"),
        (("terrain",), 3, "mine: terrain: unknown value 3"),
        (("episode_limit",), 0, "mine: episode_limit: expected a whole number of at least 1, got 0"),
        (("episode_limit",), 60.5, "mine: episode_limit: expected a whole number of at least 1, got 60.5"),
        (("episode_limit",), True, "mine: episode_limit: expected a whole number of at least 1, got True"),
        (("episode_limit",), "60", "mine: episode_limit: expected a whole number of at least 1, got '60'"),
        (("attack_point",), [9], r"mine: attack_point: expected \[x, y\], got \[9\]"),
        (("attack_point",), [9, "16"], "mine: attack_point: expected a number of at least 0, got '16'"),
        (("attack_point",), [9, 40], r"mine: attack_point: \(9.0, 40.0\) is no part of the field"),
        (("groups",), {}, "mine: groups: expected a list"),
        (("groups",), [], "mine: groups: no unit on side 'ally'"),
        (("groups", 1), "zealots", r"mine: groups\[1\]: expected a mapping, got 'zealots'"),
        (("groups", 1, "side"), "ally", "mine: groups: no unit on side 'enemy'"),
        (("groups", 1, "side"), "enemies", r"mine: groups\[1\]: side: unknown value 'enemies' \(did you mean enemy"),
        (("groups", 0, "center"), [1, 1], r"mine: groups\[0\]: unknown key 'center' \(did you mean centre\?\)"),
        (("groups", 0, "centre"), "west", r"mine: groups\[0\]: centre: expected \[x, y\], got 'west'"),
        (("groups", 0, "centre"), [float("nan"), 1], r"mine: groups\[0\]: centre: expected a number of at least 0"),
        (("groups", 0, "units"), {"marin": 3}, r"groups\[0\]: units: unknown key 'marin' \(did you mean marine\?\)"),
        (("groups", 0, "units"), ["marine"], r"groups\[0\]: units: expected a mapping, got \['marine'\]"),
        (("groups", 0, "units"), {}, r"mine: groups\[0\]: units: expected at least one unit"),
        (("groups", 0, "units"), {"marine": 0}, r"groups\[0\]: units: marine: expected a whole number of at least 1"),
        (("groups", 0, "units"), {"marine": -2}, r"groups\[0\]: units: marine: .* got -2"),
        (("groups", 0, "units"), {"marine": 2.0}, r"groups\[0\]: units: marine: .* got 2.0"),
        (("groups", 0, "units"), {"marine": True}, r"groups\[0\]: units: marine: .* got True"),
        (("groups", 1, "units"), {"medivac": 2}, "mine: groups: side 'enemy' has only healers and cannot win"),
        (("groups", 0, "centre"), [9, 7.5], r"mine: groups\[0\]: a marine would start at \(.*\), an obstacle"),
        (("groups", 0, "centre"), [0, 16], r"mine: groups\[0\]: a marine would start at \(-.*\), no part of the field"),
        (("groups", 1, "centre"), [31.9, 16], r"groups\[1\]: a zealot would start at \(3.*\), no part of the field"),
        (("groups", 1, "centre"), [9, 16], r"groups\[0\] and groups\[1\]: a marine and a stalker would overlap at \("),
    ],
)
def test_malformed_scenario_is_refused_with_file_and_key(path: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(ScenarioError, match=message) as refusal:
        skirmish(changed(SKIRMISH, path, value))
    assert str(refusal.value).startswith("scenarios.yaml: mine")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("hp",), REMOVED, "missing key 'hp'"),
        (("hp",), 0, "hp: must be above 0, got 0"),
        (("hp",), -45, "hp: expected a number of at least 0, got -45"),
        (("hp",), True, "hp: expected a number of at least 0, got True"),
        (("hp",), "45", "hp: expected a number of at least 0, got '45'"),
        (("size",), 0.0, "size: must be above 0, got 0"),
        (("speed",), float("inf"), "speed: expected a number of at least 0, got inf"),
        (("armour",), 1, r"unknown key 'armour' \(did you mean armor\?\)"),
        (("name",), "marine", "unknown key 'name'"),
        (("attacks",), 1.5, "attacks: expected a whole number of at least 1, got 1.5"),
        (("attacks",), 0, "attacks: expected a whole number of at least 1, got 0"),
        (("plane",), "water", "plane: unknown value 'water'; known: ground, air"),
        (("weapon",), "lazer", r"weapon: unknown value 'lazer' \(did you mean laser\?\)"),
        (("targets",), "ground", "targets: expected a list, got 'ground'"),
        (("targets",), ["groud"], r"targets: unknown value 'groud' \(did you mean ground\?\)"),
        (("attributes",), [1], "attributes: unknown value 1; expected a word"),
        (("bonuses",), 5, "bonuses: expected a mapping, got 5"),
        (("bonuses",), {"armored": -1}, "bonuses: armored: expected a number of at least 0, got -1"),
        (("weapon",), "heal", "energy: a healer needs more than 0"),
        (("starting_energy",), 50, "starting_energy: 50 is more than the energy of 0"),
    ],
)
def test_malformed_unit_is_refused_with_file_and_key(path: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(ScenarioError, match=r"^units\.yaml: marine: " + message):
        parse_unit("marine", changed(MARINE, path, value), "units.yaml")


@pytest.mark.parametrize(
    "rows",
    ["", "_" * 32, ("_" * 32 + "\n") * 31, ("_" * 31 + "\n") * 32, ("_" * 31 + "x\n") * 32, None, 5],
    ids=["empty", "one row", "31 rows", "31 columns", "unknown character", "nothing", "number"],
)
def test_malformed_terrain_is_refused_with_its_name(rows: Any) -> None:
    with pytest.raises(ScenarioError, match=r"^terrain\.yaml: mine: expected 32 rows of 32 characters"):
        parse_terrain("mine", rows, "terrain.yaml")


def test_terrain_picture_has_its_top_row_first() -> None:
    ground = parse_terrain("mine", "X" + "_" * 31 + "\n" + ("_" * 32 + "\n") * 31, "terrain.yaml")
    assert not ground[31, 0] and ground.sum() == FIELD_SIZE**2 - 1
    np.testing.assert_array_equal(wall_rectangles(ground), [[0, 31, 1, 32]])


@pytest.mark.parametrize("name", sorted(terrains()))
def test_wall_rectangles_cover_every_obstacle_once(name: str) -> None:
    covered = np.zeros((FIELD_SIZE, FIELD_SIZE), int)
    for x0, y0, x1, y1 in wall_rectangles(terrains()[name]).astype(int):
        covered[y0:y1, x0:x1] += 1
    np.testing.assert_array_equal(covered, (~terrains()[name]).astype(int))


def test_flying_units_may_start_above_obstacles_and_other_units() -> None:
    above_wall = {"side": "ally", "centre": [9, 4], "units": {"medivac": 1}}
    above_marines = {"side": "ally", "centre": [9, 16], "units": {"medivac": 1}}
    scenario = skirmish({**SKIRMISH, "groups": [*SKIRMISH["groups"], above_wall, above_marines]})
    assert scenario.spec().n_agents == 5


def test_unknown_scenario_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ScenarioError, match=r"unknown scenario '2s3zz' \(did you mean 2s3z\?\); known: 3m, 8m"):
        load_scenario("2s3zz")


def test_observation_features_are_where_their_names_say() -> None:
    battle = VectorBattle("2s3z", 1, shuffle_units=False)
    scenario = battle.scenario
    starts = battle.units[:, :, :2].copy()
    starts[0, 6] = starts[0, 1] + (4.5, 1.5)  # the second enemy stalker, before the second agent
    battle.reset(positions=starts)
    obs = dict(zip(scenario.obs_features(), battle.obs[0, 1], strict=True))
    assert (obs["can_move_north"], obs["enemy1.targetable"]) == (1, 1)
    assert obs["enemy1.dx"] == pytest.approx(4.5 / 9) and obs["enemy1.dy"] == pytest.approx(1.5 / 9)
    assert obs["enemy1.distance"] == pytest.approx(np.hypot(4.5, 1.5) / 9)
    assert (obs["enemy1.hp"], obs["enemy1.shield"]) == (1, 1)
    assert (obs["enemy1.is_stalker"], obs["enemy1.is_zealot"]) == (1, 0)
    assert (obs["own.hp"], obs["own.shield"], obs["own.is_stalker"], obs["own.is_zealot"]) == (1, 1, 1, 0)
    assert not any(value for name, value in obs.items() if name.startswith("enemy0."))  # beyond sight
    # the agent itself is left out of its allies: ally0 is agent 0, ally1 is agent 2, a zealot
    assert (obs["ally0.is_stalker"], obs["ally1.is_stalker"], obs["ally1.is_zealot"]) == (1, 0, 1)
    to_zealot = (starts[0, 2] - starts[0, 1]) / 9
    assert (obs["ally1.dx"], obs["ally1.dy"]) == pytest.approx(tuple(to_zealot))


def test_state_features_are_where_their_names_say() -> None:
    battle = VectorBattle("MMM", 1, shuffle_units=False)
    battle.step(np.array([[1, 2, 3, 4, 5, 1, 1, 1, 1, 1]]))
    state = dict(zip(battle.scenario.state_features(), battle.state[0], strict=True))
    units = battle.units[0]
    for j in (0, 2):
        assert state[f"ally{j}.x"] == pytest.approx((units[j, 0] - 16) / 32)
        assert state[f"ally{j}.y"] == pytest.approx((units[j, 1] - 16) / 32)
        assert state[f"enemy{j}.x"] == pytest.approx((units[10 + j, 0] - 16) / 32)
    assert state["ally0.cooldown"] == pytest.approx(units[0, 4] / 200)  # a healer has energy there
    assert (state["ally0.is_medivac"], state["ally1.is_marine"], state["enemy9.is_marauder"]) == (1, 1, 1)
    given = [name for name, value in state.items() if "last_action" in name and value == 1]
    assert given[:5] == [f"ally{j}.last_action{a}" for j, a in enumerate([1, 2, 3, 4, 5])]
    assert len(given) == 10


def test_new_scenario_needs_an_entry_and_nothing_else() -> None:
    battle = VectorBattle(skirmish(), 2)
    assert (battle.spec.scenario, battle.spec.n_agents, battle.spec.n_enemies) == ("mine", 3, 3)
    rng = np.random.default_rng(0)
    ended = np.zeros(2, bool)
    for _ in range(battle.spec.episode_limit):
        battle.step((rng.random(battle.available_actions.shape) * battle.available_actions).argmax(axis=2))
        ended |= battle.terminated | battle.truncated
    assert ended.all()


def test_new_unit_type_fights_with_its_own_numbers() -> None:
    tank = parse_unit("tank", {**MARINE, "hp": 500, "damage": 60, "cooldown": 0.5}, "units.yaml")
    entry = changed(SKIRMISH, ("groups", 0, "units"), {"tank": 2})
    scenario = parse_scenario("mine", entry, {**unit_types(), "tank": tank}, terrains(), "scenarios.yaml: mine")
    battle = VectorBattle(scenario, 1, auto_reset=False)
    assert battle.units[0, 0, 2] == 500
    while not (battle.terminated[0] or battle.truncated[0]):
        targets = battle.available_actions[..., 6:]
        battle.step(np.where(targets.any(axis=2), 6 + targets.argmax(axis=2), 1 - battle.available_actions[..., 0]))
    assert battle.won[0]
