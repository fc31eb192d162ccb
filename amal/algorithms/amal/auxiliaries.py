"""The auxiliary agents: they are evolved to differ, and act inside the world model.

Letters: K candidates, I auxiliary agents, P parameters of a policy, M transitions, N agents, O observation size,
A actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amal.algorithms.amal.auxiliary_steps import imagine_steps
from amal.algorithms.amal.evolved_agents import EvolvedAgents
from amal.networks.policies import Policy
from amal.networks.world_model_ensemble import WorldModelEnsemble
from amal.ops.cem import CrossEntropyMethod
from amal.ops.losses import masked_log_softmax
from amal.ops.populations import flat_parameters, population_logits
from amal.replay import AsymmetricReplayBuffer
from amal.runtime.argument_checks import check_at_least
from amal.types import alive_agents


@dataclass(frozen=True)
class Auxiliaries(EvolvedAgents):
    """Auxiliary policies ψ_i of the first design: with weights of their own, imagining step by step for the replay.

    Args:
        auxiliary_buffer_size: imagined transitions that are kept of each agent, the newest.
        imagination_starts: real states from which each agent starts, per update.
        imagination_horizon: steps that it then takes in the world model.
    """

    auxiliary_buffer_size: int = 10_000
    imagination_starts: int = 16
    imagination_horizon: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("auxiliary_buffer_size", "imagination_starts", "imagination_horizon"):
            check_at_least(1, **{name: getattr(self, name)})

    @torch.no_grad()
    def evolve(
        self, search: CrossEntropyMethod, policy: Policy, obs: Tensor, available: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """ψ_i ← E(ψ_i). Ask, evaluate, tell: candidates ψ = φ + δ, δ ~ N(μ, diag σ²), and the fittest of them.

        Of the fitness F see ``select``. The search is over the difference from π_φ, so that it stays around the policy
        as that learns.

        Args:
            search: the distribution of δ; refitted to the elites.
            policy: π_φ.
            obs: [M, N, O] real observations on which behaviour is compared, the probe.
            available: [M, N, A] bool.
            generator: source of the candidates.

        Returns:
            Parameters [I, P] of the fittest, best first, and what they are like.
        """
        alive = alive_agents(available)
        deltas = search.ask(generator)
        candidates = flat_parameters(policy) + deltas
        log_probs = masked_log_softmax(population_logits(policy, candidates, obs, shared=True), available)
        own_logits, _ = policy.step(obs, policy.initial_hidden(len(obs)))
        fittest, metrics = self.select(search, deltas, log_probs, masked_log_softmax(own_logits, available), alive)
        return candidates[fittest], metrics

    def act(
        self,
        world_model: WorldModelEnsemble,
        policy: Policy,
        population: Tensor,
        replay_buffer: AsymmetricReplayBuffer,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        """D_A^i ← ψ_i acts in p_θ: from real states, into the replay buffer.

        Args:
            world_model: p_θ.
            policy: whose architecture the auxiliary policies have.
            population: [I, P], their parameters.
            replay_buffer: where the starts come from and the steps go.
            generator: source of actions and outcomes.

        Returns:
            "train/imagined_steps", how far they came on average.
        """
        device = population.device
        starts = replay_buffer.sample_mixed(self.num_auxiliary_agents * self.imagination_starts, aux_ratio=0.0)
        horizon = self.imagination_horizon
        imagined = imagine_steps(world_model, policy, population, starts.to(device), horizon, generator)
        replay_buffer.add_auxiliary_batch(imagined)
        return {"train/imagined_steps": torch.tensor(len(imagined) / len(starts), device=device)}
