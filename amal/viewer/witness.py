"""A witness of what a policy thinks while it plays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from amal.ops.losses import masked_log_softmax
from amal.viewer.player import Decisions


class Witness:
    """Plays as a module does, and notes from what distribution each action of its one battle was chosen."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self._actions: list[Tensor] = []
        self._available: list[Tensor] = []
        self._probabilities: list[Tensor] = []

    @property
    def device(self) -> torch.device:
        device: torch.device = self.module.device
        return device

    def initial_hidden(self, num_battles: int) -> Tensor:
        hidden: Tensor = self.module.initial_hidden(num_battles)
        return hidden

    def act(
        self,
        obs: Tensor,
        available_actions: Tensor,
        hidden: Tensor,
        generator: torch.Generator | None,
        progress: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the module does; arguments as of ``Actor.act``, with E = 1."""
        logits, _ = self.module.policy(obs.unsqueeze(1), hidden)
        log_probs = masked_log_softmax(logits.squeeze(1), available_actions)
        actions, chosen, following = self.module.act(obs, available_actions, hidden, generator, progress)
        self._actions.append(actions[0])
        self._available.append(available_actions[0].clone())  # the battle writes the next step's into it
        self._probabilities.append(log_probs[0].exp())
        return actions, chosen, following

    def decisions(self) -> Decisions:
        """All that was noted, in order."""
        columns = (self._actions, self._available, self._probabilities)
        arrays: list[np.ndarray] = [torch.stack(column).cpu().numpy() for column in columns]
        return Decisions(*arrays)
