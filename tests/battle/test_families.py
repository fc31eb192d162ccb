"""Families: units and start positions drawn for every battle, the same for the same seed; and what limits the view."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from dataclasses import replace
from itertools import combinations
from typing import Any

import numba
import numpy as np
import pytest

from amal.battle import UnavailableAction, VectorBattle
from amal.battle.battlefield import FIELD_SIZE, MOVE_ACTIONS, Scenario
from amal.battle.scenario import (
    ScenarioError,
    load_scenario,
    parse_scenario,
    parse_unit,
    scenario_names,
    terrains,
    unit_types,
)
from amal.battle.state import build_lineup, build_scene

FAMILIES = [name for name in scenario_names() if load_scenario(name).family is not None]
TERRAN: dict[str, Any] = {
    "terrain": "open",
    "episode_limit": 50,
    "family": {"allies": 3, "enemies": 5, "weights": {"marine": 3, "medivac": 1}, "surrounded": 0.5},
}
MIDDLE = FIELD_SIZE / 2


def parse(entry: Any) -> Scenario:
    return parse_scenario("mine", entry, unit_types(), terrains(), "scenarios.yaml: mine")


def changed(key: str, value: Any, **rest: Any) -> dict[str, Any]:
    """TERRAN with one value of its family replaced, or taken away with None."""
    entry = copy.deepcopy(TERRAN) | rest
    entry["family"][key] = value
    if value is None:
        del entry["family"][key]
    return entry


def are_surrounded(battle: VectorBattle) -> np.ndarray:
    """[E] bool: enemies on both sides of the allies, whom mirrored ones would have all on one."""
    x = battle.units[..., 0]
    return (x[:, battle.scene.enemies].min(axis=1) < MIDDLE) & (x[:, battle.scene.enemies].max(axis=1) > MIDDLE)


def play(battle: VectorBattle, steps: int, seed: int = 0) -> list[np.ndarray]:
    """Random actions, which depend on a battle's own views alone; the units after every step."""
    rng = np.random.default_rng(seed)
    courses = []
    for _ in range(steps):
        chances = rng.random(battle.available_actions.shape[1:])
        battle.step((chances * battle.available_actions).argmax(axis=2))
        courses.append(battle.units)
    return courses


@pytest.mark.parametrize("name", FAMILIES)
def test_units_are_drawn_by_their_weights(name: str) -> None:
    battle = VectorBattle(name, 2000, seed=1)
    family = battle.scenario.family
    assert family is not None
    drawn = Counter(unit.name for e in range(2000) for unit in battle.fought(e).of_side("ally"))
    n = 2000 * family.allies
    for unit, weight in zip(family.types, family.weights, strict=True):
        assert drawn[unit.name] / n == pytest.approx(weight, abs=4 * np.sqrt(weight * (1 - weight) / n))
    assert are_surrounded(battle).mean() == pytest.approx(family.surrounded, abs=4 * np.sqrt(0.25 / 2000))
    mixed = [len({unit.name for unit in battle.fought(e).of_side("ally")}) for e in range(2000)]
    assert {2, 3} <= set(mixed)


@pytest.mark.parametrize("name", FAMILIES)
def test_both_sides_have_equal_units_apart_from_each_other_and_on_the_field(name: str) -> None:
    battle = VectorBattle(name, 300, seed=2)
    surrounded = are_surrounded(battle)
    for e in range(300):
        fought, xy = battle.fought(e), battle.units[e, :, :2]
        n = battle.spec.n_agents
        assert fought.of_side("ally") == fought.of_side("enemy")
        radius = np.array([unit.radius for unit in fought.units])
        assert (xy - radius[:, None] >= 0).all() and (xy + radius[:, None] <= FIELD_SIZE).all()
        for i, j in combinations(range(2 * n), 2):
            assert np.hypot(*(xy[i] - xy[j])) >= radius[i] + radius[j]
        if surrounded[e]:
            offsets = xy[n:] - MIDDLE
            assert len(np.unique(np.sign(offsets), axis=0)) == 4, "there are enemies on all four diagonals"
            assert np.abs(xy[:n] - MIDDLE).max(axis=1).max() < np.abs(offsets).max(axis=1).min() - 4
        else:
            np.testing.assert_allclose(xy[n:], np.stack([FIELD_SIZE - xy[:n, 0], xy[:n, 1]], axis=-1), rtol=1e-12)


def test_starts_keep_off_walls_and_units_are_those_that_were_told() -> None:
    entry = changed("surrounded", 0, terrain="narrow")
    entry["family"]["weights"] = {"colossus": 1, "zealot": 1}
    battle = VectorBattle(parse(entry), 100)
    for e in range(100):
        for unit, row in zip(battle.fought(e).units, battle.units[e], strict=True):
            assert (row[2], row[3]) == (unit.hp, unit.shield)
            for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                x, y = row[0] + dx * 0.999 * unit.radius, row[1] + dy * 0.999 * unit.radius
                assert battle.scenario.ground[int(y), int(x)]


def test_sides_of_different_sizes_share_what_both_have() -> None:
    battle = VectorBattle(parse(TERRAN), 200, seed=3)
    assert (battle.spec.n_agents, battle.spec.n_enemies, battle.spec.n_actions) == (3, 5, 6 + 5)
    for e in range(200):
        allies, enemies = (battle.fought(e).of_side(side) for side in ("ally", "enemy"))  # type: ignore[arg-type]
        assert allies == enemies[:3]
        assert any(unit.weapon != "heal" for unit in allies), "a team of healers cannot win"
    fewer = changed("enemies", 2)
    assert VectorBattle(parse(fewer), 1).spec.n_actions == 6 + 3, "a healer can target every ally id"


def test_observations_keep_their_size_and_name_the_units_that_were_drawn() -> None:
    battle = VectorBattle("protoss_5_vs_5", 50)
    features = battle.scenario.obs_features()
    assert [name for name in features if name.startswith("own.")] == [
        *("own.hp", "own.shield", "own.is_colossus", "own.is_stalker", "own.is_zealot")
    ]
    for e in range(50):
        for agent, unit in enumerate(battle.fought(e).of_side("ally")):
            obs = dict(zip(features, battle.obs[e, agent], strict=True))
            assert [name for name in features if name.startswith("own.is_") and obs[name]] == [f"own.is_{unit.name}"]


@pytest.mark.parametrize("name", ["terran_5_vs_5", "zerg_10_vs_10"])
def test_a_battle_depends_on_its_seed_and_number_alone(name: str) -> None:
    whole = VectorBattle(name, 40, seed=5)  # stepped by all threads, alone by one
    courses = play(whole, 230)  # longer than an episode lasts
    other = VectorBattle(name, 1, seed=6)
    for k in (0, 39):
        alone = VectorBattle(name, 1, seed=5, first_battle=k)
        first = alone.fought(0).units
        for mine, theirs in zip(play(alone, 230), courses, strict=True):
            np.testing.assert_array_equal(mine[0], theirs[k])
        assert other.fought(0).units != first
        assert alone.fought(0).units != first, "the next episode has other units"


def test_a_reset_draws_anew_only_after_a_step() -> None:
    battle = VectorBattle("terran_5_vs_5", 8, auto_reset=False)
    before = battle.units
    battle.reset()
    np.testing.assert_array_equal(battle.units, before)
    battle.step(battle.available_actions.argmax(axis=2))
    battle.reset(battles=np.arange(8) < 4)
    assert not (battle.units[:4] == before[:4]).all(axis=(1, 2)).any()
    own = battle.units[:, :, :2] * 0 + np.arange(2, 12)[:, None]
    battle.reset(positions=own)
    np.testing.assert_array_equal(battle.units[:, :, :2], own)


def test_loaded_state_goes_on_as_the_saved_battles_did() -> None:
    saved = VectorBattle("zerg_5_vs_5", 4, seed=1)
    play(saved, 15)
    state = pickle.loads(pickle.dumps(saved.state_dict()))
    loaded = VectorBattle("zerg_5_vs_5", 4, seed=99)
    play(loaded, 3)
    loaded.load_state_dict(state)
    assert [loaded.fought(e).units for e in range(4)] == [saved.fought(e).units for e in range(4)]
    for mine, theirs in zip(play(loaded, 200), play(saved, 200), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(loaded.obs, saved.obs)
    np.testing.assert_array_equal(loaded.rewards, saved.rewards)


def test_a_flawless_victory_is_worth_twenty_whoever_was_drawn() -> None:
    battle = VectorBattle("terran_5_vs_5", 30)
    for e in range(30):
        health = sum(unit.hp + unit.shield for unit in battle.fought(e).of_side("enemy"))
        assert battle.scene_of(e).reward_scale == (10 * 5 + 200 + health) / 20
        np.testing.assert_allclose(
            (battle.scene_of(e).attack_x, battle.scene_of(e).attack_y), battle.units[e, :5, :2].mean(axis=0)
        )


def test_families_and_limited_views_need_no_kernels_of_their_own() -> None:
    def kinds_of_arguments(scenario: Scenario) -> list[str]:
        scene = build_scene(scenario, 5)
        return [str(numba.typeof(value)) for value in (*scene, *build_lineup(scenario, scene, 3))]

    for other in (load_scenario("zerg_5_vs_5"), replace(load_scenario("3m"), view_angle=90.0)):
        assert kinds_of_arguments(other) == kinds_of_arguments(load_scenario("3m"))


def test_a_refusal_names_the_unit_that_was_drawn() -> None:
    battle = VectorBattle("terran_5_vs_5", 3)
    actions = np.ones((3, 5), np.int64)
    actions[2, 4] = 0
    with pytest.raises(UnavailableAction, match=rf"^battle 2, agent 4 \({battle.fought(2).units[4].name}\)"):
        battle.step(actions)
    with pytest.raises(ScenarioError, match=r"terran_5_vs_5: its units are drawn for every battle"):
        _ = battle.scenario.units


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (changed("allies", None), "family: missing key 'allies'"),
        (changed("allies", 0), "family: allies: expected a whole number of at least 1, got 0"),
        (changed("enemies", 2.5), "family: enemies: expected a whole number of at least 1, got 2.5"),
        (changed("weight", {}), r"family: unknown key 'weight' \(did you mean weights\?\)"),
        (changed("weights", ["marine"]), r"family: weights: expected a mapping, got \['marine'\]"),
        (changed("weights", {"marin": 1}), r"family: weights: unknown key 'marin' \(did you mean marine\?\)"),
        (changed("weights", {"marine": -1}), "family: weights: marine: expected a number of at least 0, got -1"),
        (changed("weights", {"marine": 0}), "family: weights: marine: must be above 0, got 0"),
        (changed("weights", {}), "family: weights: expected a unit whose weapon is not heal or kamikaze"),
        (changed("weights", {"medivac": 1}), "family: weights: expected a unit whose weapon is not heal or kamikaze"),
        (changed("surrounded", 1.5), "family: surrounded: expected a number from 0 to 1, got 1.5"),
        (changed("surrounded", True), "family: surrounded: expected a number from 0 to 1, got True"),
        (changed("surrounded", 0, terrain="octagon", sight=0), "sight: must be above 0, got 0"),
        (changed("surrounded", 0, view_angle=400), "view_angle: expected a number from 0 to 360, got 400"),
        (changed("surrounded", 0.5, terrain="ravine"), "family: no room for surrounded starts in the middle and"),
        (changed("allies", 200), r"family: too little room for reflected starts: \d+ cells of the left half are open"),
        (changed("surrounded", 0, groups=[]), "unknown key 'groups'"),
    ],
)
def test_malformed_family_is_refused_with_file_and_key(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=r"^scenarios\.yaml: mine: " + message):
        parse(entry)


def test_a_limited_view_hides_what_is_behind_and_far_away() -> None:
    duel = {
        "terrain": "open",
        "episode_limit": 50,
        "attack_point": [1, 1],
        "sight": 6,
        "view_angle": 90,
        "groups": [
            {"side": "ally", "centre": [16, 16], "units": {"marine": 1}},
            {"side": "enemy", "centre": [19, 16], "units": {"post": 1}},
            {"side": "enemy", "centre": [14, 16], "units": {"post": 1}},
            {"side": "enemy", "centre": [18, 19], "units": {"post": 1}},
        ],
    }
    figures = {"hp": 9, "size": 1, "speed": 0, "attributes": [], "targets": ["ground"], "attack_range": 1}
    types = {**unit_types(), "post": parse_unit("post", figures, "units.yaml")}
    battle = VectorBattle(parse_scenario("mine", duel, types, terrains(), ""), 1, auto_reset=False)

    def seen() -> list[bool]:
        obs = dict(zip(battle.scenario.obs_features(), battle.obs[0, 0], strict=True))
        assert np.hypot(obs["own.facing_x"], obs["own.facing_y"]) == pytest.approx(1)
        state = dict(zip(battle.scenario.state_features(), battle.state[0], strict=True))
        assert (obs["own.facing_x"], obs["own.facing_y"]) == (state["ally0.facing_x"], state["ally0.facing_y"])
        np.testing.assert_array_equal(
            battle.available_actions[0, 0, MOVE_ACTIONS:], [obs[f"enemy{j}.targetable"] for j in range(3)]
        )
        return [obs[f"enemy{j}.distance"] > 0 for j in range(3)]

    assert seen() == [True, False, False], "agents look east before they move; the third is 56 degrees off"
    obs = dict(zip(battle.scenario.obs_features(), battle.obs[0, 0], strict=True))
    assert obs["enemy0.dx"] == pytest.approx(3 / 6), "places are told in parts of the sight"
    state = battle.state_dict()
    battle.step(np.array([[5]]))  # west
    assert seen() == [False, True, False]
    battle.step(np.array([[1]]))
    assert seen() == [False, True, False], "who stands looks where it looked"
    battle.load_state_dict(state)
    assert seen() == [True, False, False]
    battle.step(np.array([[2]]))  # north
    assert not any(seen()[:2])
    battle.reset()
    assert seen() == [True, False, False]
