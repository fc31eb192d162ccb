import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amal.ops.losses import Moments, masked_moments
from amal.ops.normalization import MIN_VARIANCE, ValueNormalizer


def moments(x: torch.Tensor) -> Moments:
    return masked_moments(x, torch.ones_like(x, dtype=torch.bool))


def test_identity_before_the_first_update() -> None:
    x = torch.randn(5)
    assert torch.equal(ValueNormalizer().normalize(x), x)
    assert torch.equal(ValueNormalizer().denormalize(x), x)


def test_the_first_batch_counts_fully_and_only_where_masked() -> None:
    normalizer = ValueNormalizer()
    x, mask = torch.tensor([[10.0, 14.0], [float("nan"), 12.0]]), torch.tensor([[True, True], [False, True]])
    normalizer.update(masked_moments(x, mask))
    torch.testing.assert_close(normalizer.mean, torch.tensor(12.0))
    torch.testing.assert_close(normalizer.variance, torch.tensor(8 / 3))


def test_running_moments_are_the_debiased_exponential_averages() -> None:
    beta = 0.8
    batches = [torch.randn(20, generator=torch.Generator().manual_seed(i)) * (i + 1) + 3 * i for i in range(6)]
    normalizer = ValueNormalizer(beta)
    for batch in batches:
        normalizer.update(moments(batch))
    weights = torch.tensor([beta ** (5 - i) for i in range(6)])
    weights /= weights.sum()
    first = sum(w * batch.mean() for w, batch in zip(weights, batches, strict=True))
    second = sum(w * batch.square().mean() for w, batch in zip(weights, batches, strict=True))
    torch.testing.assert_close(normalizer.mean, first)
    torch.testing.assert_close(normalizer.variance, second - first**2)


@given(scale=st.floats(0.5, 1e3), shift=st.floats(-1e3, 1e3))
def test_round_trip_and_unit_scale(scale: float, shift: float) -> None:
    x = torch.linspace(-1, 1, 21) * scale + shift
    normalizer = ValueNormalizer()
    normalizer.update(moments(x))
    normalized = normalizer.normalize(x)
    torch.testing.assert_close(normalized.mean(), torch.tensor(0.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(normalized.std(correction=0), torch.tensor(1.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(normalizer.denormalize(normalized), x, rtol=1e-4, atol=1e-3)


def test_a_large_mean_costs_no_precision() -> None:
    x = torch.tensor([-1.0, 1.0]) + 100_000
    normalizer = ValueNormalizer()
    for _ in range(50):
        normalizer.update(moments(x))
    torch.testing.assert_close(normalizer.std, torch.tensor(1.0), rtol=1e-3, atol=0)


def test_constant_returns_do_not_blow_up() -> None:
    x = torch.full((4,), 3.0)
    normalizer = ValueNormalizer()
    normalizer.update(moments(x))
    assert normalizer.std == torch.tensor(MIN_VARIANCE).sqrt()
    assert torch.equal(normalizer.normalize(x), torch.zeros(4))


def test_an_empty_mask_changes_nothing() -> None:
    normalizer = ValueNormalizer()
    normalizer.update(moments(torch.tensor([1.0, 3.0])))
    before = {name: buffer.clone() for name, buffer in normalizer.state_dict().items()}
    normalizer.update(masked_moments(torch.ones(2), torch.zeros(2, dtype=torch.bool)))
    assert before == normalizer.state_dict()


def test_state_survives_a_checkpoint() -> None:
    source, restored = ValueNormalizer(), ValueNormalizer()
    x = torch.randn(10)
    source.update(moments(x))
    restored.load_state_dict(source.state_dict())
    for normalizer in (source, restored):
        normalizer.update(moments(x * 2))
    assert torch.equal(source.normalize(x), restored.normalize(x))


@pytest.mark.parametrize("beta", [-0.1, 1.0])
def test_beta_is_checked(beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\)"):
        ValueNormalizer(beta)
