"""How target networks follow the networks that learn."""

import torch
from torch import nn


@torch.no_grad()
def soft_update(target: nn.Module, online: nn.Module, tau: float) -> None:
    """θ⁻ ← (1 − τ) θ⁻ + τ θ, in place (Lillicrap et al. 2016, arXiv:1509.02971). A hard update, a copy, with τ = 1.

    Args:
        target: θ⁻, a network like ``online``. Its buffers stay as they are.
        online: θ, the network that learns.
        tau: τ in (0, 1].
    """
    for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
        slow.lerp_(fast, tau)
