"""Which weights the checkpoints of a run hold."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

import callbacks.evaluation


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def test_the_best_has_the_weights_that_won_most_and_saw_more(
    cli: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    win_rates = (0.0, 0.5, 0.25, 0.5, 0.25)
    # the sampling team's rate does not count
    scripted = iter([{"win_rate": rate, "sampled_win_rate": 1.0 - rate} for rate in win_rates])
    played = callbacks.evaluation.measure
    monkeypatch.setattr(callbacks.evaluation, "measure", lambda them: played(them) | next(scripted))
    short = ("--data.episodes", "20", "--data.episodes_per_update", "4", "--data.num_envs", "4", "--data.episode_limit")
    every = ("--evaluation.every_n_episodes", "4", "--checkpoint.every_n_episodes", "4")
    run = tmp_path / "run"
    cli("fit", "--config", "configs/mappo.yaml", *short, "6", *every, "--out", run)
    assert pd.read_csv(run / "evaluations.csv")["win_rate"].tolist() == list(win_rates)
    best = weights(run, "best")
    updates = [weights(run, f"episode_{episodes}") for episodes in (4, 8, 12, 16, 20)]
    equal = [all(torch.equal(best[name], update[name]) for name in best) for update in updates]
    assert equal == [False, False, False, True, False]
