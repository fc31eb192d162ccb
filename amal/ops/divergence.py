"""How far apart policies are in what they do, and models in what they expect: divergences of distributions, in nats.

Distributions of actions come as log-probabilities [..., A], finite, as from ``masked_log_softmax``; actions unavailable
to both add exactly 0. Letters: K policies, M transitions, N agents, A actions, D dimensions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from amal.ops.losses import masked_mean
from amal.runtime.machine import one_thread


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p ‖ q) = Σ_a p(a) (log p(a) − log q(a)).

    Args:
        log_p: [..., A].
        log_q: [..., A].

    Returns:
        [...], at least 0 up to rounding.
    """
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = (p + q) / 2 (Lin 1991, "Divergence measures based on
    the Shannon entropy").

    Args:
        log_p: [..., A].
        log_q: [..., A].

    Returns:
        [...], between 0 (equal) and log 2 (disjoint) up to rounding.
    """
    with one_thread():  # torch's kernel rounds by number of threads
        log_mixture = torch.logaddexp(log_p, log_q) - math.log(2.0)
    return 0.5 * (kl_divergence(log_p, log_mixture) + kl_divergence(log_q, log_mixture))


def gaussian_kl(mean_p: Tensor, log_var_p: Tensor, mean_q: Tensor, log_var_q: Tensor) -> Tensor:
    """KL(p ‖ q) of Gaussians with diagonal covariance, ½ Σ_d [σ²_p/σ²_q − 1 − log(σ²_p/σ²_q) + (μ_p − μ_q)²/σ²_q].

    Args:
        mean_p: [..., D].
        log_var_p: [..., D].
        mean_q: [..., D].
        log_var_q: [..., D].

    Returns:
        [...], exactly 0 of equal ones.
    """
    log_ratio = log_var_p - log_var_q
    shift = (mean_p - mean_q).square() / log_var_q.exp()
    return 0.5 * (log_ratio.expm1() - log_ratio + shift).sum(dim=-1)


def behavioural_diversity(log_probs: Tensor, alive: Tensor) -> Tensor:
    """How differently each policy acts from the others: its mean divergence to each of them, over the living agents.

    Diversity_k = mean_{alive} 1/(K − 1) Σ_{l ≠ k} JS(π_k, π_l)

    Args:
        log_probs: [K, M, N, A], at least two policies.
        alive: [M, N] bool, the agents that count; none alive gives 0.

    Returns:
        [K].
    """
    n_policies = len(log_probs)
    if n_policies < 2:
        raise ValueError(f"log_probs must hold at least 2 policies, got {n_policies}")
    rows = log_probs[:, alive]  # the dead cost nothing, and may hold anything
    sums = rows.new_zeros(rows.shape[:-1])
    for k in range(n_policies - 1):  # each pair once; all pairs at once would take gigabytes
        to_later = jensen_shannon(rows[k], rows[k + 1 :])
        sums[k] += to_later.sum(dim=0)
        sums[k + 1 :] += to_later
    everyone = torch.ones_like(sums[0], dtype=torch.bool)
    return torch.stack([masked_mean(policy_sums, everyone) for policy_sums in sums]) / (n_policies - 1)


def behavioural_distance(log_probs: Tensor, reference: Tensor, alive: Tensor) -> Tensor:
    """How far each policy acts from a reference: mean KL(ψ_k ‖ π_φ) over the living agents.

    Args:
        log_probs: [K, M, N, A] of the policies ψ_k.
        reference: [M, N, A] of π_φ.
        alive: [M, N] bool, the agents that count; none alive gives 0.

    Returns:
        [K].
    """
    divergences = kl_divergence(log_probs, reference)
    return torch.stack([masked_mean(divergence, alive) for divergence in divergences])


def outside_band(distance: Tensor, lowest: float, highest: float) -> Tensor:
    """How far a distance d lies outside of [l, h], max(0, l − d) + max(0, d − h); any shape."""
    if lowest > highest:
        raise ValueError(f"lowest must be at most highest, got {lowest} and {highest}")
    return F.relu(lowest - distance) + F.relu(distance - highest)
