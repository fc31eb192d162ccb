"""Battles and the process that they are in: forks, other people's threads, and what is said about compilation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from amal.battle import VectorBattle, compilation
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


def doubled(x: float) -> float:
    return 2 * x


def tripled(x: float) -> float:
    return 3 * x


def run(script: str, **environment: str) -> tuple[str, str]:
    command, variables = [sys.executable, "-c", script], os.environ | environment
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_a_forked_child_steps_many_battles_as_its_parent_does() -> None:
    assert run(FORKED)[0] == "survived\n"


def test_the_first_battle_leaves_torch_its_threads_and_is_silent_with_a_warm_cache() -> None:
    VectorBattle("3m", 1)  # fills the cache
    assert run(THREADS, OMP_NUM_THREADS="2") == ("1\n", "")


def test_compilation_is_announced_once_and_loading_from_the_cache_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compilation, "_CACHE_FOLDER", str(tmp_path))
    told = []
    for _ in range(2):
        monkeypatch.setattr(compilation, "_announcement", compilation._Announcement())
        for function in (doubled, tripled):
            with compilation.announced():
                assert compilation.kernel(function)(1.5) == function(1.5)
        told.append(capsys.readouterr().err)
    assert told == [compilation.MESSAGE + "\n", ""]
