"""The schedule of the auxiliary agents' evolution."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer

from amal.algorithms.amal.algorithm import AMAL
from amal.types import EpisodeBatch


class Evolution(Callback):
    """Evolves the auxiliary agents of AMAL before the first update and then every ``evolution_frequency`` updates.

    The command line adds it to every run. It does nothing for a module without auxiliary agents.
    """

    def __init__(self) -> None:
        self._updates = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: EpisodeBatch, batch_idx: int
    ) -> None:
        if not isinstance(pl_module, AMAL) or pl_module.evolved is None:
            return
        if self._updates % pl_module.evolved.evolution_frequency == 0:
            pl_module.evolve(batch)
        self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates} if self._updates else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._updates = state_dict["updates"]
