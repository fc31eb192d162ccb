import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amal.ops.losses import (
    approx_kl,
    categorical_entropy,
    chosen_log_probs,
    clip_fraction,
    clipped_surrogate,
    clipped_value_loss,
    effective_sample_share,
    entropy_shortfall,
    masked_log_softmax,
    masked_mean,
    masked_moments,
    mean,
    sample_categorical,
    standardize,
    total,
    truncated_importance,
)


@pytest.mark.parametrize("n", [1, 2**14, 2**14 + 1, 40_000])
def test_of_many_numbers_none_is_left_out(n: int) -> None:
    """More than are added up on one thread are so in parts."""
    x = torch.arange(1, n + 1, dtype=torch.float64)
    assert total(x) == n * (n + 1) / 2
    assert mean(x.view(-1, 1)) == (n + 1) / 2
    assert total(x.expand(2, n)) == n * (n + 1)
    assert mean(x[:0]) == 0


def test_masked_mean_ignores_what_is_outside_the_mask() -> None:
    x = torch.tensor([1.0, float("nan"), 3.0], requires_grad=True)
    mean = masked_mean(x, torch.tensor([True, False, True]))
    mean.backward()
    assert mean == 2.0
    assert torch.equal(x.grad, torch.tensor([0.5, 0.0, 0.5]))
    assert masked_mean(x, torch.zeros(3, dtype=torch.bool)) == 0.0
    assert masked_mean(x, torch.tensor([False, False, True])) == 3.0


def test_standardize_over_the_mask() -> None:
    x = torch.tensor([1.0, 5.0, 1e6, 3.0])
    mask = torch.tensor([True, True, False, True])
    # mean 3, std √(8/3)
    expected = torch.tensor([-2.0, 2.0, 0.0, 0.0]) / math.sqrt(8 / 3)
    torch.testing.assert_close(standardize(x, mask, masked_moments(x, mask)), expected)
    ones = torch.ones(4)
    assert torch.equal(standardize(ones, mask, masked_moments(ones, mask)), torch.zeros(4))
    # mean 1, variance 4, of entries elsewhere too
    moments = (torch.tensor(1.0), torch.tensor(4.0), torch.tensor(9))
    torch.testing.assert_close(standardize(x, mask, moments), torch.tensor([0.0, 2.0, 0.0, 1.0]))


@given(
    logits=st.lists(st.floats(-1e4, 1e4, width=32), min_size=6, max_size=6),
    available=st.lists(st.booleans(), min_size=6, max_size=6),
    seed=st.integers(0, 2**31),
)
def test_masked_policy_is_a_distribution_over_the_available_actions(
    logits: list[float], available: list[bool], seed: int
) -> None:
    scores = torch.tensor(logits, requires_grad=True)
    mask = torch.tensor(available)
    log_probs = masked_log_softmax(scores, mask)
    torch.testing.assert_close(log_probs.exp().sum(), torch.tensor(1.0))
    entropy = categorical_entropy(log_probs)
    assert -1e-5 <= float(entropy.detach()) <= math.log(max(sum(available), 1) if any(available) else 6) + 1e-5
    (entropy + log_probs[mask].sum()).backward()
    assert torch.isfinite(scores.grad).all()
    assert (scores.grad[~mask] == 0).all()
    if any(available):
        assert (log_probs.exp()[~mask] == 0).all()
        actions = sample_categorical(log_probs.detach().expand(50, 6), torch.Generator().manual_seed(seed))
        assert mask[actions].all()


def test_dead_agents_policy_is_the_no_op_with_certainty() -> None:
    logits = torch.randn(3, 5, requires_grad=True)
    only_no_op = torch.zeros(3, 5, dtype=torch.bool)
    only_no_op[:, 0] = True
    log_probs = masked_log_softmax(logits, only_no_op)
    assert (log_probs[:, 0] == 0).all()
    (categorical_entropy(log_probs) + log_probs[:, 0]).sum().backward()
    assert (logits.grad == 0).all()


def test_samples_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0])
    n_samples = 40_000
    rows = probabilities.log().clamp_min(-1e30).expand(n_samples, 5)
    counts = sample_categorical(rows, torch.Generator().manual_seed(1)).bincount(minlength=5)
    assert counts[1] == counts[4] == 0
    sigma = (probabilities * (1 - probabilities) * n_samples).sqrt()
    assert ((counts - n_samples * probabilities).abs() <= 4 * sigma).all()


@pytest.mark.parametrize("u", [0.0, 1.0 - 2.0**-24])
def test_the_ends_of_the_unit_interval_pick_available_actions(u: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, u))
    available = torch.tensor([False, True, True, True, False]).expand(200, 5)
    log_probs = masked_log_softmax(torch.randn(200, 5), available)
    expected = 1 if u == 0.0 else 3
    assert (sample_categorical(log_probs, torch.Generator()) == expected).all()


def test_chosen_actions_and_entropies_are_each_rows_own() -> None:
    logits, available = torch.randn(2, 3, 4), torch.ones(2, 3, 4, dtype=torch.bool)
    actions = torch.tensor([[0, 1, 3], [2, 2, 0]])
    rows = logits.log_softmax(dim=-1)
    expected = torch.tensor([[float(rows[b, n, actions[b, n]]) for n in range(3)] for b in range(2)])
    torch.testing.assert_close(chosen_log_probs(logits, available, actions), expected)
    torch.testing.assert_close(categorical_entropy(rows), -(rows.exp() * rows).sum(dim=-1))


def test_equal_generators_draw_equal_actions() -> None:
    rows = torch.zeros(200, 5).log_softmax(dim=-1)
    first, again, other = (sample_categorical(rows, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_entropy_of_a_uniform_policy() -> None:
    available = torch.tensor([True, False, True, True])
    entropy = categorical_entropy(masked_log_softmax(torch.full((4,), 2.0), available))
    torch.testing.assert_close(entropy, torch.tensor(math.log(3)))


@pytest.mark.parametrize(("entropy", "loss", "weight"), [(0.1, 0.02, 0.2), (0.3, 0.0, 0.0), (0.9, 0.0, 0.0)])
def test_entropy_below_the_floor_costs_more_the_more_lacks(entropy: float, loss: float, weight: float) -> None:
    h = torch.tensor(entropy, requires_grad=True)
    found = entropy_shortfall(h, 0.3)
    (slope,) = torch.autograd.grad(found, h)
    torch.testing.assert_close(torch.stack([found.detach(), -slope]), torch.tensor([loss, weight]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective"),
    [(1.5, 1.0, 1.2), (0.5, 1.0, 0.5), (1.5, -1.0, -1.5), (0.5, -1.0, -0.8), (1.1, 2.0, 2.2)],
)
def test_clipped_surrogate(ratio: float, advantage: float, objective: float) -> None:
    value = clipped_surrogate(torch.tensor(ratio).log(), torch.tensor(advantage), clip_param=0.2)
    torch.testing.assert_close(value, torch.tensor(objective))


@pytest.mark.parametrize(
    ("value", "old", "target", "loss"),
    [
        (1.1, 1.0, 2.0, 0.405),  # inside the clip range: .9²/2
        (1.9, 1.0, 2.0, 0.32),  # moved too far towards the target: the clipped 1.2 counts, .8²/2
        (0.0, 1.0, 2.0, 2.0),  # moved away: the value itself counts
    ],
)
def test_clipped_value_loss(value: float, old: float, target: float, loss: float) -> None:
    result = clipped_value_loss(torch.tensor(value), torch.tensor(old), torch.tensor(target), value_clip=0.2)
    torch.testing.assert_close(result, torch.tensor(loss))


def test_values_beyond_the_clip_range_get_no_gradient() -> None:
    value = torch.tensor(1.9, requires_grad=True)
    clipped_value_loss(value, torch.tensor(1.0), torch.tensor(2.0), value_clip=0.2).backward()
    assert value.grad == 0


def test_huber_value_loss_is_linear_beyond_delta() -> None:
    errors = torch.tensor([0.5, 3.0])
    zero = torch.zeros(2)
    loss = clipped_value_loss(errors, errors, zero, value_clip=0.2, value_loss="huber", huber_delta=2.0)
    torch.testing.assert_close(loss, torch.tensor([0.125, 4.0]))


def test_approx_kl_estimates_the_kl_divergence() -> None:
    old = torch.tensor([0.7, 0.2, 0.1])
    new = torch.tensor([0.5, 0.2, 0.3])
    log_ratio = (new / old).log()
    expected = (old * (old / new).log()).sum()
    torch.testing.assert_close((old * approx_kl(log_ratio)).sum(), expected)
    assert (approx_kl(torch.linspace(-3, 3, 51)) >= 0).all()


def test_clip_fraction() -> None:
    ratios = torch.tensor([0.79, 0.81, 1.0, 1.19, 1.21])
    assert clip_fraction(ratios.log(), 0.2).tolist() == [1, 0, 0, 0, 1]
    at_the_edge = clip_fraction(torch.zeros(1), 0.0)
    assert at_the_edge.tolist() == [0] and at_the_edge.dtype == torch.float32


def test_importance_weights_are_truncated_above_only() -> None:
    log_ratio = torch.tensor([0.5, 1.0, 3.0, 1e30]).log()
    torch.testing.assert_close(truncated_importance(log_ratio, cap=1.0), torch.tensor([0.5, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(truncated_importance(log_ratio, cap=2.0), torch.tensor([0.5, 1.0, 2.0, 2.0]))


def test_effective_sample_share_by_hand() -> None:
    ratios, mask = torch.tensor([3.0, 1.0, 50.0]), torch.tensor([True, True, False])
    torch.testing.assert_close(effective_sample_share(ratios.log(), mask), torch.tensor(16 / (2 * 10)))
    torch.testing.assert_close(effective_sample_share(ratios.log() + 500.0, mask), torch.tensor(0.8))
    torch.testing.assert_close(effective_sample_share(torch.zeros(3), mask), torch.tensor(1.0))
    assert effective_sample_share(torch.zeros(3), torch.zeros(3, dtype=torch.bool)) == 0
