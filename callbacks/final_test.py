"""The last word on a run: fresh episodes with its best policy and with its last one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from lightning import Callback, LightningModule, Trainer

from amal.algorithms.base import Algorithm
from amal.rollout.load_policy import checkpoint_weights
from amal.runtime.atomic import replacing
from callbacks.evaluation import measure
from datamodules.episode_source import TEST_EPISODES
from datamodules.rollout import source_of


class FinalTest(Callback):
    """Writes ``final_test.csv`` when training ends, by its budget or by a callback: greedy episodes with the best
    checkpoint, which are the absolute metric of Gorsane et al. 2022 (arXiv:2209.10485), and as many with the last
    policy.

    They are those of ``test``, which no evaluation plays. ``compare`` adds this to each run of a study.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Algorithm)
        source = source_of(trainer)
        folder = Path(trainer.default_root_dir)
        best = folder / "checkpoints" / "best.ckpt"
        rows = [{"checkpoint": "last", **measure(source.play_evaluation(pl_module, "test", TEST_EPISODES))}]
        if best.exists():  # there is none without evaluations
            with checkpoint_weights(pl_module, best):
                rows.append({"checkpoint": "best", **measure(source.play_evaluation(pl_module, "test", TEST_EPISODES))})
        with replacing(folder / "final_test.csv") as part:
            pd.DataFrame(rows).to_csv(part, index=False)
