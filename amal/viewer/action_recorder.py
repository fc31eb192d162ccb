"""Records what each action of a battle was chosen from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from amal.runtime.argument_checks import check_choice
from amal.types import ActionScores


@dataclass(frozen=True)
class ChosenActions:
    """What the allies did in a battle, and what their algorithm thought of all that they could do."""

    actions: np.ndarray  # [T, N] int64
    available_actions: np.ndarray  # [T, N, A] bool
    kind: Literal["probability", "value"] | None  # of the scores; None if the algorithm has none
    scores: np.ndarray | None  # [T, N, A], as in ActionScores


class ActionRecorder:
    """An actor that plays as a module does, and records the actions of one battle with their scores.

    Args:
        module: an algorithm.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self._actions: list[Tensor] = []
        self._available_actions: list[Tensor] = []
        self._scores: list[ActionScores | None] = []

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
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """What the module does; arguments as of ``Actor.act``, with E = 1. ValueError if its scores are not usable."""
        self._scores.append(self._action_scores(obs, available_actions, hidden))
        actions, log_probs, hidden = self.module.act(obs, available_actions, hidden, generator, progress)
        self._actions.append(actions[0])
        self._available_actions.append(available_actions[0].clone())  # the battle overwrites it in its next step
        return actions, log_probs, hidden

    def _action_scores(self, obs: Tensor, available_actions: Tensor, hidden: Tensor) -> ActionScores | None:
        scores: ActionScores | None = self.module.action_scores(obs, available_actions, hidden)
        if scores is not None:
            name, shape = f"{type(self.module).__name__}.action_scores", available_actions.shape
            check_choice(("probability", "value"), kind=scores.kind)
            if scores.scores.shape != shape:
                raise ValueError(f"{name}: expected scores {list(shape)}, got {list(scores.scores.shape)}")
            offered = scores.scores.where(available_actions, 0.0)
            if not offered.isfinite().all():
                raise ValueError(f"{name}: the score of an available action is not finite")
            if scores.kind == "probability" and ((offered < 0).any() or (offered.sum(-1) - 1).abs().max() > 1e-3):
                raise ValueError(f"{name}: the probabilities of an agent's available actions do not add up to 1")
        return scores

    def chosen(self) -> ChosenActions:
        """All that was recorded, step by step. ValueError if the scores are not of one kind."""
        actions, available = (torch.stack(steps).cpu().numpy() for steps in (self._actions, self._available_actions))
        kinds = {None if step is None else step.kind for step in self._scores}
        if len(kinds) > 1:
            raise ValueError(f"{type(self.module).__name__}.action_scores: not of one kind in all steps of a battle")
        if None in kinds:
            return ChosenActions(actions, available, None, None)
        scores = torch.cat([step.scores for step in self._scores if step is not None]).float().cpu().numpy()
        return ChosenActions(actions, available, kinds.pop(), scores)
