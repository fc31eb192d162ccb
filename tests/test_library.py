"""Training in Python, without the command line."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from callbacks import Evaluation
from callbacks.evaluation import evaluation_of
from tests.conftest import ROOT


def test_the_documented_lines_give_the_numbers_of_the_command_line(
    cli: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = ("--data.scenario", "3m", "--data.env_steps", "3000", "--evaluation.every_n_episodes", "50")
    cli("fit", "--config", "configs/mappo.yaml", *budget, "--out", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    snippet = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), re.DOTALL)[0]
    names: dict[str, Evaluation] = {}
    exec(compile(snippet, "library.md", "exec"), names)
    table = names["evaluation"].table.drop(columns="wall_seconds")
    pd.testing.assert_frame_equal(table, pd.read_csv("run/evaluations.csv").drop(columns="wall_seconds"))
    pd.testing.assert_frame_equal(table, pd.read_csv("runs/notebook/evaluations.csv").drop(columns="wall_seconds"))


def test_callbacks_that_need_an_evaluation_say_so() -> None:
    with pytest.raises(ValueError, match="need an Evaluation among the trainer's callbacks"):
        evaluation_of(SimpleNamespace(callbacks=[]))  # type: ignore[arg-type]
