"""The periodic evaluation during training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from amal.algorithms.base import Algorithm
from amal.battle.entries import nearest
from amal.rollout.statistics import BattleStatistics
from amal.runtime.argument_checks import check_at_least
from amal.runtime.atomic import replacing
from amal.types import EpisodeBatch
from datamodules.budget import Budget
from datamodules.rollout import budget_of, source_of


class Evaluation(Callback):
    """Plays greedy episodes after every ``every_n_episodes`` training episodes and when training ends, then the same
    battles again with sampled actions.

    It uses battles and random streams of its own: training is the same with or without it. The results are logged as
    ``eval/…`` and kept in ``evaluations.csv``. Of several processes one plays, and the others wait for what it finds.

    Other callbacks get their ``on_validation_end`` after each evaluation, so that Lightning's EarlyStopping and
    ModelCheckpoint and Optuna's pruning can monitor ``eval/win_rate``.

    Args:
        every_n_episodes: training episodes between two evaluations; 0 for none at all.

    Attributes:
        rows: what was found, an entry for each evaluation so far.
        ended_by: the callback that ended training after it saw an evaluation, if one did.
    """

    def __init__(self, every_n_episodes: int = 100) -> None:
        check_at_least(0, every_n_episodes=every_n_episodes)
        self.every_n_episodes = every_n_episodes
        self.rows: list[dict[str, float]] = []
        self.ended_by: Callback | None = None

    @property
    def table(self) -> pd.DataFrame:
        """What ``evaluations.csv`` holds: a row for each evaluation so far."""
        return pd.DataFrame(self.rows)

    @property
    def best_win_rate(self) -> float:
        return max((row["win_rate"] for row in self.rows), default=float("-inf"))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            # they would look when the epoch ends, which is when training ends
            if isinstance(callback, EarlyStopping):
                callback._check_on_train_epoch_end = False
            elif isinstance(callback, ModelCheckpoint) and callback._save_on_train_epoch_end is None:
                callback._save_on_train_epoch_end = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._is_due(budget_of(trainer)):
            self._evaluate(trainer, pl_module)
            _check_monitored(trainer)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                was_ended = trainer.should_stop
                callback.on_validation_end(trainer, pl_module)
                if trainer.should_stop and not was_ended:
                    self.ended_by = callback

    def _is_due(self, budget: Budget) -> bool:
        if self.every_n_episodes == 0:
            return False
        last = int(self.rows[-1]["episodes"]) if self.rows else 0
        passed = budget.episodes // self.every_n_episodes > last // self.every_n_episodes
        return passed or (budget.is_met and budget.episodes > last)

    def _evaluate(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Algorithm)
        budget = budget_of(trainer)
        episodes = source_of(trainer).play_both_ways(pl_module, number=len(self.rows))
        found = measure(episodes) if trainer.is_global_zero else {}
        results: dict[str, float] = trainer.strategy.broadcast(found)
        counts = {**budget.used, "wall_seconds": round(budget.wall_seconds, 3)}
        self.rows.append({**counts, **results})
        pl_module.evaluations = len(self.rows)
        pl_module.log_dict({f"eval/{name}": value for name, value in results.items()}, batch_size=1)
        if trainer.is_global_zero:
            with replacing(Path(trainer.default_root_dir) / "evaluations.csv") as part:
                self.table.to_csv(part, index=False)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


def _check_monitored(trainer: Trainer) -> None:
    """Raises MisconfigurationException if another callback monitors what is not logged."""
    known = trainer.callback_metrics
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor not in known and getattr(callback, "strict", True):
            raise MisconfigurationException(
                f"trainer.callbacks: {type(callback).__name__} monitors {monitor}, which is not "
                f"logged{nearest(monitor, known)}; there are {', '.join(sorted(known))}"
            )


def measure(episodes: Iterable[EpisodeBatch]) -> dict[str, float]:
    """The statistics of all batches of episodes together."""
    statistics = BattleStatistics()
    for batch in episodes:
        statistics.update(batch)
    return {name: value.item() for name, value in statistics.compute().items()}


def evaluation_of(trainer: Trainer) -> Evaluation:
    """The evaluation callback of a run. Raises ValueError without one."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Evaluation):
            return callback
    raise ValueError("RunCheckpoint and TrainingProgress need an Evaluation among the trainer's callbacks")
