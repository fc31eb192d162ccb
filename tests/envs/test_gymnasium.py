"""The Gymnasium ids: SMAClite's interface, seeds, ends of episodes, and actions that cannot be taken."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit

from amal.battle import UnavailableAction, VectorBattle
from amal.battle.scenario import scenario_names
from amal.envs import GYMNASIUM_IDS, BattleEnv, SMACWrapper
from tests.conftest import ROOT

SCENARIOS = ["3m", "2s3z", "MMM", "27m_vs_30m", "2c_vs_64zg"]


def make(scenario: str, **options: Any) -> BattleEnv:
    env = gymnasium.make(f"amal/{scenario}-v0", **options).unwrapped
    assert isinstance(env, BattleEnv)
    return env


def random_actions(available: list[list[int]], rng: np.random.Generator) -> list[int]:
    return [int(rng.choice(np.flatnonzero(row))) for row in available]


def advance(env: BattleEnv) -> list[int]:
    """The first enemy in reach, else east, else stop: wins 3m within the first seeds."""
    return [next(a for a in (*range(6, env.n_actions), 0, 4, 1) if row[a]) for row in env.get_avail_actions()]


def play(env: BattleEnv, seed: int | None = None) -> list[float]:
    env.reset(seed=seed)
    rewards: list[float] = []
    over = False
    while not over:
        _, reward, terminated, truncated, _ = env.step(advance(env))
        rewards.append(reward)
        over = terminated or truncated
    return rewards


def test_all_scenarios_are_registered() -> None:
    assert tuple(f"amal/{name}-v0" for name in scenario_names()) == GYMNASIUM_IDS
    assert len(GYMNASIUM_IDS) == 29
    assert set(GYMNASIUM_IDS) <= set(gymnasium.registry)


def test_id_with_the_module_works_where_nothing_was_imported() -> None:
    program = "import gymnasium; print(gymnasium.make('amal.envs:amal/2s3z-v0').unwrapped.n_agents)"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip().endswith("5")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_gymnasiums_own_check_passes_without_a_warning(scenario: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(scenario))


@pytest.mark.parametrize("scenario", scenario_names())
def test_client_of_smaclite_needs_another_id_only(scenario: str) -> None:
    """The calls that EPyMARL's wrapper of SMAClite makes, and what its runner takes for granted."""
    env: Any = TimeLimit(gymnasium.make(f"amal/{scenario}-v0", seed=1, use_cpp_rvo2=False), max_episode_steps=30)
    battle = env.unwrapped
    assert max(env.action_space, key=lambda space: space.n).n == battle.n_actions
    assert [space.shape for space in env.observation_space] == [(battle.obs_size,)] * battle.n_agents
    rng = np.random.default_rng(0)
    totals: dict[str, float] = {}
    obs, info = env.reset(seed=None, options=None)
    terminated = truncated = False
    while not (terminated or truncated):
        assert isinstance(obs, tuple) and env.observation_space.contains(obs)
        for mine, kept in zip(obs, battle.get_obs(), strict=True):
            assert mine.dtype == np.float32
            np.testing.assert_array_equal(mine, kept)
        assert battle.get_state().shape == (battle.state_size,) and battle.get_state().dtype == np.float32
        assert battle.state_space.contains(battle.get_state())
        available = battle.get_avail_actions()
        assert all(type(row) is list and set(row) <= {0, 1} and len(row) == battle.n_actions for row in available)
        np.testing.assert_array_equal(battle.get_action_mask(), available)
        obs, reward, terminated, truncated, info = env.step(random_actions(available, rng))
        assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
        totals = {key: totals.get(key, 0) + value for key, value in info.items()}
    assert totals["unavailable_actions"] == 0


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_plays_the_simulators_battle_and_counts_its_dead(scenario: str) -> None:
    env, battle = make(scenario), VectorBattle(scenario, 1, seed=5, auto_reset=False)
    env.reset(seed=5)
    over = False
    while not over:
        actions = advance(env)
        battle.step(np.array([actions]))
        obs, reward, terminated, truncated, info = env.step(actions)
        np.testing.assert_array_equal(np.stack(obs), battle.obs[0])
        np.testing.assert_array_equal(env.get_state(), battle.state[0])
        np.testing.assert_array_equal(env.get_avail_actions(), battle.available_actions[0])
        assert (reward, terminated, truncated) == (battle.rewards[0], battle.terminated[0], battle.truncated[0])
        assert (info["battle_won"], info["episode_limit"]) == (battle.won[0], truncated)
        assert (info["dead_allies"], info["dead_enemies"]) == (battle.dead("ally")[0], battle.dead("enemy")[0])
        over = terminated or truncated


def test_seed_restarts_the_battles_and_without_one_they_go_on() -> None:
    env, wrapper = make("8m"), SMACWrapper("8m", seed=8)
    mine = [play(env, seed=8)] + [play(env) for _ in range(3)]
    assert len({tuple(rewards) for rewards in mine}) > 1
    assert mine == [play(env, seed=8)] + [play(env) for _ in range(3)]
    given_at_construction = make("8m", seed=8)
    assert mine == [play(given_at_construction) for _ in range(4)]
    for rewards in mine:
        wrapper.reset()
        for expected in rewards:
            available = wrapper.available_actions
            choice = [next(a for a in (*range(6, available.shape[1]), 0, 4, 1) if row[a]) for row in available]
            assert set(wrapper.step(dict(enumerate(choice)))[1].values()) == {expected}


def test_battles_that_were_never_seeded_have_seeds_of_their_own_that_can_be_read() -> None:
    env = make("8m")
    assert env.np_random_seed != make("8m").np_random_seed
    assert play(env) == play(make("8m", seed=env.np_random_seed))


def test_episode_limit_truncates_and_a_battle_decided_in_the_last_step_terminates() -> None:
    length = len(play(make("3m"), seed=0))
    for limit, decided in ((length - 1, False), (length, True), (length + 1, True)):
        env = make("3m", episode_limit=limit)
        env.reset(seed=0)
        for step in range(1, min(limit, length) + 1):
            _, _, terminated, truncated, info = env.step(advance(env))
            last = step == min(limit, length)
            assert (terminated, truncated) == (last and decided, last and not decided)
            assert info["episode_limit"] is truncated
        assert env.episode_limit == limit


def test_what_was_returned_is_not_overwritten_by_later_steps() -> None:
    env = make("3m")
    obs, _ = env.reset(seed=0)
    state, mask = env.get_state(), env.get_action_mask()
    before = [obs[0].copy(), state.copy(), mask.copy()]
    for _ in range(8):
        env.step(advance(env))
    for now, then in zip((obs[0], state, mask), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert (env.get_state() != state).any()


def test_unavailable_actions_are_played_as_stop_and_counted() -> None:
    env, other = make("3m"), make("3m")
    env.reset(seed=0)
    other.reset(seed=0)
    obs, reward, _, _, info = env.step([4, 6, 0])  # no enemy is in reach, and no-op is for the dead
    expected, expected_reward, _, _, expected_info = other.step([4, 1, 1])
    np.testing.assert_array_equal(obs, expected)
    assert reward == expected_reward
    assert env.stopped_agents == [1, 2] and info == {**expected_info, "unavailable_actions": 2}
    np.testing.assert_array_equal(env.get_state(), other.get_state())
    assert env.step([4, 4, 4])[-1]["unavailable_actions"] == 0 and env.stopped_agents == []


def test_unavailable_actions_of_the_dead_are_played_as_no_op() -> None:
    env = make("3m", episode_limit=500)
    env.reset(seed=0)
    info: dict[str, Any] = {"dead_allies": 0}
    while not info["dead_allies"]:
        info = env.step([row.index(1) for row in env.get_avail_actions()])[-1]
    info = env.step([1, 1, 1])[-1]
    assert info["unavailable_actions"] == len(env.stopped_agents) > 0


def test_strict_battle_refuses_unavailable_actions_and_stays_as_it_was() -> None:
    env, other = make("3m", strict=True), make("3m")
    env.reset(seed=0)
    other.reset(seed=0)
    with pytest.raises(UnavailableAction, match=r"agent 2 \(marine\): action 7 target enemy 1 is not available"):
        env.step([1, 1, 7])
    np.testing.assert_array_equal(env.step([4, 4, 2])[0], other.step([4, 4, 2])[0])


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([1, 1], r"3 whole numbers, one for every agent, got \[1, 1\]"),
        ([1, 1, 1, 1], "3 whole numbers"),
        ([1, 1, 1.5], "3 whole numbers"),
        (1, "3 whole numbers, one for every agent, got 1"),
        ({0: 1, 1: 1, 2: 1}, "3 whole numbers"),
        ([6, 9, 1], "agent 1: an action is from 0 to 8, got 9"),
        ([1, 1, -1], "agent 2: an action is from 0 to 8, got -1"),
    ],
)
def test_what_is_no_joint_action_is_refused_and_nothing_is_stepped(actions: Any, message: str) -> None:
    env, other = make("3m"), make("3m")
    env.reset(seed=0)
    other.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(actions)
    np.testing.assert_array_equal(env.step((4, np.int64(4), np.int8(2)))[0], other.step([4, 4, 2])[0])
    assert env.stopped_agents == []


def test_step_is_refused_outside_an_episode() -> None:
    env = make("3m", episode_limit=1)
    with pytest.raises(RuntimeError, match=r"no episode is running: call reset\(\)"):
        env.step([1, 1, 1])
    env.reset()
    env.step([1, 1, 1])
    with pytest.raises(RuntimeError, match=r"no episode is running: call reset\(\)"):
        env.step([1, 1, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenario": "3mm"}, r"unknown scenario '3mm' \(did you mean 3m"),
        ({"episode_limit": 0}, "episode_limit must be at least 1"),
        ({"render_mode": "human"}, "render_mode must be None, got 'human'"),
    ],
)
def test_impossible_options_are_refused_on_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BattleEnv(**{"scenario": "3m", **options})


def test_gymnasiums_vector_environments_run_it() -> None:
    envs = gymnasium.make_vec("amal/3m-v0", num_envs=3, vectorization_mode="sync")
    obs, _ = envs.reset(seed=0)
    assert [mine.shape for mine in obs] == [(3, 30)] * 3
    for _ in range(70):
        available = np.array(envs.call("get_avail_actions"))  # [E, N, A]
        obs, rewards, _, _, info = envs.step(tuple(available.argmax(axis=-1).T))
    assert np.shape(rewards) == (3,) and info["battle_won"].dtype == bool
