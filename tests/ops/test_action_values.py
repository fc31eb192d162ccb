"""Exploration and double Q-learning against numbers worked out by hand."""

import pytest
import torch

from amal.ops.action_values import annealed_epsilon, double_q_values, epsilon_greedy


@pytest.mark.parametrize(
    ("progress", "share", "epsilon"),
    [(0.0, 0.2, 1.0), (0.05, 0.2, 0.775), (0.1, 0.2, 0.55), (0.2, 0.2, 0.1), (0.9, 0.2, 0.1), (0.0, 0.0, 0.1)],
)
def test_epsilon_falls_over_the_first_part_of_the_budget(progress: float, share: float, epsilon: float) -> None:
    assert annealed_epsilon(progress, 1.0, 0.1, share) == pytest.approx(epsilon)


def test_the_other_network_judges_the_best_available_action() -> None:
    values = torch.tensor([[1.0, 9.0, 3.0], [-5.0, -4.0, -3.0]])
    target = torch.tensor([[10.0, 90.0, 30.0], [-50.0, -40.0, -30.0]])
    available = torch.tensor([[True, False, True], [True, True, False]])
    # of 1 and 3 the third action, of −5 and −4 the second; what is not available is neither best nor judged
    assert double_q_values(values, target, available).tolist() == [30.0, -40.0]


def test_without_exploration_the_best_available_action_is_taken() -> None:
    values = torch.tensor([[1.0, 9.0, 3.0], [-5.0, -4.0, -3.0]])
    available = torch.tensor([[True, False, True], [True, True, False]])
    assert epsilon_greedy(values, available, 0.0, torch.Generator().manual_seed(0)).tolist() == [2, 1]


def test_exploration_takes_available_actions_alike_in_its_share() -> None:
    n = 40_000
    values, available = torch.tensor([[0.0, 9.0, 5.0, 1.0]]), torch.tensor([[True, False, True, True]])
    actions = epsilon_greedy(values.expand(n, 4), available.expand(n, 4), 0.6, torch.Generator().manual_seed(0))
    shares = actions.bincount(minlength=4) / n
    # 0.6 of them are a third each, the rest the best one
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.0, 0.6, 0.2]), atol=0.01, rtol=0)


def test_exploration_follows_from_the_generator_alone() -> None:
    values, available = torch.zeros(200, 4), torch.ones(200, 4, dtype=torch.bool)
    once, again = (epsilon_greedy(values, available, 0.5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(once, again)
