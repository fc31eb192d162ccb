"""Runs of the shipped command line, as a user types it, and what is asked of them."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
import torch

from amal.types import Actor, EpisodeBatch
from datamodules.episode_source import EpisodeSource

Cli = Callable[..., None]
SHORT = ("--data.scenario", "3m", "--data.env_steps", "3000")


def fit(cli: Cli, out: Path, *args: str, config: str = "configs/mappo.yaml") -> Path:
    cli("fit", "--config", config, *SHORT, "--out", out, *args)
    return out


def parameters(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["state_dict"]


def assert_equal_parameters(first: Path, second: Path) -> None:
    ours, theirs = parameters(first), parameters(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def assert_learned(run: Path) -> None:
    """It ended well, nothing diverged, and its last update moved policy and critic."""
    assert json.loads((run / "run.json").read_text())["outcome"] == "finished"
    metrics = pd.read_csv(run / "metrics.csv").filter(regex="loss|entropy|kl|norm|explained|return")
    assert len(metrics) > 0 and metrics.apply(lambda column: column.abs() < float("inf")).all(axis=None)
    assert (metrics.filter(regex="_grad_norm") > 0).all(axis=None)


@contextmanager
def power_cut(after: int) -> Iterator[None]:
    """Training ends with an error before the update that follows so many episodes, and nothing more is saved."""
    play = EpisodeSource.play_training

    def play_until_the_power_fails(source: EpisodeSource, actor: Actor) -> EpisodeBatch:
        if source.budget.episodes >= after:
            raise RuntimeError("power cut")
        return play(source, actor)

    with pytest.MonkeyPatch.context() as broken, pytest.raises(RuntimeError, match="power cut"):
        broken.setattr(EpisodeSource, "play_training", play_until_the_power_fails)
        yield


def assert_equal_tables(first: Path, second: Path) -> None:
    """Metrics and evaluations, but for how long things took."""
    for file in ("metrics.csv", "evaluations.csv"):
        expected, got = (pd.read_csv(run / file) for run in (first, second))
        timing = [column for column in expected if "second" in column]
        pd.testing.assert_frame_equal(expected.drop(columns=timing), got.drop(columns=timing))
