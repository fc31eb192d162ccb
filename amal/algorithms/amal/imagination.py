"""Imagination: the team itself acts in battles that go on from real moments, and learns from them as from real ones.

Letters: M battles, T steps, N agents, O observation size, S state size, A actions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from amal.algorithms.amal.imagined_battles import ImaginedBattles
from amal.algorithms.amal.logit_auxiliaries import DeviatingTeam, LogitAuxiliaries, first_advantages
from amal.algorithms.base import averages
from amal.algorithms.mappo import MAPPO
from amal.ops.cem import CrossEntropyMethod
from amal.replay import AsymmetricReplayBuffer, RealSequences
from amal.runtime.argument_checks import check_at_least, check_positive
from amal.runtime.distributed import gathered, of_first
from amal.types import Actor, EpisodeBatch


@dataclass(frozen=True)
class Imagination:
    """φ acts in p_θ from real moments, and learns from the imagined episodes by the same losses as from real ones.

    They are cut after ``horizon`` steps and bootstrapped there. Their rewards and values are scaled as real ones are;
    they change no running statistics.

    Args:
        rounds: times per update that the policy imagines and then learns from it.
        starts: real moments from which a round starts.
        horizon: steps that it then takes at most.
        newest: number of the newest real steps that the moments are drawn from.
        warm_up: real steps before it begins.
        n_epochs: passes over each round's steps.
        n_minibatch: minibatches per pass.
        auxiliaries: agents that act in some of the battles instead of the team, or null. ``callbacks.Evolution``
            evolves them.
        max_disagreement: an imagined battle is cut where the members of an entity-wise ensemble disagree by more than
            so many times their mean disagreement at real moments; by default none is.
        perfect: act in the simulator itself, the ablation that bounds what any world model can give. Needs
            ``data.snapshots``.
    """

    rounds: int = 2
    starts: int = 128
    horizon: int = 8
    newest: int = 2000
    warm_up: int = 2500
    n_epochs: int = 1
    n_minibatch: int = 4
    auxiliaries: LogitAuxiliaries | None = None
    max_disagreement: float | None = None
    perfect: bool = False

    def __post_init__(self) -> None:
        counts = ("rounds", "starts", "horizon", "newest", "n_epochs", "n_minibatch")
        check_at_least(1, **{name: getattr(self, name) for name in counts})
        check_at_least(0, warm_up=self.warm_up)
        if self.max_disagreement is not None:
            check_positive(max_disagreement=self.max_disagreement)

    def is_due(self, replay_buffer: AsymmetricReplayBuffer) -> bool:
        """Whether every process has seen enough real steps, one at least: they begin in the same update."""
        return min(gathered(replay_buffer.primary_size)) >= max(1, min(self.warm_up, replay_buffer.capacity))

    def moments(self, number: int, battles: ImaginedBattles, replay_buffer: AsymmetricReplayBuffer) -> RealSequences:
        """Real moments to go on from."""
        return replay_buffer.sample_sequences(number, battles.past + 1, self.newest, replay_buffer.mixed_stream)

    def learn(
        self,
        learner: MAPPO,
        battles: ImaginedBattles,
        replay_buffer: AsymmetricReplayBuffer,
        population: Tensor,
        generator: Generator,
        progress: float,
    ) -> dict[str, Tensor]:
        """Imagines and learns, round by round; nothing before ``warm_up``.

        Args:
            learner: whose policy acts, and whose policy and critic learn.
            battles: where it acts.
            replay_buffer: with the real moments.
            population: δ [I, N, A] of the auxiliary agents.
            generator: source of actions and outcomes.
            progress: share of the training budget that is used.

        Returns:
            Averages over the rounds, as "train/imagination_…", and the number of all their gradient steps.
        """
        if not self.is_due(replay_buffer):
            return {}
        rounds: list[dict[str, Tensor]] = []
        for _ in range(self.rounds):
            moments = self.moments(self.starts, battles, replay_buffer).to(learner.device)
            deviating = None
            if self.auxiliaries is not None:
                deviating = DeviatingTeam(learner, self.auxiliaries.offsets(population, self.starts))
            episodes = imagine(battles, deviating or learner, moments, self.horizon, generator, progress)
            importance = None if deviating is None else deviating.importance()
            told = {}
            if self.auxiliaries is not None:  # before the critic learns what they earned
                told["train/auxiliary_advantage"] = self.auxiliaries.gain(learner, episodes)
            transitions, critic_fit = learner.estimate_advantages(episodes, is_real=False, importance=importance)
            minibatches = learner.minibatches(episodes, transitions, self.n_epochs, self.n_minibatch)
            told |= learner.take_steps(transitions, minibatches) | {
                "train/explained_variance": critic_fit,
                "train/length": episodes.lengths.float().mean(),
                "train/reward": episodes.rewards.sum() / episodes.mask.sum(),
            }
            rounds.append(told)
        number = torch.stack([told["train/policy_steps"] for told in rounds]).sum()
        metrics = averages(rounds) | {"train/policy_steps": number}
        return {name.replace("train/", "train/imagination_"): value for name, value in metrics.items()}

    @torch.no_grad()
    def evolve(
        self,
        search: CrossEntropyMethod,
        learner: MAPPO,
        battles: ImaginedBattles,
        replay_buffer: AsymmetricReplayBuffer,
        population: Tensor,
        obs: Tensor,
        available: Tensor,
        generator: Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """ψ_i ← E(ψ_i, D_A^i): candidates act in the world model from the same moments as the team, and the fittest
        become the auxiliary agents.

        Args:
            search: over δ.
            learner: the team.
            battles: where the candidates act.
            replay_buffer: with the real moments.
            population: δ [I, N, A] of the auxiliary agents so far, which stay before ``warm_up``.
            obs: [M, N, O] real observations on which behaviour is compared, the probe.
            available: [M, N, A] bool.
            generator: source of candidates, actions and outcomes.

        Returns:
            δ [I, N, A] of the auxiliary agents, and what they are like.
        """
        auxiliaries = self.auxiliaries
        assert auxiliaries is not None
        if not self.is_due(replay_buffer):
            return population, {name: torch.tensor(math.nan) for name in auxiliaries.told}
        deltas = search.ask(generator)
        offsets = deltas.unflatten(-1, available.shape[-2:])
        everyone = torch.cat([torch.zeros_like(offsets[:1]), offsets])  # the team first
        moments = self.moments(auxiliaries.starts, battles, replay_buffer).to(learner.device)
        repeated = moments[torch.arange(auxiliaries.starts, device=deltas.device).repeat(len(everyone))]
        actor = DeviatingTeam(learner, everyone.repeat_interleave(auxiliaries.starts, dim=0))
        episodes = imagine(battles, actor, repeated, self.horizon, generator, 0.0, copies=len(everyone))
        earned = first_advantages(learner, episodes).view(len(everyone), -1)
        advantages = of_first(earned[1:].mean(dim=1) - earned[0].mean())  # every process selects the same
        fittest, told = auxiliaries.evolve(search, learner, deltas, advantages, obs, available, generator)
        return fittest, told | {"reliability": split_half_correlation(earned[1:])}


def split_half_correlation(scores: Tensor) -> Tensor:
    """Pearson's correlation of the mean score in the even columns with that in the odd ones, over the rows of [K, S]:
    1 if scores tell the rows apart, about 0 if they are noise. NaN for a single column."""
    halves = torch.stack([scores[:, 0::2].mean(dim=1), scores[:, 1::2].mean(dim=1)])
    return torch.corrcoef(halves)[0, 1]


@torch.no_grad()
def imagine(
    battles: ImaginedBattles,
    actor: Actor,
    moments: RealSequences,
    horizon: int,
    generator: Generator,
    progress: float,
    copies: int = 1,
) -> EpisodeBatch:
    """Episodes that the actor plays from M real moments, truncated after ``horizon`` steps or where the world models
    disagree too much. Who wins is not recorded. ``copies`` as of ``ImaginedBattles.reset``."""
    views = battles.reset(moments, generator, copies)
    number = len(moments.last)
    device = views.obs.device
    hidden = actor.initial_hidden(number)
    running = torch.ones(number, dtype=torch.bool, device=device)
    seen, steps = [views], []
    for _ in range(horizon):
        obs, _, available = views
        actions, log_probs, hidden = actor.act(obs, available, hidden, generator, progress)
        assert log_probs is not None
        views, rewards, ended, uncertain = battles.step(actions, generator)
        rewards = torch.where(running, rewards, 0.0).float()
        stopped = running & ~ended & (uncertain if uncertain is not None else False)
        steps.append((actions, log_probs, rewards, ended & running, stopped, running))
        running = running & ~ended & ~stopped
        seen.append(views)
    columns = (torch.stack(column, dim=1) for column in zip(*steps, strict=True))
    actions, log_probs, rewards, terminated, truncated, mask = columns
    truncated[:, -1] |= running
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
