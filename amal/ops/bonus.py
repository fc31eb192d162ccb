"""From information to reward: how a bonus in nats is scaled so that it cannot replace victory.

Letters: B episodes, T time.
"""

import torch
from torch import Tensor

from amal.ops.losses import masked_moments


def decayed(lambda_info: float, progress: float, decay: float) -> float:
    """λ at a share of the budget: falls linearly from λ to 0 over the first ``decay`` of it.

    Args:
        lambda_info: λ at the start.
        progress: share of the budget used, in [0, 1].
        decay: share at which it is 0; 0 keeps λ constant.
    """
    return lambda_info * max(0.0, 1.0 - progress / decay) if decay > 0.0 else lambda_info


def standardized_bonus(information: Tensor, mask: Tensor, std_floor: float) -> Tensor:
    """(î − mean î) / max(std î, floor); 0 outside the mask.

    Centred, for else a team is paid for every step that it stays alive. With a floor, for else the noise of a bonus
    that hardly varies is amplified to the size of the others. Both are of all processes that train together.

    Args:
        information: [B, T] î in nats.
        mask: [B, T] bool, the step happened.
        std_floor: least divisor, in nats.
    """
    mean, variance = masked_moments(information, mask)
    return torch.where(mask, (information - mean) / variance.sqrt().clamp_min(std_floor), 0.0)


def capped_bonus(bonus: Tensor, rewards: Tensor, mask: Tensor, cap: float) -> Tensor:
    """The bonus, scaled down in episodes where it would exceed a share of what episodes really earn.

    b_t · min(1, cap · R̄ / Σ_t |b_t|) with R̄ = mean_b |Σ_t r_t|, over the episodes of all processes

    Args:
        bonus: [B, T], 0 outside the mask.
        rewards: [B, T] of the environment.
        mask: [B, T] bool, the step happened.
        cap: most that an episode's bonuses may add up to, in shares of R̄.
    """
    earned = torch.where(mask, rewards, 0.0).sum(dim=1).abs()
    mean, _ = masked_moments(earned, torch.ones_like(earned, dtype=torch.bool))
    allowed = cap * mean
    size = bonus.abs().sum(dim=1)
    factor = torch.where(size > allowed, allowed / size.clamp_min(torch.finfo(size.dtype).tiny), 1.0)
    return bonus * factor.unsqueeze(-1)
