"""Messages of all pairs: the kernel against torch's own operations and a plain loop."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from amal.ops.pair_messages import PAIR_FEATURES, messages_of_all_pairs, pair_messages

M, U, D = 11, 4, 5


def given(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    spoken, weight = (
        torch.randn(*shape, generator=g, requires_grad=True) for shape in ((M, U, 2 * D), (D, PAIR_FEATURES))
    )
    pairs = torch.randn(M, U, U, PAIR_FEATURES, generator=g)
    pairs[torch.rand(pairs.shape, generator=g) < 0.3] = 0.0
    lives = torch.rand(M, U, generator=g) < 0.7
    lives[0] = False  # nobody hears anything
    return spoken, pairs, weight, lives


def test_units_hear_the_living_and_the_dead_hear_nothing() -> None:
    spoken, pairs, weight, lives = given()
    summed, largest = pair_messages(spoken, pairs, weight, lives)
    receivers, senders = spoken.chunk(2, dim=-1)
    for m in range(M):
        for i in range(U):
            heard = [
                (receivers[m, i] + senders[m, j] + weight @ pairs[m, i, j]).clamp_min(0.0)
                for j in range(U)
                if lives[m, i] and lives[m, j]
            ]
            expected = torch.stack(heard) if heard else torch.zeros(1, D)
            torch.testing.assert_close(summed[m, i], expected.sum(dim=0), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(largest[m, i], expected.amax(dim=0), rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_torchs_own_operations() -> None:
    found = {}
    for function in (pair_messages, messages_of_all_pairs):
        spoken, pairs, weight, lives = given()
        summed, largest = function(spoken, pairs, weight, lives)
        loss = (summed * torch.arange(1.0, D + 1)).sum() + largest.square().sum()
        found[function] = torch.autograd.grad(loss, (spoken, weight))
    for ours, theirs in zip(*found.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_two_threads_side_by_side_get_what_each_would_get_alone() -> None:
    def gradients(seed: int) -> list[Tensor]:
        found = []
        for _ in range(50):
            spoken, pairs, weight, lives = given(seed)
            summed, largest = pair_messages(spoken, pairs, weight, lives)
            found += torch.autograd.grad(summed.sum() + largest.sum(), (spoken, weight))
        return found

    alone = [gradients(seed) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(gradients, (0, 1)))
    pairs = zip(sum(alone, []), sum(together, []), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_double_precision_is_kept() -> None:
    spoken, pairs, weight, lives = given()
    summed, _ = pair_messages(spoken.double(), pairs.double(), weight.double(), lives)
    assert summed.dtype == torch.float64
