"""What an evaluation measures; used by the callback, ``validate`` and ``test`` alike."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from amal.types import EpisodeBatch

OF_GREEDY = ("won", "returns", "lengths", "dead_allies", "dead_enemies")  # what is kept of an episode
OF_SAMPLED = ("won", "returns")


class BattleStatistics(Metric):
    """Statistics over evaluated episodes, collected over batches. Processes are not synchronised: either one plays for
    all, or all play the same episodes."""

    full_state_update = False
    won: list[Tensor]
    returns: list[Tensor]
    lengths: list[Tensor]
    dead_allies: list[Tensor]
    dead_enemies: list[Tensor]
    sampled_won: list[Tensor]
    sampled_returns: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(sync_on_compute=False, **kwargs)
        for name in (*OF_GREEDY, *(f"sampled_{name}" for name in OF_SAMPLED)):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, batch: EpisodeBatch) -> None:
        for name in OF_GREEDY if batch.greedy else OF_SAMPLED:
            state = getattr(self, name if batch.greedy else f"sampled_{name}")
            state.append(getattr(batch, name).double())

    def compute(self) -> dict[str, Tensor]:
        """Means over the greedy episodes, and the standard deviation of their returns; of episodes with sampled
        actions, if there are any, the win rate and the mean return."""
        returns = dim_zero_cat(self.returns)
        found = {
            "win_rate": dim_zero_cat(self.won).mean(),
            "return_mean": returns.mean(),
            "return_std": returns.std(correction=0),
            "episode_length": dim_zero_cat(self.lengths).mean(),
            "dead_allies": dim_zero_cat(self.dead_allies).mean(),
            "dead_enemies": dim_zero_cat(self.dead_enemies).mean(),
        }
        if self.sampled_won:
            found["sampled_win_rate"] = dim_zero_cat(self.sampled_won).mean()
            found["sampled_return_mean"] = dim_zero_cat(self.sampled_returns).mean()
        return found
