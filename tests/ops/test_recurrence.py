import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from amal.ops.recurrence import gated_recurrence

SIZE = 5


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6), seed=st.integers(0, 100))
def test_each_sequence_has_the_states_and_gradients_of_torchs_cell(lengths: list[int], seed: int) -> None:
    """Whatever their lengths, side by side is one after the other."""
    torch.manual_seed(seed)
    lengths = sorted(lengths, reverse=True)
    running = [sum(t < length for length in lengths) for t in range(lengths[0])]
    cell = nn.GRUCell(SIZE, SIZE, dtype=torch.float64)
    inputs = torch.randn(sum(running), SIZE, dtype=torch.float64, requires_grad=True)
    start = torch.randn(len(lengths), SIZE, dtype=torch.float64, requires_grad=True)
    leaves = [inputs, start, *cell.parameters()]

    together = gated_recurrence(
        nn.functional.linear(inputs, cell.weight_ih, cell.bias_ih), start, cell.weight_hh, cell.bias_hh, running
    )
    first_row = [sum(running[:t]) for t in range(len(running))]
    apart = torch.empty_like(together)
    for i, length in enumerate(lengths):
        hidden = start[i]
        for t in range(length):
            hidden = cell(inputs[first_row[t] + i], hidden)
            apart[first_row[t] + i] = hidden

    torch.testing.assert_close(together, apart)
    weights = torch.randn_like(together)
    handed_over = weights.clone()
    for ours, theirs in zip(
        torch.autograd.grad(together, leaves, handed_over),
        torch.autograd.grad((apart * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
    assert torch.equal(handed_over, weights)  # others may use the same gradient


def test_one_step_by_hand() -> None:
    """H = 1, h = 0.5, x = (1, -1, 0.2), W = (2, 0, 1), b = (0, 0, 0.3)."""
    inputs, weight = torch.tensor([[1.0, -1.0, 0.2]]), torch.tensor([[2.0], [0.0], [1.0]])
    after = gated_recurrence(inputs, torch.tensor([[0.5]]), weight, torch.tensor([0.0, 0.0, 0.3]), [1])
    reset, update = 1 / (1 + math.exp(-2.0)), 1 / (1 + math.exp(1.0))
    new = math.tanh(0.2 + reset * (0.5 + 0.3))
    assert after.item() == pytest.approx((1 - update) * new + update * 0.5)


def test_under_autocast_states_are_precise_and_gradients_nearly_so() -> None:
    torch.manual_seed(0)
    running = [9, 7, 7, 2]
    inputs, start = torch.randn(25, 3 * SIZE).bfloat16(), torch.randn(9, SIZE)
    leaves = [torch.randn(3 * SIZE, SIZE, requires_grad=True), torch.randn(3 * SIZE, requires_grad=True)]

    precise = gated_recurrence(inputs.float(), start, *leaves, running)
    expected = torch.autograd.grad(precise.square().sum(), leaves)
    with torch.autocast("cpu", torch.bfloat16):
        states = gated_recurrence(inputs, start, *leaves, running)
        found = torch.autograd.grad(states.square().sum(), leaves)

    assert torch.equal(states, precise)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.05 * theirs.abs().max().item(), rtol=0.0)


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_nothing(threads: int) -> None:
    torch.manual_seed(0)
    running = [400, 300, 200]
    leaves = [torch.randn(900, 384), torch.randn(400, 128), torch.randn(384, 128) / 11, torch.randn(384)]
    for leaf in leaves:
        leaf.requires_grad_()
    before, results = torch.get_num_threads(), []
    try:
        for number in (1, threads):
            torch.set_num_threads(number)
            outputs = gated_recurrence(*leaves, running)
            results.append([outputs, *torch.autograd.grad(outputs.square().sum(), leaves)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, several) for one, several in zip(*results, strict=True))
