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

from amal.backends import BACKENDS
from amal.backends.battles import EpisodeLost, WorkerBattles, WorkerFailure
from amal.backends.game import BackendError
from amal.battle import UnavailableAction
from amal.types import BattleSpec
from tests.backends.conftest import StandIns, options_of
from tests.backends.stand_ins.skirmish import Skirmish
from tests.conftest import ROOT


def first_available(battles: WorkerBattles) -> np.ndarray:
    return battles.available_actions.argmax(axis=2)


def step_until_lost(battles: WorkerBattles) -> None:
    with pytest.raises(EpisodeLost, match="the episodes of battles .* were lost"):
        for _ in range(4):
            battles.step(first_available(battles))


def assert_shows(battles: WorkerBattles, e: int, game: Skirmish) -> None:
    agents = range(game.n_agents)
    np.testing.assert_array_equal(battles.obs[e], np.float32([game.obs(agent) for agent in agents]))
    np.testing.assert_array_equal(battles.state[e], np.float32(game.state()))
    np.testing.assert_array_equal(battles.available_actions[e], [game.available(agent) for agent in agents])
    assert battles.rewards[e] == game.reward and battles.won[e] == game.won
    assert (battles.terminated[e], battles.truncated[e]) == (game.decided, False)
    assert (battles.dead("ally")[e], battles.dead("enemy")[e]) == (game.allies.count(0), game.enemies.count(0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_they_play_as_the_original_does_side_by_side(stand_ins: StandIns, backend: str) -> None:
    battles = WorkerBattles(backend, "10m_vs_11m", 2, seed=3, options=options_of(backend))
    seeds = [int(np.random.SeedSequence(3, spawn_key=(e,)).generate_state(1)[0] >> 1) for e in range(2)]
    alone = [Skirmish("10m_vs_11m", seed) for seed in seeds]
    assert battles.spec == BattleSpec("10m_vs_11m", 10, 11, n_actions=17, obs_dim=14, state_dim=22, episode_limit=150)
    battles.reset()
    for game in alone:
        game.begin()
    rng = np.random.default_rng(0)
    while not (battles.terminated | battles.truncated).all():
        actions = (rng.random(battles.available_actions.shape) * battles.available_actions).argmax(axis=2)
        running = np.flatnonzero(~(battles.terminated | battles.truncated)).tolist()  # the other one stands still
        battles.step(actions)
        for e in running:
            alone[e].play(actions[e].tolist())
            assert_shows(battles, e, alone[e])
    assert battles.dead("ally")[0] != battles.dead("enemy")[0], "this test must tell the sides apart"
    last = battles.obs[0].copy()
    battles.reset(battles=np.array([False, True]))
    assert (battles.obs[0] == last).all() and battles.terminated[0] and not battles.terminated[1]
    with pytest.raises(UnavailableAction, match="battle 1, agent 0: action 0 is not available; available: 1, "):
        battles.step(np.zeros((2, 10), int))
    for wrong in (np.array([0, 1]), [True], 1):
        with pytest.raises(ValueError, match=r"battles must be a boolean mask of shape \[E\] = \(2,\), got "):
            battles.reset(battles=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"actions must be integers of shape \[E, N\] = \(2, 10\), got float64"):
        battles.step(np.ones((2, 10)))
    with pytest.raises(ValueError, match="side must be 'ally' or 'enemy', got 'allies'"):
        battles.dead("allies")
    battles.close()
    assert stand_ins.ended()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_limit_truncates_what_is_not_decided_and_no_episode_repeats_another(
    stand_ins: StandIns, backend: str
) -> None:
    def play(battles: WorkerBattles) -> tuple[int, np.ndarray]:
        """Steps of an episode in which everybody shoots at the first enemy, and the state that it begins with."""
        battles.reset()
        first, steps = battles.state[0].copy(), 0
        while not (battles.terminated | battles.truncated)[0]:
            available = battles.available_actions
            targets = 6 + available[:, :, 6:].argmax(axis=2)
            battles.step(np.where(available[:, :, 0], 0, targets))
            steps += 1
        return steps, first

    def start(episode_limit: int) -> WorkerBattles:
        return WorkerBattles(backend, "2s3z", 1, episode_limit=episode_limit, options=options_of(backend))

    battles = start(60)
    length, first = play(battles)
    assert battles.terminated[0] and not battles.truncated[0] and length < 60
    battles.close()
    limited = start(length)
    assert play(limited)[0] == length and limited.terminated[0] and not limited.truncated[0]
    limited.close()
    short = start(length - 1)
    starts = [first]
    for _ in range(2):
        steps, start = play(short)
        starts.append(start)
        assert steps <= length - 1
        if len(starts) == 2:
            assert short.truncated[0] and not short.terminated[0] and not short.won[0]
    assert (starts[1] == starts[0]).all() and (starts[2] != starts[1]).any()
    short.close()


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
