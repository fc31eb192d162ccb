import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from amal.ops.layer_norm import layer_norm


@given(
    shape=st.lists(st.integers(1, 4), max_size=3),
    size=st.integers(1, 9),
    wanted=st.lists(st.booleans(), min_size=3, max_size=3).filter(any),
    seed=st.integers(0, 100),
)
def test_values_and_gradients_are_those_of_torch(shape: list[int], size: int, wanted: list[bool], seed: int) -> None:
    """Of any leading dimensions, whichever of input, gain and bias want a gradient."""
    torch.manual_seed(seed)
    leaves = [torch.randn(*sizes, size, dtype=torch.float64) for sizes in (shape, (), ())]
    for leaf, wants in zip(leaves, wanted, strict=True):
        leaf.requires_grad_(wants)
    learning = [leaf for leaf in leaves if leaf.requires_grad]
    x, gain, bias = leaves
    ours, theirs = layer_norm(x, gain, bias), F.layer_norm(x, (size,), gain, bias)
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn_like(ours)
    gradients = torch.autograd.grad(ours, learning, direction), torch.autograd.grad(theirs, learning, direction)
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        assert torch.equal(layer_norm(x, gain, bias), ours)


def test_one_row_by_hand() -> None:
    """(1, 3, 5, 7): μ = 4, σ² = 5."""
    x, gain, bias = (torch.tensor(row) for row in ([1.0, 3.0, 5.0, 7.0], [1.0, 2.0, 0.0, -1.0], [0.0, 1.0, 2.0, 3.0]))
    root = 5**0.5
    expected = torch.tensor([-3 / root, 1 - 2 / root, 2.0, 3 - 3 / root])
    torch.testing.assert_close(layer_norm(x, gain, bias), expected, rtol=1e-5, atol=1e-5)


def test_input_of_lower_precision_is_normalised_in_that_of_the_gain() -> None:
    x, gain, bias = torch.randn(6, 8).bfloat16().requires_grad_(), torch.rand(8), torch.rand(8)
    normalized = layer_norm(x, gain, bias)
    torch.testing.assert_close(normalized, F.layer_norm(x.float(), (8,), gain, bias))
    normalized.square().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16 and x.grad.any()


@pytest.mark.parametrize("size", [80, 256])
def test_the_number_of_threads_changes_nothing(size: int) -> None:
    leaves = [torch.randn(2000, size), torch.randn(size), torch.randn(size)]
    for leaf in leaves:
        leaf.requires_grad_()
    direction = torch.randn(2000, size)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            normalized = layer_norm(*leaves)
            results.append([normalized, *torch.autograd.grad(normalized, leaves, direction)])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, several) for one, several in zip(results[0], other, strict=True))
