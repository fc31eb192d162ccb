"""The PettingZoo environment: PettingZoo's own tests, the fixed team, seeds and actions that cannot be taken."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test
from pettingzoo.test.state_test import state_test
from pettingzoo.utils.conversions import parallel_to_aec

from amal.battle import UnavailableAction
from amal.battle.scenario import scenario_names
from amal.envs import BattleEnv, ParallelBattleEnv, parallel_env


def advance(infos: dict[str, dict[str, Any]]) -> dict[str, int]:
    """The first enemy in reach, else east, else stop: wins 3m within the first seeds."""
    return {
        agent: next(a for a in (*range(6, len(info["action_mask"])), 0, 4, 1) if info["action_mask"][a])
        for agent, info in infos.items()
    }


def play(env: ParallelBattleEnv, seed: int | None = None) -> list[float]:
    _, infos = env.reset(seed=seed)
    rewards: list[float] = []
    while env.agents:
        _, reward, _, _, infos = env.step(advance(infos))
        rewards.append(reward["agent_0"])
    return rewards


@pytest.mark.parametrize("scenario", scenario_names())
def test_pettingzoos_parallel_test_passes_without_a_warning(scenario: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_api_test(parallel_env(scenario), num_cycles=300)


@pytest.mark.parametrize("scenario", ["3m", "2s3z", "MMM", "27m_vs_30m"])
def test_pettingzoos_seed_test_passes(scenario: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parallel_seed_test(lambda: parallel_env(scenario), num_cycles=100)


def test_agents_can_take_turns_as_pettingzoo_converts_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Observation numpy array is all zeros")  # of the dead
        api_test(parallel_to_aec(parallel_env("2s3z")), num_cycles=100)
        seed_test(lambda: parallel_to_aec(parallel_env("2s3z")), num_cycles=20)
        state_test(parallel_to_aec(parallel_env("2s3z")), parallel_env("2s3z"))


def test_agents_stay_until_the_end_and_share_the_battle_that_gymnasium_plays() -> None:
    env, other = parallel_env("2s3z"), BattleEnv("2s3z")
    team = [f"agent_{agent}" for agent in range(5)]
    assert env.possible_agents == team and env.agents == []
    obs, infos = env.reset(seed=3)
    other.reset(seed=3)
    some_were_dead = False
    while env.agents:
        assert env.agents == list(obs) == list(infos) == team
        for agent, expected in zip(team, other.get_obs(), strict=True):
            np.testing.assert_array_equal(obs[agent], expected)
            assert env.observation_space(agent).contains(obs[agent])
        mask = np.stack([infos[agent]["action_mask"] for agent in team])
        assert mask.dtype == np.int8
        np.testing.assert_array_equal(mask, other.get_avail_actions())
        np.testing.assert_array_equal(env.state(), other.get_state())
        assert env.state_space.contains(env.state())
        dead = mask[:, 0] == 1
        some_were_dead |= bool(dead.any())
        assert (mask[dead].sum(axis=1) == 1).all() and not any(obs[team[agent]].any() for agent in np.flatnonzero(dead))
        actions = advance(infos)
        obs, rewards, terminated, truncated, infos = env.step(actions)
        _, reward, over, cut, info = other.step(list(actions.values()))
        assert rewards == dict.fromkeys(team, reward)
        assert (terminated, truncated) == (dict.fromkeys(team, over), dict.fromkeys(team, cut))
        assert {mine["battle_won"] for mine in infos.values()} == {info["battle_won"]}
    assert some_were_dead and (over or cut)


def test_episode_limit_truncates_all_agents() -> None:
    env = parallel_env("3m", episode_limit=2)
    _, infos = env.reset(seed=0)
    _, _, terminated, truncated, infos = env.step(advance(infos))
    assert not any(terminated.values()) and not any(truncated.values()) and len(env.agents) == 3
    _, _, terminated, truncated, infos = env.step(advance(infos))
    assert not any(terminated.values()) and all(truncated.values()) and env.agents == []
    with pytest.raises(RuntimeError, match=r"call reset\(\)"):
        env.step(advance(infos))


def test_seed_restarts_the_battles_and_without_one_they_go_on() -> None:
    env = parallel_env("8m")
    mine = [play(env, seed=8)] + [play(env) for _ in range(3)]
    assert len({tuple(rewards) for rewards in mine}) > 1
    assert mine == [play(env, seed=8)] + [play(env) for _ in range(3)]
    given_at_construction = parallel_env("8m", 8)
    assert mine == [play(given_at_construction) for _ in range(4)]


def test_unavailable_actions_are_played_as_stop_and_told_to_the_agent() -> None:
    env, other = parallel_env("3m"), parallel_env("3m")
    env.reset(seed=0)
    other.reset(seed=0)
    obs, _, _, _, infos = env.step({"agent_0": 4, "agent_1": 6, "agent_2": 1})
    expected, *_ = other.step({"agent_0": 4, "agent_1": 1, "agent_2": 1})
    assert [info["unavailable_action"] for info in infos.values()] == [False, True, False]
    for agent, mine in obs.items():
        np.testing.assert_array_equal(mine, expected[agent])


def test_strict_battle_refuses_unavailable_actions() -> None:
    env = parallel_env("3m", strict=True)
    env.reset(seed=0)
    with pytest.raises(UnavailableAction, match=r"agent 1 \(marine\): action 6 target enemy 0 is not available"):
        env.step({"agent_0": 4, "agent_1": 6, "agent_2": 1})


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({"agent_0": 1, "agent_2": 1}, r"missing \['agent_1'\], unknown \[\]"),
        ({"agent_0": 1, "agent_1": 1, "agent_2": 1, 0: 1}, r"missing \[\], unknown \[0\]"),
        ({}, "missing"),
        ({"agent_0": 1, "agent_1": 1.5, "agent_2": 1}, "3 whole numbers"),
        ({"agent_0": 1, "agent_1": 9, "agent_2": 1}, "agent 1: an action is from 0 to 8, got 9"),
    ],
)
def test_wrong_agents_and_actions_are_refused(actions: Any, message: str) -> None:
    env = parallel_env("3m")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(actions)


def test_action_masks_are_rows_of_bools_as_maskable_ppo_stacks_them() -> None:
    env = parallel_env("2s3z")
    _, infos = env.reset(seed=3)
    some_were_dead = False
    while env.agents:
        masks = env.action_masks()
        assert masks.dtype == np.bool_
        np.testing.assert_array_equal(masks, np.stack([info["action_mask"] for info in infos.values()]))
        dead = masks[:, 0]
        some_were_dead |= bool(dead.any())
        assert masks.any(axis=1).all() and (masks[dead].sum(axis=1) == 1).all()
        _, _, _, _, infos = env.step(advance(infos))
    assert some_were_dead
    masks = env.action_masks()
    masks[:] = False  # a copy: whoever changes it does not change the battle
    assert env.action_masks().any(axis=1).all()
