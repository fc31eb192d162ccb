"""What mixers make of the agents' values."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amal.networks.mixers import Mixer, QMIXMixer, VDNMixer
from amal.networks.shape_checks import check_mixer

MIXERS = [VDNMixer, QMIXMixer, partial(QMIXMixer, embedding_size=3, hypernet_size=5)]
IDS = ["vdn", "qmix", "small qmix"]


@pytest.mark.parametrize("mixer", MIXERS, ids=IDS)
@given(seed=st.integers(0, 10_000), n_agents=st.integers(1, 6), scale=st.floats(0.01, 30.0))
@settings(max_examples=40, deadline=None)
def test_the_team_is_never_worth_less_when_an_agent_is_worth_more(
    mixer: type[Mixer], seed: int, n_agents: int, scale: float
) -> None:
    """Whatever the weights and the state: so every agent's best action is its part in the best joint action."""
    torch.manual_seed(seed)
    network = mixer(7, n_agents).double()
    for parameter in network.parameters():
        parameter.data = scale * torch.randn_like(parameter)
    values = (scale * torch.randn(20, n_agents, dtype=torch.double)).requires_grad_()
    network(values, scale * torch.randn(20, 7, dtype=torch.double)).sum().backward()
    assert values.grad is not None and (values.grad >= 0).all()


@pytest.mark.parametrize("mixer", MIXERS, ids=IDS)
def test_leading_dimensions_are_kept_and_steps_are_apart(mixer: type[Mixer]) -> None:
    network = mixer(7, 3)
    values, state = torch.randn(4, 5, 3), torch.randn(4, 5, 7)
    mixed = network(values, state)
    assert mixed.shape == (4, 5)
    torch.testing.assert_close(mixed[2, 3], network(values[2, 3], state[2, 3]))


def test_vdn_adds_up() -> None:
    assert VDNMixer(2, 3)(torch.tensor([[1.0, -2.0, 4.0]]), torch.zeros(1, 2)).tolist() == [3.0]


def test_qmix_is_its_equation() -> None:
    """By hand: two agents, a state of one number, one mixing unit, hypernetworks of one unit."""
    network = QMIXMixer(1, 2, embedding_size=1, hypernet_size=1)
    with torch.no_grad():
        network.of_state.weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [0.5]]))  # of W_1, w_2, V and b_1
        network.of_state.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.25]))
        network.first.weight.copy_(torch.tensor([[-1.0], [0.5]]))
        network.second.weight.fill_(-2.0)
        network.value.weight.fill_(10.0)
        for layer in (network.first, network.second, network.value):
            layer.bias.zero_()
    # s = 2: |W_1| = (2, 1), b_1 = 1.25, |w_2| = 8, V = 60
    state = torch.tensor([[2.0], [2.0]])
    values = torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    # 2 · 1 − 1 + 1.25 = 2.25 > 0; −2 − 1 + 1.25 = −1.75 < 0
    expected = torch.tensor([8 * 2.25 + 60, 8 * (math.exp(-1.75) - 1) + 60])
    torch.testing.assert_close(network(values, state), expected)


def test_the_state_decides_how_qmix_weighs_the_agents() -> None:
    torch.manual_seed(0)
    network, values = QMIXMixer(7, 3), torch.randn(1, 3)
    mixed = network(values.expand(2, 3), torch.stack([torch.ones(7), -torch.ones(7)]))
    assert mixed[0] != mixed[1]


def test_a_mixer_of_another_shape_is_refused() -> None:
    class PerAgent(VDNMixer):
        def forward(self, values: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
            return values

    with pytest.raises(ValueError, match=r"mixer: PerAgent must return values \[...\] = \[4\], got \[4, 3\]"):
        check_mixer(PerAgent(7, 3), 7, 3)


@pytest.mark.parametrize("argument", ["embedding_size", "hypernet_size"])
def test_sizes_are_checked(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be at least 1, got 0"):
        QMIXMixer(7, 3, **{argument: 0})
