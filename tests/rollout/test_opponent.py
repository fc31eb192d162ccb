"""Opponents: a policy that drives the enemies."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor

from amal.algorithms.mappo import MAPPO
from amal.battle import VectorBattle
from amal.battle.scenario import load_scenario
from amal.networks.policies import GRUPolicy
from amal.rollout.collector import EpisodeRecorder, record_battle
from amal.rollout.load_policy import load_opponent
from amal.rollout.opponent import make_battles
from amal.types import Actor
from datamodules import RolloutDataModule
from tests.datamodules.playing import evaluate, play


class Charger:
    """Attacks the first target in reach, else walks east. Remembers for how long it has been fighting each battle."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.memories: list[Tensor] = []

    def initial_hidden(self, num_battles: int) -> Tensor:
        return torch.zeros(num_battles, 1, 1)

    def act(
        self, obs: Tensor, available_actions: Tensor, hidden: Tensor, generator: torch.Generator | None, progress: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        self.memories.append(hidden.flatten().clone())
        available = available_actions.to(torch.int64)
        walk = torch.where(available_actions[..., 4], 4, available.argmax(dim=-1))
        targets = available[..., 6:]
        actions = torch.where(targets.any(dim=-1), 6 + targets.argmax(dim=-1), walk)
        return actions, torch.zeros(actions.shape), hidden + 1


def duel(scenario: str, num_battles: int, opponent: Actor, seed: int = 0) -> VectorBattle:
    return make_battles(load_scenario(scenario), num_battles, seed, opponent=opponent)


def trained(folder: Path, scenario: str = "3m", **init_args: Any) -> Path:
    """A checkpoint beside its configuration, as a run leaves them; its policy was never trained."""
    (folder / "checkpoints").mkdir(parents=True)
    spec = load_scenario(scenario).spec()
    torch.manual_seed(5)
    policy = {"policy": GRUPolicy} if init_args else {}
    module = MAPPO(spec.n_agents, spec.n_actions, spec.obs_dim, spec.state_dim, **policy)
    model = {"class_path": "amal.algorithms.mappo.MAPPO", "init_args": init_args}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": {"scenario": scenario}}))
    torch.save({"state_dict": module.state_dict()}, folder / "checkpoints" / "best.ckpt")
    return folder / "checkpoints" / "best.ckpt"


@pytest.mark.parametrize("scenario", ["3m", "2s3z"])
def test_an_actor_against_itself_wins_and_loses_equally_often(scenario: str) -> None:
    battles, episodes = 100, 600
    recorder = EpisodeRecorder(duel(scenario, battles, Charger(), seed=1), episodes)
    batch = recorder.play(Charger(), episodes)
    won, lost = int(batch.won.sum()), int((batch.terminated.any(dim=1) & ~batch.won).sum())
    assert won + lost > 0.9 * episodes, "most battles were meant to be decided"
    assert abs(won - lost) < 3 * (won + lost) ** 0.5, f"{won} won, {lost} lost: three standard deviations off"


def test_the_better_side_wins_whichever_it_is() -> None:
    class Idler(Charger):
        def act(self, obs: Tensor, available_actions: Tensor, hidden: Tensor, generator: Any, progress: float) -> Any:
            actions = available_actions.to(torch.int64).argmax(dim=-1)
            return actions, torch.zeros(actions.shape), hidden

    for ours, theirs, win_rate in ((Charger(), Idler(), 1.0), (Idler(), Charger(), 0.0)):
        batch = EpisodeRecorder(duel("8m", 8, theirs), 8).play(ours, 8)
        assert batch.won.float().mean() == win_rate and batch.terminated.any(dim=1).all()


def test_the_opponents_memory_starts_anew_with_each_episode() -> None:
    enemy = Charger()
    batch = EpisodeRecorder(duel("3m", 1, enemy), 4).play(Charger(), 4)
    expected = torch.cat([torch.arange(int(n)) for n in batch.lengths]).float()
    assert torch.equal(torch.cat(enemy.memories), expected)
    enemy = Charger()
    battles, stop = duel("3m", 2, enemy), np.ones((2, 3), int)
    for _ in range(3):
        battles.step(stop)
    battles.reset(battles=np.array([False, True]))
    battles.step(stop)
    assert enemy.memories[-1].tolist() == [3, 0]


def test_enemies_without_an_opponent_are_an_error() -> None:
    with pytest.raises(ValueError, match="opponent_actions are missing"):
        EpisodeRecorder(VectorBattle("3m", 1, auto_reset=False, with_opponent=True), 1).play(Charger(), 1)


def data_module(opponent: Path | None, seed: int = 0) -> RolloutDataModule:
    torch.manual_seed(seed)
    file = None if opponent is None else str(opponent)
    data = RolloutDataModule("3m", env_steps=2000, num_envs=4, episodes_per_update=8, opponent=file)
    module = MAPPO(data.n_agents, data.n_actions, data.obs_dim, data.state_dim)
    data.trainer = SimpleNamespace(lightning_module=module)
    return data


@pytest.mark.parametrize("recurrent", [False, True])
def test_training_and_evaluation_are_fought_against_the_checkpoint_and_can_be_resumed(
    tmp_path: Path, recurrent: bool
) -> None:
    policy = {"policy": {"class_path": "amal.networks.GRUPolicy"}} if recurrent else {}
    checkpoint = trained(tmp_path / "run", **policy)
    scripted, data, again = data_module(None), data_module(checkpoint), data_module(checkpoint)
    ours, theirs = (module._actor().state_dict() for module in (scripted, data))  # type: ignore[attr-defined]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours), "loading it changed the learner's first weights"
    first, same, other = (play(d) for d in (data, again, scripted))
    assert torch.equal(first.obs, same.obs)
    assert first.lengths.tolist() != other.lengths.tolist(), "fought against a policy that does not want to win"
    resumed = data_module(checkpoint, seed=0)
    resumed.load_state_dict(data.state_dict())
    following = play(data)
    assert torch.equal(following.obs, play(resumed).obs)
    evaluation, same = (next(iter(evaluate(d))) for d in (data, resumed))
    assert torch.equal(evaluation.obs, same.obs)


def test_an_actor_of_ones_own_may_be_the_opponent_in_training_and_evaluation() -> None:
    data, enemy = data_module(None), Charger()
    data.source.opponent = enemy
    play(data)
    asked = len(enemy.memories)
    evaluation = next(iter(evaluate(data)))
    assert 0 < asked < len(enemy.memories) == asked + int(evaluation.lengths.max())


def test_a_run_may_go_on_against_another_opponent(tmp_path: Path) -> None:
    scripted = data_module(None)
    play(scripted)
    driven = data_module(trained(tmp_path / "run"))
    driven.load_state_dict(scripted.state_dict())
    play(driven)
    assert driven.budget.episodes == 16
    scripted.load_state_dict(driven.state_dict())
    play(scripted)
    assert scripted.budget.episodes == 24


def test_a_checkpoint_of_other_sizes_is_refused(tmp_path: Path) -> None:
    checkpoint = trained(tmp_path / "run", "8m")
    with pytest.raises(ValueError, match=r"best.ckpt: plays 8m and not 3m: its n_agents is 8, not 3"):
        load_opponent(checkpoint, load_scenario("3m"))
    with pytest.raises(ValueError, match="allies are 8 marine and the enemies 9 marine"):
        load_opponent(checkpoint, load_scenario("8m_vs_9m"))


def test_a_checkpoint_may_be_copied_away_with_its_configuration(tmp_path: Path) -> None:
    checkpoint = trained(tmp_path / "run")
    scenario = load_scenario("3m")
    actor: Any = load_opponent(checkpoint, scenario)
    copy = checkpoint.rename(tmp_path / "alone.ckpt")
    with pytest.raises(ValueError, match=r"alone.ckpt: no configuration of its run: no config.yaml in .* or "):
        load_opponent(copy, scenario)
    (tmp_path / "run" / "config.yaml").rename(tmp_path / "config.yaml")
    copied: Any = load_opponent(copy, scenario)
    units = [record_battle(Charger(), scenario, 0, opponent=player)[1] for player in (actor, copied)]
    np.testing.assert_array_equal(*units)


Cli = Callable[..., None]


@pytest.fixture
def run(cli: Cli, tmp_path: Path) -> Path:
    """A very short training run on 3m."""
    fit(cli, tmp_path / "run")
    return tmp_path / "run"


def fit(cli: Cli, out: Path, *args: object, env_steps: int = 1000) -> None:
    short = ("--data.scenario", "3m", "--data.env_steps", env_steps, "--data.episodes_per_update", "8")
    cli("fit", "--config", "configs/mappo.yaml", *short, "--out", out, *args)


def parameters(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_a_run_against_a_checkpoint_is_resumed_as_if_never_interrupted_while_that_is_the_same(
    cli: Cli, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opponent = ("--data.opponent", run / "checkpoints" / "best.ckpt", "--evaluation.every_n_episodes", "40")
    frequent = ("--checkpoint.every_n_episodes", "16")
    fit(cli, tmp_path / "whole", *opponent, *frequent, env_steps=2500)
    checkpoint = tmp_path / "part" / "checkpoints" / "episode_16.ckpt"
    checkpoint.parent.mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/episode_16.ckpt"):
        shutil.copy(tmp_path / "whole" / name, tmp_path / "part" / name)
    cli("fit", "--config", tmp_path / "part" / "config.yaml", "--ckpt_path", checkpoint, "--out", tmp_path / "part")
    whole, part = parameters(tmp_path / "whole"), parameters(tmp_path / "part")
    assert all(torch.equal(whole[name], part[name]) for name in whole)
    files = [tmp_path / name / "evaluations.csv" for name in ("whole", "part")]
    tables = [pd.read_csv(file).drop(columns="wall_seconds") for file in files]
    assert tables[0].equals(tables[1])
    assert not all(torch.equal(a, b) for a, b in zip(whole.values(), parameters(run).values(), strict=True))

    shutil.copy(tmp_path / "whole" / "checkpoints" / "best.ckpt", run / "checkpoints" / "best.ckpt")
    with pytest.raises(SystemExit) as stop:
        cli("fit", "--config", tmp_path / "part" / "config.yaml", "--ckpt_path", checkpoint, "--out", tmp_path / "part")
    assert stop.value.code == 2
    assert "data.opponent: that checkpoint has changed since the run began" in capsys.readouterr().err


def test_evaluation_against_a_checkpoint_repeats_and_differs_from_the_scripts(
    cli: Cli, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run / "checkpoints" / "best.ckpt"
    printed = []
    for opponent in ([], ["--data.opponent", best], ["--data.opponent", best]):
        capsys.readouterr()
        cli("validate", "--config", run / "config.yaml", "--ckpt_path", best, *opponent)
        printed.append([line for line in capsys.readouterr().out.splitlines() if "eval/" in line])
    assert printed[1] == printed[2] != printed[0]


def test_replays_show_a_battle_against_a_checkpoint(
    cli: Cli, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run / "checkpoints" / "best.ckpt"
    endings = []
    for name, enemy in (
        ("script.html", ()),
        ("battle.html", ("--opponent", best)),
        ("battle.gif", ("--opponent", best)),
    ):
        capsys.readouterr()
        cli("replay", "--ckpt_path", best, *enemy, "--out", tmp_path / name)
        endings.append(capsys.readouterr().out.strip().partition(": ")[2])
    assert endings[0] != endings[1] == endings[2]
    assert "MAPPO · best.ckpt against MAPPO · best.ckpt" in (tmp_path / "battle.html").read_text()
    assert (tmp_path / "battle.gif").read_bytes()[:4] == b"GIF8"


@pytest.mark.parametrize(
    ("scenario", "enemy", "words"),
    [
        ("3m", "none.ckpt", "none.ckpt: no such file"),
        ("8m", "run/checkpoints/best.ckpt", "plays 3m and not 8m: its n_agents is 3, not 8"),
        ("5m_vs_6m", "run/checkpoints/best.ckpt", "the allies are 5 marine and the enemies 6 marine"),
    ],
)
def test_a_replay_with_an_enemy_that_cannot_play_is_one_line(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str], scenario: str, enemy: str, words: str
) -> None:
    trained(tmp_path / "run")
    ours = trained(tmp_path / "ours", scenario)
    with pytest.raises(SystemExit) as stop:
        cli("replay", "--ckpt_path", ours, "--opponent", tmp_path / enemy, "--out", tmp_path / "battle.gif")
    message = capsys.readouterr().err
    assert stop.value.code == 2 and words in message and message.count("\n") == 1
    assert not (tmp_path / "battle.gif").exists()
