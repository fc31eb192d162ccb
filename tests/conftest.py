"""What several test files need."""

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import amal  # noqa: F401  before torch, as on the command line
from amal.battle import VectorBattle
from amal.battle.scenario import load_scenario, scenario_names

os.environ["WANDB_MODE"] = "offline"
# what is ignored here, as in a background job or under nohup, would stay ignored in the commands that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).parent.parent
SMAC = [name for name in scenario_names() if load_scenario(name).family is None]


def pytest_configure(config: pytest.Config) -> None:
    """Compiles the simulator before several workers of pytest-xdist do, who would say so where tests read stderr."""
    if config.getoption("numprocesses", default=None) and not hasattr(config, "workerinput"):
        VectorBattle("3m", 1)


def run_cli(*args: object) -> None:
    """Runs the shipped command line in this process from the repository's root: ``run_cli("fit", "--config", …)``."""
    with contextlib.chdir(ROOT):
        run_here(*args)


def run_here(*args: object) -> None:
    """The same from the working directory."""
    from cli import main

    main([str(arg) for arg in args])


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the shipped command line in this process, from the repository's root unless the test goes elsewhere."""
    monkeypatch.chdir(ROOT)
    return run_here
