"""The recipes of docs/third_party.md: all are on the page; slow, each trains in an environment of its own."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from amal import envs
from amal.envs import ParallelBattleEnv
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "third_party.md"
RECIPES = sorted((ROOT / "docs" / "third_party").glob("*.py"))
TRAINED = re.compile(r"^ *(\d+) steps: mean return +\d+\.\d\d, battles won \d+%$", re.MULTILINE)


def needed(recipe: Path) -> list[str]:
    """The packages with versions in the recipe's docstring."""
    return re.findall(r"^Needs: (.*)$", recipe.read_text(), re.MULTILINE)[0].split()


def test_the_page_names_every_recipe_with_the_versions_it_needs() -> None:
    page = PAGE.read_text()
    named = re.findall(r"\]\(third_party/([\w.]+)\)", page)
    assert sorted(set(named)) == sorted(path.name for path in (ROOT / "docs" / "third_party").iterdir())
    for recipe in RECIPES:
        install = next(line for line in page.splitlines() if f"({recipe.parent.name}/{recipe.name})" in line)
        assert all(f"`{package}`" in install for package in needed(recipe)), recipe.name


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_recipes_import_from_amal_what_there_is(recipe: Path) -> None:
    imports = [node for node in ast.walk(ast.parse(recipe.read_text())) if isinstance(node, ast.ImportFrom)]
    names = [name.name for node in imports if node.module == "amal.envs" for name in node.names]
    assert "parallel_env" in names and all(hasattr(envs, name) for name in names)


def test_maskable_ppo_finds_the_method_it_asks_for() -> None:
    """By this very name: sb3_contrib.common.maskable.utils.EXPECTED_METHOD_NAME."""
    assert callable(ParallelBattleEnv.action_masks)


def test_the_command_for_epymarl_starts_it_with_the_python_of_its_environment(tmp_path: Path) -> None:
    """Word for word, in a folder with what the commands before it leave."""
    section = PAGE.read_text().split("## EPyMARL")[1]
    command = re.findall(r"^PATH=.* bash docs/third_party/.*$", section, re.MULTILINE)[0]
    source, python = tmp_path / "epymarl" / "src", tmp_path / ".venv-epymarl" / "bin" / "python"
    (source / "envs").mkdir(parents=True)
    python.parent.mkdir(parents=True)
    wrapper = source / "envs" / "smaclite_wrapper.py"
    wrapper.write_text('import smaclite  # noqa\nenv = gym.make(f"smaclite/{map_name}-v0")\n')
    (source / "main.py").touch()
    python.write_text('#!/bin/sh\necho "$0" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{python} src/main.py --config=mappo ") and "map_name=3m t_max=40000" in done.stdout
    assert wrapper.read_text() == 'import amal.envs  # noqa\nenv = gym.make(f"amal/{map_name}-v0")\n'
    bare = subprocess.run(["bash", PAGE.parent / "third_party" / "epymarl_mappo.sh"], capture_output=True, text=True)
    assert bare.returncode != 0 and "a checkout of EPyMARL is missing" in bare.stderr


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_trains(recipe: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    pip = [tmp_path / "venv/bin/pip", "install", "--quiet", "--constraint", ROOT / "requirements.lock"]
    subprocess.run([*pip, "--editable", ROOT, *needed(recipe)], check=True)
    train = [tmp_path / "venv/bin/python", recipe, "3m", "5000"]
    done = subprocess.run(train, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = [int(amount) for amount in TRAINED.findall(done.stdout)]
    assert steps and steps[-1] >= 5000
