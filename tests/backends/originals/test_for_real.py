"""The originals themselves, where they are at hand: ``make originals`` says how. SMAClite plays as it is; SMAC and
SMACv2 play as they are, over PySC2 as it is, in toy_starcraft.py instead of StarCraft II."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from amal.backends.battles import EpisodeLost, WorkerBattles
from amal.backends.game import BackendError
from amal.battle import VectorBattle
from amal.envs import SMACWrapper
from tests.backends.conftest import STAND_INS, StandIns

Need = Callable[[str], None]

pytestmark = pytest.mark.originals

CAPABILITIES = {
    "n_units": 4,
    "n_enemies": 4,
    "team_gen": {
        "dist_type": "weighted_teams",
        "unit_types": ["marine", "marauder", "medivac"],
        "weights": [0.45, 0.45, 0.1],
        "exception_unit_types": ["medivac"],
        "observe": True,
    },
    "start_positions": {"dist_type": "surrounded_and_reflect", "p": 0.5, "map_x": 32, "map_y": 32},
}


TOY = Path(__file__).parent / "toy_starcraft.py"
CHECKOUTS = Path(os.environ.get("ORIGINALS", "originals")).resolve()


@pytest.fixture
def need(monkeypatch: pytest.MonkeyPatch) -> Need:
    """Skips a test whose original is neither installed nor checked out below the folder ORIGINALS."""

    def find(package: str) -> None:
        if importlib.util.find_spec(package) is None:
            if not (CHECKOUTS / package / package).is_dir():
                pytest.skip(f"{package} is neither installed nor checked out at {CHECKOUTS / package}")
            monkeypatch.setattr(sys, "path", [*sys.path, str(CHECKOUTS / package)])

    return find


def attack_else_stop(available: np.ndarray) -> np.ndarray:
    """[…, N] actions of agents that shoot the first enemy in reach, else march east, else stop."""
    onwards = np.where(available[..., 4], 4, np.where(available[..., 1], 1, 0))
    return np.where(available[..., 6:].any(axis=-1), 6 + available[..., 6:].argmax(axis=-1), onwards)


def play(env: SMACWrapper) -> tuple[float, dict[str, Any]]:
    """The return of an episode, and its last info."""
    env.reset()
    total, done, info = 0.0, False, {}
    while not done:
        _, rewards, done, info = env.step(dict(enumerate(attack_else_stop(env.available_actions).tolist())))
        total += rewards[0]
    return total, info


@pytest.fixture
def starcraft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIns]:
    """A folder of StarCraft II, with a toy in it. Afterwards nothing of it may be running."""
    for package in ("pysc2", "websockets"):
        pytest.importorskip(package)
    faults, folder = tmp_path / "faults", tmp_path / "StarCraftII"
    faults.mkdir()
    binary = folder / "Versions" / "Base75689" / "SC2_x64"
    binary.parent.mkdir(parents=True)
    binary.write_text(f'#!/bin/sh\nPYTHONPATH={STAND_INS}:$PYTHONPATH exec {sys.executable} {TOY} "$@"\n')
    binary.chmod(0o755)
    maps = folder / "Maps" / "SMAC_Maps"
    maps.mkdir(parents=True)
    for name in ("3m", "32x32_flat"):
        (maps / f"{name}.SC2Map").write_text("a toy needs none")
    monkeypatch.setenv("SC2PATH", str(folder))
    monkeypatch.setenv("STAND_IN_FAULTS", str(faults))
    found = StandIns(faults)
    yield found
    assert found.ended(), f"left running: {found.processes()}"


def folder_of(starcraft: StandIns) -> Path:
    return starcraft.faults.parent / "StarCraftII"


def refusal(scenario: str, backend: str, **options: Any) -> str:
    with pytest.raises(BackendError) as error:
        SMACWrapper(scenario, backend=backend, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("scenario", ["2s3z", "MMM"])
def test_smaclite_shows_what_the_embedded_simulator_shows(need: Need, scenario: str) -> None:
    need("smaclite")
    theirs, ours = WorkerBattles("smaclite", scenario, 1), VectorBattle(scenario, 1)
    assert theirs.spec == replace(ours.spec, layout=None), "the sizes; names of features come from our simulator only"
    theirs.reset()
    ours.reset()
    for name in ("obs", "state", "available_actions"):
        difference = np.abs(getattr(theirs, name).astype(float) - getattr(ours, name))
        assert difference.max() <= 1e-6, f"{name}: {difference.max()}"
    theirs.close()


def test_smaclite_plays_to_the_end_and_to_our_limit(need: Need) -> None:
    need("smaclite")
    env = SMACWrapper("2s3z", backend="smaclite", use_cpp_rvo2=False)
    total, info = play(env)
    assert 0 < total <= 25 and not info["truncated"]
    assert (info["dead_enemies"] == 5) == info["battle_won"] and (info["dead_allies"] == 5) != info["battle_won"]
    env.close()
    short = SMACWrapper("2s3z", backend="smaclite", episode_limit=5)
    _, info = play(short)
    assert info["truncated"] and not info["battle_won"] and short.get_stats()["mean_length"] == 5
    short.close()


def test_smaclite_is_told_what_it_lacks_and_what_it_cannot_do(
    need: Need, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("smaclite")
    assert "unknown scenario '3m'" in refusal("3m", "smaclite")
    assert "has no option 'use_cpp_rvo'" in refusal("2s3z", "smaclite", use_cpp_rvo=True)
    assert "Either map_info or map_file" in refusal("custom", "smaclite", episode_limit=9)
    with pytest.raises(ValueError, match="options: seed is not one of them; seed sets it"):
        WorkerBattles("smaclite", "2s3z", 1, options={"seed": 3})
    (tmp_path / "rtree.py").write_text("raise ModuleNotFoundError(\"No module named 'rtree'\")\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    message = refusal("2s3z", "smaclite")
    assert "No module named 'rtree'" in message and "pip install 'rtree>=1.1'" in message and "git+" not in message


def test_smaclite_trains_and_validates(
    need: Need, cli: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    need("smaclite")
    run = tmp_path / "run"
    data = ("--data.backend", "smaclite", "--data.scenario", "2s3z", "--data.env_steps", "5000")
    sizes = ("--data.num_envs", "2", "--data.episodes_per_update", "8")
    cli("fit", "--config", "configs/mappo.yaml", *data, *sizes, "--out", run)
    record = json.loads((run / "run.json").read_text())
    assert (record["outcome"], record["backend"]) == ("finished", "smaclite")
    assert record["totals"]["env_steps"] >= 5000 and record["totals"]["restarts"] == 0
    evaluations = pd.read_csv(run / "evaluations.csv")
    assert (evaluations["episode_length"] <= 120).all() and (evaluations["return_mean"] > 0).all()
    assert (evaluations["dead_allies"] > 0).all()
    cli("validate", "--config", run / "config.yaml", "--ckpt_path", run / "checkpoints" / "last.ckpt")
    told = capfd.readouterr().out
    assert "eval/win_rate" in told
    with capfd.disabled():
        print(f"\n{record['totals']}\n{evaluations.to_string()}\n{told}")


def test_smac_plays_wins_and_saves_replays(need: Need, starcraft: StandIns, tmp_path: Path) -> None:
    need("smac")
    env = SMACWrapper("3m", backend="starcraft2", difficulty=7, replay_dir=str(tmp_path / "replays"))
    env.reset()
    env.reset()  # gives the first game up
    for _ in range(2):
        total, info = play(env)
        assert info["battle_won"] and info["dead_enemies"] == 3 and info["dead_allies"] < 3
        assert total == pytest.approx(20)
    env.close()
    (replay,) = (tmp_path / "replays").iterdir()
    assert replay.name.startswith("3m_") and replay.suffix == ".SC2Replay" and replay.read_bytes()


def test_smac_scales_no_sparse_reward(need: Need, starcraft: StandIns) -> None:
    need("smac")
    env = SMACWrapper("3m", backend="starcraft2", reward_sparse=True)
    total, info = play(env)
    assert info["battle_won"] and total == 1.0
    env.close()


def test_smac_is_cut_off_at_our_limit(need: Need, starcraft: StandIns) -> None:
    need("smac")
    env = SMACWrapper("3m", backend="starcraft2", episode_limit=2, obs_last_action=True, state_timestep_number=True)
    _, info = play(env)
    assert info["truncated"] and not info["battle_won"] and env.get_stats()["mean_length"] == 2
    env.close()


def test_a_crash_of_the_game_loses_the_episode_only(
    need: Need, starcraft: StandIns, capfd: pytest.CaptureFixture[str]
) -> None:
    need("smac")
    battles = WorkerBattles("starcraft2", "3m", 2)
    battles.reset()
    starcraft.let_happen("crash")
    with pytest.raises(EpisodeLost):
        battles.step(attack_else_stop(battles.available_actions))
    assert "StarCraft II broke down in the middle of an episode; restarting it (1 of 3" in capfd.readouterr().err
    battles.reset()
    battles.step(attack_else_stop(battles.available_actions))
    battles.close()


def test_what_smac_would_find_late_is_told_at_once(need: Need, starcraft: StandIns) -> None:
    need("smac")
    folder = folder_of(starcraft)
    assert "difficulty must be one of 1, 2, 3, 4, 5, 6, 7, 8, 9, A, got 11" in refusal(
        "3m", "starcraft2", difficulty=11
    )
    assert "obs_timestep_number: " in refusal("3m", "starcraft2", obs_timestep_number=True)
    assert "game_version must be a string, got 4.1" in refusal("3m", "starcraft2", game_version=4.10)
    assert "Unknown game version: 9.9.9" in refusal("3m", "starcraft2", game_version="9.9.9")
    assert "SMAC refuses its options: TypeError" in refusal("3m", "starcraft2", difficultly="7")
    assert "episode_limit must be at most 60" in refusal("3m", "starcraft2", episode_limit=61)
    with pytest.raises(ValueError, match="options: map_name is not one of them; scenario sets it"):
        SMACWrapper("3m", backend="starcraft2", map_name="8m")
    in_place = folder / "Maps" / "SMAC_Maps" / "3m.SC2Map"
    shutil.move(in_place, folder / "Maps")
    assert f"no map {in_place}: unpack https://" in refusal("3m", "starcraft2")
    binary = folder / "Versions" / "Base75689" / "SC2_x64"
    binary.unlink()
    assert f"no executable file {binary}: get it from" in refusal("3m", "starcraft2")
    binary.parent.rmdir()
    assert "No SC2 Versions found" in refusal("3m", "starcraft2")


def test_wandb_and_tensorboard_are_imported_beside_pysc2(starcraft: StandIns) -> None:
    import tensorboard.compat.proto.summary_pb2
    import wandb

    assert wandb.__version__ and tensorboard.compat.proto.summary_pb2


@pytest.mark.parametrize("backend", ["starcraft2", "smacv2"])
def test_a_run_on_starcraft_trains_and_validates(
    need: Need,
    starcraft: StandIns,
    cli: Callable[..., None],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    backend: str,
) -> None:
    need("smac" if backend == "starcraft2" else backend)
    scenario = "3m" if backend == "starcraft2" else "10gen_terran"
    options = {"difficulty": 7} | ({} if backend == "starcraft2" else {"capability_config": CAPABILITIES})
    run = tmp_path / "run"
    data = ("--data.backend", backend, "--data.scenario", scenario, "--data.backend_options", json.dumps(options))
    sizes = ("--data.num_envs", "2", "--data.episodes_per_update", "4", "--data.episodes", "8")
    limit = ("--data.episode_limit", "10")
    cli("fit", "--config", "configs/mappo.yaml", *data, *sizes, *limit, "--out", run)
    record = json.loads((run / "run.json").read_text())
    assert (record["outcome"], record["backend"], record["totals"]["restarts"]) == ("finished", backend, 0)
    assert (pd.read_csv(run / "evaluations.csv")["episode_length"] <= 10).all()
    cli("validate", "--config", run / "config.yaml", "--ckpt_path", run / "checkpoints" / "last.ckpt")
    assert "eval/win_rate" in capfd.readouterr().out


def test_smacv2_plays_what_its_capabilities_say(need: Need, starcraft: StandIns, tmp_path: Path) -> None:
    need("smacv2")
    replays = tmp_path / "replays"
    env = SMACWrapper(
        "10gen_terran",
        backend="smacv2",
        episode_limit=20,
        capability_config=CAPABILITIES,
        obs_own_pos=True,
        use_unit_ranges=True,
        obs_timestep_number=True,
        reward_sparse=True,
        replay_dir=str(replays),
    )
    assert (env.spec.n_agents, env.spec.n_enemies, env.spec.episode_limit) == (4, 4, 20)
    env.reset()
    first = env.reset()[1]  # another draw, in a new game
    for _ in range(2):
        total, info = play(env)
        assert info["truncated"] or total == (1.0 if info["battle_won"] else -1.0)
        assert env.get_stats()["mean_length"] <= 20
    assert (env.reset()[1] != first).any()
    env.close()
    assert len(list(replays.iterdir())) == 1


def test_smacv2_is_told_what_is_missing(need: Need, starcraft: StandIns) -> None:
    need("smacv2")
    assert "capability_config is missing among the options of SMACv2" in refusal("10gen_terran", "smacv2")
    assert "capability_config needs n_enemies" in refusal("10gen_terran", "smacv2", capability_config={"n_units": 4})
    counts = {"n_units": 4, "n_enemies": 4}
    message = refusal("10gen_terran", "smacv2", capability_config=counts)
    assert "needs team_gen: 10gen_terran is played on 32x32_flat" in message
    wrong = counts | {"team_gen": {"dist_type": "weighed_teams"}}
    assert "SMACv2 refuses its options: KeyError" in refusal("10gen_terran", "smacv2", capability_config=wrong)
    assert "(did you mean 10gen_terran?)" in refusal("10gen_teran", "smacv2", capability_config=CAPABILITIES)
    (folder_of(starcraft) / "Maps" / "SMAC_Maps" / "32x32_flat.SC2Map").unlink()
    assert "32x32_flat.SC2Map: unpack" in refusal("10gen_terran", "smacv2", capability_config=CAPABILITIES)
