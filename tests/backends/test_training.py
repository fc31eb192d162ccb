"""Training on the other back ends, by the command line as it is shipped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from amal.algorithms.mappo import MAPPO
from amal.backends.battles import WorkerBattles
from datamodules import RolloutDataModule, episode_source
from tests.backends.conftest import StandIns
from tests.datamodules.playing import evaluate, play

Cli = Callable[..., None]
SHORT = ("--data.scenario", "2s3z", "--data.num_envs", "2", "--data.episodes_per_update", "4", "--data.episodes")


def fit(cli: Cli, out: Path, backend: str, episodes: int, *args: str) -> Path:
    start = ("fit", "--config", "configs/mappo.yaml", "--data.backend", backend, *SHORT, str(episodes))
    cli(*start, "--evaluation.every_n_episodes", "6", "--out", out, *args)
    return out


def test_a_run_on_starcraft_outlives_a_crash_validates_and_is_not_drawn(
    stand_ins: StandIns, cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stand_ins.let_happen("crash")
    options = ("--data.backend_options", "{difficulty: A, reward_scale_rate: 40}", "--data.episode_limit", "40")
    run = fit(cli, tmp_path / "run", "starcraft2", 10, *options)
    assert stand_ins.ended()
    told = capfd.readouterr().err
    assert "starcraft2: battle" in told and "playing this batch of 4 again" in told
    record = json.loads((run / "run.json").read_text())
    assert (record["outcome"], record["backend"], record["simulator_hash"]) == ("finished", "starcraft2", None)
    assert record["totals"]["restarts"] == 1 and record["totals"]["episodes"] == 10
    assert len(pd.read_csv(run / "metrics.csv")) == 3
    evaluations = pd.read_csv(run / "evaluations.csv")
    assert list(evaluations["episodes"]) == [8, 10] and (evaluations["episode_length"] <= 40).all()
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["backend_options"]["difficulty"] == "A"

    last = run / "checkpoints" / "last.ckpt"
    cli("validate", "--config", run / "config.yaml", "--ckpt_path", last)
    assert "eval/win_rate" in capfd.readouterr().out and stand_ins.ended()
    with pytest.raises(SystemExit) as stop:
        cli("replay", "--ckpt_path", last, "--out", tmp_path / "battle.gif")
    assert stop.value.code == 2 and "backend 'starcraft2' cannot be drawn" in capfd.readouterr().err


def test_a_run_on_smaclite_that_keeps_crashing_stops_in_good_order(
    stand_ins: StandIns, cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stand_ins.let_happen("crash", times=99)
    with pytest.raises(SystemExit) as stop:
        fit(cli, tmp_path / "run", "smaclite", 8)
    assert stop.value.code == 1 and stand_ins.ended()
    *_, error = capfd.readouterr().err.strip().splitlines()
    assert error.startswith("error: smaclite: battle ") and "gave up after 3 restarts in a row" in error
    outcome = json.loads((tmp_path / "run" / "run.json").read_text())["outcome"]
    assert outcome.startswith("failed: WorkerFailure: smaclite: battle ")


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Those that battles of other back ends are started with, in the order of the starts."""
    found: list[int] = []
    start = episode_source.WorkerBattles

    def watched(backend: Any, scenario: str, num_battles: int, seed: int, *more: Any) -> WorkerBattles:
        found.append(seed)
        return start(backend, scenario, num_battles, seed, *more)

    monkeypatch.setattr(episode_source, "WorkerBattles", watched)
    return found


def test_a_saved_state_goes_on_with_its_counts_and_new_battles(stand_ins: StandIns, seeds: list[int]) -> None:
    def data_module() -> RolloutDataModule:
        torch.manual_seed(7)
        data = RolloutDataModule("2s3z", episodes=4, episodes_per_update=2, num_envs=1, backend="smaclite")
        model = MAPPO(data.n_agents, data.n_actions, data.obs_dim, data.state_dim)
        data.trainer = SimpleNamespace(lightning_module=model)
        return data

    data, resumed = data_module(), data_module()
    play(data)
    assert seeds[0] == seeds[1] and len(seeds) == 2
    resumed.load_state_dict(data.state_dict())
    assert (resumed.budget.episodes, resumed.budget.env_steps) == (2, data.budget.env_steps)
    play(resumed)
    assert resumed.budget.progress == 1.0
    resumed.teardown("fit")
    assert len(list(evaluate(resumed, episodes=1))) == 1  # whoever plays on gets new processes
    assert len(seeds) == len({*seeds}) + 1 == 4  # none of which begins where an earlier one began
    for used in (data, resumed):
        used.teardown("fit")
    assert stand_ins.ended()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--data.backend", "starcraft"), "'starcraft2'"),
        (("--data.backend_options", "{difficulty: A}", "--data.backend", "embedded"), "backend 'embedded' has none"),
        ((), "needs SMAC, which is not installed: pip install pysc2 s2client"),
    ],
)
def test_a_back_end_that_cannot_be_used_is_one_line_and_leaves_nothing(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str], args: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        fit(cli, tmp_path / "run", "starcraft2", 8, *args)
    message = capfd.readouterr().err
    assert stop.value.code == 2
    assert message.startswith("error: ") and words in message and message.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_processes_that_train_together_play_different_battles(
    stand_ins: StandIns, seeds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in (0, 1, 0):
        monkeypatch.setattr(episode_source, "rank", lambda rank=rank: rank)
        torch.manual_seed(7)
        RolloutDataModule("2s3z", episodes=4, num_envs=1, backend="smaclite").teardown("fit")
    assert seeds[0] == seeds[2] != seeds[1]
