"""What a worker process plays: one battle of another simulator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np

from amal.types import BattleSpec


class BackendError(ValueError):
    """A back end that cannot be used as it is installed or asked for; the message says what to do."""


class GameFailed(RuntimeError):
    """The simulator broke down in the middle of an episode."""


class Seen(NamedTuple):
    """What is seen before a step, and at an episode's end."""

    obs: np.ndarray  # [N, O] float32
    state: np.ndarray  # [S] float32
    available_actions: np.ndarray  # [N, A] bool


class Outcome(NamedTuple):
    """What a step brought."""

    reward: float
    terminated: bool
    truncated: bool
    won: bool
    dead_allies: int
    dead_enemies: int


class Game(Protocol):
    """One battle at a time of another simulator."""

    spec: BattleSpec

    def reset(self) -> Seen:
        """Starts an episode, wherever the last one was left."""

    def step(self, actions: list[int]) -> tuple[Seen, Outcome]:
        """Plays one step with N actions. Raises GameFailed."""

    def close(self) -> None:
        """Ends the simulator's own processes."""


def limited(spec: BattleSpec, episode_limit: int | None) -> BattleSpec:
    """The sizes with another episode limit. Raises BackendError for one beyond the simulator's own."""
    if episode_limit is None:
        return spec
    if episode_limit > spec.episode_limit:
        own = f"{spec.episode_limit}, at which {spec.scenario} ends its episodes itself"
        raise BackendError(f"episode_limit must be at most {own}, got {episode_limit}")
    return replace(spec, episode_limit=episode_limit)


def unknown_scenario(name: str, known: Iterable[str]) -> BackendError:
    """The error for a scenario that the simulator does not have."""
    return BackendError(f"unknown scenario {name!r}{nearest_name(name, known)}; known: {', '.join(known)}")


def nearest_name(name: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' for the closest known name, or nothing."""
    from amal.battle.entries import nearest  # brings the embedded simulator along, which workers do without

    return nearest(name, known)
