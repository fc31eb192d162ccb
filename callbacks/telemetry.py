"""What a run leaves behind about itself: metrics.csv and run.json."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import platform
import resource
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer

from amal.battle.compilation import simulator_hash
from amal.runtime.atomic import replacing, sync
from amal.runtime.trusted_code import code_digests
from amal.runtime.versions import code_version
from callbacks.checkpoint import is_pruned
from callbacks.evaluation import Evaluation
from datamodules.budget import Budget
from datamodules.episode_source import TEST_EPISODES, VALIDATION_EPISODES
from datamodules.rollout import budget_of, source_of

_LIBRARIES = ("torch", "lightning", "numpy", "numba", "torchmetrics", "jsonargparse", "pandas")


class Telemetry(Callback):
    """Writes ``metrics.csv``, a row per update, and ``run.json``: what was run, on what, how fast and how it ended."""

    def __init__(self) -> None:
        self._columns: list[str] = []
        self._speed: dict[str, float] | None = None  # of training, once that has ended
        self._writes = False  # once training has begun, unless there is nothing left to do
        self._allowed_code: dict[str, str] = {}  # as it was when training began

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        budget, path = budget_of(trainer), _folder(trainer) / "metrics.csv"
        if trainer.is_global_zero and path.exists():
            # of an interrupted run, those after its last checkpoint come again
            rows = rows_until(path, budget.env_steps)
            with replacing(path) as part:
                part.write_bytes(rows)
        self._writes = trainer.is_global_zero and not (budget.is_met and _is_finished(_folder(trainer)))
        if self._writes:
            self._allowed_code = code_digests()
            self._write_run(trainer, pl_module, "running")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        budget = budget_of(trainer)
        counts = {"env_steps": float(budget.env_steps), "episodes": float(budget.episodes)}
        x_axis = {"step": float(budget.env_steps)}  # Lightning hands this to loggers in place of its own count
        pl_module.log_dict(counts | x_axis, batch_size=1)
        if trainer.is_global_zero:
            metrics = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
            row = {
                **budget.used,
                "wall_seconds": round(budget.wall_seconds, 3),
                "env_steps_per_second": round(budget.env_steps_per_second, 1),
                **metrics,
            }
            self._append(_folder(trainer) / "metrics.csv", row)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._speed = _speed(budget_of(trainer))  # what other callbacks do from here on is no training

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._writes and not trainer.interrupted:
            # another callback may have ended it
            self._write_run(trainer, pl_module, "finished" if budget_of(trainer).is_met else "stopped")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._writes:
            outcome = f"failed: {type(exception).__name__}: {exception}"
            if isinstance(exception, KeyboardInterrupt | SystemExit):
                outcome = "interrupted"
            elif is_pruned(exception):
                outcome = "stopped"
            with suppress(OSError):  # the disk may be what failed; the exception itself is told
                self._write_run(trainer, pl_module, outcome)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        path = _folder(trainer) / "metrics.csv"
        if self._writes and path.exists():
            sync(path)  # whoever goes on from the checkpoint needs the rows up to it

    def _append(self, path: Path, row: dict[str, float]) -> None:
        """Adds a row, all of it or, if the disk is full, nothing. A metric that is new gets a column."""
        line = io.StringIO(newline="")
        is_new = not path.exists() or path.stat().st_size == 0
        if not self._columns:
            self._columns = list(row) if is_new else list(pd.read_csv(path, nrows=0).columns)
        added = [name for name in row if name not in self._columns]
        if added:
            self._columns += added
            if not is_new:
                _widen(path, len(added), self._columns)
        writer = csv.DictWriter(line, self._columns)
        if is_new:
            writer.writeheader()
        writer.writerow(row)
        with path.open("ab", buffering=0) as file:
            end, data = file.tell(), line.getvalue().encode()
            try:
                if file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            except OSError:
                file.truncate(end)
                raise

    def _write_run(self, trainer: Trainer, pl_module: LightningModule, outcome: str) -> None:
        budget, source = budget_of(trainer), source_of(trainer)
        run = {
            "algorithm": type(pl_module).__name__,
            "scenario": source.spec.scenario,
            # of a file of the user's own
            "scenario_sha256": None if source.scenario is None else source.scenario.digest,
            "random_delay": None if source.scenario is None else source.scenario.identity["random_delay"],
            "backend": source.backend,
            "seed": source.seed,
            "outcome": outcome,
            "budget": {
                "env_steps": budget.env_steps_limit,
                "episodes": budget.episodes_limit,
                "extensions": budget.extensions,
            },
            "evaluation": {
                "every_n_episodes": _every_n_episodes(trainer),
                "episodes": VALIDATION_EPISODES,
                "test_episodes": TEST_EPISODES,
            },
            "totals": {
                **budget.used,
                **(self._speed or _speed(budget)),
                "restarts": source.restarts,
                "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            },
            "code_version": code_version(),
            "allowed_code": self._allowed_code,
            "simulator_hash": simulator_hash() if source.backend == "embedded" else None,
            "versions": {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
            "hardware": {
                "processor": _processor(),
                "cores": os.cpu_count(),
                "torch_threads": torch.get_num_threads(),
                "device": str(pl_module.device),
                "processes": trainer.world_size,
            },
        }
        with replacing(_folder(trainer) / "run.json") as part:
            part.write_text(json.dumps(run, indent=2) + "\n")


def _widen(path: Path, added: int, columns: list[str]) -> None:
    """Appends ``added`` empty cells to every row of a metrics.csv."""
    _, *rows = path.read_text(encoding="utf-8").splitlines()
    with replacing(path) as part:
        part.write_text("\n".join([",".join(columns), *(row + "," * added for row in rows)]) + "\n", encoding="utf-8")


def rows_until(path: Path, env_steps: int) -> bytes:
    """The rows of a metrics.csv up to so many environment steps, with the header."""
    header, *rows = path.read_bytes().splitlines(keepends=True) or [b""]
    # a line without its end was being written when the run was killed
    return header + b"".join(row for row in rows if row.endswith(b"\n") and _env_steps(row) <= env_steps)


def _is_finished(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "run.json").read_text())["outcome"] == "finished")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _speed(budget: Budget) -> dict[str, float]:
    """How long training took so far, and how fast it was in this session."""
    return {
        "wall_seconds": round(budget.wall_seconds, 1),
        "env_steps_per_second": round(budget.env_steps_per_second, 1),
    }


def _every_n_episodes(trainer: Trainer) -> int:
    """Training episodes between two evaluations; 0 for none."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback.every_n_episodes for callback in callbacks if isinstance(callback, Evaluation)), 0)


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir)


def _env_steps(row: bytes) -> float:
    """Of a line of metrics.csv; infinite if a power cut has left something else in its place."""
    try:
        return float(row.partition(b",")[0])
    except ValueError:
        return math.inf


def _processor() -> str:
    """The processor's name as Linux tells it, else what Python knows."""
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        return names[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
