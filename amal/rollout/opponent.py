"""Who drives the enemy team instead of its script."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from amal.battle import VectorBattle

if TYPE_CHECKING:
    from amal.rollout.collector import Actor


class Opponent:
    """Drives the enemies of battles that have ``driven_enemy``, by an actor that plays greedily.

    Args:
        actor: sees each battle as if the enemies were its allies.
    """

    def __init__(self, actor: Actor) -> None:
        self.actor = actor

    def choose(self, battle: VectorBattle) -> np.ndarray:
        """[E, M] int64, the enemies' next actions. To be asked once in every step: the actor has a memory."""
        begins = torch.from_numpy(battle.episode_steps == 0)
        if begins.all():
            self._hidden = self.actor.initial_hidden(battle.num_battles)
        elif begins.any():
            self._hidden[begins] = self.actor.initial_hidden(int(begins.sum()))
        obs, available = torch.from_numpy(battle.enemy_obs), torch.from_numpy(battle.enemy_available_actions)
        device = self.actor.device
        actions, _, self._hidden = self.actor.act(obs.to(device), available.to(device), self._hidden, None)
        return actions.cpu().numpy()
