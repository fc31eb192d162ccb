"""Battles in worker processes: like VectorBattle's, whatever happens to the processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from amal.backends.battles import EpisodeLost, WorkerBattles, WorkerFailure
from amal.backends.game import BackendError
from amal.battle import UnavailableAction, VectorBattle
from tests.backends.conftest import StandIns
from tests.conftest import ROOT


def first_available(battles: WorkerBattles) -> np.ndarray:
    return battles.available_actions.argmax(axis=2)


def step_until_lost(battles: WorkerBattles) -> None:
    with pytest.raises(EpisodeLost, match="the episodes of battles .* were lost"):
        for _ in range(4):
            battles.step(first_available(battles))


def test_they_play_as_the_simulator_does_side_by_side(stand_ins: StandIns) -> None:
    battles = WorkerBattles("smaclite", "2s3z", 2, seed=3)
    seeds = [int(np.random.SeedSequence(3, spawn_key=(e,)).generate_state(1)[0] >> 1) for e in range(2)]
    alone = [VectorBattle("2s3z", 1, seed, auto_reset=False) for seed in seeds]
    assert battles.spec == alone[0].spec
    battles.reset()
    rng = np.random.default_rng(0)
    while not (battles.terminated | battles.truncated).all():
        actions = (rng.random(battles.available_actions.shape) * battles.available_actions).argmax(axis=2)
        battles.step(actions)
        for e, battle in enumerate(alone):
            battle.step(actions[e : e + 1])  # those that are over stand still here and there
            for name in ("obs", "state", "available_actions", "rewards", "terminated", "truncated", "won"):
                assert np.array_equal(getattr(battles, name)[e], getattr(battle, name)[0]), name
            assert battles.dead("ally")[e] == battle.dead("ally")[0]
            assert battles.dead("enemy")[e] == battle.dead("enemy")[0]
    last = battles.obs[0].copy()
    battles.reset(battles=np.array([False, True]))
    assert (battles.obs[0] == last).all() and battles.terminated[0] and not battles.terminated[1]
    with pytest.raises(UnavailableAction, match="battle 1, agent 0: action 0 is not available; available: 1, "):
        battles.step(np.zeros((2, 5), int))
    battles.close()
    assert stand_ins.ended()


def test_a_crash_is_reported_and_replaced_and_the_others_live_on(
    stand_ins: StandIns, capfd: pytest.CaptureFixture[str]
) -> None:
    battles = WorkerBattles("starcraft2", "3m", 2)
    battles.reset()
    stand_ins.let_happen("crash")
    step_until_lost(battles)
    report = capfd.readouterr().err
    assert "killed by SIGSEGV; its last words: Segmentation fault, says the game" in report
    assert "restarting it (1 of 3 in a row)" in report and battles.restarts == 1
    battles.reset()
    for _ in range(5):
        battles.step(first_available(battles))
    assert stand_ins.soon(2)  # the game of the crashed one is gone too
    stand_ins.let_happen("lose_the_game")  # SMAC returns an ending that was none
    battles.reset()
    step_until_lost(battles)
    assert "StarCraft II broke down in the middle of an episode; restarting it (1 of 3" in capfd.readouterr().err


def test_a_worker_that_hangs_deaf_to_signals_is_killed_in_time(
    stand_ins: StandIns, capfd: pytest.CaptureFixture[str]
) -> None:
    battles = WorkerBattles("starcraft2", "3m", 1, step_timeout=1.0)
    battles.reset()
    stand_ins.let_happen("hang")
    started = time.monotonic()
    step_until_lost(battles)
    assert "no answer in 1 s" in capfd.readouterr().err
    assert time.monotonic() - started < 60
    battles.reset()
    battles.step(first_available(battles))
    assert stand_ins.soon(1)


def test_restarts_are_bounded_and_the_last_error_is_told(stand_ins: StandIns) -> None:
    battles = WorkerBattles("starcraft2", "3m", 1, max_restarts=2)
    stand_ins.let_happen("crash_at_reset")
    battles.reset()  # nothing was lost: it is started again at once
    stand_ins.let_happen("error", times=9)
    step_until_lost(battles)
    battles.reset()
    words = "battle 0 AssertionError: units went missing; gave up after 2 restarts in a row"
    with pytest.raises(WorkerFailure, match=words):
        for _ in range(3):
            battles.step(first_available(battles))
    assert stand_ins.ended()


def test_what_does_not_start_is_told_with_its_last_words(
    stand_ins: StandIns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken" / "smaclite"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("import os\nprint('no display', flush=True)\nos._exit(3)\n")
    monkeypatch.syspath_prepend(str(broken.parent))
    words = "backend 'smaclite' does not start: battle . exited with code 3; its last words: no display"
    with pytest.raises(BackendError, match=words):
        WorkerBattles("smaclite", "3m", 2)


@pytest.mark.parametrize("hung", [False, True])
def test_nothing_outlives_a_killed_parent(stand_ins: StandIns, hung: bool) -> None:
    script = (
        "from amal.backends.battles import WorkerBattles\n"
        "battles = WorkerBattles('starcraft2', '3m', 2)\n"
        "battles.reset()\n"
        "print('ready', flush=True)\n"
        "while True: battles.step(battles.available_actions.argmax(axis=2))\n"
    )
    if hung:
        stand_ins.let_happen("hang", times=2)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    parent = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
    while hung and any(stand_ins.faults.iterdir()):
        time.sleep(0.05)
    assert len(stand_ins.processes()) >= 1 + 2 * 2  # the parent, workers and guards; games as soon as they are seen
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert stand_ins.ended()


def test_they_end_with_their_battles(stand_ins: StandIns) -> None:
    battles = WorkerBattles("starcraft2", "3m", 1)
    battles.reset()
    assert stand_ins.soon(1)
    del battles
    assert stand_ins.ended()
