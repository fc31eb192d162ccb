"""Numbers as distributions over fixed values."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amal.ops.two_hot import two_hot

VALUES = torch.tensor([-1.0, -0.5, 0.0, 0.1])


def test_neighbours_share() -> None:
    shares = two_hot(torch.tensor([[-0.6, 0.0], [0.025, 7.0]]), VALUES)
    expected = [[[0.2, 0.8, 0, 0], [0, 0, 1, 0]], [[0, 0, 0.75, 0.25], [0, 0, 0, 1]]]
    torch.testing.assert_close(shares, torch.tensor(expected))


@given(x=st.floats(-1.0, 0.09375, width=32))
def test_the_mean_is_the_number(x: float) -> None:
    shares = two_hot(torch.tensor(x), VALUES)
    assert (shares >= 0).all() and shares.sum() == pytest.approx(1.0) and (shares > 0).sum() <= 2
    assert shares @ VALUES == pytest.approx(x, abs=1e-6)
