"""The auxiliary agents: they are evolved to differ, and act inside the world model.

Letters: K candidates, I auxiliary agents, P parameters of a policy, M transitions, N agents, O observation size,
A actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amal.algorithms.amal.auxiliary_steps import imagine_steps
from amal.networks.policies import Policy
from amal.networks.world_models import WorldModelEnsemble
from amal.ops.cem import CrossEntropyMethod
from amal.ops.divergence import behavioural_distance, behavioural_diversity, outside_band
from amal.ops.losses import masked_log_softmax
from amal.ops.populations import flat_parameters, population_logits
from amal.replay import AsymmetricReplayBuffer
from amal.runtime.argument_checks import check_at_least


@dataclass(frozen=True)
class Auxiliaries:
    """Auxiliary policies ψ_i, evolved around the team's and imagining for it.

    Args:
        num_auxiliary_agents: I.
        evolution_frequency: updates between two generations.
        auxiliary_buffer_size: imagined transitions that are kept of each agent, the newest.
        imagination_starts: real states from which each agent starts, per update.
        imagination_horizon: steps that it then takes in the world model.
        cem_population_size: candidates of each generation.
        cem_elite_fraction: share of them that the next generation is drawn around.
        cem_initial_std: standard deviation of the first generation's parameters around those of the policy.
        cem_min_std: floor under the standard deviation.
        distance_weight: β, weight of leaving the distance band against the diversity.
        distance_band: least and most mean KL divergence, in nats, that an auxiliary policy should have to the policy.
    """

    num_auxiliary_agents: int = 16
    evolution_frequency: int = 10
    auxiliary_buffer_size: int = 10_000
    imagination_starts: int = 16
    imagination_horizon: int = 5
    cem_population_size: int = 100
    cem_elite_fraction: float = 0.2
    cem_initial_std: float = 0.1
    cem_min_std: float = 0.05
    distance_weight: float = 1.0
    distance_band: tuple[float, float] = (0.05, 0.5)

    def __post_init__(self) -> None:
        counts = ("num_auxiliary_agents", "evolution_frequency", "auxiliary_buffer_size")
        for name in (*counts, "imagination_starts", "imagination_horizon"):
            check_at_least(1, **{name: getattr(self, name)})
        check_at_least(0.0, distance_weight=self.distance_weight)
        if not 0.0 <= self.distance_band[0] <= self.distance_band[1]:
            raise ValueError(
                f"distance_band must be two divergences, the lower one first, got {list(self.distance_band)}"
            )
        try:
            n_elites = self.build(n_parameters=1).n_elites
        except ValueError as error:
            raise ValueError(f"cem_{error}") from None
        if self.num_auxiliary_agents > n_elites:
            allowed = f"at most the elites of cem_population_size ({n_elites})"
            raise ValueError(f"num_auxiliary_agents must be {allowed}, got {self.num_auxiliary_agents}")

    def build(self, n_parameters: int) -> CrossEntropyMethod:
        """The search for differences δ from a policy with P parameters."""
        sizes = (self.cem_population_size, self.cem_elite_fraction)
        return CrossEntropyMethod(n_parameters, *sizes, self.cem_initial_std, self.cem_min_std)

    @torch.no_grad()
    def evolve(
        self, search: CrossEntropyMethod, policy: Policy, obs: Tensor, available: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """ψ_i ← E(ψ_i). Ask, evaluate, tell: candidates ψ = φ + δ, δ ~ N(μ, diag σ²), and the fittest of them.

        F(ψ) = Diversity(ψ) − β · distance of KL(ψ ‖ π_φ) from its band. The search is over the difference from π_φ, so
        that it stays around the policy as that learns.

        Args:
            search: the distribution of δ; refitted to the elites.
            policy: π_φ.
            obs: [M, N, O] real observations on which behaviour is compared, the probe.
            available: [M, N, A] bool.
            generator: source of the candidates.

        Returns:
            Parameters [I, P] of the fittest, best first, and what they are like: "diversity" (mean Jensen-Shannon
            divergence to each other, 0 of a single one) and "distance" (mean KL to π_φ).
        """
        alive = ~available[..., 0]
        deltas = search.ask(generator)
        candidates = flat_parameters(policy) + deltas
        log_probs = masked_log_softmax(population_logits(policy, candidates, obs, shared=True), available)
        own_logits = policy(obs.unsqueeze(1), policy.initial_hidden(len(obs)))[0].squeeze(1)
        distance = behavioural_distance(log_probs, masked_log_softmax(own_logits, available), alive)
        outside = outside_band(distance, *self.distance_band)
        fitness = behavioural_diversity(log_probs, alive) - self.distance_weight * outside
        fittest = search.tell(deltas, fitness)[: self.num_auxiliary_agents]
        diversity = behavioural_diversity(log_probs[fittest], alive).mean() if len(fittest) > 1 else torch.zeros(())
        return candidates[fittest], {"diversity": diversity, "distance": distance[fittest].mean()}

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
