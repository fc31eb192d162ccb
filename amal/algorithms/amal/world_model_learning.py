"""The world model's part: it learns from real transitions only, and an audit measures whether it did.

Letters: B episodes, T time, N agents, O observation size, S state size, A actions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn

from amal.algorithms.base import averages
from amal.battle.battlefield import Scenario
from amal.networks.entity_model import HP, EntityWorldModel, entity_errors, outcome_kl
from amal.networks.world_model_ensemble import WorldModelEnsemble, open_loop_errors
from amal.networks.world_models import LearnedModel, WorldModel, combined
from amal.ops.divergence import gaussian_kl
from amal.ops.losses import masked_mean
from amal.ops.muon import Muon
from amal.replay import REAL, AsymmetricReplayBuffer, Experience, RealExperience, RealSequences
from amal.runtime.argument_checks import check_at_least, check_positive
from amal.runtime.distributed import average_gradients
from amal.runtime.machine import side_by_side
from amal.types import EpisodeBatch

HELD_OUT = 8  # one in so many episodes of a fresh rollout: there the world model is judged before it learns from them
OPEN_LOOP_HORIZONS = (1, 5)
AUDITED_STEPS = 8  # at most, of an update: what is let in shows in the first


@dataclass(frozen=True)
class WorldModelLearning:
    """θ ← θ − η ∇ L(D_P; θ): the world model, and the real transitions D_P that it learns from.

    Args:
        model: class of the world model's members.
        ensemble_size: members of the world model; each learns from batches of its own.
        learning_rate: η.
        anneal: η and the steps per update fall linearly to 0 at the end of the budget; by default they are constant.
        muon: weight matrices learn by Muon (Jordan et al. 2024), with torch's weight decay of 0.1, instead of Adam.
        steps: optimizer steps per update.
        batch_size: real transitions per step and member.
        averaging: decay of the exponential moving average of the weights that imagination uses, at most
            (1 + n) / (10 + n) after n steps. With 0 imagination uses the weights themselves.
        isolation: learn from real transitions only. False opens the gate to imagined ones, for ablation.
        buffer_size: real transitions that are kept, the newest; replay draws from them too.
        buffer_folder: where the files of the replay buffer go; by default it is in memory, unless it exceeds 2 GiB.
    """

    model: Callable[[int, int, int, int, Scenario | None], WorldModel | EntityWorldModel] = WorldModel
    ensemble_size: int = 1
    learning_rate: float = 3e-4
    anneal: bool = False
    muon: bool = False
    steps: int = 8
    batch_size: int = 256
    averaging: float = 0.0
    isolation: bool = True
    buffer_size: int = 100_000
    buffer_folder: str | None = None

    def __post_init__(self) -> None:
        check_at_least(1, ensemble_size=self.ensemble_size, batch_size=self.batch_size, buffer_size=self.buffer_size)
        check_at_least(0, steps=self.steps)
        check_positive(learning_rate=self.learning_rate)
        if not 0.0 <= self.averaging < 1.0:
            raise ValueError(f"averaging must be in [0, 1), got {self.averaging}")

    def build(
        self, n_agents: int, n_actions: int, obs_dim: int, state_dim: int, scenario: Scenario | None
    ) -> WorldModelEnsemble:
        """A world model with fresh weights."""
        sizes = (n_agents, n_actions, obs_dim, state_dim)
        return WorldModelEnsemble(self.model, self.ensemble_size, *sizes, scenario)

    def schedule(self, progress: float) -> tuple[float, int]:
        """η and optimizer steps of an update, at this share of the budget."""
        left = 1.0 - progress if self.anneal else 1.0
        return left * self.learning_rate, math.ceil(left * self.steps)

    def optimizers(self, world_model: WorldModelEnsemble) -> list[torch.optim.Optimizer]:
        """Adam of all members' parameters; with ``muon`` that of matrices is Muon, by steps as large as Adam's."""
        weights = list(world_model.parameters())
        matrices = [weight for weight in weights if self.muon and weight.ndim == 2]
        rest = [weight for weight in weights if not self.muon or weight.ndim != 2]
        adam = torch.optim.Adam(rest, lr=self.learning_rate, fused=True)
        if not matrices:
            return [adam]
        return [adam, Muon(matrices, self.learning_rate)]

    def average_of(self, world_model: WorldModelEnsemble) -> AveragedModel | None:
        """The moving average of its weights, if there is one."""
        if self.averaging == 0.0:
            return None
        return AveragedModel(world_model, multi_avg_fn=self._follow).requires_grad_(False)

    def _follow(self, averages: PARAM_LIST, weights: PARAM_LIST, n: Tensor | int) -> None:
        get_ema_multi_avg_fn(min(self.averaging, (1 + int(n)) / (10 + int(n))))(averages, weights, n)

    def fit(
        self,
        world_model: WorldModelEnsemble,
        optimizers: Sequence[LightningOptimizer | torch.optim.Optimizer],
        draw: Callable[[int, int], RealSequences],
        steps: int,
        max_grad_norm: float,
        average: AveragedModel | None = None,
    ) -> list[dict[str, Tensor]]:
        """Optimizer steps; each member of the ensemble learns from batches of its own.

        Args:
            world_model: θ.
            optimizers: of all members' parameters.
            draw: real stretches, that many, that long. Its type leaves no way in for others.
            steps: how many.
            max_grad_norm: gradients are scaled down to this norm.
            average: of the weights, which follows them.

        Returns:
            The parts of the loss, of each step and member.
        """
        device = next(world_model.parameters()).device
        members = [cast(LearnedModel, member) for member in world_model.members]
        half = (len(members) + 1) // 2
        losses: list[dict[str, Tensor]] = []
        for _ in range(steps):
            world_model.zero_grad()
            taught = [(member, draw(self.batch_size, member.past + 1).to(device)) for member in members]
            some, others = (partial(_gradients, pairs) for pairs in (taught[:half], taught[half:]))
            for parts in side_by_side(some, others) if len(members) > 1 else [some()]:  # they share no parameters
                losses += parts
            average_gradients(world_model)
            nn.utils.clip_grad_norm_(world_model.parameters(), max_grad_norm)
            for optimizer in optimizers:
                optimizer.step()
            if average is not None:
                average.update_parameters(world_model)
        return losses


def mean_losses(losses: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each part of the loss, as "train/model_…_loss"; nothing without steps."""
    return {f"train/model_{name}_loss": loss for name, loss in averages(losses).items()}


def _gradients(taught: list[tuple[LearnedModel, RealSequences]]) -> list[dict[str, Tensor]]:
    """Adds each member's gradients of its losses on real stretches to its parameters; the parts of the losses."""
    found = []
    for member, real in taught:
        member.learn_rest(real)
        parts = member.losses(real)
        combined(parts).backward()
        found.append({name: part.detach() for name, part in parts.items()})
    return found


def through_open_gate(
    replay_buffer: AsymmetricReplayBuffer, aux_ratio: float, batch_size: int, length: int
) -> RealSequences:
    """What isolation forbids: the real transitions that would be drawn, the last of them replaced by imagined ones that
    are labelled as real, for ``WorldModelLearning.isolation`` false.

    Args:
        replay_buffer: with real and imagined transitions.
        aux_ratio: share of imagined ones; none before there are any.
        batch_size: transitions.
        length: 1, longer sequences of imagined steps are not stored.
    """
    assert length == 1
    real, mixed = replay_buffer.sample_primary(batch_size), replay_buffer.sample_mixed(batch_size, aux_ratio)
    imagined = (mixed.provenance != REAL).nonzero().squeeze(-1)
    kept = torch.arange(batch_size - len(imagined))
    taken = Experience.concatenate([real[kept], mixed[imagined]])
    return RealSequences.of_single_steps(RealExperience.passing_off(taken))


def prediction_errors(world_model: WorldModelEnsemble, batch: EpisodeBatch) -> dict[str, Tensor]:
    """The world model's errors on some of the episodes, beside those of the trivial prediction.

    Args:
        world_model: judged.
        batch: episodes that it has not learned from yet.

    Returns:
        Mean squared errors as "train/model_…_error_HORIZON"; NaN if no episode is long enough.
    """
    some = batch[: math.ceil(len(batch.mask) / HELD_OUT)]
    first = world_model.members[0]
    if isinstance(first, EntityWorldModel):
        horizons = [h for h in OPEN_LOOP_HORIZONS if h <= batch.mask.shape[1]]
        shares = entity_errors(first, some.state, some.actions, some.mask, horizons)
        return {f"train/model_{name}": share for name, share in shares.items()}
    views = (some.obs, some.state, some.available_actions, some.actions)
    errors = {
        horizon: open_loop_errors(world_model, *views, horizon, some.mask)
        for horizon in OPEN_LOOP_HORIZONS
        if horizon <= batch.mask.shape[1]
    }
    return {f"train/model_{name}_error_{h}": error for h, named in errors.items() for name, error in named.items()}


class IsolationAudit:
    """Remembers a world model before an update, to repeat its first steps as if there were no auxiliary agents.

    Args:
        learning: as of the update.
        world_model: as it is before the update.
        optimizers: its own.
        replay_buffer: what the update will draw from.
    """

    def __init__(
        self,
        learning: WorldModelLearning,
        world_model: WorldModelEnsemble,
        optimizers: Sequence[LightningOptimizer | torch.optim.Optimizer],
        replay_buffer: AsymmetricReplayBuffer,
    ) -> None:
        self.learning, self.audited = learning, world_model
        self.control = copy.deepcopy(world_model)
        self.optimizers = learning.optimizers(self.control)
        for ours, theirs in zip(self.optimizers, optimizers, strict=True):
            ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
        self.replay_buffer = replay_buffer
        self.stream = copy.deepcopy(replay_buffer.primary_stream)

    def divergence(self, steps: int, max_grad_norm: float) -> Tensor:
        """Mean KL between what the two world models, with and without auxiliary agents, expect to be seen next, over
        living agents; of entity-wise models over living units, ``outcome_kl``.

        Args:
            steps, max_grad_norm: as the audited world model has learned since then.
        """
        draw = partial(self.replay_buffer.sample_sequences, stream=self.stream)
        self.learning.fit(self.control, self.optimizers, draw, steps, max_grad_norm)
        device = next(self.control.parameters()).device
        probe = draw(self.learning.batch_size, self.control.past + 1).to(device)
        with torch.no_grad():
            if not self.control.is_flat:
                return _entity_kl(self.audited, self.control, probe)
            last = probe.last
            seen = (last.obs, last.state, last.actions, last.alive)
            ours, theirs = self.audited.outcomes(*seen), self.control.outcomes(*seen)
            return masked_mean(gaussian_kl(*ours, *theirs).mean(dim=0), last.alive)


def _entity_kl(ours: WorldModelEnsemble, theirs: WorldModelEnsemble, probe: RealSequences) -> Tensor:
    pairs = zip(ours.members, theirs.members, strict=True)
    outputs = [[cast(EntityWorldModel, member).outputs(probe) for member in pair] for pair in pairs]
    units = outputs[0][0][0][:, :-1]
    lives = (units[..., HP] > 0) & probe.happened.unsqueeze(-1)
    return masked_mean(torch.stack([outcome_kl(p, q) for (_, p), (_, q) in outputs]).mean(dim=0), lives)
