"""Layer normalisation whose gradients do not depend on the number of threads."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from amal.runtime.machine import one_thread

EPSILON = 1e-5  # torch's own


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Layer normalisation over the last dimension (Ba et al. 2016, arXiv:1607.06450, eq. 4).

    y = g ⊙ (x − μ) / √(σ² + ε) + b, with μ and σ² the mean and the variance of a row's F numbers

    torch adds up the gradients of gain and bias in one part per thread, so they round by number of threads. Here all
    three gradients come from torch's kernel on one thread.

    Args:
        x: [..., F].
        gain: [F], g.
        bias: [F], b.

    Returns:
        [..., F].
    """
    x = x.to(gain.dtype)  # of lower precision under autocast
    if not torch.is_grad_enabled():  # vmap knows torch's function, and acting needs no more than that
        return F.layer_norm(x, gain.shape, gain, bias, EPSILON)
    normalized: Tensor = _LayerNorm.apply(x, gain, bias)
    return normalized


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        normalized, mean, reciprocal_std = torch.native_layer_norm(x, gain.shape, gain, bias, EPSILON)
        ctx.save_for_backward(x, mean, reciprocal_std, gain, bias)
        return normalized

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, mean, reciprocal_std, gain, bias = ctx.saved_tensors
        with one_thread():
            grads: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.native_layer_norm_backward(
                grad, x, gain.shape, mean, reciprocal_std, gain, bias, ctx.needs_input_grad
            )
        return grads
