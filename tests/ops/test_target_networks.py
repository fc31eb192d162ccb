import pytest
import torch
from torch import nn

from amal.ops.target_networks import soft_update


def layer(weight: list[float], bias: float) -> nn.Linear:
    made = nn.Linear(2, 1)
    with torch.no_grad():
        made.weight.copy_(torch.tensor([weight]))
        made.bias.fill_(bias)
    return made


@pytest.mark.parametrize(
    ("tau", "weight", "bias"), [(0.25, [1.5, -2.5], 3.0), (0.5, [2.0, -1.0], 2.0), (1.0, [3.0, 2.0], 0.0)]
)
def test_a_soft_update_by_hand(tau: float, weight: list[float], bias: float) -> None:
    target, online = layer([1.0, -4.0], 4.0), layer([3.0, 2.0], 0.0)
    soft_update(target, online, tau)
    assert target.weight.tolist() == [weight] and target.bias.tolist() == [bias]
    assert online.weight.tolist() == [[3.0, 2.0]] and online.bias.tolist() == [0.0], "only the target moves"


def test_a_hard_update_copies_bit_for_bit() -> None:
    torch.manual_seed(0)
    target, online = nn.Linear(40, 40), nn.Linear(40, 40)
    soft_update(target, online, 1.0)
    assert torch.equal(target.weight, online.weight) and torch.equal(target.bias, online.bias)


def test_networks_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        soft_update(nn.Linear(2, 1), nn.Linear(2, 1, bias=False), 0.5)
