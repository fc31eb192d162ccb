"""What an algorithm gets of its base class, by the shipped command line."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from amal.algorithms.base import Algorithm, NonFiniteLoss, check_finite
from amal.rollout.load_policy import load_player
from amal.types import EpisodeBatch
from tests.algorithms import own_algorithm
from tests.algorithms.own_algorithm import QLearning

Cli = Callable[..., None]
MODULE = "tests.algorithms.own_algorithm"
OWN = ("--allow_code", MODULE, "--model", f"{MODULE}.QLearning", "--data.scenario", "3m")
SHORT = ("--data.episodes_per_update", "8", "--evaluation.every_n_episodes", "16", "--data.episodes", "32")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cli import main

    folder = tmp_path_factory.mktemp("own") / "run"
    main(["fit", *OWN, *SHORT, "--out", str(folder)])
    return folder


def content(run: Path, name: str) -> dict[str, object]:
    return dict(torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True))


def test_an_algorithm_that_logs_nothing_has_the_metrics_of_its_episodes(run: Path) -> None:
    metrics = pd.read_csv(run / "metrics.csv")
    assert len(metrics) == 4 and len(pd.read_csv(run / "evaluations.csv")) == 2
    assert metrics[["train/return", "train/win_rate", "train/episode_length"]].notna().all(axis=None)


def test_only_what_goes_on_learning_has_the_learning_state(run: Path) -> None:
    """Else the best checkpoint of an off-policy algorithm would have its replay."""
    assert "learning_state" in content(run, "last") and "learning_state" not in content(run, "best")
    best, last = ((run / "checkpoints" / f"{name}.ckpt").stat().st_size for name in ("best", "last"))
    assert last > 10 * best


def test_it_plays_from_its_checkpoint(cli: Cli, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    cli("validate", "--allow_code", MODULE, "--config", run / "config.yaml", "--ckpt_path", checkpoint)
    assert "eval/win_rate" in capsys.readouterr().out
    player, scenario = load_player(checkpoint)
    assert isinstance(player, QLearning) and scenario.name == "3m" and player.kept == []


def test_a_resumed_run_gets_its_learning_state_back(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[list[Tensor]] = []
    monkeypatch.setattr(Algorithm, "load_learning_state", lambda self, state: loaded.append(state["obs"]))
    run = tmp_path / "run"
    often = ("--checkpoint.every_n_episodes", "16", "--out", run)
    cli("fit", *OWN, *SHORT, *often)
    half = run / "checkpoints" / "episode_16.ckpt"
    fork = ("--out", tmp_path / "fork")
    cli("fit", "--allow_code", MODULE, "--config", run / "config.yaml", "--ckpt_path", half, *fork)
    assert [len(obs) for obs in loaded] == [2]


def test_a_run_whose_own_code_has_changed_is_not_resumed(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = f"own_q_{tmp_path.name}"
    own = tmp_path / f"{module}.py"
    own.write_text(Path(own_algorithm.__file__).read_text())
    monkeypatch.syspath_prepend(str(tmp_path))
    run, fork, allow = tmp_path / "run", tmp_path / "fork", ("--allow_code", module)
    saving = (*SHORT, "--checkpoint.every_n_episodes", "16", "--out", run)
    cli("fit", *allow, "--model", f"{module}.QLearning", "--data.scenario", "3m", *saving)
    half = run / "checkpoints" / "episode_16.ckpt"
    own.write_text(own.read_text() + "\nKEPT = 7\n")
    again = ("fit", *allow, "--config", run / "config.yaml", "--ckpt_path", half, "--out", fork)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli(*again)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and not fork.exists()
    assert said.startswith(f"error: --allow_code {module}: that code has changed") and said.count("\n") == 1


def test_a_metric_that_comes_later_gets_a_column(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = QLearning.learn

    def tell_late(self: QLearning, batch: EpisodeBatch, progress: float) -> dict[str, Tensor]:
        metrics = learn(self, batch, progress)
        return metrics | {"train/late": torch.tensor(progress)} if progress >= 0.5 else metrics

    monkeypatch.setattr(QLearning, "learn", tell_late)
    cli("fit", *OWN, *SHORT, "--out", tmp_path / "run")
    late = pd.read_csv(tmp_path / "run" / "metrics.csv")["train/late"]
    assert late.isna().tolist() == [True, True, False, False] and late.iloc[2:].tolist() == [0.5, 0.75]


def test_a_module_that_is_no_algorithm_is_refused(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        model = ("--model", "lightning.pytorch.demos.boring_classes.BoringModel")
        cli("fit", "--allow_code", "lightning.pytorch.demos", *model, "--data.scenario", "3m")
    said = capsys.readouterr().err
    assert exit.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1
    assert "subclass of" in said and "Algorithm" in said


def test_an_argument_that_a_class_has_settled_is_not_suggested(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli("fit", *OWN[:2], "--model", f"{MODULE}.Unshared", *OWN[4:], "--model.share_parameters", "true")
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.endswith("Option 'share_parameters' is not accepted\n")


def test_only_losses_and_gradients_must_be_finite() -> None:
    nan = torch.tensor(float("nan"))
    check_finite({"train/information": nan, "train/value_loss": torch.tensor(1.0)})
    check_finite({})
    for name in ("train/value_loss", "train/policy_grad_norm"):
        with pytest.raises(NonFiniteLoss, match=f"{name} = nan"):
            check_finite({name: nan, "train/policy_loss": torch.tensor(1.0)})
