"""Checkpoints of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from callbacks.evaluation import evaluation_of
from datamodules.rollout import data_of


class RunCheckpoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt``, ``best.ckpt`` by win rate, and periodic ones.

    The last one is written after every evaluation and when training ends; Lightning moves each file into place when it
    is complete. Of equal win rates the later one is the best: it has seen more.

    Args:
        every_n_episodes: training episodes between two checkpoints of their own name; 0 for none.
    """

    def __init__(self, every_n_episodes: int = 0) -> None:
        if every_n_episodes < 0:
            raise ValueError(f"every_n_episodes must be at least 0, got {every_n_episodes}")
        self.every_n_episodes = every_n_episodes
        self._n_evaluations = 0  # that were there at the last save
        self._last_periodic = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        data, evaluation = data_of(trainer), evaluation_of(trainer)
        is_new = len(evaluation.rows) > self._n_evaluations
        self._n_evaluations = len(evaluation.rows)
        folder = Path(trainer.default_root_dir) / "checkpoints"
        if is_new and evaluation.rows[-1]["win_rate"] >= evaluation.best_win_rate:
            trainer.save_checkpoint(folder / "best.ckpt", weights_only=False)
        if self.every_n_episodes and data.episodes // self.every_n_episodes > self._last_periodic:
            self._last_periodic = data.episodes // self.every_n_episodes
            trainer.save_checkpoint(folder / f"episode_{data.episodes}.ckpt", weights_only=False)
        if is_new or data.progress >= 1.0:
            trainer.save_checkpoint(folder / "last.ckpt", weights_only=False)

    def state_dict(self) -> dict[str, Any]:
        return {"n_evaluations": self._n_evaluations, "last_periodic": self._last_periodic}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._n_evaluations, self._last_periodic = state_dict["n_evaluations"], state_dict["last_periodic"]
