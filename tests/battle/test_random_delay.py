"""Random delays of shots: uniform, for every weapon that has a cooldown, in every interface, and else absent."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numba
import numpy as np
import pytest
from scipy import stats

import amal.envs  # noqa: F401  registers the Gymnasium ids
from amal.battle import VectorBattle
from amal.battle.scenario import (
    Scenario,
    ScenarioError,
    load_scenario,
    parse_scenario,
    parse_unit,
    terrains,
    unit_types,
)
from amal.battle.state import BATTLE
from amal.envs import SMACWrapper, parallel_env
from amal.rollout.load_policy import load_player
from amal.runtime.checkpoints import CheckpointError
from datamodules import RolloutDataModule
from tests.battle.test_vector import COOLDOWN, HP, assert_same, course, random_actions, snapshot
from tests.conftest import ROOT

SECOND = 16  # ticks
STEP = 8  # ticks
# Stands where it is and shoots once a second at whoever faces it, none of whom it can kill.
TURRET: dict[str, Any] = {
    **{"hp": 1e6, "size": 1, "speed": 0, "attributes": [], "targets": ["ground"], "attack_range": 4},
    **{"damage": 1, "cooldown": 1},
}
HEALER = {**TURRET, "weapon": "heal", "energy": 200, "starting_energy": 200, "attack_range": 9}
LASER = {**TURRET, "weapon": "laser", "beam_width": 2.8, "beam_length": 0.3}


def duel(unit: Mapping[str, Any], **options: object) -> Scenario:
    """A turret and, ids 1 and 2, two of a unit face two turrets."""
    types = {**unit_types(), "mine": parse_unit("mine", unit, "units.yaml")}
    types["turret"] = parse_unit("turret", TURRET, "units.yaml")
    entry = {
        **{"terrain": "simple", "episode_limit": 10_000, "attack_point": [9, 16]},
        "groups": [
            {"side": "ally", "centre": [14, 16], "units": {"turret": 1, "mine": 2}},
            {"side": "enemy", "centre": [17, 16], "units": {"turret": 2}},
        ],
        **options,
    }
    return parse_scenario("duel", entry, types, terrains(), "scenarios.yaml: duel")


def fire_at_will(battle: VectorBattle) -> None:
    """Every agent takes the last target that it can."""
    targets = battle.available_actions.shape[2] - 1 - battle.available_actions[..., ::-1].argmax(axis=2)
    battle.step(targets)


def delays(battle: VectorBattle, steps: int) -> np.ndarray:
    """[T, E, U] in ticks of the shots of units that never stop to shoot once a second; NaN in steps without one.

    Who has c ticks left fires in tick max(c, 1) of the step if that is one of its eight, and has waited since."""
    found = []
    for _ in range(steps):
        before = np.maximum(battle.units[..., COOLDOWN] * SECOND, 1)
        fire_at_will(battle)
        after = battle.units[..., COOLDOWN] * SECOND
        found.append(np.where(before <= STEP, after + STEP - before - SECOND, np.nan))
    return np.array(found)


def draws(battle: VectorBattle, before: dict[str, np.ndarray]) -> np.ndarray:
    """[E]: how many random numbers each battle has drawn since."""
    states = [state["battles"].view(BATTLE)["random_state"].ravel() for state in (before, battle.state_dict())]
    backwards = pow(0x9E3779B97F4A7C15, -1, 2**64)  # each draw adds this number, modulo 2**64
    return np.array([(int(now) - int(then)) * backwards % 2**64 for then, now in zip(*states, strict=True)])


@pytest.mark.parametrize("bounds", [(-1, 2), (0, 0), (3, 7), (-8, -2)])
@pytest.mark.parametrize("unit", [TURRET, LASER, HEALER], ids=["standard", "laser", "heal"])
def test_delays_are_uniform_over_the_bounds_and_drawn_once_a_shot(
    unit: dict[str, Any], bounds: tuple[int, int]
) -> None:
    battle = VectorBattle(duel(unit), 64, seed=3, shuffle_units=False, random_delay=bounds)
    before = battle.state_dict()
    found = delays(battle, 80)
    shots = np.isfinite(found)
    np.testing.assert_array_equal(draws(battle, before), shots.sum(axis=(0, 2)))
    possible = np.arange(bounds[0], bounds[1] + 1)
    assert set(np.unique(found[shots])) == set(possible)
    for side in (battle.scene.allies, battle.scene.enemies):
        counts = [(found[:, :, side] == delay).sum() for delay in possible]
        assert sum(counts) > 3000
        if len(possible) > 1:
            assert stats.chisquare(counts).pvalue > 1e-3, counts


def test_a_delay_tells_nothing_about_the_next_ones() -> None:
    found = delays(VectorBattle(duel(TURRET), 64, seed=4, random_delay=True), 80)
    for e, i in ((e, i) for e in range(64) for i in range(5)):
        assert not e or not np.array_equal(found[:, e, i], found[:, 0, i]), "battles were meant to differ"
    shots = [found[np.isfinite(found[:, e, i]), e, i] for e in range(64) for i in range(5)]
    after_each_other = np.concatenate([np.stack([shot[:-1], shot[1:]]) for shot in shots], axis=1)
    of_neighbours = np.stack([found[..., 0].ravel(), found[..., 1].ravel()])
    of_neighbours = of_neighbours[:, np.isfinite(of_neighbours).all(axis=0)]
    for pairs in (after_each_other, of_neighbours):
        table = np.histogram2d(*pairs, bins=(4, 4))[0]
        assert table.sum() > 1000 and stats.chi2_contingency(table).pvalue > 1e-3, table


def test_who_blows_itself_up_draws_a_delay_too() -> None:
    bomb = {**TURRET, "hp": 9, "weapon": "kamikaze", "blast_radius": 1}
    battle = VectorBattle(duel(bomb), 64, auto_reset=False, random_delay=True)
    fire_at_will(battle)
    exploded = battle.units[:, 1:3][battle.units[:, 1:3, HP] == 0]
    assert set(np.unique(exploded[:, COOLDOWN] * SECOND)) == {15, 16, 17, 18}


def test_a_weapon_without_a_cooldown_has_no_delay_and_draws_nothing() -> None:
    steady = {**TURRET, "cooldown": 0}
    battle = VectorBattle(duel(steady), 8, shuffle_units=False, random_delay=[1, 5])
    before = battle.state_dict()
    found = delays(battle, 4)
    assert not battle.units[:, 1:3, COOLDOWN].any()
    assert (draws(battle, before) == np.isfinite(found[..., [0, 3, 4]]).sum(axis=(0, 2))).all()
    assert not battle.state[:, [name == "ally1.cooldown" for name in battle.scenario.state_features()]].any()


def test_a_cooldown_that_would_be_below_zero_is_zero_and_lets_a_unit_fire_every_tick() -> None:
    battle = VectorBattle(duel(TURRET), 2, random_delay=(-160, -160))
    for step in range(1, 4):
        fire_at_will(battle)
        assert not battle.units[..., COOLDOWN].any()
        assert (battle.units[..., HP].sum(axis=1) == 5e6 - 5 * STEP * step).all()
        assert battle.state.max() <= 1 and np.isfinite(battle.state).all()


@pytest.mark.parametrize("random_delay", [False, True])
def test_the_state_has_the_share_of_the_longest_cooldown(random_delay: bool) -> None:
    battle = VectorBattle(duel(TURRET), 64, random_delay=random_delay)
    feature = [battle.scenario.state_features().index(f"ally{j}.cooldown") for j in range(3)]
    longest = SECOND + 2 * random_delay
    for _ in range(20):
        fire_at_will(battle)
        ticks = battle.units[:, battle.scene.allies, COOLDOWN] * SECOND
        np.testing.assert_allclose(battle.state[:, feature], ticks / longest, rtol=1e-6)


@pytest.mark.parametrize("scenario", ["MMM", "bane_vs_bane", "3s5z_vs_3s6z", "1c3s5z", "zerg_5_vs_5"])
def test_no_cooldown_leaves_its_bounds_in_random_battles(scenario: str) -> None:
    battle = VectorBattle(scenario, 16, random_delay=True)
    rng = np.random.default_rng(0)
    longer = False
    for _ in range(60):
        battle.step(random_actions(battle, rng))
        cooldowns = np.array([[unit.cooldown for unit in battle.fought(e).units] for e in range(16)])
        longer |= bool((battle.units[..., COOLDOWN] > cooldowns).any())
        assert (battle.units[..., COOLDOWN] <= (cooldowns + 2 / SECOND) * (cooldowns > 0)).all()
        assert battle.state.min() >= -1 and battle.state.max() <= 1
    assert longer


def test_nothing_is_drawn_and_nothing_changes_without_it() -> None:
    battle, default = VectorBattle("2s3z", 4, shuffle_units=False, random_delay=False), VectorBattle("2s3z", 4)
    before = battle.state_dict()
    for _ in course(battle, 60):
        pass
    assert not draws(battle, before).any() and default.scenario.random_delay is None
    with_it = VectorBattle("2s3z", 4, random_delay=True)
    *_, off = course(default, 40)
    *_, on = course(with_it, 40)
    assert not np.array_equal(off["units"], on["units"])


@pytest.mark.parametrize("scenario", ["3m", "terran_5_vs_5"])
def test_battle_k_is_the_same_alone_among_others_and_on_every_number_of_threads(scenario: str) -> None:
    threads, batches = numba.get_num_threads(), []
    try:
        for number in {1, numba.config.NUMBA_NUM_THREADS}:  # type: ignore[attr-defined]
            numba.set_num_threads(number)
            batches.append(list(course(VectorBattle(scenario, 180, seed=5, random_delay=True), 60)))
    finally:
        numba.set_num_threads(threads)
    for k in (0, 90, 179):
        alone = list(course(VectorBattle(scenario, 1, seed=5, first_battle=k, random_delay=True), 60, first_battle=k))
        for batch in batches:
            for mine, theirs in zip(alone, batch, strict=True):
                assert_same(mine, {name: array[k : k + 1] for name, array in theirs.items()})


@pytest.mark.parametrize("driven", [False, True])
def test_loaded_state_goes_on_as_the_saved_battles_did(driven: bool) -> None:
    def play(battle: VectorBattle, steps: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(2)
        for _ in range(steps):
            enemies = battle.opponent_available_actions.argmax(axis=2) if driven else None
            battle.step(random_actions(battle, rng), enemies)
        return snapshot(battle)

    saved, loaded = (VectorBattle("8m", 3, seed, with_opponent=driven, random_delay=True) for seed in (1, 99))
    play(saved, 12)
    loaded.load_state_dict(saved.state_dict())
    assert_same(play(saved, 100), play(loaded, 100))


def test_a_scenario_says_its_own_bounds_which_a_switch_keeps_and_other_bounds_replace() -> None:
    own = duel(TURRET, random_delay=[0, 4])
    assert own.random_delay == (0, 4)
    for option, expected in ((False, (0, 4)), (True, (0, 4)), ([1, 2], (1, 2))):
        assert VectorBattle(own, 1, random_delay=option).scenario.random_delay == expected  # type: ignore[arg-type]
    one, other = VectorBattle(own, 4), VectorBattle(duel(TURRET), 4, random_delay=(0, 4))
    for mine, theirs in zip(course(one, 20), course(other, 20), strict=True):
        assert_same(mine, theirs)
    assert load_scenario("3m", random_delay=True).random_delay == (-1, 2)
    assert VectorBattle("terran_5_vs_5", 1, random_delay=True).fought(0).random_delay == (-1, 2)


@pytest.mark.parametrize("bounds", [[2, -1], [1], [1, 2, 3], [0.5, 2], [True, 2], ["-1", 2], [-161, 0], [0, 161]])
def test_bounds_that_are_none_are_refused_wherever_they_are_given(bounds: list[Any]) -> None:
    words = "random_delay: expected [least, most], whole numbers from -160 to 160 in this order, got "
    with pytest.raises(ScenarioError) as refusal:
        duel(TURRET, random_delay=bounds)
    assert str(refusal.value) == f"scenarios.yaml: duel: {words}{bounds}"
    makers: list[Callable[..., object]] = [RolloutDataModule, SMACWrapper, parallel_env, amal.envs.BattleEnv]
    for make in [lambda scenario, **kwargs: VectorBattle(scenario, 1, **kwargs), *makers]:
        with pytest.raises(ValueError) as refusal:  # noqa: PT011
            make("3m", random_delay=bounds)
        assert str(refusal.value) == words + str(bounds)


def test_what_is_neither_a_switch_nor_bounds_is_refused() -> None:
    words = r"^random_delay must be true, false or \[least, most\], whole numbers of ticks from -160 to 160, got "
    for option in (None, "true", 1, {"least": 0}):
        with pytest.raises(ValueError, match=words):
            VectorBattle("3m", 1, random_delay=option)  # type: ignore[arg-type]
    with pytest.raises(ScenarioError, match=r"duel: random_delay: expected \[least, most\], .* got True"):
        duel(TURRET, random_delay=True)


@pytest.mark.parametrize("backend", ["smaclite", "starcraft2"])
def test_other_simulators_are_not_told(backend: Any) -> None:
    words = f"random_delay: only the embedded simulator can be told, not '{backend}', got True"
    for make in (SMACWrapper, RolloutDataModule):
        with pytest.raises(ValueError, match=words):
            make("3m", backend=backend, random_delay=True)


def test_all_interfaces_fight_the_same_battles() -> None:
    def battle_of(random_delay: bool) -> list[np.ndarray]:
        arrays = VectorBattle("3m", 1, seed=7, auto_reset=False, random_delay=random_delay)
        gym = gymnasium.make("amal/3m-v0", random_delay=random_delay)
        zoo = parallel_env("3m", random_delay=random_delay)
        smac = SMACWrapper("3m", seed=7, random_delay=random_delay)
        gym.reset(seed=7), zoo.reset(seed=7), smac.reset()
        states = []
        while not (arrays.terminated[0] or arrays.truncated[0]):
            fire = arrays.available_actions[0, :, 6:].any(axis=1)
            first = arrays.available_actions[0].argmax(axis=1)
            east = np.where(arrays.available_actions[0, :, 4], 4, first)
            actions = np.where(fire, 6 + arrays.available_actions[0, :, 6:].argmax(axis=1), east)
            arrays.step(actions[None])
            gym.step(actions.tolist())
            zoo.step({f"agent_{agent}": int(action) for agent, action in enumerate(actions)})
            info = smac.step(dict(enumerate(actions.tolist())))[3]
            states.append(arrays.state[0].copy())
            for state in (gym.unwrapped.get_state(), zoo.state(), info["state"]):  # type: ignore[attr-defined]
                np.testing.assert_array_equal(state, states[-1])
        return states

    with_it, without = battle_of(True), battle_of(False)
    assert any(not np.array_equal(one, other) for one, other in zip(with_it, without, strict=False))


def test_battles_of_a_team_that_stands_and_shoots_no_longer_end_alike() -> None:
    endings = {}
    for random_delay in (False, True):
        battle = VectorBattle("3m", 128, auto_reset=False, random_delay=random_delay)
        while not (battle.terminated | battle.truncated).all():
            targets, stop = battle.available_actions[:, :, 6:], 1 - battle.available_actions[:, :, 0]
            battle.step(np.where(targets.any(axis=2), 6 + targets.argmax(axis=2), stop))
        endings[random_delay] = len(np.unique(battle.units[..., HP].round(6), axis=0))
    assert endings[False] == 1 and endings[True] > 5, endings


def test_a_run_says_which_battles_it_fought_and_films_and_evaluations_fight_them_too(
    cli: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    small = ("--data.episodes_per_update", "8", "--evaluation.every_n_episodes", "8", "--data.env_steps", "300")
    cli("fit", "--config", "configs/mappo.yaml", "--config", "configs/random_delay.yaml", *small, "--out", run)
    assert json.loads((run / "run.json").read_text())["random_delay"] == [-1, 2]
    last = run / "checkpoints" / "last.ckpt"
    assert load_player(last)[1].random_delay == (-1, 2)
    cli("replay", "--ckpt_path", last, "--out", tmp_path / "battle.html")
    broken = tmp_path / "broken.yaml"
    broken.write_text((run / "config.yaml").read_text().replace("random_delay: true", "random_delay: [2]"))
    with pytest.raises(CheckpointError, match=r"broken.yaml: data.random_delay: expected \[least, most\]"):
        load_player(last, broken)
    told = ("--config", run / "config.yaml", "--ckpt_path", last)
    capsys.readouterr()
    cli("validate", *told)
    assert "random delay" not in capsys.readouterr().err
    cli("validate", *told, "--data.random_delay", "false")
    assert "last.ckpt was trained with random delay [-1, 2] and plays without random delay" in capsys.readouterr().err
    for other, words in (("false", "was True and is now False"), ("[0, 2]", "was True and is now [0, 2]")):
        with pytest.raises(SystemExit) as stop:
            cli("fit", *told, "--data.random_delay", other)
        error = capsys.readouterr().err
        assert stop.value.code == 2 and error.count("\n") == 1
        assert f"made with other settings: data.random_delay {words}" in error


def test_the_speed_script_measures_both_kinds_of_battles_in_turns() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "random_delay_speed.py"))
    assert [script["Measured"]("3m", delay).battle.scenario.random_delay for delay in (False, True)] == [None, (-1, 2)]
    ratios = script["relative_speeds"]("3m", turns=3, steps=2)
    assert ratios.shape == (3,) and ((ratios > 0.1) & (ratios < 10)).all()
