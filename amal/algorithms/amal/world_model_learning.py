"""Isolation: the world model learns from real transitions only, and an audit that measures whether it did."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from amal.networks.world_models import WorldModel, WorldModelEnsemble, combined, world_model_losses
from amal.ops.divergence import gaussian_kl
from amal.ops.losses import masked_mean
from amal.replay import AsymmetricReplayBuffer, RealExperience
from amal.runtime.distributed import average_gradients


def fit_world_model(
    world_model: WorldModelEnsemble,
    optimizer: LightningOptimizer | torch.optim.Optimizer,
    draw: Callable[[int], RealExperience],
    n_steps: int,
    batch_size: int,
    max_grad_norm: float,
) -> dict[str, Tensor]:
    """θ ← θ − η ∇ L(D_P; θ), some steps of it; each member of the ensemble learns from batches of its own.

    Args:
        world_model: θ.
        optimizer: of all members' parameters.
        draw: real transitions, that many. Its type leaves no way in for others.
        n_steps: optimizer steps.
        batch_size: transitions of each step and member.
        max_grad_norm: gradients are scaled down to this norm.

    Returns:
        The mean of each part of the loss, as "train/model_…_loss".
    """
    device = next(world_model.parameters()).device
    losses: list[dict[str, Tensor]] = []
    for _ in range(n_steps):
        optimizer.zero_grad()
        for member in world_model.members:
            real = draw(batch_size).to(device)
            assert isinstance(member, WorldModel)
            parts = world_model_losses(member(real.obs, real.state, real.actions, real.alive), real)
            combined(parts).backward()
            losses.append({name: part.detach() for name, part in parts.items()})
        average_gradients(world_model)
        nn.utils.clip_grad_norm_(world_model.parameters(), max_grad_norm)
        optimizer.step()
    return {f"train/model_{name}_loss": torch.stack([x[name] for x in losses]).mean() for name in losses[0]}


class IsolationAudit:
    """Remembers a world model before an update, to repeat the update as if there were no auxiliary agents.

    Args:
        world_model: as it is before the update.
        optimizer: its own.
        replay: what the update will draw from.
    """

    def __init__(
        self, world_model: WorldModelEnsemble, optimizer: LightningOptimizer, replay: AsymmetricReplayBuffer
    ) -> None:
        self.audited = world_model
        self.control = copy.deepcopy(world_model)
        self.optimizer = torch.optim.Adam(self.control.parameters())
        self.optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        self.replay = replay
        self.stream = copy.deepcopy(replay.primary_stream)

    def divergence(self, n_steps: int, batch_size: int, max_grad_norm: float) -> Tensor:
        """Mean KL between what the two world models, with and without auxiliary agents, expect to be seen next."""
        draw = partial(self.replay.sample_primary, stream=self.stream)
        fit_world_model(self.control, self.optimizer, draw, n_steps, batch_size, max_grad_norm)
        with torch.no_grad():
            probe = draw(batch_size).to(next(self.control.parameters()).device)
            seen = (probe.obs, probe.state, probe.actions, probe.alive)
            ours, theirs = self.audited.outcomes(*seen), self.control.outcomes(*seen)
            divergence = gaussian_kl(*ours, *theirs).mean(dim=0)
            return masked_mean(divergence, probe.alive)
