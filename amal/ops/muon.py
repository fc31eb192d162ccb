"""Muon in single precision. torch's rounds to bfloat16, which takes longer on CPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from amal.runtime.machine import one_thread

A, B, C = 3.4445, -4.7750, 2.0315  # Jordan et al. 2024
ITERATIONS = 5
LEAST_NORM = 1e-7
SHARE_OF_ADAM = 0.2  # the typical size of a number in Adam's steps is 0.2 η (Liu et al. 2025, arXiv:2502.16982)


def orthogonalized(matrix: Tensor) -> Tensor:
    """U V' of a matrix U Σ V', nearly: singular values that are not tiny beside the largest become about 1.

    Newton-Schulz (Jordan et al. 2024): X ← a X + (b X X' + c (X X')²) X, five times, from X = M / ‖M‖.

    Args:
        matrix: [R, C], M.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.t() if is_tall else matrix
    x = x / x.norm().clamp_min(LEAST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.t()
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.t() if is_tall else x


class Muon(torch.optim.Muon):
    """``torch.optim.Muon`` with steps as large as Adam's, in single precision.

    Args:
        params: matrices.
        lr: η.
    """

    def __init__(self, params: Sequence[Tensor], lr: float) -> None:
        super().__init__(params, lr)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """B ← μ B + (1 − μ) G; W ← (1 − η w) W − 0.2 η √max(R, C) · orthogonalized((1 − μ) G + μ B)."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with one_thread():  # on several, MKL may round products differently
            for group in self.param_groups:
                for weight in group["params"]:
                    if weight.grad is not None:
                        self._take_step(weight, **group)
        return loss

    def _take_step(self, weight: Tensor, lr: float, weight_decay: float, momentum: float, **_: object) -> None:
        gradient = weight.grad
        assert gradient is not None
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        direction = orthogonalized(gradient.lerp(buffer, momentum))
        weight.mul_(1 - lr * weight_decay)
        weight.add_(direction, alpha=-lr * SHARE_OF_ADAM * max(weight.shape) ** 0.5)
