"""The ``bench`` command: how fast the simulator is on this machine."""

from __future__ import annotations

import statistics
import time

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from amal.battle import VectorBattle
from amal.battle.compilation import kernel
from amal.battle.scenario import ScenarioError
from amal.study.arguments import OneLineParser, fail

SLICE_SECONDS = 0.2  # the median over slices forgives what else the machine does


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
    """Speeds of slices of a run of random battles, choice of actions, observations, states and masks included."""
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


def main(args: list[str]) -> None:
    parser = OneLineParser(prog="python cli.py bench", description="Measure the simulator's speed.")
    parser.add_argument("--scenarios", nargs="+", default=["3m", "2s3z", "3s5z", "MMM"], metavar="NAME")
    parser.add_argument("--battles", type=int, default=1024, help="battles at once (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each scenario (default %(default)s)")
    options = parser.parse_args(args)
    table = Table(title=f"Random battles, {options.battles} at once", title_justify="left", box=SIMPLE)
    for column in ("scenario", "env-steps/s (median)", "slowest slice", "fastest slice"):
        table.add_column(column, justify="left" if column == "scenario" else "right")
    try:
        for name in options.scenarios:
            speeds = env_steps_per_second(name, options.battles, options.seconds)
            figures = (statistics.median(speeds), min(speeds), max(speeds))
            table.add_row(name, *(f"{figure:,.0f}" for figure in figures))
    except (ScenarioError, ValueError) as error:
        fail(str(error))
    Console().print(table)
