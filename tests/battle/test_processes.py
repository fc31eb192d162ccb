"""Battles and the process that they are in: forks, other people's threads, and what is said about compilation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FORKED = """
import multiprocessing, os, sys
import numpy as np
from amal.battle import VectorBattle

def play(seed):
    battle = VectorBattle("3m", 512, seed=seed)  # stepped by all threads
    for _ in range(20):
        battle.step(battle.available_actions.argmax(axis=2))
    return battle.units.sum()

expected = [play(seed) for seed in (1, 2)]
battle = VectorBattle("3m", 512, seed=3)
child = os.fork()
if child == 0:
    battle.step(battle.available_actions.argmax(axis=2))  # begun in the parent
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(play, [1, 2]) == expected
battle.step(battle.available_actions.argmax(axis=2))
print("survived")
"""

THREADS = """
import torch
from amal.battle import VectorBattle
torch.set_num_threads(1)
torch.get_num_threads()
VectorBattle("3m", 512)
print(torch.get_num_threads())
"""

BATTLES = """
from amal.battle import VectorBattle
VectorBattle("3m", 2), VectorBattle("3m", 2)
"""

COMPILED = """
import numpy as np
from amal.battle import compilation

@compilation.kernel
def doubled(x):
    return 2 * x

@compilation.kernel
def tripled(x):
    return 3 * x

for function in (doubled, tripled):
    with compilation.announced():
        function(np.float64(1.0))
"""


def run(script: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(["-c", script] if isinstance(script, str) else [str(script)])]
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_steps_many_battles_as_its_parent_does() -> None:
    assert run(FORKED).stdout == "survived\n"


@pytest.mark.parametrize("first", ["import torch", "import amal.battle"])
def test_the_first_battle_leaves_torch_its_number_of_threads(first: str) -> None:
    assert run(f"{first}\n{THREADS}", OMP_NUM_THREADS="2").stdout == "1\n"


def test_compilation_is_announced_once_and_loading_from_the_cache_is_not(tmp_path: Path) -> None:
    assert run(BATTLES).stderr == ""  # other tests have filled the cache
    script = tmp_path / "kernels.py"
    script.write_text(COMPILED)
    told = [run(script, NUMBA_CACHE_DIR=str(tmp_path / "cache")).stderr for _ in range(2)]
    assert told[0].count("amal: compiling the battle simulator") == 1 and told[0].count("\n") == 1
    assert told[1] == ""
