"""The schedule of the auxiliary agents' evolution."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer

from amal.algorithms.amal.algorithm import AMAL
from amal.runtime.argument_checks import check_at_least
from amal.types import EpisodeBatch


class Evolution(Callback):
    """Evolves the auxiliary agents of AMAL before the first update and then every so many.

    Args:
        evolution_frequency: updates between two generations.
    """

    def __init__(self, evolution_frequency: int = 10) -> None:
        check_at_least(1, evolution_frequency=evolution_frequency)
        self.evolution_frequency = evolution_frequency
        self._updates = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.check(pl_module)

    @staticmethod
    def check(module: LightningModule) -> None:
        """Raise ValueError for a module that has nothing to evolve."""
        if not isinstance(module, AMAL):
            raise ValueError(f"callbacks.Evolution is for AMAL; {type(module).__name__} has no auxiliary agents")

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: EpisodeBatch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, AMAL)
        if self._updates % self.evolution_frequency == 0:
            pl_module.evolve(batch)
        self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._updates = state_dict["updates"]
