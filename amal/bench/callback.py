"""Where the time of a training run goes: a callback that ``bench`` adds to ``fit``, with Lightning's SimpleProfiler."""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils.flop_counter import FlopCounterMode

from amal.battle import VectorBattle
from amal.bench.training import RESULT
from amal.ops.dense import ONEDNN_PRODUCT, can_multiply, product
from amal.rollout import collector

WARM_UP_UPDATES = 3
ROWS, WIDTH = 4096, 256  # of the product that the machine's speed is taken from
ROLLOUT = "[_TrainingEpochLoop].train_dataloader_next"
# by the names that Lightning gives its own actions
OWN = ("acting", "battles", "compiled")  # actions that the callback adds
ACTIONS = {"rollout": ROLLOUT, "update": "run_training_batch"} | {name: name for name in OWN}


class Bench(Callback):
    """Writes bench.json into the run's folder: seconds of each part by the trainer's profiler, and the floating-point
    operations of the matrix products of one iteration beside how fast this machine multiplies matrices.

    The iteration whose products are counted comes last and is not timed.
    """

    def __init__(self) -> None:
        self.updates = 0
        self.first_update = 0.0  # time of day
        self.start = self.seconds = 0.0
        self.start_steps = self.end_steps = 0
        self.parts: dict[str, float] = {}  # seconds
        self.progress = 0.0  # after the last update
        self.threads = 0
        self.products = FlopCounterMode(display=False, custom_mapping={ONEDNN_PRODUCT: onednn_flops})
        self.product_steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        profiler, module = profiler_of(trainer), pl_module
        self.threads = torch.get_num_threads()
        module.act = in_rollouts(profiler, "acting", module.act)  # type: ignore[assignment, arg-type]
        VectorBattle.step = in_rollouts(profiler, "battles", VectorBattle.step)  # type: ignore[method-assign]
        collector.play_episodes = in_rollouts(profiler, "compiled", collector.play_episodes)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        budget: Any = trainer.datamodule.budget  # type: ignore[attr-defined]
        self.updates += 1
        if self.updates == 1:
            self.first_update = time.time()
        if self.updates == WARM_UP_UPDATES:
            profiler_of(trainer).recorded_durations.clear()
            self.start, self.start_steps = time.perf_counter(), budget.env_steps
        if self.parts:
            self._stop_counting(budget.env_steps)
            trainer.should_stop = True
        # another update like this one would end the run
        elif 2 * budget.progress - self.progress >= 0.9 and self.updates > WARM_UP_UPDATES:
            self.seconds, self.end_steps = time.perf_counter() - self.start, budget.env_steps
            durations = profiler_of(trainer).recorded_durations
            self.parts = {part: sum(durations[action]) for part, action in ACTIONS.items()}
            self._start_counting()
        self.progress = budget.progress

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.product_steps == 0:
            return  # the run was too short
        result = {
            "env_steps_per_second": (self.end_steps - self.start_steps) / self.seconds,
            "seconds": self.seconds,
            "seconds_of_parts": self.parts,
            "first_update": self.first_update,
            "product_flops_per_env_step": self.products.get_total_flops() / self.product_steps,
            "product_flops_per_second": product_speed(),
            "threads": self.threads,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        (Path(trainer.default_root_dir) / RESULT).write_text(json.dumps(result, indent=2))

    def _start_counting(self) -> None:
        torch.set_num_threads(1)  # the counter sees one thread only
        self.products.__enter__()

    def _stop_counting(self, env_steps: int) -> None:
        self.products.__exit__(None, None, None)
        torch.set_num_threads(self.threads)
        self.product_steps = env_steps - self.end_steps


def profiler_of(trainer: Trainer) -> SimpleProfiler:
    """The trainer's profiler, which ``bench`` has set."""
    profiler: SimpleProfiler = trainer.profiler  # type: ignore[attr-defined]
    return profiler


def in_rollouts(profiler: SimpleProfiler, action: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which is an action to the profiler while training episodes are played, and not in evaluations."""

    def profiled(*args: Any, **kwargs: Any) -> Any:
        if ROLLOUT not in profiler.current_actions:
            return function(*args, **kwargs)
        with profiler.profile(action):
            return function(*args, **kwargs)

    return profiled


def onednn_flops(a: torch.Size, b: torch.Size, *others: Any, **options: Any) -> int:
    """Floating-point operations of a product of [P, K] and [Q, K], which torch's counter does not know."""
    return 2 * a[0] * a[1] * b[0]


def product_speed(repeats: int = 200) -> float:
    """Floating-point operations per second of [4096, 256] · [256, 256] on torch's threads, by the library that layers
    use; the median of repeats."""
    a, b = torch.randn(ROWS, WIDTH), torch.randn(WIDTH, WIDTH)
    multiply = product if can_multiply(a, b) else torch.mm
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(a, b)
        seconds.append(time.perf_counter() - start)
    return 2.0 * ROWS * WIDTH * WIDTH / statistics.median(seconds)
