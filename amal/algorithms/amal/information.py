"""The information bonus: an intrinsic reward for outcomes that distinguish the policy from other policies.

Letters: B episodes, T time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from amal.networks.policies import Policy
from amal.networks.world_model_ensemble import WorldModelEnsemble
from amal.ops.bonus import capped_bonus, decayed, standardized_bonus
from amal.ops.information import InformationEstimator, MutualInformationEstimator
from amal.ops.losses import masked_mean, masked_moments, masked_variance
from amal.replay import RealExperience
from amal.runtime.argument_checks import check_at_least, check_choice, check_positive, check_share
from amal.runtime.distributed import pooled
from amal.types import EpisodeBatch


@dataclass(frozen=True)
class InformationBonus:
    """λ · î of each step, paid to the policy beside the rewards.

    Args:
        estimator: class of the estimator of î.
        lambda_info: weight λ of the bonus in the reward.
        form: "shaped" centres, scales, caps and decays the bonus; "raw" is the paper's, λ · î.
        decay: share of the budget over which λ falls to 0 if shaped; 0 keeps it.
        std_floor: least standard deviation that a shaped bonus is divided by, in nats.
        cap: most that an episode's shaped bonuses add up to, in shares of the mean return.
    """

    estimator: Callable[[], InformationEstimator] = MutualInformationEstimator
    lambda_info: float = 0.3
    form: Literal["shaped", "raw"] = "shaped"
    decay: float = 0.5
    std_floor: float = 0.1
    cap: float = 0.1

    def __post_init__(self) -> None:
        check_at_least(0.0, lambda_info=self.lambda_info, cap=self.cap)
        check_choice(("shaped", "raw"), form=self.form)
        check_share(decay=self.decay)
        check_positive(std_floor=self.std_floor)

    @torch.no_grad()
    def bonus(
        self,
        estimator: InformationEstimator,
        world_model: WorldModelEnsemble,
        policy: Policy,
        batch: EpisodeBatch,
        progress: float,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The bonus of every step [B, T], or None once λ is 0; and what it amounts to beside the rewards.

        The critic does not learn it: replayed steps are judged by the same values, and come without a bonus.

        Args:
            estimator: of this part's class.
            world_model: whose outcomes count.
            policy: that is paid.
            batch: its episodes.
            progress: share of the budget that is used, in [0, 1].
        """
        weight = decayed(self.lambda_info, progress, self.decay) if self.form == "shaped" else self.lambda_info
        if weight == 0.0:  # told all the same: Lightning would repeat the last values
            nothing = {"train/information": math.nan, "train/information_std": math.nan, "train/bonus_share": 0.0}
            return None, {name: torch.tensor(value) for name, value in (nothing | {"train/lambda": weight}).items()}
        terms = estimator.per_transition(world_model, policy, RealExperience.of_episodes(batch))
        information = torch.zeros_like(batch.rewards).masked_scatter(batch.mask, terms)
        if self.form == "shaped":
            moments = pooled(masked_moments(information, batch.mask))
            bonus = weight * standardized_bonus(information, batch.mask, moments, self.std_floor)
            mean_return, *_ = pooled(masked_moments(batch.returns.abs(), batch.mask[:, 0]))
            bonus = capped_bonus(bonus, mean_return, self.cap)
        else:
            bonus = weight * information
        earned = masked_mean(batch.rewards.abs(), batch.mask)
        return bonus, {
            "train/information": masked_mean(information, batch.mask),
            "train/information_std": masked_variance(information, batch.mask).sqrt(),
            "train/bonus_share": masked_mean(bonus.abs(), batch.mask) / earned.clamp_min(1e-8),
            "train/lambda": torch.tensor(weight),
        }
