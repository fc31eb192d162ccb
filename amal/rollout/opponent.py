"""The battles of the embedded simulator, against the script or against an actor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from amal.battle import VectorBattle
from amal.battle.battlefield import Scenario
from amal.types import Actor


class OpponentBattle(VectorBattle):
    """Battles whose enemies an actor drives greedily, as if they were its allies.

    Args:
        opponent: the actor; acts once per step, for it may have a memory.
        arguments: those of VectorBattle; both teams must be equal.
    """

    def __init__(self, opponent: Actor, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options | {"with_opponent": True})
        self.opponent = opponent
        self._hidden: Tensor | None = None

    def step(self, actions: np.ndarray, opponent_actions: np.ndarray | None = None) -> None:
        super().step(actions, self._chosen() if opponent_actions is None else opponent_actions)

    def _chosen(self) -> np.ndarray:
        """[E, M] int64, the enemies' next actions."""
        begins = torch.from_numpy(self.episode_steps == 0)
        if self._hidden is None or begins.all():
            self._hidden = self.opponent.initial_hidden(self.num_battles)
        elif begins.any():
            self._hidden[begins] = self.opponent.initial_hidden(int(begins.sum()))
        obs, available = torch.from_numpy(self.opponent_obs), torch.from_numpy(self.opponent_available_actions)
        device = self.opponent.device
        actions, _, self._hidden = self.opponent.act(obs.to(device), available.to(device), self._hidden, None, 1.0)
        return actions.cpu().numpy()


def make_battles(
    scenario: Scenario, num_battles: int, seed: int, first_battle: int = 0, opponent: Actor | None = None
) -> VectorBattle:
    """Battles to record episodes from, of the numbers ``first_battle`` … of the seed."""
    options = {"seed": seed, "auto_reset": False, "first_battle": first_battle}
    if opponent is None:
        return VectorBattle(scenario, num_battles, **options)  # type: ignore[arg-type]
    return OpponentBattle(opponent, scenario, num_battles, **options)
