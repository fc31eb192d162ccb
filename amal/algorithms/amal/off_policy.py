"""Steps that other policies took, as the learner sees them now.

Letters: M transitions, N agents.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amal.algorithms.mappo import MAPPO
from amal.algorithms.minibatches import Transitions, at_rows, rows_of
from amal.ops.losses import chosen_log_probs, masked_moments, standardize, truncated_importance
from amal.replay import Experience
from amal.runtime.distributed import pooled


@torch.no_grad()
def in_hindsight(learner: MAPPO, drawn: Experience, importance_cap: float) -> tuple[Transitions, Tensor]:
    """Single steps, real or imagined, with one-step advantages: δ = r + γ V(s') − V(s), Â = ρ · standardised δ, where
    ρ = min(π_φ / μ, ρ̄) of each agent's action.

    Args:
        learner: whose policy π_φ, critic V and γ count, as they are now.
        drawn: M steps, with the log-probabilities of the policies μ that took them.
        importance_cap: ρ̄.

    Returns:
        The steps, whose ``log_probs`` are of π_φ as it is now, around which the ratio of the surrogate is clipped; and
        log π_φ(a) − log μ(a) [M, N], 0 of the dead.
    """
    rows = rows_of(drawn.alive)
    logits = learner.policy.at_rows(drawn.obs, rows)
    available, actions = (at_rows(x, rows) for x in (drawn.available_actions, drawn.actions))
    log_probs = drawn.log_probs.flatten().index_copy(0, rows, chosen_log_probs(logits, available, actions))
    log_probs = log_probs.view_as(drawn.log_probs)
    log_ratio = log_probs - drawn.log_probs
    values = learner.critic(drawn.state, drawn.obs)
    following = learner.value_normalizer.denormalize(learner.critic(drawn.next_state, drawn.next_obs))
    rewards = drawn.rewards if learner.reward_normalizer is None else learner.reward_normalizer.normalize(drawn.rewards)
    targets = rewards + torch.where(drawn.done.unsqueeze(-1), 0.0, learner.gamma * following)
    differences = targets - learner.value_normalizer.denormalize(values)
    moments = pooled(masked_moments(differences, drawn.alive))
    transitions = Transitions(
        obs=drawn.obs,
        state=drawn.state,
        available_actions=drawn.available_actions,
        actions=drawn.actions,
        log_probs=log_probs,
        alive=drawn.alive,
        advantages=truncated_importance(log_ratio, importance_cap) * standardize(differences, drawn.alive, moments),
        values=values,
        targets=learner.value_normalizer.normalize(targets),
    )
    return transitions, log_ratio
