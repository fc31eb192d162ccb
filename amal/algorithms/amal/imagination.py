"""Imagination: the team itself acts in battles that go on from real moments, and learns from them as from real ones.

Letters: M battles, T steps, N agents, O observation size, S state size, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from amal.algorithms.mappo import MAPPO
from amal.battle import VectorBattle
from amal.battle.battlefield import LONGEST_EPISODE, Scenario
from amal.networks.entity_model import HP, EntityWorldModel
from amal.networks.world_models import WorldModelEnsemble
from amal.replay import AsymmetricReplayBuffer, RealSequences
from amal.runtime.argument_checks import check_at_least
from amal.types import Actor, EpisodeBatch


class Views(NamedTuple):
    """What is seen of M battles."""

    obs: Tensor  # [M, N, O] float32
    state: Tensor  # [M, S] float32
    available_actions: Tensor  # [M, N, A] bool


class ImaginedBattles(Protocol):
    """Battles that go on from real moments: in a world model, or in the simulator."""

    past: int  # real steps before a moment that ``reset`` needs to see

    def reset(self, moments: RealSequences, generator: Generator) -> Views:
        """Goes to the moments before the last steps of M real stretches; what is seen there."""

    def step(self, actions: Tensor, generator: Generator) -> tuple[Views, Tensor, Tensor]:
        """Steps with actions [M, N]; what is seen then, the team's rewards [M], and which battles have ended, [M] bool.
        Battles that ended before yield anything finite."""


@dataclass(frozen=True)
class Imagination:
    """φ acts in p_θ from real moments, and learns from the imagined episodes by the same losses as from real ones.

    They are cut after ``horizon`` steps and bootstrapped there. Their rewards and values are scaled as real ones are;
    they change no running statistics.

    Args:
        rounds: times per update that the policy imagines and then learns from it.
        starts: real moments from which a round starts.
        horizon: steps that it then takes at most.
        newest: real steps, the newest, from which the moments are drawn.
        warm_up: real steps before it begins.
        n_epochs: passes over each round's steps.
        n_minibatch: minibatches per pass.
        perfect: act in the simulator itself, the ablation that bounds what any world model can give. Needs
            ``data.snapshots``.
    """

    rounds: int = 2
    starts: int = 128
    horizon: int = 16
    newest: int = 2000
    warm_up: int = 2500
    n_epochs: int = 1
    n_minibatch: int = 4
    perfect: bool = False

    def __post_init__(self) -> None:
        counts = ("rounds", "starts", "horizon", "newest", "n_epochs", "n_minibatch")
        check_at_least(1, **{name: getattr(self, name) for name in counts})
        check_at_least(0, warm_up=self.warm_up)

    def learn(
        self,
        learner: MAPPO,
        battles: ImaginedBattles,
        replay_buffer: AsymmetricReplayBuffer,
        generator: Generator,
        progress: float,
    ) -> dict[str, Tensor]:
        """Imagines and learns, round by round; nothing before ``warm_up``.

        Args:
            learner: whose policy acts, and whose policy and critic learn.
            battles: where it acts.
            replay_buffer: with the real moments.
            generator: source of actions and outcomes.
            progress: share of the training budget that is used.

        Returns:
            Averages over the rounds, as "train/imagination_…".
        """
        if replay_buffer.primary_size < min(self.warm_up, replay_buffer.capacity):
            return {}
        rounds: list[dict[str, Tensor]] = []
        for _ in range(self.rounds):
            moments = replay_buffer.sample_sequences(
                self.starts, battles.past + 1, self.newest, replay_buffer.mixed_stream
            )
            episodes = imagine(battles, learner, moments.to(learner.device), self.horizon, generator, progress)
            transitions, critic_fit = learner.estimate_advantages(episodes, is_real=False)
            minibatches = learner.minibatches(episodes, transitions, self.n_epochs, self.n_minibatch)
            metrics = learner.take_steps(transitions, minibatches)
            rounds.append(
                metrics
                | {
                    "train/explained_variance": critic_fit,
                    "train/length": episodes.lengths.float().mean(),
                    "train/reward": episodes.rewards.sum() / episodes.mask.sum(),
                }
            )
        return {
            name.replace("train/", "train/imagination_"): torch.stack([r[name] for r in rounds]).mean()
            for name in rounds[0]
        }


@torch.no_grad()
def imagine(
    battles: ImaginedBattles,
    actor: Actor,
    moments: RealSequences,
    horizon: int,
    generator: Generator,
    progress: float,
) -> EpisodeBatch:
    """What the actor lives through from M real moments: episodes of at most ``horizon`` steps, truncated there. Who
    wins is not told."""
    views = battles.reset(moments, generator)
    number = len(moments.last)
    device = views.obs.device
    hidden = actor.initial_hidden(number)
    running = torch.ones(number, dtype=torch.bool, device=device)
    seen, steps = [views], []
    for _ in range(horizon):
        obs, _, available = views
        actions, log_probs, hidden = actor.act(obs, available, hidden, generator, progress)
        assert log_probs is not None
        views, rewards, ended = battles.step(actions, generator)
        rewards = torch.where(running, rewards, 0.0).float()
        steps.append((actions, log_probs, rewards, ended & running, running))
        running = running & ~ended
        seen.append(views)
    actions, log_probs, rewards, terminated, mask = (torch.stack(column, dim=1) for column in zip(*steps, strict=True))
    truncated = torch.zeros_like(mask)
    truncated[:, -1] = running
    nothing = torch.zeros(number, dtype=torch.int64, device=device)
    return EpisodeBatch(
        obs=torch.stack([view.obs for view in seen], dim=1),
        state=torch.stack([view.state for view in seen], dim=1),
        available_actions=torch.stack([view.available_actions for view in seen], dim=1),
        actions=actions,
        log_probs=log_probs,
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
        mask=mask,
        won=nothing.bool(),
        dead_allies=nothing,
        dead_enemies=nothing,
        progress=progress,
    )


class SimulatedBattles:
    """The simulator as a perfect world model: real moments go on with other chances than they had.

    Args:
        scenario: of the moments.
        num_battles: M.
    """

    past = 0

    def __init__(self, scenario: Scenario, num_battles: int) -> None:
        # imagined episodes do not know how long the real one had lasted
        self.battle = VectorBattle(scenario, num_battles, auto_reset=False, episode_limit=LONGEST_EPISODE)

    def reset(self, moments: RealSequences, generator: Generator) -> Views:
        if moments.snapshots is None:
            raise ValueError("imagination.perfect needs data.snapshots: true")
        number = len(moments.last)
        chances = torch.randint(1, 2**62, (number,), generator=generator, device=generator.device)
        views = {name: getattr(moments.last, name) for name in ("obs", "state", "available_actions")}
        self.battle.go_on_from(
            moments.snapshots.cpu().numpy(),
            chances.cpu().numpy().astype(np.uint64),
            {name: view.cpu().numpy() for name, view in views.items()},
        )
        self.device = moments.states.device
        return self._views()

    def step(self, actions: Tensor, generator: Generator) -> tuple[Views, Tensor, Tensor]:
        self.battle.step(actions.cpu().numpy())
        rewards, ended = (
            torch.from_numpy(x.copy()).to(self.device) for x in (self.battle.rewards, self.battle.terminated)
        )
        return self._views(), rewards, ended

    def _views(self) -> Views:
        battle = self.battle
        arrays = (battle.obs, battle.state, battle.available_actions)
        return Views(*(torch.from_numpy(array.copy()).to(self.device) for array in arrays))


class EntityBattles:
    """Battles in entity-wise world models; each goes on in one of the ensemble's members."""

    def __init__(self, world_model: WorldModelEnsemble) -> None:
        self.members = [member for member in world_model.members if isinstance(member, EntityWorldModel)]
        self.past = world_model.past

    def reset(self, moments: RealSequences, generator: Generator) -> Views:
        number = len(moments.last)
        self.shares = torch.arange(number, device=moments.states.device).tensor_split(len(self.members))
        recalled = [member.recall(_rows(moments, rows)) for member, rows in zip(self.members, self.shares, strict=True)]
        self.units = torch.cat([units for units, _ in recalled])
        self.memory = torch.cat([memory for _, memory in recalled])
        return Views(moments.last.obs, moments.last.state, moments.last.available_actions)

    def step(self, actions: Tensor, generator: Generator) -> tuple[Views, Tensor, Tensor]:
        before, now = self.units.unbind(dim=1)
        outcomes = [
            member.step(before[rows], now[rows], actions[rows], self.memory[rows], generator)
            for member, rows in zip(self.members, self.shares, strict=True)
        ]
        after, rewards, self.memory = (torch.cat(parts) for parts in zip(*outcomes, strict=True))
        self.units = torch.stack([now, after], dim=1)
        lives, n_agents = after[..., HP] > 0, self.members[0].n_agents
        ended = ~lives[:, :n_agents].any(dim=1) | ~lives[:, n_agents:].any(dim=1)
        views = self.members[0].views
        last_actions = F.one_hot(actions, views.n_actions).to(after.dtype)
        return Views(*views.see(after, last_actions)), rewards, ended


class FlatBattles:
    """Battles in flat world models, of a random member for each step."""

    past = 0

    def __init__(self, world_model: WorldModelEnsemble) -> None:
        self.world_model = world_model

    def reset(self, moments: RealSequences, generator: Generator) -> Views:
        self.views = Views(moments.last.obs, moments.last.state, moments.last.available_actions)
        return self.views

    def step(self, actions: Tensor, generator: Generator) -> tuple[Views, Tensor, Tensor]:
        obs, state, available = self.views
        outcome = self.world_model.predict(obs, state, actions, ~available[..., 0], generator)
        self.views = Views(outcome.next_obs, outcome.next_state, outcome.next_available)
        return self.views, outcome.reward, outcome.done


def modelled_battles(world_model: WorldModelEnsemble) -> ImaginedBattles:
    """Battles in a world model, of the kind that it is of."""
    return FlatBattles(world_model) if world_model.is_flat else EntityBattles(world_model)


def _rows(moments: RealSequences, rows: Tensor) -> RealSequences:
    return RealSequences(moments.last[rows], moments.states[rows], moments.actions[rows], moments.happened[rows])
