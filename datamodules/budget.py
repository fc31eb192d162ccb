"""What training may use, and what it has used."""

from __future__ import annotations

import math
import time
from typing import Any

from amal.runtime.argument_checks import LARGEST_COUNT, check_whole


class Budget:
    """Environment steps and episodes of training, of all processes together.

    Args:
        env_steps: training ends with the first update that reaches this many steps.
        episodes: a number of episodes instead, met exactly. Without either there is no budget.

    Raises:
        ValueError: both are set, or one is no whole number of at least 1.
    """

    def __init__(self, env_steps: int | float | None = None, episodes: int | float | None = None) -> None:
        if env_steps is not None and episodes is not None:
            raise ValueError("env_steps and episodes are both set; a budget is one or the other")
        limits: dict[str, Any] = {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in (("env_steps", env_steps), ("episodes", episodes))
            if value is not None
        }
        check_whole(1, LARGEST_COUNT, **limits)
        self.env_steps_limit: int | None = limits.get("env_steps")
        self.episodes_limit: int | None = limits.get("episodes")
        self.extensions: list[dict[str, int]] = []  # how much was used of which budget when it was given a larger one
        self.env_steps = 0  # used so far
        self.episodes = 0
        self._earlier_seconds = 0.0  # of training, in earlier sessions of this run
        self._session_start, self._session_first_step = time.monotonic(), 0

    @property
    def progress(self) -> float:
        """Share that is used, in [0, 1]; 1 without a budget, for then a team plays and does not train."""
        if self.episodes_limit is not None:
            return min(1.0, self.episodes / self.episodes_limit)
        if self.env_steps_limit is not None:
            return min(1.0, self.env_steps / self.env_steps_limit)
        return 1.0

    @property
    def is_met(self) -> bool:
        return self.progress >= 1.0

    @property
    def used(self) -> dict[str, int]:
        """The counts of every table of a run, by column."""
        return {"env_steps": self.env_steps, "episodes": self.episodes}

    @property
    def limit(self) -> int | None:
        """Environment steps or episodes, whatever the budget is in."""
        return self.episodes_limit or self.env_steps_limit

    def max_updates(self, episodes_per_update: int) -> int:
        """How many updates of so many episodes it can last at most: every episode has at least one step.

        Raises:
            ValueError: there is no budget.
        """
        if self.limit is None:
            raise ValueError("training needs a budget: set --data.env_steps or --data.episodes")
        return math.ceil(self.limit / episodes_per_update)

    def allowed(self, episodes: int, processes: int) -> int:
        """How many of the ``episodes`` each process may still play."""
        if self.episodes_limit is None:
            return episodes
        return min(episodes, math.ceil((self.episodes_limit - self.episodes) / processes))

    def use(self, env_steps: int, episodes: int) -> None:
        self.env_steps += env_steps
        self.episodes += episodes

    def start_session(self) -> None:
        """Training begins, or goes on in a new process: the speed counts from here."""
        self._session_start, self._session_first_step = time.monotonic(), self.env_steps

    @property
    def wall_seconds(self) -> float:
        """Training time so far, over all sessions of a resumed run."""
        return self._earlier_seconds + time.monotonic() - self._session_start

    @property
    def env_steps_per_second(self) -> float:
        """Speed of training in this session, evaluations included."""
        seconds = time.monotonic() - self._session_start
        return (self.env_steps - self._session_first_step) / max(seconds, 1e-9)

    @property
    def was_used(self) -> bool:
        """Whether any step of training was played in this session."""
        return self.env_steps > self._session_first_step

    def state_dict(self) -> dict[str, Any]:
        return {**self.used, "wall_seconds": self.wall_seconds, "limit": self.limit, "extensions": self.extensions}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.env_steps, self.episodes = state_dict["env_steps"], state_dict["episodes"]
        self._earlier_seconds = state_dict["wall_seconds"]
        self.extensions = list(state_dict.get("extensions", []))
        before = state_dict.get("limit")
        if before is not None and before != self.limit:
            self.extensions.append({**self.used, "budget": before})
        self._session_first_step = self.env_steps
