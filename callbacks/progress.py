"""The progress display of training."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from amal.battle.compilation import compilation_seconds
from amal.types import EpisodeBatch
from callbacks.evaluation import evaluation_of
from datamodules.budget import Budget
from datamodules.rollout import budget_of, source_of

WINDOW_SECONDS = 15.0  # over which speed is measured
PARTS = 10  # of the budget; at the end of each there is a line
_TOLD = (  # metrics of AMAL's parts
    "model_obs_error_1",
    "model_obs_trivial_error_1",
    "model_health_error_1",
    "replay_imagined_share",
    "policy_steps",
    "imagination_policy_steps",
    "bonus_share",
)


class Pace:
    """How fast training has been in the last seconds, evaluations included, the compilation of kernels not."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._past: deque[tuple[float, int, float]] = deque()  # when, env steps, share of the budget
        self.note()

    def note(self) -> None:
        """An update has ended."""
        now = time.monotonic() - compilation_seconds()
        self._past.append((now, self.budget.env_steps, self.budget.progress))
        while len(self._past) > 2 and self._past[-1][0] - self._past[1][0] > WINDOW_SECONDS:
            self._past.popleft()

    @property
    def steps_per_second(self) -> float:
        (start, first, _), (end, last, _) = self._past[0], self._past[-1]
        return (last - first) / max(end - start, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """None before anything has been used."""
        (start, _, first), (end, _, last) = self._past[0], self._past[-1]
        return (1.0 - last) * (end - start) / (last - first) if last > first else None


def in_words(seconds: float | None) -> str:
    """'45 s left', '12 min left' or '3 h 05 min left'."""
    if seconds is None:
        return ""
    if seconds < 59.5:
        return f"{seconds:.0f} s left"
    minutes = round(seconds / 60)
    return f"{minutes} min left" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min left"


def of_parts(metrics: Mapping[str, Any]) -> str:
    """What AMAL's parts did in an update, as far as its metrics tell; empty for other algorithms.

    'model error 42% of trivial' is the world model's error one step ahead as a share of that of "nothing changes",
    'imagined 30%' the share of imagined steps in replay (where the team itself imagines, the share of the policy's
    gradient steps that learn from it), and 'bonus 4% of rewards' the information bonus beside them.
    """
    value = {name: float(metrics.get(f"train/{name}", math.nan)) for name in _TOLD}
    trivial = value["model_obs_trivial_error_1"]
    error = value["model_obs_error_1"] / trivial if trivial else math.nan
    if math.isnan(error):
        error = value["model_health_error_1"]  # of the entity-wise model, a share already
    imagined = value["imagination_policy_steps"] / value["policy_steps"]
    shares = {
        "model error {:.0%} of trivial": error,
        "imagined {:.0%}": value["replay_imagined_share"] if math.isnan(imagined) else imagined,
        "bonus {:.1%} of rewards": value["bonus_share"],
    }
    return " · ".join(words.format(share) for words, share in shares.items() if not math.isnan(share))


class TrainingProgress(ProgressBar):
    """A bar over the budget with speed and time left, and lines for evaluations: for the first one after each tenth of
    the budget and for each that wins more than all before it. AMAL has a second line, on what its parts do.

    A line fits 80 columns. Where the output is not a terminal, only the lines are written.
    """

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._pace: Pace | None = None
        self._enabled = True
        self._seen = 0  # evaluations that had their line or need none
        self._part = 0  # of the budget that had its line

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen = len(evaluation_of(trainer).rows)
        self._part = int(PARTS * budget_of(trainer).progress)
        if self._enabled and trainer.is_global_zero:
            if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # which leaves none
                self._console.print(f"run folder: {trainer.default_root_dir}", highlight=False, soft_wrap=True)
            self._pace = Pace(budget_of(trainer))
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                TaskProgressColumn(),
                TextColumn("{task.fields[summary]}"),
                console=self._console,
                disable=not self._console.is_terminal,
                expand=True,
            )
            description = f"{type(pl_module).__name__} on {source_of(trainer).spec.scenario}"
            self._bar.add_task(description, total=1.0, summary="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: EpisodeBatch, batch_idx: int
    ) -> None:
        if self._bar is None or self._pace is None:
            return
        self._pace.note()
        summary = f"{self._pace.steps_per_second:,.0f} steps/s · {in_words(self._pace.seconds_left)}"
        self._bar.update(self._bar.task_ids[0], completed=budget_of(trainer).progress, summary=summary)
        rows = evaluation_of(trainer).rows
        for number in range(self._seen, len(rows)):
            speed, parts = self._pace.steps_per_second, of_parts(trainer.callback_metrics)
            self._tell(rows[: number + 1], budget_of(trainer).progress, speed, parts)
        self._seen = len(rows)

    def _tell(self, rows: list[dict[str, float]], progress: float, speed: float, parts: str) -> None:
        """The lines of the last of these evaluations, unless it is none that gets one."""
        *earlier, row = rows
        is_best = row["win_rate"] > max((before["win_rate"] for before in earlier), default=-1.0)
        part = int(PARTS * progress)
        if is_best or part > self._part:
            self._console.print(
                f"{row['env_steps']:>10,.0f} steps · win rate {row['win_rate']:4.0%}, sampled"
                f" {row['sampled_win_rate']:4.0%} · return {row['return_mean']:5.1f} · {speed:,.0f}/s"
                f"{' · best' if is_best else ''}",
                highlight=False,
                soft_wrap=True,
            )
            if parts:
                self._console.print(f"{'':>10} {parts}", highlight=False, soft_wrap=True)
        self._part = max(self._part, part)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
