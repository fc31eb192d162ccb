"""Auxiliary agents of the second design: the team's policy with perturbed logits, selected by imagined returns.

Letters: K candidates, I auxiliary agents, M battles or transitions, S starts, N agents, O observation size, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from amal.algorithms.amal.evolved_agents import EvolvedAgents
from amal.algorithms.mappo import MAPPO, choose
from amal.ops.cem import CrossEntropyMethod
from amal.ops.losses import at_actions, masked_log_softmax
from amal.runtime.argument_checks import check_at_least, check_choice, check_share
from amal.types import ActionScores, EpisodeBatch, alive_agents


@dataclass(frozen=True)
class LogitAuxiliaries(EvolvedAgents):
    """Auxiliary policies ψ_i of the second design: π_φ with δ_i [N, A] added to its logits, one number per agent and
    action. They act in a share of the team's imagined battles, and policy and critic learn from those by V-trace.

    Args:
        share: of the imagined battles, in which auxiliary agents act.
        starts: real moments from which each candidate is judged; the same for all.
        selection: by "fitness", or "random" for ablation.
    """

    cem_initial_std: float = 0.5
    cem_min_std: float = 0.1
    share: float = 0.25
    starts: int = 16
    selection: Literal["fitness", "random"] = "fitness"

    told: ClassVar = ("diversity", "distance", "selected_advantage", "reliability")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(share=self.share)
        check_at_least(1, starts=self.starts)
        check_choice(("fitness", "random"), selection=self.selection)

    def offsets(self, population: Tensor, number: int) -> Tensor:
        """δ of each of M battles [M, N, A]: zero where the team itself acts, then ψ_1, ψ_2, … in turn."""
        n_theirs = round(self.share * number)
        theirs = population[torch.arange(n_theirs, device=population.device) % len(population)]
        return torch.cat([population.new_zeros(number - n_theirs, *population.shape[1:]), theirs])

    def gain(self, learner: MAPPO, episodes: EpisodeBatch) -> Tensor:
        """How much more than the team the auxiliary agents earn in imagined battles that were shared as by ``offsets``,
        as of ``first_advantages``. Other battles than those that they were selected by."""
        theirs = round(self.share * len(episodes.mask))
        ours, others = first_advantages(learner, episodes).split([len(episodes.mask) - theirs, theirs])
        return others.mean() - ours.mean()

    @torch.no_grad()
    def evolve(
        self,
        search: CrossEntropyMethod,
        learner: MAPPO,
        deltas: Tensor,
        advantages: Tensor,
        obs: Tensor,
        available: Tensor,
        generator: Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """ψ_i ← E(ψ_i, D_A^i): of candidates the fittest, by what they earned in the world model.

        Args:
            search: that proposed the candidates; refitted to the elites.
            learner: whose policy is π_φ.
            deltas: [K, N · A], the candidates.
            advantages: [K], imagined returns over π_φ's from the same starts, in standard deviations of real returns.
            obs: [M, N, O] real observations on which behaviour is compared.
            available: [M, N, A] bool.
            generator: source of random selection.

        Returns:
            δ [I, N, A] of the fittest, best first, and what they are like.
        """
        logits, _ = learner.policy.step(obs, learner.initial_hidden(len(obs)))
        candidates = deltas.unflatten(-1, logits.shape[-2:])
        log_probs = masked_log_softmax(logits + candidates.unsqueeze(1), available)
        reference = masked_log_softmax(logits, available)
        worth = advantages
        if self.selection == "random":  # whatever the rest of the fitness is
            worth = 1e6 * torch.rand(len(deltas), generator=generator, device=deltas.device)
        fittest, metrics = self.select(search, deltas, log_probs, reference, alive_agents(available), worth)
        selected = advantages[fittest].mean() - advantages.mean()
        return candidates[fittest], metrics | {"selected_advantage": selected}


def first_advantages(learner: MAPPO, episodes: EpisodeBatch) -> Tensor:
    """[M], by how much each episode's return exceeds the value of its start, mean over agents, in standard deviations
    of real returns."""
    _, advantages, _ = learner.returns_and_advantages(episodes)
    return advantages[:, 0].mean(dim=-1) / learner.value_normalizer.std


class DeviatingTeam:
    """An actor: the team's policy with δ added to its logits, per battle. It returns the log-probabilities of its
    actions under the team's policy.

    Args:
        learner: the team, π.
        offsets: δ [M, N, A] of each battle, which make of it μ.
    """

    def __init__(self, learner: MAPPO, offsets: Tensor) -> None:
        self.learner, self.offsets = learner, offsets
        self.weights: list[Tensor] = []

    @property
    def device(self) -> torch.device:
        return self.offsets.device

    def initial_hidden(self, num_battles: int) -> Tensor:
        return self.learner.initial_hidden(num_battles)

    def act(
        self, obs: Tensor, available_actions: Tensor, hidden: Tensor, generator: Generator | None, progress: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        ours, theirs, hidden = self._log_probs(obs, available_actions, hidden)
        actions, chosen = choose(theirs, generator)
        to_team = at_actions(ours, actions)
        self.weights.append((to_team - chosen).sum(dim=-1).clamp_max(0.0).exp())
        return actions, to_team, hidden

    def importance(self) -> Tensor:
        """[M, T], min(1, π / μ) of the joint actions so far."""
        return torch.stack(self.weights, dim=1)

    def action_scores(self, obs: Tensor, available_actions: Tensor, hidden: Tensor) -> ActionScores:
        """The probabilities [M, N, A]; arguments as of ``act``."""
        return ActionScores("probability", self._log_probs(obs, available_actions, hidden)[1].exp())

    def _log_probs(self, obs: Tensor, available_actions: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log π and log μ [M, N, A], and the hidden state."""
        logits, hidden = self.learner.policy.step(obs, hidden)
        logits = logits.float()  # as the offsets are, also under autocast
        ours, theirs = (masked_log_softmax(x, available_actions) for x in (logits, logits + self.offsets))
        return ours, theirs, hidden
