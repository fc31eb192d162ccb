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

PAIR_FEATURES = 9  # P; kernels that know it in advance add features up in registers


def pair_messages(spoken: Tensor, pairs: Tensor, weight: Tensor, lives: Tensor) -> tuple[Tensor, Tensor]:
    """Messages m_ij = relu(r_i + s_j + W p_ij) that living units get: their sum over living j, and their maximum.

    On the CPU one kernel for all of it, and one for the gradients: an array of all pairs would go through memory some
    twenty times. A kernel has one thread; members of a world model learn side by side.

    Args:
        spoken: [M, U, 2D], r ⊕ s.
        pairs: [M, U, U, P], p, receiver first; gets no gradient. P is ``PAIR_FEATURES``.
        weight: [D, P], W.
        lives: [M, U] bool, who speaks and hears.

    Returns:
        Σ_j m_ij and max_j m_ij, [M, U, D] each; 0 of the dead.
    """
    if spoken.device.type != "cpu" or spoken.dtype != torch.float32:
        return messages_of_all_pairs(spoken, pairs, weight, lives)
    summed, largest = _PairMessages.apply(spoken, pairs, weight, lives)
    return summed, largest


def messages_of_all_pairs(spoken: Tensor, pairs: Tensor, weight: Tensor, lives: Tensor) -> tuple[Tensor, Tensor]:
    """``pair_messages`` in torch's own operations, for other devices."""
    receivers, senders = spoken.chunk(2, dim=-1)
    messages = F.relu(receivers.unsqueeze(2) + senders.unsqueeze(1) + F.linear(pairs, weight))
    messages = messages * (lives.unsqueeze(2) & lives.unsqueeze(1)).unsqueeze(-1)
    return messages.sum(dim=2), messages.amax(dim=2)


class _PairMessages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spoken: Tensor, pairs: Tensor, weight: Tensor, lives: Tensor) -> Any:
        summed, largest = (spoken.new_zeros(*lives.shape, len(weight)) for _ in range(2))
        loudest = torch.full(summed.shape, -1, dtype=torch.int32)
        taken = [x.contiguous() for x in (spoken, pairs, weight.t(), lives)]
        message = spoken.new_empty(len(weight))
        forward_all(*(x.detach().numpy() for x in (*taken, summed, largest, loudest, message)))
        ctx.save_for_backward(*taken, loudest)
        return summed, largest

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_summed: Tensor, grad_largest: Tensor) -> tuple[Tensor | None, ...]:
        spoken, pairs, weight, lives, loudest = ctx.saved_tensors
        grad_spoken, grad_weight = torch.zeros_like(spoken), torch.zeros_like(weight)
        given = (spoken, pairs, weight, lives, loudest, grad_summed.contiguous(), grad_largest.contiguous())
        message = spoken.new_empty(weight.shape[1])
        backward_all(*(x.detach().numpy() for x in (*given, grad_spoken, grad_weight, message)))
        return grad_spoken, None, grad_weight.t(), None


@kernel
def speak(spoken, p, w, m, i, j, message):  # type: ignore[no-untyped-def]
    """What unit j of battle m says to unit i, before the relu."""
    width = w.shape[1]
    for d in range(width):
        told = spoken[m, i, d] + spoken[m, j, width + d]
        for k in range(PAIR_FEATURES):
            told += p[m, i, j, k] * w[k, d]
        message[d] = told


@kernel
def hear(spoken, p, w, lives, summed, largest, loudest, m, i, message):  # type: ignore[no-untyped-def]
    """All that unit i of battle m hears."""
    width = w.shape[1]
    for j in range(spoken.shape[1]):
        if not lives[m, j]:
            continue
        speak(spoken, p, w, m, i, j, message)
        for d in range(width):
            summed[m, i, d] += max(message[d], numba.float32(0.0))
            louder = message[d] > largest[m, i, d]
            largest[m, i, d] = message[d] if louder else largest[m, i, d]
            loudest[m, i, d] = j if louder else loudest[m, i, d]


@kernel(inline=False)
def forward_all(spoken, p, w, lives, summed, largest, loudest, message):  # type: ignore[no-untyped-def]
    """Everything that is heard in all battles."""
    for m in range(len(spoken)):
        for i in range(spoken.shape[1]):
            if lives[m, i]:
                hear(spoken, p, w, lives, summed, largest, loudest, m, i, message)


@kernel
def learn_to_hear(spoken, p, w, lives, loudest, grad_summed, grad_largest, grad_spoken, grad_w, m, i, message):  # type: ignore[no-untyped-def]
    """Adds the gradients of all that unit i of battle m heard."""
    width = w.shape[1]
    for j in range(spoken.shape[1]):
        if not lives[m, j]:
            continue
        speak(spoken, p, w, m, i, j, message)
        for d in range(width):
            grad = grad_summed[m, i, d] + (grad_largest[m, i, d] if loudest[m, i, d] == j else numba.float32(0.0))
            message[d] = grad if message[d] > 0.0 else numba.float32(0.0)
            grad_spoken[m, i, d] += message[d]
        for d in range(width):  # apart: for one array at two places the compiler fears overlaps
            grad_spoken[m, j, width + d] += message[d]
        for k in range(PAIR_FEATURES):
            for d in range(width):
                grad_w[k, d] += p[m, i, j, k] * message[d]


@kernel(inline=False)
def backward_all(spoken, p, w, lives, loudest, grad_summed, grad_largest, grad_spoken, grad_w, message):  # type: ignore[no-untyped-def]
    """The gradients of all battles."""
    for m in range(len(spoken)):
        for i in range(spoken.shape[1]):
            if lives[m, i]:
                learn_to_hear(
                    spoken, p, w, lives, loudest, grad_summed, grad_largest, grad_spoken, grad_w, m, i, message
                )
