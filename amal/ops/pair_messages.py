"""What units hear from each other: messages of all pairs, summed and their largest, without an array of all pairs.

Letters: M battles, U units, P features of a pair, D width.
"""

from __future__ import annotations

from typing import Any

import numba
import torch
import torch.nn.functional as F
from torch import Tensor

from amal.battle.compilation import kernel


def pair_messages(
    receivers: Tensor, senders: Tensor, pairs: Tensor, weight: Tensor, lives: Tensor
) -> tuple[Tensor, Tensor]:
    """Messages m_ij = relu(r_i + s_j + W p_ij) that living units get: their sum over living j, and their maximum.

    On the CPU one kernel for all of it, and one for the gradients: an array of all pairs would go through memory some
    twenty times. A kernel has one thread; members of a world model learn side by side.

    Args:
        receivers: [M, U, D], r.
        senders: [M, U, D], s.
        pairs: [M, U, U, P], p, receiver first; gets no gradient.
        weight: [D, P], W.
        lives: [M, U] bool, who speaks and hears.

    Returns:
        Σ_j m_ij and max_j m_ij, [M, U, D] each; 0 of the dead.
    """
    if receivers.device.type != "cpu" or receivers.dtype != torch.float32:
        return messages_of_all_pairs(receivers, senders, pairs, weight, lives)
    summed, largest = _PairMessages.apply(receivers, senders, pairs, weight, lives)
    return summed, largest


def messages_of_all_pairs(
    receivers: Tensor, senders: Tensor, pairs: Tensor, weight: Tensor, lives: Tensor
) -> tuple[Tensor, Tensor]:
    """``pair_messages`` in torch's own operations, for other devices."""
    messages = F.relu(receivers.unsqueeze(2) + senders.unsqueeze(1) + F.linear(pairs, weight))
    messages = messages * (lives.unsqueeze(2) & lives.unsqueeze(1)).unsqueeze(-1)
    return messages.sum(dim=2), messages.amax(dim=2)


class _PairMessages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, receivers: Tensor, senders: Tensor, pairs: Tensor, weight: Tensor, lives: Tensor) -> Any:
        summed, largest = torch.zeros_like(receivers), torch.zeros_like(receivers)
        loudest = torch.full(receivers.shape, -1, dtype=torch.int32)
        taken = [x.contiguous() for x in (receivers, senders, pairs, weight.t(), lives)]
        message = receivers.new_empty(receivers.shape[-1])
        forward_all(*(x.detach().numpy() for x in (*taken, summed, largest, loudest, message)))
        ctx.save_for_backward(*taken, loudest)
        return summed, largest

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_summed: Tensor, grad_largest: Tensor) -> tuple[Tensor | None, ...]:
        receivers, senders, pairs, weight, lives, loudest = ctx.saved_tensors
        gradients = (torch.zeros_like(receivers), torch.zeros_like(senders), torch.zeros_like(weight))
        given = (receivers, senders, pairs, weight, lives, loudest, grad_summed.contiguous(), grad_largest.contiguous())
        message = receivers.new_empty(receivers.shape[-1])
        backward_all(*(x.detach().numpy() for x in (*given, *gradients, message)))
        return gradients[0], gradients[1], None, gradients[2].t(), None


@kernel
def speak(r, s, p, w, m, i, j, message):  # type: ignore[no-untyped-def]
    """What unit j of battle m says to unit i, before the relu."""
    for d in range(r.shape[2]):
        message[d] = r[m, i, d] + s[m, j, d]
    for k in range(p.shape[3]):
        feature = p[m, i, j, k]
        if feature != 0.0:
            for d in range(r.shape[2]):
                message[d] += feature * w[k, d]


@kernel
def hear(r, s, p, w, lives, summed, largest, loudest, m, i, message):  # type: ignore[no-untyped-def]
    """All that unit i of battle m hears."""
    width = r.shape[2]
    for j in range(r.shape[1]):
        if not lives[m, j]:
            continue
        speak(r, s, p, w, m, i, j, message)
        for d in range(width):
            summed[m, i, d] += max(message[d], numba.float32(0.0))
            louder = message[d] > largest[m, i, d]
            largest[m, i, d] = message[d] if louder else largest[m, i, d]
            loudest[m, i, d] = j if louder else loudest[m, i, d]


@kernel(inline=False)
def forward_all(r, s, p, w, lives, summed, largest, loudest, message):  # type: ignore[no-untyped-def]
    """Everything that is heard in all battles."""
    for m in range(len(r)):
        for i in range(r.shape[1]):
            if lives[m, i]:
                hear(r, s, p, w, lives, summed, largest, loudest, m, i, message)


@kernel
def learn_to_hear(r, s, p, w, lives, loudest, grad_summed, grad_largest, grad_r, grad_s, grad_w, m, i, message):  # type: ignore[no-untyped-def]
    """Adds the gradients of all that unit i of battle m heard."""
    width = r.shape[2]
    for j in range(r.shape[1]):
        if not lives[m, j]:
            continue
        speak(r, s, p, w, m, i, j, message)
        for d in range(width):
            grad = grad_summed[m, i, d] + (grad_largest[m, i, d] if loudest[m, i, d] == j else numba.float32(0.0))
            message[d] = grad if message[d] > 0.0 else numba.float32(0.0)
            grad_r[m, i, d] += message[d]
            grad_s[m, j, d] += message[d]
        for k in range(p.shape[3]):
            feature = p[m, i, j, k]
            if feature != 0.0:
                for d in range(width):
                    grad_w[k, d] += feature * message[d]


@kernel(inline=False)
def backward_all(r, s, p, w, lives, loudest, grad_summed, grad_largest, grad_r, grad_s, grad_w, message):  # type: ignore[no-untyped-def]
    """The gradients of all battles."""
    for m in range(len(r)):
        for i in range(r.shape[1]):
            if lives[m, i]:
                learn_to_hear(
                    r, s, p, w, lives, loudest, grad_summed, grad_largest, grad_r, grad_s, grad_w, m, i, message
                )
