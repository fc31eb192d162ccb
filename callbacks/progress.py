"""The progress display of training."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from amal.types import EpisodeBatch
from callbacks.evaluation import evaluation_of
from datamodules.rollout import budget_of, source_of


class TrainingProgress(ProgressBar):
    """A bar over the budget with env steps, steps per second, return, win rate and time left; a line per evaluation.

    Where the output is not a terminal, only the lines are written.
    """

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._enabled = True
        self._printed = 0  # evaluations that have their line

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._printed = len(evaluation_of(trainer).rows)
        if self._enabled and trainer.is_global_zero:
            if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # which leaves none
                self._console.print(f"run folder: {trainer.default_root_dir}", highlight=False, soft_wrap=True)
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[summary]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=self._console,
                disable=not self._console.is_terminal,
            )
            description = f"{type(pl_module).__name__} on {source_of(trainer).spec.scenario}"
            self._bar.add_task(description, total=1.0, summary="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: EpisodeBatch, batch_idx: int
    ) -> None:
        if self._bar is None:
            return
        budget = budget_of(trainer)
        speed = budget.env_steps_per_second
        summary = (
            f"{budget.env_steps:,} steps · {speed:,.0f}/s · return {batch.returns.mean():.1f} "
            f"· win rate {batch.won.float().mean():.0%}"
        )
        self._bar.update(self._bar.task_ids[0], completed=budget.progress, summary=summary)
        for row in evaluation_of(trainer).rows[self._printed :]:
            self._printed += 1
            self._console.print(
                f"{row['env_steps']:>9,.0f} steps · {row['episodes']:>6,.0f} episodes · evaluated: "
                f"win rate {row['win_rate']:4.0%} · return {row['return_mean']:5.2f} "
                f"· {row['episode_length']:.0f} steps long · {speed:,.0f} steps/s",
                highlight=False,
                soft_wrap=True,
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
