"""WorkerBattles: many battles of another simulator, each in a process of its own, played like those of VectorBattle."""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from amal.backends import BACKENDS
from amal.backends.game import BackendError, Outcome, Seen
from amal.backends.process import Worker, answers
from amal.battle import UnavailableAction
from amal.battle.arguments import check_side, checked_actions, checked_mask
from amal.battle.battlefield import LONGEST_EPISODE
from amal.battle.scenario import load_scenario, scenario_names
from amal.runtime.argument_checks import check_choice, check_positive, check_whole
from amal.types import BattleSpec

CLOSE_SECONDS = 10.0  # for simulators to end in good order
ARGUMENTS = {  # of WorkerBattles, by the options of simulators that they set
    "seed": "seed",
    "map_name": "scenario",
    "id": "scenario",
    "episode_limit": "episode_limit",
    "max_episode_steps": "episode_limit",
}


class EpisodeLost(RuntimeError):
    """A battle broke down in the middle of its episode. It can be reset, and all others too."""


class WorkerFailure(RuntimeError):
    """A simulator broke down so often that there is no use in starting it again."""


def refuse_random_delay(backend: str, random_delay: bool | Sequence[int]) -> None:
    """Raises ValueError if random delays of shots are asked of another simulator, which has them or not."""
    if random_delay is not False:
        raise ValueError(
            f"random_delay: only the embedded simulator can be told, not {backend!r}, got {random_delay!r}"
        )


class WorkerBattles:
    """E battles of one scenario in another simulator. Like VectorBattle's without automatic reset: arrays are written
    in place, and a battle that is over stands still.

    A worker that crashes, fails or does not answer in time is reported on stderr, killed with all that it started, and
    replaced. Workers end with this object, with ``close`` and with this process, however it ends.

    Args:
        backend: 'starcraft2', 'smacv2' or 'smaclite'.
        scenario: the simulator's name of it.
        num_battles: E, and the number of processes.
        seed: every process gets one of its own made from it.
        episode_limit: steps until truncation, at most the simulator's; by default the simulator's. SMAClite has none:
            any is allowed, and by default it is that of the embedded simulator's scenario of the same name.
        options: other arguments of the simulator's constructor.
        start_timeout: seconds that a start or a reset may take, in which StarCraft II is launched.
        step_timeout: seconds that a step may take.
        max_restarts: how often in a row workers are replaced, one or several at once, before it gives up. A row ends
            when all battles are reset and none has broken down since they last were.

    Raises BackendError if the simulator cannot be used as it is installed or asked for.
    """

    auto_reset = False

    def __init__(
        self,
        backend: str,
        scenario: str,
        num_battles: int,
        seed: int = 0,
        episode_limit: int | None = None,
        options: dict[str, Any] | None = None,
        *,
        start_timeout: float = 300.0,
        step_timeout: float = 60.0,
        max_restarts: int = 3,
    ) -> None:
        check_choice(BACKENDS, backend=backend)
        check_whole(1, num_battles=num_battles)
        check_whole(0, seed=seed, max_restarts=max_restarts)
        if episode_limit is not None:
            check_whole(1, LONGEST_EPISODE, episode_limit=episode_limit)
        check_positive(start_timeout=start_timeout, step_timeout=step_timeout)
        if not isinstance(scenario, str):
            raise ValueError(f"scenario must be a name of {backend}'s, as a string, got {scenario!r}")
        if options is not None and not isinstance(options, dict):
            raise ValueError(f"options must be a dict of {backend}'s arguments, got {options!r}")
        for option, argument in ARGUMENTS.items():
            if option in (options or {}):
                raise ValueError(f"options: {option} is not one of them; {argument} sets it")
        if backend == "smaclite" and episode_limit is None and scenario in scenario_names():
            episode_limit = load_scenario(scenario).episode_limit
        self.backend = backend
        self.num_battles = num_battles
        self.restarts = 0  # so far
        self._arguments = (scenario, episode_limit, options or {})
        self._seed = seed
        self._start_timeout, self._step_timeout = start_timeout, step_timeout
        self._max_restarts = max_restarts
        self._row = 0  # of replacements
        self._broke_down = False  # one of them, since all were reset
        self._workers: dict[int, Worker] = {}
        self._finalizer = weakref.finalize(self, _close, self._workers)
        try:
            self.spec = self._start(range(num_battles))
        except BaseException:
            self.close()
            raise
        spec = self.spec
        self.obs = np.zeros((num_battles, spec.n_agents, spec.obs_dim), np.float32)
        self.state = np.zeros((num_battles, spec.state_dim), np.float32)
        self.available_actions = np.zeros((num_battles, spec.n_agents, spec.n_actions), np.bool_)
        self.rewards = np.zeros(num_battles)
        self.terminated = np.zeros(num_battles, np.bool_)
        self.truncated = np.zeros(num_battles, np.bool_)
        self.won = np.zeros(num_battles, np.bool_)
        self._dead = np.zeros((2, num_battles), np.int64)
        self._over = np.ones(num_battles, np.bool_)

    def dead(self, side: str) -> np.ndarray:
        """[E] int64: how many units of side 'ally' or 'enemy' are dead."""
        check_side(side)
        return self._dead[0 if side == "ally" else 1]

    def reset(self, *, battles: np.ndarray | None = None) -> None:
        """Starts new episodes in the battles [E] bool, by default in all. Raises WorkerFailure."""
        left = chosen = np.flatnonzero(checked_mask(battles, self.num_battles)).tolist()
        if battles is None:
            self._row = self._row if self._broke_down else 0
            self._broke_down = False
        while left:
            for e in left:
                self._workers[e].send("reset")
            results, failures = answers({e: self._workers[e] for e in left}, self._start_timeout)
            for e, (_, seen) in results.items():
                self._show(e, seen)
            self._replace(failures)
            left = list(failures)
        self.rewards[chosen] = 0.0
        self.terminated[chosen] = self.truncated[chosen] = self.won[chosen] = self._over[chosen] = False
        self._dead[:, chosen] = 0

    def step(self, actions: np.ndarray) -> None:
        """Steps every running battle with actions [E, N] (ignored for battles that are over).

        Raises UnavailableAction, before anything is stepped; EpisodeLost when a battle broke down, after it was
        replaced; WorkerFailure when that happened too often."""
        running = np.flatnonzero(~self._over).tolist()
        actions = checked_actions(actions, self.available_actions.shape[:2])
        self._refuse_unavailable(actions, running)
        self.rewards[self._over] = 0.0
        for e in running:
            self._workers[e].send("step", actions[e].tolist())
        results, failures = answers({e: self._workers[e] for e in running}, self._step_timeout)
        for e, (_, (seen, outcome)) in results.items():
            self._show(e, seen)
            self._note(e, outcome)
        if failures:
            self._over[list(failures)] = True
            self._replace(failures)
            raise EpisodeLost(f"the episodes of battles {sorted(failures)} were lost")

    def close(self) -> None:
        """Ends all processes."""
        self._finalizer()

    def _start(self, battles: Sequence[int]) -> BattleSpec:
        """Starts a worker for each of the battles; their sizes. Raises BackendError."""
        scenario, episode_limit, options = self._arguments
        for e in battles:
            number = self.restarts * self.num_battles + e
            seed = int(np.random.SeedSequence(self._seed, spawn_key=(number,)).generate_state(1)[0] >> 1)
            self._workers[e] = Worker(self.backend, scenario, seed, episode_limit, options)
        results, failures = answers({e: self._workers[e] for e in battles}, self._start_timeout)
        for e, failure in failures.items():
            raise BackendError(f"backend {self.backend!r} does not start: battle {e} {failure}")
        for outcome, result in results.values():
            if outcome == "unusable":
                raise BackendError(result)
        return next(spec for _, spec in results.values())

    def _replace(self, failures: dict[int, str]) -> None:
        """Starts new workers for those that failed together. Raises WorkerFailure."""
        if not failures:
            return
        for e in failures:
            self._workers.pop(e).kill()
        self._broke_down = True
        self._row += 1
        self.restarts += len(failures)
        reports = [f"{self.backend}: battle {e} {failure}" for e, failure in failures.items()]
        if self._row > self._max_restarts:
            self.close()
            raise WorkerFailure(f"{reports[-1]}; gave up after {self._max_restarts} restarts in a row")
        for report in reports:
            print(f"{report}; restarting it ({self._row} of {self._max_restarts} in a row)", file=sys.stderr)
        try:
            self._start(list(failures))
        except BackendError as error:
            self.close()
            raise WorkerFailure(f"{reports[-1]}; then {error}") from error

    def _show(self, e: int, seen: Seen) -> None:
        self.obs[e], self.state[e], self.available_actions[e] = seen

    def _note(self, e: int, outcome: Outcome) -> None:
        self.rewards[e], self.terminated[e], self.truncated[e], self.won[e] = outcome[:4]
        self._dead[:, e] = outcome.dead_allies, outcome.dead_enemies
        self._over[e] = outcome.terminated or outcome.truncated

    def _refuse_unavailable(self, actions: np.ndarray, running: list[int]) -> None:
        for e in running:
            for agent, action in enumerate(actions[e].tolist()):
                available = np.flatnonzero(self.available_actions[e, agent]).tolist()
                if action not in available:
                    what = f"battle {e}, agent {agent}: action {action} is not available"
                    raise UnavailableAction(f"{what}; available: {', '.join(map(str, available))}")


def _close(workers: dict[int, Worker]) -> None:
    """Asks all at once, so that they end side by side."""
    for worker in workers.values():
        worker.send("close")
    deadline = time.monotonic() + CLOSE_SECONDS
    while workers:
        workers.popitem()[1].close(deadline)
