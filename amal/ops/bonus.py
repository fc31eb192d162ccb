"""From information to reward: how a bonus in nats is scaled so that it cannot replace victory.

Letters: B episodes, T time.
"""

import torch
from torch import Tensor

from amal.ops.losses import Moments


def decayed(lambda_info: float, progress: float, decay: float) -> float:
    """λ at a share of the budget: falls linearly from λ to 0 over the first ``decay`` of it.

    Args:
        lambda_info: λ at the start.
        progress: share of the budget used, in [0, 1].
        decay: share at which it is 0; 0 keeps λ constant.
    """
    return lambda_info * max(0.0, 1.0 - progress / decay) if decay > 0.0 else lambda_info


def standardized_bonus(information: Tensor, mask: Tensor, moments: Moments, std_floor: float) -> Tensor:
    """(î − mean î) / max(std î, floor); 0 outside the mask.

    Centred, so that a team is not paid for every step that it stays alive. With a floor, so that the noise of a bonus
    that hardly varies is not amplified.

    Args:
        information: [B, T] î in nats.
        mask: [B, T] bool, the step happened.
        moments: of î where it happened, as of ``amal.ops.losses.masked_moments``.
        std_floor: least divisor, in nats.
    """
    mean, variance, _ = moments
    return torch.where(mask, (information - mean) / variance.sqrt().clamp_min(std_floor), 0.0)


def capped_bonus(bonus: Tensor, mean_return: Tensor, cap: float) -> Tensor:
    """The bonus, scaled down in episodes where it would exceed a share of what episodes really earn.

    b_t · min(1, cap · R̄ / Σ_t |b_t|) with R̄ = mean_b |Σ_t r_t|

    Args:
        bonus: [B, T], 0 where no step happened.
        mean_return: R̄, scalar.
        cap: most that an episode's bonuses may add up to, in shares of R̄.
    """
    allowed = cap * mean_return
    size = bonus.abs().sum(dim=1)
    factor = torch.where(size > allowed, allowed / size.clamp_min(torch.finfo(size.dtype).tiny), 1.0)
    return bonus * factor.unsqueeze(-1)
