"""The auxiliary agents' evolution, in runs of the command line. Its schedule is in tests/algorithms/amal."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

TINY = ("--data.episodes", "8", "--data.episodes_per_update", "4", "--data.num_envs", "4")


def test_no_list_of_callbacks_leaves_it_out(cli: Callable[..., None], tmp_path: Path) -> None:
    often = ("--model.auxiliaries.evolution_frequency", "1", "--model.world_model.steps", "1")
    cli("fit", "--config", "configs/amal_paper.yaml", *often, *TINY, "--trainer.callbacks", "[]", "--out", tmp_path)
    metrics = pd.read_csv(tmp_path / "metrics.csv")
    assert len(metrics) == 2 and metrics["train/auxiliary_diversity_to_first"].iloc[0] == 1
    assert metrics["train/auxiliary_diversity_to_first"].iloc[1] != 1
