"""Where the time of a training run goes, measured from outside: a callback that ``bench`` adds to ``fit``."""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.flop_counter import FlopCounterMode

from amal.battle import VectorBattle
from amal.bench.training import RESULT

WARM_UP_UPDATES = 3
WIDTH = 256  # of the shipped networks


class Stopwatch(Callback):
    """Writes bench.json into the run's folder: seconds of each part, and the floating-point operations of the matrix
    products of one iteration beside how fast this machine multiplies matrices.

    The iteration whose products are counted comes last and is not timed.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.parts: dict[str, float] = {}  # as they were at the end
        self.running: set[str] = set()
        self.updates = 0
        self.start = self.end = 0.0
        self.start_steps = self.env_steps = 0
        self.progress = 0.0  # after the last update
        self.first_update = 0.0
        self.threads = torch.get_num_threads()
        self.products: FlopCounterMode | None = None
        self.product_steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        module: Any = pl_module
        module.training_step = self._timed("update", module.training_step)
        module.act = self._timed("acting", module.act, within="rollout")
        data.source.play_training = self._timed("rollout", data.source.play_training)
        VectorBattle.step = self._timed("battles", VectorBattle.step, within="rollout")  # type: ignore[method-assign]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.updates += 1
        budget: Any = trainer.datamodule.budget  # type: ignore[attr-defined]
        if self.updates == 1:
            self.first_update = time.time()
        if self.updates == WARM_UP_UPDATES:
            self.seconds.clear()
            self.start, self.start_steps = time.perf_counter(), budget.env_steps
        if self.products is not None:
            self._stop_counting(budget.env_steps)
            trainer.should_stop = True
        elif (
            2 * budget.progress - self.progress >= 0.9 and self.updates > WARM_UP_UPDATES
        ):  # one like this would end it
            self.end, self.env_steps, self.parts = time.perf_counter(), budget.env_steps, dict(self.seconds)
            self._start_counting()
        self.progress = budget.progress

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.products is None or self.product_steps == 0:
            return  # the run was too short
        steps, seconds = self.env_steps - self.start_steps, self.end - self.start
        module, data = pl_module, trainer.datamodule  # type: ignore[attr-defined]
        rows = self.product_steps // int(module.n_minibatch) * data.n_agents  # type: ignore[arg-type]
        result = {
            "env_steps_per_second": steps / seconds,
            "seconds": seconds,
            "seconds_of_parts": self.parts,
            "first_update": self.first_update,
            "product_flops_per_env_step": self.products.get_total_flops() / self.product_steps,
            "product_flops_per_second": product_speed(max(rows, 1)),
            "threads": self.threads,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        (Path(trainer.default_root_dir) / RESULT).write_text(json.dumps(result, indent=2))

    def _timed(self, part: str, function: Callable[..., Any], within: str | None = None) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if within is not None and within not in self.running:
                return function(*args, **kwargs)
            start = time.perf_counter()
            self.running.add(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.running.discard(part)
                self.seconds.update({part: time.perf_counter() - start})

        return timed

    def _start_counting(self) -> None:
        torch.set_num_threads(1)  # the counter sees one thread only
        self.products = FlopCounterMode(display=False)
        self.products.__enter__()

    def _stop_counting(self, env_steps: int) -> None:
        assert self.products is not None
        self.products.__exit__(None, None, None)
        torch.set_num_threads(self.threads)
        self.product_steps = env_steps - self.env_steps


def product_speed(rows: int, repeats: int = 200) -> float:
    """Floating-point operations per second of [rows, 256] · [256, 256] on torch's threads; the median of repeats."""
    a, b, product = torch.randn(rows, WIDTH), torch.randn(WIDTH, WIDTH), torch.empty(rows, WIDTH)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b, out=product)
        seconds.append(time.perf_counter() - start)
    return 2.0 * rows * WIDTH * WIDTH / statistics.median(seconds)
