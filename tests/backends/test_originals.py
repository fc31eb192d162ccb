"""The original SMAC and SMAClite, as their stand-ins show them: options, ends of episodes and what may be missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amal.backends.game import BackendError
from amal.envs import SMACWrapper
from tests.backends.conftest import StandIns

Choose = Callable[[str], None]


def play_for_time(**options: Any) -> tuple[int, dict[str, Any]]:
    """Steps of an episode of six at most in which the agents go west, and its last info."""
    env = SMACWrapper("3m", backend="starcraft2", episode_limit=6, obs_last_action=True, **options)
    assert env.spec.obs_dim == 7 and env.spec.episode_limit == 6
    env.reset()
    steps, done = 0, False
    while not done:
        west = np.where(env.available_actions[:, 5], 5, 1)
        _, rewards, done, info = env.step(dict(enumerate(west)))
        assert rewards[0] == 0
        steps += 1
    env.close()
    return steps, info


def test_smac_gets_its_options_and_a_truncated_battle_is_not_a_lost_one(stand_ins: StandIns) -> None:
    steps, info = play_for_time(reward_sparse=True)
    assert steps == 6 and info["truncated"] and not info["battle_won"]
    steps, info = play_for_time(continuing_episode=False)  # as SMAC has it by itself
    assert steps == 6 and not info["truncated"]


def test_an_unfinished_first_episode_leaves_no_game_behind(stand_ins: StandIns) -> None:
    """Until an episode has ended, SMAC launches StarCraft II at each reset and forgets the one before."""
    env = SMACWrapper("3m", backend="starcraft2")
    for _ in range(3):
        env.reset()
    assert stand_ins.soon(1)
    env.close()


@pytest.mark.parametrize("backend", ["starcraft2", "smaclite"])
def test_the_dictionary_interface_is_the_same(stand_ins: StandIns, backend: str) -> None:
    options: dict[str, Any] = {"reward_scale_rate": 40} if backend == "starcraft2" else {"use_cpp_rvo2": False}
    env = SMACWrapper("3m", seed=1, backend=backend, episode_limit=50, **options)
    obs, state = env.reset()
    assert [o.shape for o in obs.values()] == [(6,)] * 3 and state.shape == (7,)
    done, total = False, 0.0
    while not done:
        targets = env.available_actions[:, 6:]
        onwards = np.where(env.available_actions[:, 0], 0, np.where(env.available_actions[:, 4], 4, 1))
        actions = np.where(targets.any(axis=1), 6 + targets.argmax(axis=1), onwards)
        _, rewards, done, info = env.step(dict(enumerate(actions)))
        total += rewards[0]
    assert info["battle_won"] and (info["dead_allies"] < 3) and (info["dead_enemies"] == 3)
    assert env.get_stats()["mean_return"] == total > (10 if backend == "starcraft2" else 5)
    assert info["state"].shape == (7,) and info["available_actions"].shape == (3, 9)
    with pytest.raises(AttributeError, match="only the embedded simulator"):
        _ = env.scenario
    env.close()


def refusal(scenario: str = "3m", backend: str = "starcraft2", **options: Any) -> str:
    with pytest.raises(BackendError) as error:
        SMACWrapper(scenario, backend=backend, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_what_is_missing_is_told_with_what_to_do(stand_ins: StandIns, only: Choose) -> None:
    game = stand_ins.faults.parent / "StarCraftII"
    assert "unknown scenario '3mm' (did you mean 3m?)" in refusal("3mm")
    assert "unknown scenario '3mm' (did you mean 3m?)" in refusal("3mm", backend="smaclite")
    message = refusal(difficultly="7")
    assert message.startswith("StarCraft2Env refuses its options: ") and "difficultly" in message
    message = refusal(backend="smaclite", rvo=True)
    assert message.startswith("smaclite/3m-v0 refuses its options: ") and "rvo" in message
    assert "episode_limit must be at most 60" in refusal(episode_limit=61)
    shutil.rmtree(game / "Maps" / "SMAC_Maps")
    message = refusal()
    assert f"no 3m.SC2Map below {game / 'Maps'}: unpack https://" in message
    shutil.rmtree(game)
    message = refusal()
    assert f"no StarCraft II in {game}: " in message and "set SC2PATH" in message


def test_the_wrong_smac_is_recognised(stand_ins: StandIns, only: Choose) -> None:
    only("optimiser")
    message = refusal()
    assert "hyper-parameter optimiser" in message and "pip uninstall smac, then pip install git+https://" in message
    only("")
    assert refusal().startswith("backend 'starcraft2' needs SMAC, which is not installed: pip install git+https://")
    assert refusal(backend="smaclite").startswith("backend 'smaclite' needs SMAClite, which is not installed: pip ")


def test_an_smac_that_cannot_be_imported_is_told(
    stand_ins: StandIns, only: Choose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only("")
    broken = tmp_path / "broken" / "smac"
    (broken / "env").mkdir(parents=True)
    (broken / "__init__.py").touch()
    (broken / "env" / "__init__.py").write_text("import pysc2_is_missing\n")
    monkeypatch.syspath_prepend(str(broken.parent))
    assert "SMAC cannot be imported (ModuleNotFoundError: No module named 'pysc2_is_missing')" in refusal()
