"""Returns and advantages of team episodes.

Letters: B episodes, T time, N agents.
"""

import torch
from torch import Tensor

from amal.ops.losses import masked_variance


def generalized_advantages(
    rewards: Tensor,
    values: Tensor,
    terminated: Tensor,
    mask: Tensor,
    gamma: float,
    gae_lambda: float,
    importance: Tensor | None = None,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv:1506.02438, eq. 16, as a backward recursion).

    δ_t = r_t + γ (1 − terminated_t) V_{t+1} − V_t
    Â_t = δ_t + γ λ (1 − terminated_t) w_{t+1} Â_{t+1}

    w_t = 1 where the team acted itself. Where others acted, w_t = min(1, π(a_t) / μ(a_t)) makes V_t + w_t Â_t the
    targets of V-trace (Espeholt et al. 2018, arXiv:1802.01561, eq. 1 and remark 2, with ρ̄ = c̄ = 1), and w_t the weight
    of Â_t in the policy's gradient.

    Termination does not bootstrap. Truncation does: the slot after an episode's last step holds the value of what was
    seen at its end. Padding has Â = 0 and is never read, whatever it holds, NaN included.

    Args:
        rewards: [B, T], shared by the team.
        values: [B, T+1, N] in the units of the rewards.
        terminated: [B, T] bool.
        mask: [B, T] bool, the step happened; True up to an episode's last step.
        gamma: discount factor γ.
        gae_lambda: λ, 0 for one-step temporal differences, 1 for Monte-Carlo returns.
        importance: [B, T], w; by default 1.

    Returns:
        [B, T, N] advantages; without weights the returns to regress on are ``advantages + values[:, :-1]``.
    """
    n_episodes, n_steps = rewards.shape
    assert terminated.shape == mask.shape == (n_episodes, n_steps)
    assert values.dim() == 3
    assert values.shape[:2] == (n_episodes, n_steps + 1)

    continues = (mask & ~terminated).unsqueeze(-1)
    happened = mask.unsqueeze(-1)
    # `where`, not multiplication: 0 · NaN is NaN, and padding may hold anything
    bootstrap = torch.where(continues, values[:, 1:], 0.0)
    deltas = torch.where(happened, rewards.unsqueeze(-1) + gamma * bootstrap - values[:, :-1], 0.0)
    decay = gamma * gae_lambda * continues.to(values.dtype)
    if importance is not None:
        decay[:, :-1] *= torch.where(happened[:, 1:], importance[:, 1:].unsqueeze(-1), 0.0)

    advantages = torch.empty_like(deltas)
    following = torch.zeros_like(deltas[:, 0])
    for t in range(n_steps - 1, -1, -1):
        # an episode's last step finds 0 here, for the slot after it is padding, where δ and the decay are 0
        following = deltas[:, t] + decay[:, t] * following
        advantages[:, t] = following
    return advantages


def lambda_returns(
    rewards: Tensor, values: Tensor, terminated: Tensor, mask: Tensor, gamma: float, td_lambda: float
) -> Tensor:
    """TD(λ) targets (Sutton & Barto 2018, eq. 12.2 and 12.3, as a backward recursion).

    G_t = r_t + γ (1 − terminated_t) [(1 − λ) V_{t+1} + λ G_{t+1}]

    This is V_t plus the generalised advantage: V_t cancels. After a truncated episode's last step G is V. Padding is
    never read; what is returned for it means nothing.

    Args:
        rewards: [B, T], shared by the team.
        values: [B, T+1, N] in the units of the rewards.
        terminated: [B, T] bool.
        mask: [B, T] bool, the step happened; True up to an episode's last step.
        gamma: discount factor γ.
        td_lambda: λ, 0 for one-step temporal differences, 1 for Monte-Carlo returns.

    Returns:
        [B, T, N].
    """
    return generalized_advantages(rewards, values, terminated, mask, gamma, td_lambda) + values[:, :-1]


def n_step_returns(rewards: Tensor, values: Tensor, terminated: Tensor, mask: Tensor, gamma: float, n: int) -> Tensor:
    """Returns of n rewards and the value after them (Sutton & Barto 2018, eq. 7.1).

    R_t = Σ_{i<n} γ^i r_{t+i} + γ^n V_{t+n}

    as the recursion R⁰ = V, R^k_t = r_t + γ R^{k−1}_{t+1}. An episode that ends earlier has fewer rewards, and then
    nothing after termination, or after truncation the value of what was seen at its end. Padding is 0 and is never
    read, whatever it holds, NaN included.

    Args:
        rewards: [B, T], shared by the team.
        values: [B, T+1, N] in the units of the rewards.
        terminated: [B, T] bool.
        mask: [B, T] bool, the step happened; True up to an episode's last step.
        gamma: discount factor γ.
        n: how many rewards.

    Returns:
        [B, T, N].
    """
    n_episodes, n_steps = rewards.shape
    assert n >= 1
    assert terminated.shape == mask.shape == (n_episodes, n_steps)
    assert values.dim() == 3
    assert values.shape[:2] == (n_episodes, n_steps + 1)

    continues = (mask & ~terminated).unsqueeze(-1)
    happened = mask.unsqueeze(-1)
    returns = values
    for _ in range(min(n, n_steps)):
        following = torch.where(continues, returns[:, 1:], 0.0)
        # the slot after an episode's last step keeps its value, for whoever reaches it with rewards left to count
        longer = torch.where(happened, rewards.unsqueeze(-1) + gamma * following, returns[:, :-1])
        returns = torch.cat([longer, values[:, -1:]], dim=1)
    return torch.where(happened, returns[:, :-1], 0.0)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Share of the returns' variance that the values explain, 1 − Var[R − V] / Var[R]; 0 for constant returns.

    Args:
        values: any shape, predicted.
        returns: same shape, observed.
        mask: same shape, bool, the entries that count.

    Returns:
        Scalar; 1 is perfect, 0 no better than a constant, negative is worse than a constant.
    """
    assert values.shape == returns.shape == mask.shape
    unexplained, all_of_it = masked_variance(returns - values, mask), masked_variance(returns, mask)
    return torch.where(all_of_it > 0, 1.0 - unexplained / all_of_it, torch.zeros_like(all_of_it))
