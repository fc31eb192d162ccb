"""Replay of whole episodes, for algorithms that learn from sequences.

Letters: B episodes, T time, N agents, O observation size, S state size, A actions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amal.runtime.argument_checks import check_at_least
from amal.types import EpisodeBatch

FIELDS = EpisodeBatch.step_fields()
# actions first, so that a row is a whole number of words
KEPT = ("actions", "obs", "state", "rewards", "available_actions", "terminated")


@dataclass(frozen=True)
class ReplayedEpisodes:
    """B whole episodes. Padding holds arbitrary finite numbers."""

    obs: Tensor  # [B, T+1, N, O] float32
    state: Tensor  # [B, T+1, S] float32
    available_actions: Tensor  # [B, T+1, N, A] bool
    actions: Tensor  # [B, T, N] int64
    rewards: Tensor  # [B, T] float32
    terminated: Tensor  # [B, T] bool
    lengths: Tensor  # [B] int64, steps of each episode

    @property
    def mask(self) -> Tensor:
        """[B, T] bool, the step happened."""
        return torch.arange(self.rewards.shape[1], device=self.lengths.device) < self.lengths.unsqueeze(-1)

    @property
    def seen(self) -> Tensor:
        """[B, T+1] bool: the steps that happened, and what was seen at the end."""
        return torch.arange(self.obs.shape[1], device=self.lengths.device) <= self.lengths.unsqueeze(-1)

    def to(self, device: torch.device) -> ReplayedEpisodes:
        """The same on another device."""
        return ReplayedEpisodes(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class EpisodeReplay:
    """The newest episodes, one after the other in one table with a row per step and one for each end.

    The table starts empty and doubles when it is full; memory is used as far as it is written to, and while it grows
    twice that. A row holds all fields of a step, so a sample of whole episodes is one indexed copy.

    Args:
        capacity: episodes kept.
        n_agents: N.
        obs_dim: O.
        state_dim: S.
        n_actions: A.
        seed: of what is drawn.
    """

    def __init__(
        self, capacity: int, n_agents: int, obs_dim: int, state_dim: int, n_actions: int, seed: int = 0
    ) -> None:
        check_at_least(1, capacity=capacity)
        self.capacity = capacity
        sizes = {"n_agents": n_agents, "obs_dim": obs_dim, "state_dim": state_dim, "n_actions": n_actions}
        columns = [(name, FIELDS[name].dtype, FIELDS[name].shape(sizes)) for name in KEPT]
        self._record = np.dtype(columns, align=True)  # torch refuses views that are not aligned
        self._table = np.zeros(0, self._record)
        self._first = 0  # row of the oldest episode
        self._rows: deque[int] = deque()  # of each episode, the oldest first; they go on at the table's beginning
        self.stream = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, batch: EpisodeBatch) -> None:
        """Adds B episodes in their order; each one beyond the capacity takes the place of the oldest."""
        batch = batch.to("cpu")
        arrays = {name: getattr(batch, name).numpy() for name in self._record.names or ()}
        for episode, length in enumerate(batch.lengths.tolist()):
            while len(self) >= self.capacity:
                self._first = (self._first + self._rows.popleft()) % len(self._table)
            places = self._append(length + 1)
            for name, array in arrays.items():
                rows = length + FIELDS[name].is_view
                self._table[name][places[:rows]] = array[episode, :rows]

    def _append(self, rows: int) -> NDArray[np.int64]:
        """Makes room for one more episode of ``rows`` rows; returns their indices."""
        stored = sum(self._rows)
        if stored + rows > len(self._table):
            grown = np.zeros(max(2 * len(self._table), stored + rows), self._record)
            self._copy_ordered(grown)
            self._table, self._first = grown, 0
        self._rows.append(rows)
        places = (self._first + stored + np.arange(rows)) % len(self._table)
        self._table[places] = 0
        return places

    def _copy_ordered(self, out: NDArray[np.void]) -> None:
        """Copies all rows, the oldest episode first, to the beginning of ``out``."""
        stored = sum(self._rows)
        before_wrap = min(stored, len(self._table) - self._first)
        out[:before_wrap] = self._table[self._first : self._first + before_wrap]
        out[before_wrap:stored] = self._table[: stored - before_wrap]

    def sample(self, batch_size: int) -> ReplayedEpisodes:
        """Different episodes, each as likely as any other. ValueError if fewer are stored."""
        if not 1 <= batch_size <= len(self):
            raise ValueError(f"batch_size must be from 1 to the {len(self)} episodes that are stored, got {batch_size}")
        rows = np.array(self._rows)
        chosen = self.stream.choice(len(self), batch_size, replace=False)
        lengths, starts = rows[chosen] - 1, (rows.cumsum() - rows)[chosen] + self._first
        slots = np.minimum(np.arange(lengths.max() + 1), lengths[:, None])  # an episode's last row pads it
        places = torch.from_numpy((starts[:, None] + slots) % len(self._table))
        words = torch.from_numpy(self._table.view(np.int64).reshape(len(self._table), -1))
        found = words.index_select(0, places.flatten()).numpy().view(self._record).reshape(places.shape)
        fetched = {name: torch.from_numpy(found[name]) for name in self._record.names or ()}
        steps = {name: fetched[name] if FIELDS[name].is_view else fetched[name][:, :-1] for name in fetched}
        return ReplayedEpisodes(**steps, lengths=torch.from_numpy(lengths))

    def state_dict(self) -> dict[str, Any]:
        """A copy of what is stored, and the random stream; for ``torch.save``."""
        table = np.empty(sum(self._rows), self._record)
        self._copy_ordered(table)
        return {
            "rows": list(self._rows),
            "table": torch.from_numpy(table.view(np.int64)),
            "stream": self.stream.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where ``state_dict`` was called, bit for bit."""
        self._rows, self._first = deque(state["rows"]), 0
        self._table = state["table"].cpu().numpy().view(self._record).copy()
        self.stream.bit_generator.state = state["stream"]
