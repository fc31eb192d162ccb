import pytest
import torch

from amal.ops.muon import Muon, orthogonalized

SIZES = [(48, 20), (20, 48), (30, 30)]


@pytest.mark.parametrize("size", SIZES)
def test_directions_stay_and_lengths_become_equal(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, rest, vh = torch.linalg.svd(torch.randn(size), full_matrices=False)
    lengths = torch.linspace(1.0, 30.0, len(rest))
    turned = u.t() @ orthogonalized(u @ lengths.diag() @ vh) @ vh.t()
    assert (turned - turned.diag().diag()).abs().max() < 1e-4
    assert turned.diag().min() > 0.6 and turned.diag().max() < 1.25


def test_one_iteration_after_the_other_by_hand() -> None:
    """Of 3 e₁ e₁' only one number is not 0: x ← a x + b x³ + c x⁵ from 1."""
    x = 1.0
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    turned = orthogonalized(torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    assert turned[0, 0] == pytest.approx(x, rel=1e-5) and turned.flatten()[1:].abs().max() == 0


def test_of_nothing_it_makes_nothing() -> None:
    assert orthogonalized(torch.zeros(3, 2)).abs().max() == 0


@pytest.mark.parametrize("size", SIZES)
def test_steps_are_torchs_but_for_rounding(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    ours, theirs = (torch.nn.Parameter(torch.ones(size)) for _ in range(2))
    optimizers = [Muon([ours], 0.03), torch.optim.Muon([theirs], 0.03, adjust_lr_fn="match_rms_adamw")]
    for _ in range(4):
        ours.grad = torch.randn(size)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    step = 0.03 * 0.2 * max(size) ** 0.5
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.05 * step)
    assert (ours - 1).abs().max() > 0.2 * step
    assert ours.grad is not None and theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad), "gradients are left alone"


def test_the_number_of_threads_changes_nothing() -> None:
    before, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            torch.manual_seed(0)
            weight = torch.nn.Parameter(torch.randn(300, 500))
            weight.grad = torch.randn(300, 500)
            Muon([weight], 0.1).step()
            results.append(weight.detach())
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])
