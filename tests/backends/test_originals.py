"""The original SMAC, SMACv2 and SMAClite, as their stand-ins show them: options, ends of episodes, what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amal.backends import BACKENDS
from amal.backends.battles import WorkerBattles
from amal.backends.game import BackendError
from amal.envs import SMACWrapper
from tests.backends.conftest import StandIns, options_of

Choose = Callable[[str], None]
STARCRAFT = ("starcraft2", "smacv2")


def attack(env: SMACWrapper) -> dict[int, int]:
    """Actions of agents that shoot the first enemy that lives."""
    targets = env.available_actions[:, 6:]
    return dict(enumerate(np.where(env.available_actions[:, 0], 0, 6 + targets.argmax(axis=1)).tolist()))


def west(env: SMACWrapper) -> dict[int, int]:
    return dict(enumerate(np.where(env.available_actions[:, 5], 5, 0).tolist()))


def play(env: SMACWrapper, choose: Callable[[SMACWrapper], dict[int, int]]) -> tuple[list[float], dict[str, Any]]:
    """The rewards of an episode, and its last info."""
    env.reset()
    rewards, done, info = [], False, {}
    while not done:
        _, by_agent, done, info = env.step(choose(env))
        rewards.append(by_agent[0])
    return rewards, info


@pytest.mark.parametrize("backend", STARCRAFT)
def test_smac_gets_its_options_and_a_truncated_battle_is_not_a_lost_one(stand_ins: StandIns, backend: str) -> None:
    options: dict[str, Any] = {"episode_limit": 6, "obs_last_action": True, **options_of(backend)}
    env = SMACWrapper("2s3z", backend=backend, **options)
    assert env.spec.obs_dim == 9 and env.spec.episode_limit == 6
    rewards, info = play(env, west)
    assert rewards == [0] * 6 and info["truncated"] and not info["battle_won"]
    env.close()
    env = SMACWrapper("2s3z", backend=backend, continuing_episode=False, **options)  # as SMAC has it by itself
    rewards, info = play(env, west)
    assert len(rewards) == 6 and not info["truncated"]
    env.close()


@pytest.mark.parametrize("backend", STARCRAFT)
def test_a_sparse_victory_is_worth_one_unless_it_is_to_be_scaled(stand_ins: StandIns, backend: str) -> None:
    for options, worth in (({}, 1.0), ({"reward_scale": True}, 20 / 365)):
        env = SMACWrapper("2s3z", seed=1, backend=backend, reward_sparse=True, **options, **options_of(backend))
        rewards, info = play(env, attack)
        assert info["battle_won"] and rewards[-1] == worth and not any(rewards[:-1])
        env.close()


def test_a_difficulty_is_what_yaml_makes_of_it(stand_ins: StandIns) -> None:
    env = SMACWrapper("3m", backend="starcraft2", difficulty=7)
    env.reset()  # launches the game
    env.close()


@pytest.mark.parametrize("backend", STARCRAFT)
def test_the_games_own_replays_are_saved_one_for_each_battle(stand_ins: StandIns, tmp_path: Path, backend: str) -> None:
    options = {"replay_dir": str(tmp_path / "replays"), **options_of(backend)}
    battles = WorkerBattles(backend, "2s3z", 2, options=options)
    battles.reset()
    battles.close()
    names = sorted(file.name for file in (tmp_path / "replays").iterdir())
    assert len(names) == 2 and all(name.startswith("2s3z_") and name.endswith(".SC2Replay") for name in names)
    unused = WorkerBattles(backend, "2s3z", 1, options=options)
    unused.close()  # no game was launched, so there is nothing to save
    assert len(list((tmp_path / "replays").iterdir())) == 2


def test_a_replay_that_cannot_be_saved_is_told(
    stand_ins: StandIns, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    battles = WorkerBattles("starcraft2", "3m", 1, options={"replay_dir": str(tmp_path / "file")})
    battles.reset()
    battles.close()
    assert capfd.readouterr().err.startswith("a game did not end in good order: FileExistsError: ")


def test_smacv2_plays_what_its_capabilities_say(stand_ins: StandIns) -> None:
    teams = {"n_units": 4, "n_enemies": 5, "team_gen": {"dist_type": "weighted_teams"}}
    env = SMACWrapper("10gen_terran", backend="smacv2", episode_limit=7, capability_config=teams)
    assert (env.spec.n_agents, env.spec.n_enemies, env.spec.episode_limit) == (4, 5, 7)
    stand_ins.let_happen("no_units")  # its reset tries again, and returns nothing
    env.reset()
    env.reset()  # a game that is given up, and one more with the same configuration
    rewards, info = play(env, west)
    assert len(rewards) == 7 and info["truncated"]
    env.close()


def test_smaclite_has_no_limit_of_its_own(stand_ins: StandIns) -> None:
    env = SMACWrapper("2s3z", backend="smaclite")
    assert env.spec.episode_limit == 120  # as in the embedded simulator
    env.close()
    assert refusal("custom", "smaclite", map_info="3m") == (
        "episode_limit: SMAClite ends no episode of 'custom' itself, give a number of steps"
    )
    env = SMACWrapper("custom", backend="smaclite", map_info="3m", episode_limit=900)
    assert env.spec.episode_limit == 900
    env.close()


def test_an_unfinished_first_episode_leaves_no_game_behind(stand_ins: StandIns) -> None:
    """Until an episode has ended, SMAC launches StarCraft II at each reset and forgets the one before."""
    env = SMACWrapper("3m", backend="starcraft2")
    for _ in range(3):
        env.reset()
    assert stand_ins.soon(1)
    env.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_dictionary_interface_is_the_same(stand_ins: StandIns, backend: str) -> None:
    options: dict[str, Any] = {"use_cpp_rvo2": False} if backend == "smaclite" else {"reward_scale_rate": 40}
    env = SMACWrapper("2s3z", seed=1, backend=backend, episode_limit=50, **options, **options_of(backend))
    obs, state = env.reset()
    assert [o.shape for o in obs.values()] == [(8,)] * 5 and state.shape == (11,)
    rewards, info = play(env, attack)
    assert info["battle_won"] and info["dead_allies"] < 5 and info["dead_enemies"] == 5
    assert env.get_stats()["mean_return"] == sum(rewards) == (40 if backend == "smaclite" else 80)
    assert info["state"].shape == (11,) and info["available_actions"].shape == (5, 11)
    with pytest.raises(AttributeError, match="only the embedded simulator"):
        _ = env.scenario
    env.close()


def refusal(scenario: str = "3m", backend: str = "starcraft2", **options: Any) -> str:
    with pytest.raises(BackendError) as error:
        SMACWrapper(scenario, backend=backend, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_what_is_missing_is_told_before_a_game_is_launched(stand_ins: StandIns) -> None:
    game = stand_ins.faults.parent / "StarCraftII"
    assert "unknown scenario '3mm' (did you mean 3m?)" in refusal("3mm")
    message = refusal(difficultly="7")
    assert "refuses its options: TypeError: " in message and "difficultly" in message
    assert refusal(difficulty=11) == "difficulty must be one of 1, 2, 3, 4, 5, 6, 7, 8, 9, A, got 11"
    assert refusal(game_version=4.10) == "game_version must be a string, got 4.1: put it in quotes"
    assert "cannot be used: Unknown game version: 9.9." in refusal(game_version="9.9")
    assert "episode_limit must be at most 60" in refusal(episode_limit=61)
    in_place = game / "Maps" / "SMAC_Maps" / "3m.SC2Map"
    in_place.rename(game / "Maps" / "3m.SC2Map")
    assert f"no map {in_place}: unpack https://" in refusal()
    binary = game / "Versions" / "Base75689" / "SC2_x64"
    binary.chmod(0o644)
    assert f"no executable file {binary}: get it from " in refusal()
    binary.unlink()
    assert f"no executable file {binary}: get it from " in refusal()
    binary.parent.rmdir()
    assert f"StarCraft II in {game} cannot be used: No SC2 Versions found" in refusal()
    shutil.rmtree(game)
    message = refusal()
    assert f"no StarCraft II in {game}: " in message and "set SC2PATH" in message


def test_observations_that_smac_calls_too_short_are_refused(stand_ins: StandIns) -> None:
    assert refusal(obs_timestep_number=True).startswith("obs_timestep_number: SMAC's observations are longer")


def test_what_smacv2_needs_is_told(stand_ins: StandIns) -> None:
    assert "capability_config is missing among the options of SMACv2; examples: https" in refusal("3m", "smacv2")
    assert "must be a mapping, got 3" in refusal("3m", "smacv2", capability_config=3)
    assert "capability_config needs n_enemies" in refusal("3m", "smacv2", capability_config={"n_units": 3})
    counts = {"n_units": 3, "n_enemies": 3}
    message = refusal("10gen_terran", "smacv2", capability_config=counts)
    assert "capability_config needs team_gen: 10gen_terran is played on 32x32_flat" in message
    unknown = counts | {"team_gen": {"dist_type": "weighed_teams"}}
    message = refusal("10gen_terran", "smacv2", capability_config=unknown)
    assert message == "SMACv2 refuses its options: KeyError: 'weighed_teams'"
    (stand_ins.faults.parent / "StarCraftII" / "Maps" / "SMAC_Maps" / "32x32_flat.SC2Map").unlink()
    drawn = counts | {"team_gen": {"dist_type": "weighted_teams"}}
    assert "32x32_flat.SC2Map: unpack https://" in refusal("10gen_terran", "smacv2", capability_config=drawn)


def test_what_smaclite_would_ignore_is_told(stand_ins: StandIns) -> None:
    assert refusal("3m", "smaclite") == "unknown scenario '3m'; known: 2s3z, 10m_vs_11m, custom"
    message = refusal("2s3z", "smaclite", use_cpp_rvo=True)
    assert message.startswith("smaclite/2s3z-v0 has no option 'use_cpp_rvo' (did you mean use_cpp_rvo2?); known: map_")
    assert "refuses its options: ValueError: Either map_info or map_file" in refusal("custom", "smaclite")


@pytest.mark.parametrize(("backend", "option"), [("starcraft2", "map_name"), ("smaclite", "id"), ("smacv2", "seed")])
def test_no_option_is_overridden_in_silence(stand_ins: StandIns, backend: str, option: str) -> None:
    with pytest.raises(ValueError, match=f"options: {option} is not one of them; (scenario|seed) sets it"):
        WorkerBattles(backend, "2s3z", 1, options={option: 3})


def test_the_wrong_smac_is_recognised(stand_ins: StandIns, only: Choose) -> None:
    only("optimiser")
    message = refusal()
    assert (
        "hyper-parameter optimiser" in message
        and "pip uninstall smac, then pip install --no-deps git+https://" in message
    )
    only("")
    for backend, title in (("starcraft2", "SMAC"), ("smacv2", "SMACv2"), ("smaclite", "SMAClite")):
        needs = f"backend {backend!r} needs {title}, which is not installed: pip install "
        message = refusal(backend=backend)
        assert message.startswith(needs) and "; pip install --no-deps git+https://" in message


@pytest.mark.parametrize(
    ("backend", "module", "needs"),
    [
        ("starcraft2", "smac/env", "pip install pysc2 s2clientprotocol"),
        ("smacv2", "smacv2/env", "pip install pysc2 s2clientprotocol"),
        ("smaclite", "smaclite", "pip install 'rtree>=1.1' scikit-learn pygame"),
    ],
)
def test_an_original_that_cannot_be_imported_is_told_what_it_lacks(
    stand_ins: StandIns,
    only: Choose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    module: str,
    needs: str,
) -> None:
    only("")
    folder = tmp_path / "broken" / module
    folder.mkdir(parents=True)
    (tmp_path / "broken" / module.split("/")[0] / "__init__.py").touch()
    (folder / "__init__.py").write_text("import needed_and_missing\n")
    monkeypatch.syspath_prepend(str(tmp_path / "broken"))
    message = refusal(backend=backend)
    assert "is installed but cannot be imported (ModuleNotFoundError: No module named 'needed_and_missing')" in message
    assert message.endswith(f"; what it needs: {needs}")
