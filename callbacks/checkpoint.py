"""Checkpoints of a run."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, Timer

from amal.runtime.argument_checks import check_at_least
from amal.runtime.checkpoints import changes_no_numbers, command_to_go_on
from amal.runtime.distributed import gathered
from callbacks.evaluation import evaluation_of
from datamodules.rollout import budget_of

WRITE_PAUSE = 20  # how many times as long as a write the time to the next one is


class RunCheckpoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt``, ``best.ckpt`` by win rate, and periodic ones.

    The last one is written after evaluations and when training ends; each file is moved into place when it is
    complete. Of equal win rates the later one is the best: it has seen more. The best is for playing and cannot be
    resumed: it has no optimizers and no replay buffer.

    Asked to stop by Ctrl-C, SIGTERM or SIGHUP, it lets the update end, writes the last one, tells how to go on and
    exits with 128 + the signal's number. Asked again, it does not wait. Of several processes it is enough if one is
    asked.

    Args:
        every_n_episodes: training episodes between two checkpoints of their own name; 0 for none.
        every_seconds: least time between two writes of the last one, which can be a gigabyte of replayed experience;
            in any case writing takes no more than a twentieth of the time.
        keep_learning_state: whether the last one of a run that reached its budget still has optimizers and replay
            buffer, though there is nothing left to go on with. ``compare`` does without.
    """

    def __init__(
        self, every_n_episodes: int = 0, every_seconds: float = 30.0, keep_learning_state: bool = True
    ) -> None:
        check_at_least(0, every_n_episodes=every_n_episodes, every_seconds=every_seconds)
        self.every_n_episodes = every_n_episodes
        self.every_seconds = every_seconds
        self.keep_learning_state = keep_learning_state
        self._next_write = -math.inf
        self._asked_to_stop: int | None = None  # by this signal
        self._handlers: dict[int, Any] = {}  # of those who listened before
        self._was_evaluated = False  # since the last update
        self._last_periodic = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and shells in the background want it
                    self._handlers[number] = signal.signal(number, self._ask_to_stop)
        if trainer.is_global_zero and budget_of(trainer).is_met:
            print(f"note: {trainer.default_root_dir} has met its budget; nothing is left to train", file=sys.stderr)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        budget, folder = budget_of(trainer), _folder(trainer)
        is_new, self._was_evaluated = self._was_evaluated, False
        if self.every_n_episodes and budget.episodes // self.every_n_episodes > self._last_periodic:
            self._last_periodic = budget.episodes // self.every_n_episodes
            trainer.save_checkpoint(folder / f"episode_{budget.episodes}.ckpt", weights_only=False)
        start = time.monotonic()
        # in several processes the clock is the first one's, and a signal may have reached only one
        is_time, *_ = gathered(start >= self._next_write)
        asked_to_stop = max(gathered(self._asked_to_stop or 0))
        is_ended = any(gathered(trainer.should_stop))  # by another callback
        if budget.is_met or (is_new and is_time) or asked_to_stop or is_ended:
            trainer.save_checkpoint(folder / "last.ckpt", weights_only=False)
            self._next_write = start + max(self.every_seconds, WRITE_PAUSE * (time.monotonic() - start))

        if asked_to_stop and not budget.is_met:
            if not trainer.is_global_zero:
                raise SystemExit(0)  # another code would have Lightning kill the first process before it has ended
            print(f"\nstopped {_after(trainer)}; go on with: {_command(trainer)}", file=sys.stderr)
            raise SystemExit(128 + asked_to_stop)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.training:
            return
        self._was_evaluated = True
        evaluation = evaluation_of(trainer)
        if evaluation.rows[-1]["win_rate"] >= evaluation.best_win_rate:
            trainer.save_checkpoint(_folder(trainer) / "best.ckpt", weights_only=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if is_pruned(exception):
            trainer.save_checkpoint(_folder(trainer) / "last.ckpt", weights_only=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not budget_of(trainer).is_met and trainer.is_global_zero:
            print(f"\nended by {_ended_by(trainer)}", file=sys.stderr)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # not earlier: a run that is killed before it is known as finished is continued from its last checkpoint
        if not self.keep_learning_state and budget_of(trainer).is_met:
            trainer.save_checkpoint(_folder(trainer) / "last.ckpt", weights_only=True)

    def _ask_to_stop(self, number: int, frame: object) -> None:
        self._asked_to_stop = number
        signal.signal(number, signal.SIG_DFL)

    def state_dict(self) -> dict[str, Any]:
        return {"last_periodic": self._last_periodic}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._last_periodic = state_dict["last_periodic"]


def is_pruned(exception: BaseException) -> bool:
    """Whether a pruner of Optuna, which need not be installed, has ended the run."""
    return type(exception).__name__ == "TrialPruned"


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "checkpoints"


def _after(trainer: Trainer) -> str:
    return f"after {budget_of(trainer).env_steps:,} env steps"


def _command(trainer: Trainer) -> str:
    return command_to_go_on(Path(trainer.default_root_dir))


def _ended_by(trainer: Trainer) -> str:
    """Who ended a run before its budget, and a command that goes on and is not ended at once again."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    left = [one.time_remaining() for one in callbacks if isinstance(one, Timer)]  # None without a limit
    if any(seconds is not None and seconds <= 0 for seconds in left):
        return f"trainer.max_time {_after(trainer)}; go on with: {_command(trainer)} --trainer.max_time null"
    by = evaluation_of(trainer).ended_by
    name = "a callback" if by is None else type(by).__name__
    if not isinstance(by, EarlyStopping):
        return f"{name} {_after(trainer)}; go on with: {_command(trainer)}"
    if all(changes_no_numbers(type(one).__module__) for one in callbacks):
        return f"{name} {_after(trainer)}; go on with: {_command(trainer)} --trainer.callbacks '[]'"
    config = Path(trainer.default_root_dir) / "config.yaml"  # the others have to stay
    return f"{name} {_after(trainer)}; take it out of {config} and go on with: {_command(trainer)}"
