"""Records that travel between the parts, with a shape on every field.

Letters: B episodes, T time, N agents, U units, A actions, O observation size, S state size, M enemies.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # the battle and the study commands use this module without paying for torch
    from collections.abc import Callable

    import numpy as np
    import torch


@dataclass(frozen=True)
class BattleSpec:
    """Sizes of a scenario, all that a learner needs to know about it."""

    scenario: str
    n_agents: int
    n_enemies: int
    n_actions: int
    obs_dim: int
    state_dim: int
    episode_limit: int


class Battles(Protocol):
    """E battles that episodes are recorded from, in whichever simulator. Arrays are written in place."""

    spec: BattleSpec
    num_battles: int
    auto_reset: bool

    @property
    def obs(self) -> np.ndarray:
        """[E, N, O] float32."""

    @property
    def state(self) -> np.ndarray:
        """[E, S] float32."""

    @property
    def available_actions(self) -> np.ndarray:
        """[E, N, A] bool."""

    @property
    def rewards(self) -> np.ndarray:
        """[E] float64."""

    @property
    def terminated(self) -> np.ndarray:
        """[E] bool."""

    @property
    def truncated(self) -> np.ndarray:
        """[E] bool."""

    @property
    def won(self) -> np.ndarray:
        """[E] bool."""

    def dead(self, side: str) -> np.ndarray:
        """[E] int64: how many units of side 'ally' or 'enemy' are dead."""

    def reset(self, *, battles: np.ndarray | None = None) -> None:
        """Starts new episodes in the battles [E] bool, by default in all."""

    def step(self, actions: np.ndarray) -> None:
        """Steps every running battle with actions [E, N]; one that is over stands still."""


@dataclass(frozen=True)
class EpisodeBatch:
    """B whole episodes, padded to the longest; what a rollout yields and an update consumes.

    Slot t of ``obs``, ``state`` and ``available_actions`` is what was seen before ``actions[:, t]``; the slot after an
    episode's last step holds what was seen at its end, so truncated episodes can be bootstrapped.
    """

    obs: torch.Tensor  # [B, T+1, N, O] float32
    state: torch.Tensor  # [B, T+1, S] float32
    available_actions: torch.Tensor  # [B, T+1, N, A] bool
    actions: torch.Tensor  # [B, T, N] int64
    log_probs: torch.Tensor  # [B, T, N] float32, of the behaviour policy
    rewards: torch.Tensor  # [B, T] float32, shared by the team
    terminated: torch.Tensor  # [B, T] bool, the step ended the battle
    truncated: torch.Tensor  # [B, T] bool, the step reached the episode limit
    mask: torch.Tensor  # [B, T] bool, the step happened
    won: torch.Tensor  # [B] bool
    dead_allies: torch.Tensor  # [B] int64
    dead_enemies: torch.Tensor  # [B] int64
    progress: float  # share of the training budget that was used before this batch, in [0, 1]

    @property
    def alive(self) -> torch.Tensor:
        """[B, T, N] bool: the agent acted. Only dead agents (and padding) have the no-op available."""
        return self.mask.unsqueeze(-1) & ~self.available_actions[:, :-1, :, 0]

    @property
    def lengths(self) -> torch.Tensor:
        """[B] int64: steps of each episode."""
        return self.mask.sum(dim=1)

    @property
    def returns(self) -> torch.Tensor:
        """[B] float32: undiscounted team return of each episode."""
        return (self.rewards * self.mask).sum(dim=1)

    def to(self, *args: object, **kwargs: object) -> EpisodeBatch:
        """Move every tensor as ``Tensor.to`` would, keeping dtypes; Lightning calls this for the device transfer."""
        return self._each(lambda tensor: tensor.to(*args, **kwargs))

    def __getitem__(self, episodes: slice) -> EpisodeBatch:
        """Some of the episodes, padded as they are."""
        return self._each(lambda tensor: tensor[episodes])

    def _each(self, change: Callable[[Any], torch.Tensor]) -> EpisodeBatch:
        tensors = {f.name: change(getattr(self, f.name)) for f in fields(self) if f.name != "progress"}
        return EpisodeBatch(**tensors, progress=self.progress)
