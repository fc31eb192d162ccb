import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amal.ops.returns import explained_variance, generalized_advantages, lambda_returns, n_step_returns

GAMMA, LAMBDA = 0.9, 0.5
REWARDS = torch.tensor([[1.0, 0.0, 2.0]])
VALUES = torch.tensor([[0.5, 1.0, -1.0, 4.0]]).unsqueeze(-1)
STEPS = torch.ones(1, 3, dtype=torch.bool)
NEVER = torch.zeros(1, 3, dtype=torch.bool)
LAST = torch.tensor([[False, False, True]])


def test_termination_does_not_bootstrap() -> None:
    # δ = 1 + .9·1 − .5 = 1.4;  0 + .9·(−1) − 1 = −1.9;  2 − (−1) = 3
    # Â = 1.4 + .45·(−.55) = 1.1525;  −1.9 + .45·3 = −.55;  3
    advantages = generalized_advantages(REWARDS, VALUES, LAST, STEPS, GAMMA, LAMBDA)
    torch.testing.assert_close(advantages[0, :, 0], torch.tensor([1.1525, -0.55, 3.0]))


def test_truncation_bootstraps_from_the_slot_after_the_last_step() -> None:
    # the last δ is 2 + .9·4 − (−1) = 6.6; then −1.9 + .45·6.6 = 1.07; 1.4 + .45·1.07 = 1.8815
    advantages = generalized_advantages(REWARDS, VALUES, NEVER, STEPS, GAMMA, LAMBDA)
    torch.testing.assert_close(advantages[0, :, 0], torch.tensor([1.8815, 1.07, 6.6]))


def test_weights_of_steps_in_which_others_acted() -> None:
    # δ as above: 1.4, −1.9, 3
    importance = torch.tensor([[1.0, 0.25, 0.5]])
    advantages = generalized_advantages(REWARDS, VALUES, LAST, STEPS, GAMMA, LAMBDA, importance)
    middle = -1.9 + 0.45 * 0.5 * 3.0
    torch.testing.assert_close(advantages[0, :, 0], torch.tensor([1.4 + 0.45 * 0.25 * middle, middle, 3.0]))
    ones = generalized_advantages(REWARDS, VALUES, LAST, STEPS, GAMMA, LAMBDA, torch.ones(1, 3))
    assert torch.equal(ones, generalized_advantages(REWARDS, VALUES, LAST, STEPS, GAMMA, LAMBDA))


@given(seed=st.integers(0, 2**16), gamma=st.floats(0.1, 1.0), gae_lambda=st.floats(0.0, 1.0))
def test_weighted_advantages_are_the_sums_of_v_trace(seed: int, gamma: float, gae_lambda: float) -> None:
    """v_s − V_s = Σ_t γ^(t−s) (Π_{s ≤ i < t} λ w_i) w_t δ_t, the definition, not the recursion."""
    g = torch.Generator().manual_seed(seed)
    n = 5
    rewards, values = torch.randn(1, n, generator=g), torch.randn(1, n + 1, 2, generator=g)
    weights = torch.rand(1, n, generator=g)
    terminated = torch.arange(n) == n - 1
    found = generalized_advantages(
        rewards, values, terminated[None], torch.ones(1, n, dtype=torch.bool), gamma, gae_lambda, weights
    )
    after = torch.where(terminated[:, None], 0.0, values[0, 1:])
    deltas = rewards[0, :, None] + gamma * after - values[0, :-1]
    for s in range(n):
        terms = [
            gamma ** (t - s) * (gae_lambda * weights[0, s:t]).prod() * weights[0, t] * deltas[t] for t in range(s, n)
        ]
        torch.testing.assert_close(weights[0, s] * found[0, s], torch.stack(terms).sum(dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("terminated", [LAST, NEVER], ids=["terminated", "truncated"])
@pytest.mark.parametrize("rubbish", [1e3, float("nan"), float("inf")])
def test_padding_leaks_nothing(terminated: torch.Tensor, rubbish: float) -> None:
    """An episode of three steps in a batch of five gives what it gives alone, and 0 in the padding."""
    alone = generalized_advantages(REWARDS, VALUES, terminated, STEPS, GAMMA, LAMBDA)
    rewards = torch.cat([REWARDS, torch.full((1, 2), rubbish)], dim=1)
    values = torch.cat([VALUES, torch.full((1, 2, 1), rubbish)], dim=1)
    ended = torch.cat([terminated, torch.ones(1, 2, dtype=torch.bool)], dim=1)
    mask = torch.cat([STEPS, torch.zeros(1, 2, dtype=torch.bool)], dim=1)
    padded = generalized_advantages(rewards, values, ended, mask, GAMMA, LAMBDA)
    assert torch.equal(padded[:, :3], alone)
    assert torch.equal(padded[:, 3:], torch.zeros(1, 2, 1))


def test_the_value_after_termination_is_never_read() -> None:
    values = VALUES.clone()
    values[:, 3] = float("nan")
    expected = generalized_advantages(REWARDS, VALUES, LAST, STEPS, GAMMA, LAMBDA)
    assert torch.equal(generalized_advantages(REWARDS, values, LAST, STEPS, GAMMA, LAMBDA), expected)


@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    gamma=st.floats(0.0, 1.0),
    gae_lambda=st.sampled_from([0.0, 1.0]),
)
def test_ends_of_lambda(seed: int, lengths: list[int], gamma: float, gae_lambda: float) -> None:
    """λ = 1 is the discounted return minus the value, λ = 0 the one-step temporal difference, for every agent."""
    generator = torch.Generator().manual_seed(seed)
    n_steps = max(lengths)
    rewards = torch.randn(len(lengths), n_steps, generator=generator, dtype=torch.float64)
    values = torch.randn(len(lengths), n_steps + 1, 3, generator=generator, dtype=torch.float64)
    mask = torch.arange(n_steps) < torch.tensor(lengths).unsqueeze(-1)
    terminated = torch.zeros_like(mask)
    for i, length in enumerate(lengths):
        terminated[i, length - 1] = i % 2 == 0
    advantages = generalized_advantages(rewards, values, terminated, mask, gamma, gae_lambda)
    for i, length in enumerate(lengths):
        target = torch.zeros(3, dtype=torch.float64) if i % 2 == 0 else values[i, length]
        for t in reversed(range(length)):
            target = rewards[i, t] + gamma * target
            torch.testing.assert_close(advantages[i, t], target - values[i, t])
            if gae_lambda == 0.0:
                target = values[i, t]


def returns(terminated: torch.Tensor, n: int) -> list[float]:
    return n_step_returns(REWARDS, VALUES, terminated, STEPS, GAMMA, n)[0, :, 0].tolist()


def test_n_step_returns_by_hand() -> None:
    # rewards 1, 0, 2; values .5, 1, −1 and 4 at the end
    assert returns(NEVER, 1) == pytest.approx([1 + 0.9 * 1, 0 + 0.9 * -1, 2 + 0.9 * 4])
    assert returns(LAST, 1) == pytest.approx([1 + 0.9 * 1, 0 + 0.9 * -1, 2])
    # two rewards: 1 + .9·0 + .81·(−1);  then 0 + .9·2, and .81·4 more unless the battle is over;  then one is left
    assert returns(NEVER, 2) == pytest.approx([0.19, 5.04, 5.6])
    assert returns(LAST, 2) == pytest.approx([0.19, 1.8, 2])
    # three: 1 + .81·2 + .729·4
    assert returns(NEVER, 3) == pytest.approx([5.536, 5.04, 5.6])
    assert returns(LAST, 3) == pytest.approx([2.62, 1.8, 2])


@pytest.mark.parametrize("terminated", [LAST, NEVER], ids=["terminated", "truncated"])
@pytest.mark.parametrize("rubbish", [1e3, float("nan"), float("inf")])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_padding_leaks_nothing_into_n_step_returns(terminated: torch.Tensor, rubbish: float, n: int) -> None:
    rewards = torch.cat([REWARDS, torch.full((1, 2), rubbish)], dim=1)
    values = torch.cat([VALUES, torch.full((1, 2, 1), rubbish)], dim=1)
    if terminated is LAST:
        values[:, 3] = rubbish  # after termination, never read
    ended = torch.cat([terminated, torch.ones(1, 2, dtype=torch.bool)], dim=1)
    mask = torch.cat([STEPS, torch.zeros(1, 2, dtype=torch.bool)], dim=1)
    padded = n_step_returns(rewards, values, ended, mask, GAMMA, n)
    assert torch.equal(padded[:, :3], n_step_returns(REWARDS, VALUES, terminated, STEPS, GAMMA, n))
    assert torch.equal(padded[:, 3:], torch.zeros(1, 2, 1))


@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    gamma=st.floats(0.0, 1.0),
    n=st.integers(1, 12),
)
def test_n_step_returns_are_the_sum(seed: int, lengths: list[int], gamma: float, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    n_steps = max(lengths)
    rewards = torch.randn(len(lengths), n_steps, generator=generator, dtype=torch.float64)
    values = torch.randn(len(lengths), n_steps + 1, 3, generator=generator, dtype=torch.float64)
    mask = torch.arange(n_steps) < torch.tensor(lengths).unsqueeze(-1)
    terminated = torch.zeros_like(mask)
    for i, length in enumerate(lengths):
        terminated[i, length - 1] = i % 2 == 0
    got = n_step_returns(rewards, values, terminated, mask, gamma, n)
    for i, length in enumerate(lengths):
        for t in range(length):
            end = min(t + n, length)
            expected = sum((gamma ** (k - t) * rewards[i, k] for k in range(t, end)), torch.zeros(3).double())
            if end < length or i % 2 == 1:
                expected = expected + gamma ** (end - t) * values[i, end]
            torch.testing.assert_close(got[i, t], expected)


def test_one_step_returns_are_the_targets_of_lambda_zero() -> None:
    advantages = generalized_advantages(REWARDS, VALUES, NEVER, STEPS, GAMMA, 0.0)
    torch.testing.assert_close(n_step_returns(REWARDS, VALUES, NEVER, STEPS, GAMMA, 1), advantages + VALUES[:, :-1])


def test_explained_variance() -> None:
    returns = torch.tensor([1.0, 2.0, 3.0, float("nan")])
    mask = torch.tensor([True, True, True, False])
    assert explained_variance(returns, returns, mask) == 1.0
    assert explained_variance(torch.full((4,), 7.0), returns, mask) == 0.0
    # residuals 0, 0, 3 have variance 2, the returns 2/3
    torch.testing.assert_close(explained_variance(torch.tensor([1.0, 2, 0, 9]), returns, mask), torch.tensor(-2.0))
    assert explained_variance(returns, torch.ones(4), mask) == 0.0


@pytest.mark.parametrize(
    ("terminated", "td_lambda", "expected"),
    [
        # from the end: 2;  .9·(½·−1 + ½·2) = .45;  1 + .9·(½·1 + ½·.45) = 1.6525
        (LAST, 0.5, [1.6525, 0.45, 2.0]),
        # 2 + .9·4 = 5.6;  .9·(½·−1 + ½·5.6) = 2.07;  1 + .9·(½·1 + ½·2.07) = 2.3815
        (NEVER, 0.5, [2.3815, 2.07, 5.6]),
        (LAST, 0.0, [1.9, -0.9, 2.0]),  # one step: 1 + .9·1;  .9·−1
        (LAST, 1.0, [2.62, 1.8, 2.0]),  # all rewards: 1 + .81·2;  .9·2
    ],
    ids=["terminated", "truncated", "one step", "Monte Carlo"],
)
def test_td_lambda_targets(terminated: torch.Tensor, td_lambda: float, expected: list[float]) -> None:
    targets = lambda_returns(REWARDS, VALUES, terminated, STEPS, GAMMA, td_lambda)
    torch.testing.assert_close(targets[0, :, 0], torch.tensor(expected))
