"""Linear layers on the CPU as oneDNN multiplies them, features first in memory.

Letters: R rows, I features of the input, O outputs, M steps, N agents.
"""

from typing import Any, cast

import torch
from torch import Tensor

from amal.runtime.machine import one_thread

SERIAL_ROWS = 2**13  # from twice as many on, oneDNN shares single sums out among its threads

# what torch.compile calls; without it, in another build of torch, nothing here is used
ONEDNN_PRODUCT = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def can_multiply(*matrices: Tensor) -> bool:
    """Whether ``dense`` takes these: single precision, on the CPU, outside of autocast and vmap."""
    return (
        all(matrix.dtype == torch.float32 and matrix.device.type == "cpu" for matrix in matrices)
        and ONEDNN_PRODUCT is not None
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
    )


def padded_size(n: int) -> int:
    """The next of those numbers of rows that are used: a 32nd larger at most from 512 on, by 15 rows at most below.

    oneDNN compiles its products for each number, which takes as long as a product.
    """
    return -(-n // (step := max(16, 2 ** (n.bit_length() - 6)))) * step


def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """A linear layer, y = x Wᵀ + b, and a ReLU on request, max(y, 0), by oneDNN.

    torch multiplies single-precision matrices on the CPU with MKL. On processors of other makers than Intel, MKL leaves
    the widest registers unused, and oneDNN, which torch has too, is twice as fast. It needs rows side by side in the
    first operand only. So outputs are stored as [O, R]: then no operand of the backward pass is copied, except for the
    weight.

    Args:
        x: [R, I], R best from ``padded_size``; ``can_multiply`` holds for it and the weight.
        weight: [O, I], W.
        bias: [O], b; None for 0.
        relu: whether there is one.

    Returns:
        [R, O], each output's rows side by side in memory.
    """
    return cast(Tensor, _Dense.apply(x, weight, bias, relu))


def broadcast_sum(of_steps: Tensor, of_agents: Tensor) -> Tensor:
    """What agents share in each step and what is their own, added up, and a ReLU: max(s_m + a_nm, 0).

    Its gradients are added up in the same order whatever the number of threads, as those of torch's sum are not.

    Args:
        of_steps: [M, O], s, each output's numbers side by side in memory.
        of_agents: [N, M, O], a, likewise, or [N, 1, O] of agents to whom it is the same in all steps.

    Returns:
        [N, M, O], each output's numbers side by side in memory.
    """
    return cast(Tensor, _BroadcastSum.apply(of_steps.t(), of_agents.movedim(-1, 0))).movedim(0, -1)


def product(a: Tensor, b: Tensor) -> Tensor:
    """A Bᵀ by oneDNN, long sums by torch, rounded in the same way on any number of threads.

    Args:
        a: [P, K]; copied if its rows are not side by side.
        b: [Q, K] in any order.

    Returns:
        [P, Q].
    """
    assert ONEDNN_PRODUCT is not None
    if len(a) == 1 or a.shape[1] > SERIAL_ROWS:
        with one_thread():  # on several, oneDNN shares out long sums and those of a single output, MKL some long ones
            return a @ b.t()
    return cast(Tensor, ONEDNN_PRODUCT(a, b, None, "none", [], ""))


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
        y = product(weight, x)
        if bias is not None:
            y += bias.unsqueeze(-1)
        if relu:
            y.relu_()
        ctx.save_for_backward(x, weight, y if relu else None)
        return y.t()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        grad = grad.t().contiguous()
        if y is not None:
            grad = before_relu(grad, y)
        grad_x = product(weight.t(), grad.t()).t() if ctx.needs_input_grad[0] else None
        with one_thread():  # torch shares out the sum of a single output among its threads
            grad_bias = grad.sum(dim=1) if ctx.needs_input_grad[2] else None
        return grad_x, product(grad, x.t()), grad_bias, None


class _BroadcastSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, of_steps: Tensor, of_agents: Tensor) -> Tensor:
        (n_outputs, n_steps), n_agents = of_steps.shape, of_agents.shape[1]
        total = of_steps.new_empty(n_outputs, n_agents, n_steps)
        torch.add(of_steps.unsqueeze(1), of_agents, out=total).relu_()
        ctx.save_for_backward(total)
        ctx.is_constant = of_agents.shape[2] != n_steps
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        grad = before_relu(grad, *ctx.saved_tensors)
        with one_thread():
            return grad.sum(dim=1), grad.sum(dim=2, keepdim=True) if ctx.is_constant else grad


def before_relu(grad: Tensor, y: Tensor) -> Tensor:
    """The gradient of a ReLU's input, from that of its output y."""
    return cast(Tensor, torch.ops.aten.threshold_backward(grad, y, 0.0))
