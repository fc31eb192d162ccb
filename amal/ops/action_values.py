"""Values of actions: which one is best, how to explore, and double Q-learning, one function per equation.

``...`` stands for any leading dimensions, A for actions.
"""

import torch
from torch import Tensor

from amal.ops.losses import at_actions, masked_log_softmax, sample_categorical


def annealed_epsilon(progress: float, start: float, end: float, share: float) -> float:
    """ε falls linearly over the first part of the budget and stays at its end from then on.

    ε = start + min(progress / share, 1) · (end − start); with share 0 it is ``end`` at once.

    Args:
        progress: share of the budget that is used, in [0, 1].
        start: ε at the beginning.
        end: ε after the first part.
        share: of the budget, how long the first part is, in [0, 1].
    """
    return start + (min(progress / share, 1.0) if share > 0.0 else 1.0) * (end - start)


def available_values(values: Tensor, available: Tensor) -> Tensor:
    """Q(a) where action a is available, −∞ elsewhere.

    Args:
        values: [..., A].
        available: [..., A] bool.

    Returns:
        [..., A].
    """
    return values.masked_fill(~available, -torch.inf)


def epsilon_greedy(values: Tensor, available: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """With probability ε any available action, all alike; else the best one, argmax_{a available} Q(a).

    Args:
        values: [..., A].
        available: [..., A] bool, at least one per row.
        epsilon: ε.
        generator: source of both draws.

    Returns:
        [...] int64.
    """
    best = available_values(values, available).argmax(dim=-1)
    explores = torch.rand(best.shape, generator=generator, device=values.device) < epsilon
    any_action = sample_categorical(masked_log_softmax(torch.zeros_like(values), available), generator)
    return torch.where(explores, any_action, best)


def double_q_values(values: Tensor, target_values: Tensor, available: Tensor) -> Tensor:
    """Double Q-learning (van Hasselt et al. 2016, arXiv:1509.06461): one network chooses, the other one judges.

    Q⁻(argmax_{a available} Q(a))

    Args:
        values: [..., A], Q, of the network that learns.
        target_values: [..., A], Q⁻, of the target network.
        available: [..., A] bool, at least one per row.

    Returns:
        [...].
    """
    return at_actions(target_values, available_values(values, available).argmax(dim=-1))
