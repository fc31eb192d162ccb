"""Real and imagined transitions, and the types that keep them apart.

Letters: M transitions, N agents, O observation size, S state size, A actions, L steps of a stretch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from amal.types import EpisodeBatch, alive_agents

REAL = -1  # provenance of what happened in the environment; auxiliary agents count from 0


class ProvenanceError(ValueError):
    """Imagined experience where only real experience may be, or the reverse."""


@dataclass(frozen=True)
class Experience:
    """M transitions, real or imagined."""

    obs: Tensor  # [M, N, O] float32
    state: Tensor  # [M, S] float32
    available_actions: Tensor  # [M, N, A] bool
    actions: Tensor  # [M, N] int64
    log_probs: Tensor  # [M, N] float32, of the behaviour policy
    rewards: Tensor  # [M, N] float32
    next_obs: Tensor  # [M, N, O] float32
    next_state: Tensor  # [M, S] float32
    next_available_actions: Tensor  # [M, N, A] bool
    done: Tensor  # [M] bool, the battle ended and there is nothing to bootstrap; truncation is not done
    provenance: Tensor  # [M] int64, REAL or the auxiliary agent that imagined it

    @property
    def alive(self) -> Tensor:
        """[M, N] bool: the agent acted. Only dead agents have the no-op available."""
        return alive_agents(self.available_actions)

    def __len__(self) -> int:
        return len(self.provenance)

    def __getitem__(self, rows: Tensor) -> Self:
        """The transitions at those rows, [K] int64."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """All transitions of the parts, in order."""
        return cls(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def to(self, *args: object, **kwargs: object) -> Self:
        """Move every tensor as ``Tensor.to`` would."""
        return type(self)(**{f.name: getattr(self, f.name).to(*args, **kwargs) for f in fields(self)})


@dataclass(frozen=True)
class RealExperience(Experience):
    """Experience that is certainly real, else a ``ProvenanceError``: all that a world model may learn from."""

    def __post_init__(self) -> None:
        imagined = (self.provenance != REAL).count_nonzero().item()
        if imagined:
            raise ProvenanceError(f"{imagined} of {len(self)} rows came from auxiliary agents, not from the battle")

    @classmethod
    def of_episodes(cls, batch: EpisodeBatch) -> Self:
        """Every step of real episodes, without padding, on the batch's device."""
        return cls(**{name: column[batch.mask] for name, column in real_columns(batch).items()})

    @classmethod
    def passing_off(cls, experience: Experience) -> Self:
        """Any experience relabelled as real: the open-gate ablation, which shows what isolation is good for."""
        columns = {f.name: getattr(experience, f.name) for f in fields(cls)}
        return cls(**{**columns, "provenance": torch.full_like(experience.provenance, REAL)})


@dataclass(frozen=True)
class RealSequences:
    """M sequences of L successive steps of real episodes. Where one would begin before its episode, its first steps did
    not happen; they hold arbitrary finite numbers."""

    last: RealExperience  # the last steps
    states: Tensor  # [M, L+1, S] float32, before each step and after the last
    actions: Tensor  # [M, L, N] int64
    happened: Tensor  # [M, L] bool
    snapshots: Tensor | None = None  # [M, K] uint8, of the simulator before the last step, if they were recorded

    @classmethod
    def of_single_steps(cls, experience: RealExperience) -> Self:
        """Stretches of one step."""
        states = torch.stack([experience.state, experience.next_state], dim=1)
        happened = torch.ones(len(experience), 1, dtype=torch.bool, device=states.device)
        return cls(experience, states, experience.actions.unsqueeze(1), happened)

    def __getitem__(self, rows: Tensor) -> Self:
        """Some of the stretches."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: x[rows] for name, x in parts.items() if x is not None})

    def to(self, *args: object, **kwargs: object) -> Self:
        """Move every tensor as ``Tensor.to`` would."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: x.to(*args, **kwargs) for name, x in parts.items() if x is not None})


def real_columns(batch: EpisodeBatch) -> dict[str, Tensor]:
    """The fields of real experience, [B, T, …] each, padding included."""
    columns = {
        "actions": batch.actions,
        "log_probs": batch.log_probs.detach(),
        "rewards": batch.rewards.unsqueeze(-1).expand(batch.actions.shape),
        "done": batch.terminated,
        "provenance": torch.full((), REAL, device=batch.mask.device).expand(batch.mask.shape),
    }
    for name in ("obs", "state", "available_actions"):
        columns[name], columns[f"next_{name}"] = getattr(batch, name)[:, :-1], getattr(batch, name)[:, 1:]
    return columns
