"""SMACWrapper: the dictionary interface, its reward options, statistics and errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from amal.battle import UnavailableAction, VectorBattle
from amal.envs import SMACWrapper

SCENARIOS = ["3m", "2s3z", "8m", "5m_vs_6m", "2s_vs_1sc", "MMM", "3s5z", "corridor", "6h_vs_8z"]
Policy = Callable[[np.ndarray], np.ndarray]  # available actions [N, A] -> actions [N]


def random_policy(seed: int = 0) -> Policy:
    rng = np.random.default_rng(seed)
    return lambda available: (rng.random(available.shape) * available).argmax(axis=1)


def advance(available: np.ndarray) -> np.ndarray:
    """The first enemy in reach, else east, else stop: wins 3m within the first seeds."""
    targets = available[:, 6:]
    onwards = np.where(available[:, 0], 0, np.where(available[:, 4], 4, 1))
    return np.where(targets.any(axis=1), 6 + targets.argmax(axis=1), onwards)


def retreat(available: np.ndarray) -> np.ndarray:
    """West, else stop: outlasts what an attack takes."""
    return np.where(available[:, 0], 0, np.where(available[:, 5], 5, 1))


def stand(available: np.ndarray) -> np.ndarray:
    return np.where(available[:, 0], 0, 1)


def play(env: SMACWrapper, policy: Policy) -> tuple[list[float], dict[str, Any]]:
    """One episode: the team's rewards and the last info."""
    env.reset()
    rewards: list[float] = []
    info: dict[str, Any] = {}
    done = False
    while not done:
        _, reward, done, info = env.step(dict(enumerate(policy(env.available_actions))))
        assert len(set(reward.values())) == 1 and set(reward) == set(range(env.spec.n_agents))
        rewards.append(reward[0])
    return rewards, info


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_whole_random_episode_has_the_promised_shapes_and_the_simulators_rewards(scenario: str) -> None:
    env, battle = SMACWrapper(scenario, seed=4), VectorBattle(scenario, 1, seed=4, auto_reset=False)
    spec, policy = env.spec, random_policy()
    assert spec == battle.spec and env.scenario.name == scenario
    obs, state = env.reset()
    steps, done = 0, False
    while not done:
        assert list(obs) == list(range(spec.n_agents))
        for agent, mine in obs.items():
            assert mine.dtype == np.float32
            np.testing.assert_array_equal(mine, battle.obs[0, agent])
        assert state.dtype == np.float32
        np.testing.assert_array_equal(state, battle.state[0])
        np.testing.assert_array_equal(env.available_actions, battle.available_actions[0])
        actions = policy(env.available_actions)
        battle.step(actions[None])
        obs, rewards, done, info = env.step(dict(enumerate(actions.tolist())))
        assert rewards == dict.fromkeys(range(spec.n_agents), battle.rewards[0])
        assert type(rewards[0]) is float
        state = info["state"]
        np.testing.assert_array_equal(info["available_actions"], battle.available_actions[0])
        assert done is bool(battle.terminated[0] or battle.truncated[0])
        assert (info["battle_won"], info["truncated"]) == (battle.won[0], battle.truncated[0])
        assert info["episode_limit"] is info["truncated"]
        assert info["dead_allies"] == (battle.units[0, battle.scene.allies, 6] == 0).sum()
        assert info["dead_enemies"] == (battle.units[0, battle.scene.enemies, 6] == 0).sum()
        steps += 1
    assert 0 < steps <= spec.episode_limit


def test_what_was_returned_is_not_overwritten_by_later_steps() -> None:
    env = SMACWrapper("3m")
    obs, state = env.reset()
    obs_then, state_then = {agent: mine.copy() for agent, mine in obs.items()}, state.copy()
    _, _, _, info = env.step({0: 4, 1: 4, 2: 2})
    available_then = info["available_actions"].copy()
    for _ in range(8):
        env.step(dict(enumerate(advance(env.available_actions))))
    assert all((obs[agent] == obs_then[agent]).all() for agent in obs)
    np.testing.assert_array_equal(state, state_then)
    np.testing.assert_array_equal(info["available_actions"], available_then)


def test_equal_seeds_play_equal_episodes_and_episodes_of_one_seed_differ() -> None:
    one, other = SMACWrapper("8m", seed=8), SMACWrapper("8m", seed=8)
    mine = [play(one, advance)[0] for _ in range(5)]
    assert mine == [play(other, advance)[0] for _ in range(5)]
    assert len({tuple(rewards) for rewards in mine}) > 1


@pytest.mark.parametrize("wins", [True, False])
def test_win_bonus_is_added_at_victory_alone_and_the_best_return_stays_the_rate(wins: bool) -> None:
    def rewards_with(**options: float) -> np.ndarray:
        rewards, info = play(SMACWrapper("3m", **options), advance if wins else random_policy())  # type: ignore[arg-type]
        assert info["battle_won"] is wins
        return np.array(rewards)

    default, rich, none = rewards_with(), rewards_with(reward_win=1000), rewards_with(reward_win=0)
    percent = rewards_with(reward_scale_rate=100)
    np.testing.assert_allclose(percent, default * 5, rtol=1e-12)
    points = 3 * 45 + 3 * 10  # the enemies' hp, and 10 per kill
    default_points, rich_points = default * (points + 200) / 20, rich * (points + 1000) / 20
    none_points = none * points / 20
    bonus = np.zeros(len(default))
    bonus[-1] = wins
    np.testing.assert_allclose(rich_points - none_points, bonus * 1000, atol=1e-9)
    np.testing.assert_allclose(default_points - none_points, bonus * 200, atol=1e-9)
    if wins:
        assert none_points.sum() == pytest.approx(points)
        assert [rewards.sum() for rewards in (default, rich, none, percent)] == pytest.approx([20, 20, 20, 100])
    else:
        assert 0 < none_points.sum() < points


def test_sparse_reward_tells_victory_defeat_and_timeout_apart_and_nothing_else() -> None:
    won, info = play(SMACWrapper("3m", reward_sparse=True, reward_win=50), advance)
    assert info["battle_won"] and won[-1] == 1 and not any(won[:-1])
    lost, info = play(SMACWrapper("3m", reward_sparse=True, episode_limit=200), stand)
    assert not info["battle_won"] and not info["truncated"] and lost[-1] == -1 and not any(lost[:-1])
    timeout, info = play(SMACWrapper("3m", reward_sparse=True, episode_limit=9), advance)
    assert info["truncated"] and timeout == [0] * 9


def test_episode_limit_can_be_overridden() -> None:
    env = SMACWrapper("8m", episode_limit=5)
    rewards, info = play(env, stand)
    assert len(rewards) == env.spec.episode_limit == 5
    assert info["truncated"] and info["episode_limit"] and not info["battle_won"]


def test_statistics_add_up_over_all_episodes_played_to_their_end() -> None:
    env = SMACWrapper("3m", episode_limit=25)
    stats = env.get_stats()
    assert stats["battles_played"] == 0 and math.isnan(stats["win_rate"])
    returns, lengths, won, timeouts = [], [], 0, 0
    for policy in (advance, random_policy(), stand, retreat, advance):
        rewards, info = play(env, policy)
        returns.append(sum(rewards))
        lengths.append(len(rewards))
        won += info["battle_won"]
        timeouts += info["truncated"]
    env.reset()
    env.step({0: 1, 1: 1, 2: 1})
    env.reset()  # an episode given up does not count
    assert 0 < won < 5 and timeouts == 1
    stats = env.get_stats()
    assert all(type(value) is float for value in stats.values())
    assert (stats["battles_played"], stats["battles_won"], stats["timeouts"]) == (5, won, timeouts)
    assert stats["win_rate"] == won / 5
    assert stats["mean_return"] == pytest.approx(np.mean(returns))
    assert stats["mean_length"] == pytest.approx(np.mean(lengths))


def test_step_is_refused_outside_an_episode() -> None:
    env = SMACWrapper("3m", episode_limit=2)
    with pytest.raises(RuntimeError, match=r"no episode has begun: call reset\(\)"):
        env.step({0: 1, 1: 1, 2: 1})
    play(env, stand)
    with pytest.raises(RuntimeError, match=r"the episode is over: call reset\(\)"):
        env.step({0: 1, 1: 1, 2: 1})
    env.reset()
    env.step({0: 1, 1: 1, 2: 1})


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({0: 1, 2: 1}, r"agents 0 to 2: missing \[1\]"),
        ({0: 1, 1: 1, 2: 1, 3: 1}, r"agents 0 to 2: unknown \[3\]"),
        ({0: 1, 1: 1, "two": 1}, r"agents 0 to 2: missing \[2\], unknown \['two'\]"),
        ({}, r"missing \[0, 1, 2\]"),
        ({0: 1, 1: 1.5, 2: 1}, "agent 1: an action is a whole number, got 1.5"),
        ({0: 1, 1: "stop", 2: 1}, "agent 1: an action is a whole number, got 'stop'"),
    ],
)
def test_wrong_agents_and_kinds_of_action_are_named(actions: Any, message: str) -> None:
    env = SMACWrapper("3m")
    env.reset()
    with pytest.raises(ValueError, match=message):
        env.step(actions)


def test_refused_action_names_the_agent_and_leaves_the_episode_as_it_was() -> None:
    env, other = SMACWrapper("3m"), SMACWrapper("3m")
    env.reset()
    other.reset()
    with pytest.raises(UnavailableAction, match=r"agent 2 \(marine\): action 7 target enemy 1 is not available"):
        env.step({0: 1, 1: 1, 2: 7})
    actions = {0: np.int64(4), 1: np.int8(4), 2: 2}  # numpy's integers serve as well
    obs, rewards, _, _ = env.step(actions)  # type: ignore[arg-type]
    expected, expected_rewards, _, _ = other.step(actions)  # type: ignore[arg-type]
    assert rewards == expected_rewards
    for agent, mine in obs.items():
        np.testing.assert_array_equal(mine, expected[agent])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "starcraft"}, r"unknown backend 'starcraft' \(did you mean starcraft2\?\); known: embedded, "),
        ({"scenario_name": "3mm"}, r"unknown scenario '3mm' \(did you mean 3m"),
        ({"reward_win": -1}, "reward_win must be finite and at least 0, got -1"),
        ({"reward_win": math.nan}, "reward_win must be finite"),
        ({"reward_scale_rate": 0}, "reward_scale_rate must be finite and above 0, got 0"),
        ({"episode_limit": 0}, "episode_limit must be at least 1"),
    ],
)
def test_impossible_options_are_refused_on_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMACWrapper(**{"scenario_name": "3m", **options})
