"""How fast the battles are, without a learner."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass

import numba
import numpy as np

from amal.battle import VectorBattle
from amal.battle.compilation import kernel
from amal.battle.scenario import name_of

SLICE_SECONDS = 0.2  # the median over slices forgives what else the machine does


@dataclass(frozen=True)
class SimulatorSpeed:
    """Env-steps/s of random battles, choice of actions, observations, states and masks included."""

    scenario: str
    battles: int
    threads: int
    pairs: int  # of units of one battle
    median: float
    slowest: float  # slice
    fastest: float

    def record(self) -> dict[str, float | str]:
        return asdict(self)


@kernel
def choose_at_random(available, actions, state):  # type: ignore[no-untyped-def]
    """Fills actions [E, N] with a random one of available [E, N, A] for every agent; returns the next random state."""
    for e in range(available.shape[0]):
        for agent in range(available.shape[1]):
            count = 0
            for a in range(available.shape[2]):
                count += available[e, agent, a]
            state = (state * 1103515245 + 12345) & 0x7FFFFFFF
            left = (state >> 8) % count
            for a in range(available.shape[2]):
                if available[e, agent, a]:
                    if left == 0:
                        actions[e, agent] = a
                        break
                    left -= 1
    return state


def env_steps_per_second(scenario: str, num_battles: int, seconds: float) -> list[float]:
    """Speeds of slices of a run of random battles."""
    battle = VectorBattle(scenario, num_battles)
    actions = np.zeros((num_battles, battle.spec.n_agents), np.int64)
    state, speeds = 1, []
    state = choose_at_random(battle.available_actions, actions, state)
    battle.step(actions)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < SLICE_SECONDS:
            state = choose_at_random(battle.available_actions, actions, state)
            battle.step(actions)
            steps += num_battles
        speeds.append(steps / (time.perf_counter() - start))
    return speeds


def measure_simulator(scenario: str, battles: int, seconds: float, threads: int | None = None) -> SimulatorSpeed:
    """Measures for about ``seconds``, on all of numba's threads or fewer."""
    most = numba.get_num_threads()
    threads = threads or most
    numba.set_num_threads(threads)
    try:
        speeds = env_steps_per_second(scenario, battles, seconds)
    finally:
        numba.set_num_threads(most)
    units = VectorBattle(scenario, 1).units.shape[1]
    figures = (statistics.median(speeds), min(speeds), max(speeds))
    return SimulatorSpeed(name_of(scenario), battles, threads, units * (units - 1) // 2, *figures)
