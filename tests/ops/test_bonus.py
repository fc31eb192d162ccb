import pytest
import torch

from amal.ops.bonus import capped_bonus, decayed, standardized_bonus
from amal.ops.losses import masked_moments

MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_lambda_falls_to_zero_over_its_share_of_the_budget() -> None:
    assert [decayed(0.3, progress, decay=0.5) for progress in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.3, 0.15, 0, 0])
    assert decayed(0.3, progress=0.9, decay=0.0) == 0.3


def test_a_standardized_bonus_is_centred_and_divided_by_its_spread_but_not_by_less_than_the_floor() -> None:
    information = torch.tensor([[1.0, 3.0, 5.0], [7.0, float("nan"), 99.0]])
    # mean 4, variance (9 + 1 + 1 + 9) / 4 = 5
    expected = torch.tensor([[-3.0, -1.0, 1.0], [3.0, 0.0, 0.0]])
    moments = masked_moments(information, MASK)
    torch.testing.assert_close(standardized_bonus(information, MASK, moments, std_floor=0.1), expected / 5**0.5)
    torch.testing.assert_close(standardized_bonus(information, MASK, moments, std_floor=10.0), expected / 10)


def test_an_episodes_bonuses_add_up_to_a_share_of_the_mean_return_at_most() -> None:
    bonus = torch.tensor([[2.0, -1.0, 1.0], [0.5, 0.0, 0.0]])
    capped = capped_bonus(bonus, torch.tensor(10.0), cap=0.1)
    torch.testing.assert_close(capped, torch.tensor([[0.5, -0.25, 0.25], [0.5, 0.0, 0.0]]))
    assert not capped_bonus(bonus, torch.tensor(0.0), cap=0.1).any()
