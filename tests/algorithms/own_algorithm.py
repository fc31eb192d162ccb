"""An algorithm as a user would write one: off-policy Q-learning with a replay of whole episodes, on the base alone."""

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from amal.algorithms.base import Algorithm
from amal.algorithms.mappo import MAPPO
from amal.types import ActionScores, EpisodeBatch

KEPT = 100  # episodes


class QLearning(Algorithm):
    """Independent Q-learning with ε-greedy exploration; logs nothing of its own.

    Args:
        n_agents: from the scenario.
        n_actions: from the scenario.
        obs_dim: from the scenario.
        state_dim: from the scenario.
        lr: learning rate.
        tells: whether it tells its values.
    """

    def __init__(
        self, n_agents: int, n_actions: int, obs_dim: int, state_dim: int, lr: float = 1e-3, tells: bool = True
    ) -> None:
        super().__init__(n_agents, n_actions, obs_dim, state_dim)
        self.lr, self.tells = lr, tells
        self.q = nn.Linear(obs_dim, n_actions)
        self.kept: list[EpisodeBatch] = []

    def act(
        self,
        obs: Tensor,
        available_actions: Tensor,
        hidden: Tensor,
        generator: torch.Generator | None,
        progress: float,
    ) -> tuple[Tensor, None, Tensor]:
        best = self.q(obs).masked_fill(~available_actions, -torch.inf).argmax(dim=-1)
        if generator is None:
            return best, None, hidden
        any_action = torch.multinomial(available_actions.flatten(0, 1).float(), 1, generator=generator).view_as(best)
        explores = torch.rand(best.shape, generator=generator) < 1.0 - progress
        return torch.where(explores, any_action, best), None, hidden

    def action_scores(self, obs: Tensor, available_actions: Tensor, hidden: Tensor) -> ActionScores | None:
        values = self.q(obs).masked_fill(~available_actions, -torch.inf)
        return ActionScores("value", values) if self.tells else None

    def learn(self, batch: EpisodeBatch, progress: float) -> dict[str, Tensor]:
        self.kept = [*self.kept, batch][-KEPT:]
        for episodes in self.kept:
            chosen = self.q(episodes.obs[:, :-1]).gather(-1, episodes.actions.unsqueeze(-1)).squeeze(-1)
            error = (episodes.rewards.unsqueeze(-1) - chosen).square()[episodes.alive].mean()
            self.descend(self.all_optimizers()[0], self.q, error, max_grad_norm=10.0)
        return {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.q.parameters(), lr=self.lr)

    def learning_state(self) -> Any:
        return {"obs": [episodes.obs for episodes in self.kept]}


class Silent(LightningModule):
    """No algorithm: it has nothing that plays.

    Args:
        n_agents: from the scenario.
        n_actions: from the scenario.
        obs_dim: from the scenario.
        state_dim: from the scenario.
    """

    def __init__(self, n_agents: int, n_actions: int, obs_dim: int, state_dim: int) -> None:
        super().__init__()


class Unshared(MAPPO):
    """MAPPO with an argument settled.

    Args:
        n_agents: from the scenario.
        n_actions: from the scenario.
        obs_dim: from the scenario.
        state_dim: from the scenario.
    """

    def __init__(self, n_agents: int, n_actions: int, obs_dim: int, state_dim: int) -> None:
        super().__init__(n_agents, n_actions, obs_dim, state_dim, share_parameters=False)
