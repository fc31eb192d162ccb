"""The wheel, installed into an environment of its own and used from an empty folder, as after ``pip install``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

import amal
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
OWN_CRITIC = """
from amal.networks.critics import MAPPOCritic

class OwnCritic(MAPPOCritic):
    pass
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves folders where it works, whose files would end up in later wheels
    unused = shutil.ignore_patterns(".*", "docs", "tests", "runs", "build", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, source, symlinks=True, ignore=unused)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(source)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The ``amal`` of an environment that has the wheel, and this one's packages without this checkout."""
    place = wheel.parent / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    # folders that a .pth file adds do not have their own .pth files read, such as that of an editable installation
    (site,) = place.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    return place / "bin" / "amal"


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [str(installed), *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done

    return run


TINY = ("--data.scenario=3m", "--data.env_steps=300", "--data.num_envs=4", "--data.episodes_per_update=4")


def test_it_holds_the_projects_own_packages_and_configs(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names} - {f"amal_smac-{amal.__version__}.dist-info"}
    assert top == {"amal", "callbacks", "datamodules", "cli.py"}
    shipped = {name.removeprefix("amal/") for name in names if name.startswith("amal/configs/")}
    assert shipped == {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"{name}/py.typed" for name in ("amal", "callbacks", "datamodules")} <= set(names)


def test_it_says_its_version(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert run("--version").stdout == f"amal {amal.__version__} ({amal.__version__})\n"


def test_a_run_is_trained_by_a_configs_name_and_replayed(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    run("fit", "--config", "mappo", "--config", "configs/scenario/3m.yaml", *TINY, "--out", "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["code_version"] == amal.__version__
    run("replay", "--ckpt_path", "run/checkpoints/last.ckpt", "--out", "battle.html")
    assert "3m" in (tmp_path / "battle.html").read_text()


def test_a_study_is_run_and_reported(run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    grid = ("--algorithms", "mappo", "gru:mappo_gru", "--scenarios", "3m", "--seeds", "1", "--env_steps", "300")
    run("compare", *grid, "--overrides", "data.num_envs=4", "data.episodes_per_update=4", "--out", "study")
    run("report", "study", "--resamples", "100")
    assert (tmp_path / "study" / "report" / "report.html").exists()


def test_a_class_beside_the_user_can_be_allowed(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "my_critic.py").write_text(OWN_CRITIC)
    run("fit", "--config=mappo", *TINY, "--model.critic=my_critic.OwnCritic", "--allow_code=my_critic", "--out=run")
    assert "my_critic.OwnCritic" in (tmp_path / "run" / "config.yaml").read_text()
