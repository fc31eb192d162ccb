"""Layers by oneDNN against torch's own, their gradients and their independence of the number of threads."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from amal.networks import layers
from amal.networks.layers import AgentMLP
from amal.ops.dense import SERIAL_ROWS, can_multiply, dense, padded_size, product

M, N, ACTIONS = 70, 5, 11
STATE, OBS = (M, 1, 30), (M, N, 17)


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
def test_a_layer_and_its_gradients(relu: bool) -> None:
    x, weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((96, 13), (7, 13), (7,)))
    expected = F.linear(x, weight, bias)
    expected = F.relu(expected) if relu else expected
    found = dense(x, weight, bias, relu)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    gradients = torch.autograd.grad(found, (x, weight, bias), direction)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (x, weight, bias), direction))


@pytest.mark.parametrize(
    ("shapes", "at_rows"),
    [([OBS], True), ([OBS], False), ([STATE], False), ([STATE, OBS], False)],
    ids=["policy", "ippo", "mappo", "joint"],
)
@pytest.mark.parametrize("norms", [False, True], ids=["plain", "normed"])
def test_a_network_of_many_rows_is_what_it_is_in_torchs_own_operations(
    shapes: list[tuple[int, ...]], at_rows: bool, norms: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [torch.randn(*shape) for shape in shapes]
    rows = torch.randperm(M * N)[:300] if at_rows else None
    network = AgentMLP(sum(shape[-1] for shape in shapes), N, (24, 16), ACTIONS, 1.0, norms, norms)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    used = []
    monkeypatch.setattr(layers, "dense", lambda *arguments, **options: used.append(1) or dense(*arguments, **options))
    found = outputs_and_gradients(network, parts, rows)
    assert len(used) >= len(network.middle) + 2
    monkeypatch.delattr(layers, "dense")
    monkeypatch.setattr(layers, "MANY_ROWS", M * N + 1)
    expected = outputs_and_gradients(network, parts, rows)
    assert found[0].shape == ((300, ACTIONS) if at_rows else (M, N, ACTIONS))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one / other.abs().max(), other / other.abs().max(), rtol=0, atol=1e-5)


def outputs_and_gradients(network: AgentMLP, parts: list[Tensor], rows: Tensor | None) -> list[Tensor]:
    outputs = network(*parts, rows=rows)
    direction = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
    return [outputs.detach(), *torch.autograd.grad(outputs, list(network.parameters()), direction)]


@pytest.mark.parametrize("outputs", [1, 16])
@pytest.mark.parametrize("rows", [SERIAL_ROWS // 2, 5 * SERIAL_ROWS + 3])
@pytest.mark.parametrize("rows_first", [True, False])
def test_a_sum_over_many_rows_does_not_depend_on_the_threads(outputs: int, rows: int, rows_first: bool) -> None:
    """oneDNN itself would share out some of them."""
    a, b = torch.randn(outputs, rows), torch.randn(64, rows)
    b = b.t().contiguous().t() if rows_first else b
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3, 8):
            torch.set_num_threads(number)
            found.append(product(a, b))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])
    torch.testing.assert_close(found[0], (a.double() @ b.double().t()).float(), rtol=1e-4, atol=1e-2)


def test_padding_costs_little_and_leaves_few_sizes() -> None:
    padded = [padded_size(n) for n in range(512, 8192)]
    assert all(n <= size <= n * 33 / 32 for n, size in zip(range(512, 8192), padded, strict=True))
    assert len(set(padded)) <= 4 * 33


@pytest.mark.parametrize("change", [Tensor.double, Tensor.bfloat16, lambda x: x.to("meta")])
def test_other_precisions_and_devices_are_torchs(change: Callable[[Tensor], Tensor]) -> None:
    assert can_multiply(torch.zeros(1))
    assert not can_multiply(torch.zeros(1), change(torch.zeros(1)))


def test_autocast_and_vmap_are_torchs() -> None:
    network, obs = AgentMLP(17, N, (24, 16), ACTIONS, 1.0), torch.randn(3, *OBS)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(obs[0]).dtype == torch.bfloat16
    torch.testing.assert_close(torch.func.vmap(network)(obs), network(obs))
