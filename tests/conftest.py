"""What several test files need."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import amal  # noqa: F401  before torch, as on the command line
from amal.battle.scenario import load_scenario, scenario_names

os.environ["WANDB_MODE"] = "offline"

ROOT = Path(__file__).parent.parent
SMAC = [name for name in scenario_names() if load_scenario(name).family is None]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the shipped command line in this process, from the repository's root, as ``cli("fit", "--config", …)``."""
    from cli import main

    monkeypatch.chdir(ROOT)
    return lambda *args: main([str(arg) for arg in args])
