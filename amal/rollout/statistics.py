"""What an evaluation measures; used by the callback, ``validate`` and ``test`` alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from amal.types import EpisodeBatch


class BattleStatistics(Metric):
    """Statistics over evaluated episodes, gathered over batches; processes do not wait for each other, for either one
    plays for all or all play the same."""

    full_state_update = False
    won: list[Tensor]
    returns: list[Tensor]
    lengths: list[Tensor]
    dead_allies: list[Tensor]
    dead_enemies: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(sync_on_compute=False, **kwargs)
        for name in ("won", "returns", "lengths", "dead_allies", "dead_enemies"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, batch: EpisodeBatch) -> None:
        for name in ("won", "returns", "lengths", "dead_allies", "dead_enemies"):
            getattr(self, name).append(getattr(batch, name).to(torch.float64))

    def compute(self) -> dict[str, Tensor]:
        """Means over episodes, and the standard deviation of the returns."""
        returns = dim_zero_cat(self.returns)
        return {
            "win_rate": dim_zero_cat(self.won).mean(),
            "return_mean": returns.mean(),
            "return_std": returns.std(correction=0),
            "episode_length": dim_zero_cat(self.lengths).mean(),
            "dead_allies": dim_zero_cat(self.dead_allies).mean(),
            "dead_enemies": dim_zero_cat(self.dead_enemies).mean(),
        }
