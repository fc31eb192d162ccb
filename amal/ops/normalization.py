"""Running statistics of value targets and rewards."""

import torch
from torch import Tensor, nn

from amal.ops.losses import Moments

MIN_VARIANCE = 1e-2
"""Floor under the running variance: before the first damage is dealt all returns are alike, and noise is no signal."""


class ValueNormalizer(nn.Module):
    """Running mean and variance of the returns, so that the critic predicts numbers of order one; or of the rewards.

    "Value normalisation" of Yu et al. 2022, arXiv:2103.01955, section 5.1. Until the first update it is the identity.

    With m_k, v_k the mean and variance of the k-th batch, the debiased exponential averages are kept in closed form:

    c ← 1 + β c · w = 1/c · μ ← μ + w (m − μ) · σ² ← (1 − w) (σ² + w (m − μ)²) + w v

    where c = (1 − β^k) / (1 − β) is the number of batches remembered, so the first batch counts fully, the first
    1/(1 − β) about equally, and later ones slide. The second moment is kept centred: a large mean costs no precision.

    Args:
        beta: β, how much of the past is kept per update; 0.99 remembers about the last 100 updates.
    """

    mean: Tensor
    variance: Tensor
    n_remembered: Tensor

    def __init__(self, beta: float = 0.99) -> None:
        super().__init__()
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"beta must be in [0, 1), got {beta}")
        self.beta = beta
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("n_remembered", torch.zeros(()))

    @torch.no_grad()
    def update(self, moments: Moments) -> None:
        """Take in the moments of one batch, as of ``masked_moments``; those of no entries change nothing."""
        mean, variance, count = moments
        if count == 0:
            return
        self.n_remembered.mul_(self.beta).add_(1.0)
        weight = 1.0 / self.n_remembered
        shift = mean - self.mean
        self.mean += weight * shift
        spread = self.variance + weight * shift.square()
        self.variance.copy_((1.0 - weight) * spread + weight * variance)

    @property
    def std(self) -> Tensor:
        """Scalar, the running standard deviation, floored."""
        return self.variance.clamp_min(MIN_VARIANCE).sqrt()

    def normalize(self, x: Tensor) -> Tensor:
        """(x − μ) / σ, any shape."""
        return (x - self.mean) / self.std

    def denormalize(self, x: Tensor) -> Tensor:
        """x σ + μ, any shape."""
        return x * self.std + self.mean
