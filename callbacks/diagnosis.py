"""What the parts of AMAL give the policy, measured now and then during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer

from amal.algorithms.amal.algorithm import AMAL
from amal.algorithms.amal.diagnosis import coverage, gradient_alignment, model_errors, surprise_correlation, undisturbed
from amal.battle import VectorBattle
from amal.rollout.collector import EpisodeRecorder
from amal.runtime.argument_checks import check_at_least
from amal.runtime.atomic import replacing
from amal.types import EpisodeBatch
from datamodules.episode_source import EpisodeSource
from datamodules.rollout import budget_of, source_of

STREAM = 1000  # of the battles and actions here, apart from the data module's own
KNOWN_STATES = 2000  # drawn from the replay buffer, to tell which states are new
BATTLES = 2  # of each auxiliary agent
JUDGED_EPISODES = 16  # on which the world model is judged


class Diagnosis(Callback):
    """Writes ``diagnosis.csv``: of AMAL's first design, what world model, replay and auxiliary agents are worth.

    Battles and random streams are its own: training is the same with or without it.

    Args:
        every_n_updates: updates between two measurements.
        reference_episodes: whose gradient counts as the true one.
    """

    def __init__(self, every_n_updates: int = 20, reference_episodes: int = 128) -> None:
        check_at_least(1, every_n_updates=every_n_updates)
        check_at_least(2, reference_episodes=reference_episodes)
        self.every_n_updates, self.reference_episodes = every_n_updates, reference_episodes
        self._updates = 0
        self._rows: list[dict[str, float]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.check(pl_module, source_of(trainer), trainer.world_size)

    @staticmethod
    def check(module: LightningModule, source: EpisodeSource, processes: int) -> None:
        """Raise ValueError for a module without the parts that are diagnosed, and for battles that cannot be played."""
        if not isinstance(module, AMAL) or module.world_model is None or not module.world_model.is_flat:
            without = " without a flat world model" if isinstance(module, AMAL) else ""
            what = f"{type(module).__name__}{without} has nothing that it measures"
            raise ValueError(f"callbacks.Diagnosis is for AMAL's first design (amal_paper); {what}")
        if source.backend != "embedded":
            raise ValueError(f"callbacks.Diagnosis needs battles of the embedded simulator, not {source.backend}'s")
        if processes > 1:  # advantages are standardised over all of them
            raise ValueError(f"callbacks.Diagnosis is for training in one process, not in {processes}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: EpisodeBatch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, AMAL)
        self._updates += 1
        if self._updates % self.every_n_updates:
            return
        with undisturbed(pl_module):
            row = self._measure(trainer, pl_module)
        used = budget_of(trainer).used
        self._rows.append({**used, **row})
        for logger in trainer.loggers:  # by themselves, as what log_dict is told once would be repeated by each update
            logged = {f"diagnosis/{name}": value for name, value in row.items()}
            logger.log_metrics(logged | {"env_steps": used["env_steps"]}, step=int(used["env_steps"]))
        with replacing(Path(trainer.default_root_dir) / "diagnosis.csv") as part:
            pd.DataFrame(self._rows).to_csv(part, index=False)

    def _measure(self, trainer: Trainer, module: AMAL) -> dict[str, float]:
        source = source_of(trainer)
        assert source.scenario is not None and module.averaged_model is not None
        seeds = np.random.SeedSequence([source.seed, STREAM, len(self._rows)]).generate_state(3).tolist()
        generator = torch.Generator(module.device).manual_seed(seeds[0])
        number = source.episodes_per_update + self.reference_episodes
        battle = VectorBattle(source.scenario, min(32, number), seeds[1], auto_reset=False)
        played = EpisodeRecorder(battle, number).play(module, number, generator).to(module.device)
        fresh, reference = played[: source.episodes_per_update], played[source.episodes_per_update :]
        judged = reference[:JUDGED_EPISODES]
        few = EpisodeRecorder(VectorBattle(source.scenario, BATTLES, seeds[2], auto_reset=False), BATTLES)
        known = module.replay_buffer.sample_primary(KNOWN_STATES, np.random.default_rng(seeds)).to(module.device)
        return {
            **gradient_alignment(module, fresh, reference),
            **model_errors(module.averaged_model, judged),
            **coverage(module, few, reference, generator, known),
            "surprise_correlation": surprise_correlation(module, judged),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates, "rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._updates, self._rows = state_dict["updates"], list(state_dict["rows"])
