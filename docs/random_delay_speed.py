"""How fast battles with random delay are, as a share of the speed of those without.

    python docs/random_delay_speed.py [SCENARIO ...]

Both kinds in one run and in turns, on one thread, of random actions: processor time of ``VectorBattle.step``, which
forgives what else the machine does. What both kinds share outside of it, the choice of actions, is left out.
"""

from __future__ import annotations

import time

import numba
import numpy as np

from amal.battle import VectorBattle
from amal.bench.simulator import choose_at_random
from amal.commands.arguments import OneLineParser, fail

SCENARIOS = ("3m", "2s3z", "5m_vs_6m", "8m", "MMM")  # of the chance study
BATTLES = 512


class Measured:
    """Battles of one kind, and the processor time of their steps."""

    def __init__(self, scenario: str, random_delay: bool) -> None:
        self.battle = VectorBattle(scenario, BATTLES, random_delay=random_delay)
        self.actions = np.zeros((BATTLES, self.battle.spec.n_agents), np.int64)
        self.state = 1

    def seconds(self, steps: int) -> float:
        total = 0.0
        for _ in range(steps):
            self.state = choose_at_random(self.battle.available_actions, self.actions, self.state)
            start = time.process_time()
            self.battle.step(self.actions)
            total += time.process_time() - start
        return total


def relative_speeds(scenario: str, turns: int = 40, steps: int = 20) -> np.ndarray:
    """[turn] speed with random delay over that without. Raises ValueError for an unknown scenario."""
    without, with_delay = Measured(scenario, False), Measured(scenario, True)
    ratios = []
    for turn in range(turns + 1):
        kinds = (without, with_delay) if turn % 2 else (with_delay, without)
        seconds = {kind: kind.seconds(steps) for kind in kinds}
        ratios.append(seconds[without] / seconds[with_delay])
    return np.array(ratios[1:])  # the first one compiles


if __name__ == "__main__":
    parser = OneLineParser(description="Compare the speed of battles with random delay with that without.")
    parser.add_argument("scenarios", nargs="*", default=SCENARIOS, metavar="SCENARIO")
    numba.set_num_threads(1)
    for name in parser.parse_args().scenarios:
        try:
            low, median, high = np.quantile(relative_speeds(name), (0.25, 0.5, 0.75))
        except ValueError as error:
            fail(str(error))
        print(
            f"{name:>10}: {median:.3f} times as fast with random delay (quartiles {low:.3f} to {high:.3f})", flush=True
        )
