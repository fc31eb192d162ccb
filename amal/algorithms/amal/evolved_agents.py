"""What all auxiliary agents have in common: a search proposes them, and the fittest of a generation act.

Letters: K candidates, I auxiliary agents, D dimensions of the search, M transitions, N agents, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amal.ops.cem import CrossEntropyMethod
from amal.ops.divergence import behavioural_distance, behavioural_diversity, outside_band
from amal.runtime.argument_checks import check_at_least


@dataclass(frozen=True)
class EvolvedAgents:
    """Auxiliary policies ψ_i that the cross-entropy method evolves around the team's.

    Args:
        num_auxiliary_agents: I.
        evolution_frequency: updates between two generations.
        cem_population_size: candidates of each generation.
        cem_elite_fraction: share of them that the next generation is drawn around.
        cem_initial_std: standard deviation of the first generation around the policy.
        cem_min_std: floor under the standard deviation.
        distance_weight: β, weight of leaving the distance band against the diversity.
        distance_band: least and most mean KL divergence, in nats, that an auxiliary policy should have to the policy.
    """

    num_auxiliary_agents: int = 16
    evolution_frequency: int = 10
    cem_population_size: int = 100
    cem_elite_fraction: float = 0.2
    cem_initial_std: float = 0.1
    cem_min_std: float = 0.05
    distance_weight: float = 1.0
    distance_band: tuple[float, float] = (0.05, 0.5)

    def __post_init__(self) -> None:
        for name in ("num_auxiliary_agents", "evolution_frequency"):
            check_at_least(1, **{name: getattr(self, name)})
        check_at_least(0.0, distance_weight=self.distance_weight)
        if not 0.0 <= self.distance_band[0] <= self.distance_band[1]:
            raise ValueError(
                f"distance_band must be two divergences, the lower one first, got {list(self.distance_band)}"
            )
        try:
            n_elites = self.build(1).n_elites
        except ValueError as error:
            raise ValueError(f"cem_{error}") from None
        if self.num_auxiliary_agents > n_elites:
            allowed = f"at most the elites of cem_population_size ({n_elites})"
            raise ValueError(f"num_auxiliary_agents must be {allowed}, got {self.num_auxiliary_agents}")

    def build(self, dimension: int) -> CrossEntropyMethod:
        """The search for differences δ from the policy, in D dimensions."""
        sizes = (self.cem_population_size, self.cem_elite_fraction)
        return CrossEntropyMethod(dimension, *sizes, self.cem_initial_std, self.cem_min_std)

    def select(
        self,
        search: CrossEntropyMethod,
        deltas: Tensor,
        log_probs: Tensor,
        reference: Tensor,
        alive: Tensor,
        worth: Tensor | float = 0.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The fittest of a generation; the search is refitted to its elites.

        F(ψ) = worth(ψ) + Diversity(ψ) − β · distance of KL(ψ ‖ π_φ) from its band.

        Args:
            search: that proposed the candidates.
            deltas: [K, D], the candidates.
            log_probs: [K, M, N, A], how they act.
            reference: [M, N, A], how the team acts.
            alive: [M, N] bool, the agents that count.
            worth: [K], what else counts.

        Returns:
            Indices [I] of the fittest, best first, and what they are like: "diversity" (mean Jensen-Shannon
            divergence to each other, 0 of a single one) and "distance" (mean KL to π_φ).
        """
        distance = behavioural_distance(log_probs, reference, alive)
        outside = outside_band(distance, *self.distance_band)
        fitness = worth + behavioural_diversity(log_probs, alive) - self.distance_weight * outside
        fittest = search.tell(deltas, fitness)[: self.num_auxiliary_agents]
        diversity = behavioural_diversity(log_probs[fittest], alive).mean() if len(fittest) > 1 else torch.zeros(())
        return fittest, {"diversity": diversity, "distance": distance[fittest].mean()}
