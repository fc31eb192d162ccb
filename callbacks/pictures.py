"""Pictures that a finished run leaves in its folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from lightning import Callback, LightningModule, Trainer

from amal.algorithms.base import Algorithm
from amal.rollout.collector import record_battle
from amal.rollout.load_policy import checkpoint_weights
from amal.study.figures import plot_win_rate
from amal.viewer.film import write_gif
from amal.viewer.recording import Recording
from datamodules.episode_source import VALIDATION_EPISODES
from datamodules.rollout import source_of


class Pictures(Callback):
    """Draws ``win_rate.png``, the learning curve, and ``battle.gif``, a battle of the best checkpoint's greedy policy.

    Args:
        battle: draw the battle too, if the embedded simulator plays: others do not tell where the units are.
    """

    def __init__(self, battle: bool = True) -> None:
        self.battle = battle

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Algorithm)
        folder = Path(trainer.default_root_dir)
        source = source_of(trainer)
        title = f"{type(pl_module).__name__} on {source.spec.scenario}"
        evaluations = folder / "evaluations.csv"
        if trainer.is_global_zero and evaluations.exists():
            plot_win_rate(pd.read_csv(evaluations), VALIDATION_EPISODES, folder / "win_rate.png", title)
            if self.battle and source.scenario is not None:
                with checkpoint_weights(pl_module, folder / "checkpoints" / "best.ckpt"):
                    battle = record_battle(pl_module, source.scenario, source.seed, opponent=source.opponent)
                write_gif(Recording(*battle), folder / "battle.gif", title)
