"""ψ_i ← E(ψ_i): one generation of the auxiliary policies' evolution.

Letters: K candidates, I auxiliary agents, P parameters of a policy, M transitions, N agents, O observation size,
A actions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amal.networks.policies import Policy
from amal.ops.cem import CrossEntropyMethod
from amal.ops.divergence import behavioural_distance, behavioural_diversity, outside_band
from amal.ops.losses import masked_log_softmax
from amal.ops.populations import flat_parameters, population_logits


@torch.no_grad()
def evolve(
    search: CrossEntropyMethod,
    policy: Policy,
    obs: Tensor,
    available: Tensor,
    num_auxiliary_agents: int,
    distance_weight: float,
    distance_band: tuple[float, float],
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Ask, evaluate, tell: candidates ψ = φ + δ, δ ~ N(μ, diag σ²), and the fittest of them.

    F(ψ) = Diversity(ψ) − β · distance of KL(ψ ‖ π_φ) from its band. The search is over the difference from π_φ, so that
    it stays around the policy as that learns.

    Args:
        search: the distribution of δ; refitted to the elites.
        policy: π_φ.
        obs: [M, N, O] real observations on which behaviour is compared, the probe.
        available: [M, N, A] bool.
        num_auxiliary_agents: I.
        distance_weight: β.
        distance_band: least and most mean KL in nats that cost nothing.
        generator: source of the candidates.

    Returns:
        Parameters [I, P] of the fittest, best first, and what they are like: "diversity" (mean Jensen-Shannon
        divergence to each other, 0 of a single one) and "distance" (mean KL to π_φ).
    """
    alive = ~available[..., 0]
    deltas = search.ask(generator)
    candidates = flat_parameters(policy) + deltas
    log_probs = masked_log_softmax(population_logits(policy, candidates, obs, shared=True), available)
    reference = masked_log_softmax(policy(obs.unsqueeze(1), policy.initial_hidden(len(obs)))[0].squeeze(1), available)
    distance = behavioural_distance(log_probs, reference, alive)
    fitness = behavioural_diversity(log_probs, alive) - distance_weight * outside_band(distance, *distance_band)
    fittest = search.tell(deltas, fitness)[:num_auxiliary_agents]
    diversity = behavioural_diversity(log_probs[fittest], alive).mean() if len(fittest) > 1 else torch.zeros(())
    return candidates[fittest], {"diversity": diversity, "distance": distance[fittest].mean()}
