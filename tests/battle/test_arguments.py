"""What battles cannot be given: one line names the argument, what is allowed and what came, and nothing has changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amal.battle import VectorBattle
from amal.battle.scenario import load_scenario
from amal.envs import BattleEnv, SMACWrapper, parallel_env
from datamodules import RolloutDataModule

MASK = r"battles must be a boolean mask of shape \[E\] = \(4,\), got "
ACTIONS = r"actions must be integers of shape \[E, N\] = \(4, 3\), got "
POSITIONS = r"positions must be numbers of shape \[E, U, 2\] = \(4, 6, 2\), got "
ON_FIELD = "positions must be finite and on the field, 0 to 32, got "
BAD_STATE = "battle state is damaged: it names units, types or actions that do not exist"


def altered(array: np.ndarray, value: Any) -> np.ndarray:
    array = array.copy()
    array.flat[5] = value
    return array


STARTS = np.full((4, 6, 2), 8.0)
REFUSED: list[tuple[str, Callable[[VectorBattle], object], str]] = [
    ("indices", lambda b: b.reset(battles=np.array([0, 2])), MASK + r"int64 \(2,\)"),
    ("as many indices", lambda b: b.reset(battles=np.array([0, 1, 2, 3])), MASK + r"int64 \(4,\)"),
    ("a number", lambda b: b.reset(battles=7), MASK + r"int64 \(\)"),  # type: ignore[arg-type]
    ("a short mask", lambda b: b.reset(battles=[True]), MASK + r"bool \(1,\)"),  # type: ignore[arg-type]
    ("a long mask", lambda b: b.reset(battles=np.ones(5, bool)), MASK + r"bool \(5,\)"),
    ("a column", lambda b: b.reset(battles=np.ones((4, 1), bool)), MASK + r"bool \(4, 1\)"),
    ("a float mask", lambda b: b.reset(battles=np.ones(4)), MASK + r"float64 \(4,\)"),
    ("words as mask", lambda b: b.reset(battles=["yes"] * 4), MASK),  # type: ignore[arg-type]
    ("ragged mask", lambda b: b.reset(battles=[[True], []]), MASK + "rows of different lengths"),  # type: ignore[arg-type]
    ("one start", lambda b: b.reset(positions=STARTS[0]), POSITIONS + r"\(6, 2\) of float64"),
    ("words", lambda b: b.reset(positions=STARTS.astype(str)), POSITIONS),
    ("complex", lambda b: b.reset(positions=STARTS.astype(complex)), POSITIONS + ".* of complex128"),
    ("booleans", lambda b: b.reset(positions=STARTS > 0), POSITIONS + ".* of bool"),
    ("ragged starts", lambda b: b.reset(positions=[[1], [1, 2]]), POSITIONS + "rows of"),  # type: ignore[arg-type]
    ("NaN start", lambda b: b.reset(positions=altered(STARTS, math.nan)), ON_FIELD + "nan"),
    ("far start", lambda b: b.reset(positions=altered(STARTS, 32.5)), ON_FIELD + "32.5"),
    ("float actions", lambda b: b.step(np.ones((4, 3))), ACTIONS + r"float64 \(4, 3\)"),
    ("NaN actions", lambda b: b.step(np.full((4, 3), np.nan)), ACTIONS + "float64"),
    ("ragged actions", lambda b: b.step([[1], [1, 2]]), ACTIONS + "rows of different lengths"),  # type: ignore[arg-type]
    ("no actions", lambda b: b.step(None), ACTIONS + "object"),  # type: ignore[arg-type]
    ("huge actions", lambda b: b.step([[10**30] * 3] * 4), ACTIONS + "object"),  # type: ignore[arg-type]
    ("out of range", lambda b: b.step(np.full((4, 3), 9)), r"battle 0, agent 0 \(marine\): action 9 \(there are 9\)"),
    ("unsigned", lambda b: b.step(np.full((4, 3), 2**64 - 1, np.uint64)), "is not available; available: 1 stop"),
    ("another side", lambda b: b.dead("allies"), "side must be 'ally' or 'enemy', got 'allies'"),
    ("another battle", lambda b: b.scene_of(4), "e must be at most 3, got 4"),
    ("battle -1", lambda b: b.fought(-1), "e must be at least 0, got -1"),
    ("no state", lambda b: b.load_state_dict([]), "battle state must be a mapping"),  # type: ignore[arg-type]
    (
        "another dtype",
        lambda b: load(b, obs=b.obs.astype(float)),
        "'obs' is of float64, but 4 battles of 3m have float32",
    ),
    (
        "an extra array",
        lambda b: load(b, pair_types=np.zeros(4)),
        "battle state has 'pair_types', but 4 battles of 3m have none",
    ),
    ("wild units", lambda b: load(b, units=np.full_like(b.state_dict()["units"], 77)), BAD_STATE),
    ("wild actions", lambda b: load(b, opponent_actions=np.full((4, 3), 9)), BAD_STATE),
]


def load(battle: VectorBattle, **arrays: np.ndarray) -> None:
    battle.load_state_dict(battle.state_dict() | arrays)


@pytest.mark.parametrize(("call", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_a_battle_cannot_do_is_refused_and_changes_nothing(
    call: Callable[[VectorBattle], object], message: str
) -> None:
    battle = VectorBattle("3m", 4)
    battle.step(np.full((4, 3), 4))
    before = battle.state_dict()
    with pytest.raises(ValueError, match=message) as refusal:
        call(battle)
    assert "\n" not in str(refusal.value)
    for name, array in battle.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("mask", [[True, False, True, False], np.array([1, 0, 1, 0], bool)])
def test_a_mask_resets_its_battles_and_no_others(mask: Any) -> None:
    battle = VectorBattle("3m", 4)
    battle.step(np.full((4, 3), 4))
    battle.reset(battles=mask)
    assert battle.episode_steps.tolist() == [0, 1, 0, 1]


ONE = {"scenario": "3m", "num_battles": 1}
NAMES_AND_VALUES = [
    ("num_battles", 1.5, "num_battles must be a whole number, got 1.5"),
    ("num_battles", True, "num_battles must be a whole number, got True"),
    ("num_battles", 10**20, "num_battles must be at most 1048576, got 1"),
    ("seed", "a", "seed must be a whole number, got 'a'"),
    ("seed", None, "seed must be a whole number, got null"),
    ("first_battle", -1, "first_battle must be at least 0, got -1"),
    ("auto_reset", "no", "auto_reset must be True or False, got 'no'"),
    ("shuffle_units", 1, "shuffle_units must be True or False, got 1"),
    ("with_opponent", None, "with_opponent must be True or False, got None"),
    ("episode_limit", 1.5, "episode_limit must be a whole number, got 1.5"),
    ("episode_limit", math.nan, "episode_limit must be a whole number, got nan"),
    ("episode_limit", 10**20, "episode_limit must be at most 100000, got 100000000000000000000"),
    ("scenario", 5, "scenario must be a name or the path of a YAML file, as a string, got 5"),
    ("scenario", Path("3m"), "scenario must be a name or the path of a YAML file, as a string, got "),
]


@pytest.mark.parametrize(("name", "value", "message"), NAMES_AND_VALUES)
def test_battles_of_impossible_arguments_are_refused_by_name(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VectorBattle(**(ONE | {name: value}))
    if name in ("seed", "episode_limit") and value is not None:
        makers: tuple[Callable[..., object], ...] = (SMACWrapper, BattleEnv, parallel_env)
        for make in makers:
            with pytest.raises(ValueError, match=message):
                make("3m", **{name: value})
    if name == "episode_limit":
        with pytest.raises(ValueError, match=message):
            load_scenario("3m", episode_limit=value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SMACWrapper("3m", reward_win="a"), "reward_win must be a number, got 'a'"),  # type: ignore[arg-type]
        (lambda: SMACWrapper("3m", reward_sparse="no"), "reward_sparse must be True or False, got 'no'"),  # type: ignore[arg-type]
        (lambda: SMACWrapper("3m", backend=["smaclite"]), "unknown backend"),  # type: ignore[arg-type]
        (lambda: SMACWrapper("3m", backend="smaclite", seed=1.5), "seed must be a whole number"),  # type: ignore[arg-type]
        (lambda: SMACWrapper("3m", backend="smaclite", episode_limit=1.5), "episode_limit must be a whole number"),  # type: ignore[arg-type]
        (lambda: BattleEnv("3m", strict="no"), "strict must be True or False, got 'no'"),  # type: ignore[arg-type]
        (lambda: BattleEnv("3m").reset(seed="a"), "seed must be a whole number, got 'a'"),  # type: ignore[arg-type]
        (lambda: parallel_env("3m").reset(seed=-1), "seed must be at least 0, got -1"),
        (
            lambda: began(BattleEnv("3m")).step([1, 1, 1.5]),
            r"actions must be 3 whole numbers, one for every agent, got \[1, 1, 1.5\]",
        ),
        (
            lambda: began(BattleEnv("3m")).step([1, [2], 3]),
            r"actions must be 3 whole numbers, .*, got \[1, \[2\], 3\]",
        ),
        (lambda: began(parallel_env("3m")).step([1, 1, 1]), "actions must be a mapping of agents to actions, got list"),
        (lambda: began(SMACWrapper("3m")).step([1, 1, 1]), "actions must be a mapping of agents to actions, got list"),
        (lambda: began(SMACWrapper("3m")).step({0: True, 1: 1, 2: 1}), "agent 0: an action is a whole number"),
        (
            lambda: began(SMACWrapper("3m")).step({0: 1, 1: 10**30, 2: 1}),
            "agent 1: an action is from 0 to 8, got 1000",
        ),
    ],
)
def test_the_wrappers_refuse_as_the_battles_do(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def began(env: Any) -> Any:
    env.reset()
    return env


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 1.5}, "num_envs must be a whole number, got 1.5"),
        ({"episodes_per_update": "32"}, "episodes_per_update must be a whole number, got '32'"),
        ({"env_steps": 10**30}, "env_steps must be at most 9007199254740992, got 1"),
        ({"env_steps": None, "episodes": math.nan}, "episodes must be a whole number, got nan"),
        ({"episode_limit": 10**20}, "episode_limit must be at most 100000, got 1"),
        ({"episode_limit": 10**20, "backend": "smaclite"}, "episode_limit must be at most 100000, got 1"),
        ({"scenario": 5}, "scenario must be a name"),
        ({"backend": "starcraft"}, "backend must be 'embedded' or 'starcraft2' or 'smacv2' or 'smaclite', got"),
        ({"backend_options": "difficulty"}, "backend_options must be a dict of the back end's arguments"),
        ({"opponent": 5}, "opponent must be the path of a checkpoint, got 5"),
    ],
)
def test_the_data_module_refuses_as_the_battles_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RolloutDataModule(**({"scenario": "3m", "env_steps": 100} | options))
