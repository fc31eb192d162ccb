"""A gated recurrent unit along many sequences at once, in a few large operations.

Letters: S sequences, L all their steps together, H hidden size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from amal.runtime.machine import one_thread


def gated_recurrence(inputs: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, running: Sequence[int]) -> Tensor:
    """The hidden states of gated recurrent units (Cho et al. 2014, arXiv:1406.1078, in the form of ``torch.nn.GRU``).

    r = σ(x_r + W_r h + b_r) · z = σ(x_z + W_z h + b_z) · n = tanh(x_n + r ⊙ (W_n h + b_n)) · h' = (1 − z) ⊙ n + z ⊙ h

    Only W h and what follows from it goes step by step, also backwards; the weight's gradient is one product over all
    steps. ``torch.nn.GRU`` takes sequences of different lengths too, but the gradient of each of their steps fills an
    array of all steps.

    Args:
        inputs: [L, 3H], x_r ⊕ x_z ⊕ x_n of every step, time first: the first step of all sequences, the second of those
            that have one, and so on. Longer sequences come first.
        hidden: [S, H], before the first step.
        weight: [3H, H], W_r ⊕ W_z ⊕ W_n.
        bias: [3H], b_r ⊕ b_z ⊕ b_n.
        running: how many sequences have a first, a second, … step, at least one; never more than before, and L in all.

    Returns:
        [L, H], h' of every step.
    """
    # of lower precision than the weight under autocast
    inputs, hidden = inputs.to(weight.dtype), hidden.to(weight.dtype)
    outputs: Tensor = _GatedRecurrence.apply(inputs, hidden, weight, bias, list(running))
    return outputs


class _GatedRecurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, running: list[int]) -> Tensor:
        size = hidden.shape[1]
        recalled = torch.empty_like(inputs)  # W h + b
        gates = torch.empty_like(inputs)  # r, z, n
        outputs = inputs.new_empty(len(inputs), size)
        steps = zip(*(x.split(running) for x in (inputs, recalled, gates, outputs)), strict=True)
        before, transposed = hidden, weight.t()
        with one_thread():  # on several, torch rounds σ and tanh of such slices differently
            for step_input, step_recalled, step_gates, after in steps:
                before = before[: len(after)]
                torch.addmm(bias, before, transposed, out=step_recalled)
                both, new = step_gates.tensor_split([2 * size], dim=1)
                reset, update = both.chunk(2, dim=1)
                torch.add(step_input[:, : 2 * size], step_recalled[:, : 2 * size], out=both).sigmoid_()
                torch.addcmul(step_input[:, 2 * size :], reset, step_recalled[:, 2 * size :], out=new).tanh_()
                before = torch.lerp(new, before, update, out=after)
        ctx.save_for_backward(hidden, weight, recalled, gates, outputs)
        ctx.running = running
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        hidden, weight, recalled, gates, outputs = ctx.saved_tensors
        running: list[int] = ctx.running
        size = hidden.shape[1]
        reset, update, new = gates.chunk(3, dim=1)
        earlier = zip(outputs.split(running), running[1:], strict=False)
        before = torch.cat([hidden, *(step[:following] for step, following in earlier)])

        # ∂h' by what is inside of n, and by W_r h, W_z h, W_n h
        of_new = (1 - update) * (1 - new.square())
        of_recalled = torch.cat(
            [
                of_new * recalled[:, 2 * size :] * reset * (1 - reset),
                (before - new) * update * (1 - update),
                of_new * reset,
            ],
            dim=1,
        )
        grad_after, grad_recalled = grad_outputs.clone(), torch.empty_like(gates)
        views = (grad_after, grad_recalled, of_recalled.view(len(gates), 3, size), update)
        steps = list(zip(*(x.split(running) for x in views), strict=True))
        grad = hidden[:0]  # of the states before the step that follows
        for after, step_recalled, step_of_recalled, step_update in reversed(steps):
            after[: len(grad)] += grad
            torch.mul(step_of_recalled, after.unsqueeze(1), out=step_recalled.view(len(after), 3, size))
            grad = torch.addmm(after * step_update, step_recalled, weight)
        grad_inputs = torch.cat([grad_recalled[:, : 2 * size], grad_after * of_new], dim=1)
        return grad_inputs, grad, grad_recalled.t() @ before, grad_recalled.sum(0), None
