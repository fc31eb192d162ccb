import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amal.ops.divergence import (
    behavioural_distance,
    behavioural_diversity,
    gaussian_kl,
    jensen_shannon,
    kl_divergence,
    outside_band,
)
from amal.ops.losses import masked_log_softmax

LOG_2 = math.log(2.0)


def log_probs_of(*probabilities: float) -> torch.Tensor:
    """Of unavailable actions, those with probability 0, as a policy gives them."""
    p = torch.tensor(probabilities)
    return masked_log_softmax(p.clamp_min(1e-30).log(), p > 0)


def test_kl_by_hand() -> None:
    p, q = log_probs_of(0.5, 0.5, 0.0), log_probs_of(0.25, 0.75, 0.0)
    # ½ log 2 + ½ log ⅔
    torch.testing.assert_close(kl_divergence(p, q), torch.tensor(0.5 * math.log(2.0) + 0.5 * math.log(2 / 3)))
    # ¼ log ½ + ¾ log 3/2
    torch.testing.assert_close(kl_divergence(q, p), torch.tensor(0.25 * math.log(0.5) + 0.75 * math.log(1.5)))
    assert kl_divergence(p, p) == 0.0


def test_jensen_shannon_by_hand() -> None:
    p, q = log_probs_of(1.0, 0.0, 0.0), log_probs_of(0.5, 0.5, 0.0)
    # m = (¾, ¼): ½ log 4/3 + ½ (½ log ⅔ + ½ log 2)
    expected = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * LOG_2
    torch.testing.assert_close(jensen_shannon(p, q), torch.tensor(expected))
    torch.testing.assert_close(jensen_shannon(p, log_probs_of(0.0, 0.0, 1.0)), torch.tensor(LOG_2))


rows = st.lists(st.floats(-50, 50, width=32), min_size=5, max_size=5)


@given(p=rows, q=rows, p_available=st.integers(1, 31), q_available=st.integers(1, 31))
def test_jensen_shannon_is_a_bounded_symmetric_divergence(
    p: list[float], q: list[float], p_available: int, q_available: int
) -> None:
    bits = torch.arange(5)
    log_p = masked_log_softmax(torch.tensor(p), (p_available >> bits) % 2 == 1)
    log_q = masked_log_softmax(torch.tensor(q), (q_available >> bits) % 2 == 1)
    divergence = float(jensen_shannon(log_p, log_q))
    assert -1e-6 <= divergence <= LOG_2 + 1e-6
    assert divergence == pytest.approx(float(jensen_shannon(log_q, log_p)), abs=1e-6)
    assert abs(float(jensen_shannon(log_p, log_p))) <= 1e-6
    if p_available & q_available == 0:
        assert divergence == pytest.approx(LOG_2, abs=1e-6)


def test_gaussian_kl_by_hand() -> None:
    mean_p, mean_q = torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0])
    log_var_p, log_var_q = torch.tensor([4.0, 2.0]).log(), torch.tensor([2.0, 2.0]).log()
    # ½ [2 − 1 − log 2 + 4/2], and nothing in the second dimension
    torch.testing.assert_close(gaussian_kl(mean_p, log_var_p, mean_q, log_var_q), torch.tensor(0.5 * (3.0 - LOG_2)))
    means, log_vars = torch.randn(2, 5, 7)
    assert torch.equal(gaussian_kl(means, log_vars, means, log_vars), torch.zeros(5))
    p, q = [torch.distributions.Normal(torch.randn(5, 7), torch.rand(5, 7) + 0.5) for _ in range(2)]
    expected = torch.distributions.kl_divergence(p, q).sum(-1)
    torch.testing.assert_close(gaussian_kl(p.mean, p.variance.log(), q.mean, q.variance.log()), expected)


def test_diversity_is_the_mean_over_the_others_and_the_living() -> None:
    a, b, c = log_probs_of(1.0, 0.0, 0.0), log_probs_of(0.5, 0.5, 0.0), log_probs_of(0.0, 0.0, 1.0)
    dead = torch.full((3,), float("nan"))
    log_probs = torch.stack(
        [
            torch.stack([torch.stack([a, dead])]),
            torch.stack([torch.stack([b, dead])]),
            torch.stack([torch.stack([c, dead])]),
        ]
    )
    ab = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * LOG_2
    expected = torch.tensor([(ab + LOG_2) / 2, (ab + LOG_2) / 2, LOG_2])
    torch.testing.assert_close(behavioural_diversity(log_probs, torch.tensor([[True, False]])), expected)
    # a second living agent whose policies agree halves it
    log_probs[:, :, 1] = b
    torch.testing.assert_close(behavioural_diversity(log_probs, torch.ones(1, 2, dtype=torch.bool)), expected / 2)
    assert torch.equal(behavioural_diversity(log_probs, torch.zeros(1, 2, dtype=torch.bool)), torch.zeros(3))


def test_diversity_is_the_sum_over_all_pairs() -> None:
    log_probs, alive = torch.randn(6, 4, 3, 5).log_softmax(-1), torch.rand(4, 3) < 0.7
    pairs = jensen_shannon(log_probs[:, None], log_probs[None])[:, :, alive].mean(-1)
    torch.testing.assert_close(behavioural_diversity(log_probs, alive), pairs.sum(1) / 5)


def test_two_policies_are_as_diverse_as_they_diverge() -> None:
    log_probs, alive = torch.randn(2, 4, 3, 5).log_softmax(-1), torch.rand(4, 3) < 0.7
    expected = jensen_shannon(*log_probs)[alive].mean()
    torch.testing.assert_close(behavioural_diversity(log_probs, alive), expected.expand(2))


def test_diversity_of_one_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 policies, got 1"):
        behavioural_diversity(torch.zeros(1, 2, 3, 4), torch.ones(2, 3, dtype=torch.bool))


def test_distance_is_the_mean_divergence_from_the_reference() -> None:
    reference = torch.stack([log_probs_of(0.25, 0.75), log_probs_of(0.5, 0.5), torch.full((2,), float("nan"))])
    other = torch.stack([log_probs_of(0.5, 0.5), log_probs_of(0.5, 0.5), torch.full((2,), float("nan"))])
    alive = torch.tensor([[True, True, False]])
    distance = behavioural_distance(torch.stack([other, reference]).unsqueeze(1), reference.unsqueeze(0), alive)
    torch.testing.assert_close(distance, torch.tensor([(0.5 * LOG_2 + 0.5 * math.log(2 / 3)) / 2, 0.0]))


def test_outside_band() -> None:
    distance = torch.tensor([0.0, 0.1, 0.3, 0.5, 0.9])
    torch.testing.assert_close(outside_band(distance, 0.1, 0.5), torch.tensor([0.1, 0.0, 0.0, 0.0, 0.4]))
    torch.testing.assert_close(outside_band(distance, 0.3, 0.3), (distance - 0.3).abs())
    with pytest.raises(ValueError, match="lowest must be at most highest, got 0.5 and 0.1"):
        outside_band(distance, 0.5, 0.1)


def test_threads_do_not_change_diversity_and_distance() -> None:
    log_probs, alive = torch.randn(20, 1600, 5, 11).log_softmax(-1), torch.rand(1600, 5) < 0.7
    threads = torch.get_num_threads()
    results = []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            results.append(
                torch.stack(
                    [behavioural_diversity(log_probs, alive), behavioural_distance(log_probs, log_probs[0], alive)]
                )
            )
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
