import re
from functools import partial

import pytest
import torch

from amal.ops.cem import CrossEntropyMethod

cem = partial(CrossEntropyMethod, population_size=100, elite_fraction=0.2, initial_std=0.1, min_std=0.02)


def test_candidates_follow_mean_and_standard_deviation() -> None:
    search = cem(3, population_size=20_000, initial_std=0.5)
    search.mean.copy_(torch.tensor([1.0, -2.0, 0.0]))
    search.std.copy_(torch.tensor([0.5, 1.0, 2.0]))
    candidates = search.ask(torch.Generator().manual_seed(1))
    assert candidates.shape == (20_000, 3)
    assert ((candidates.mean(0) - search.mean).abs() < 4 * search.std / 20_000**0.5).all()
    torch.testing.assert_close(candidates.std(0), search.std, rtol=0.03, atol=0.0)
    assert torch.equal(candidates, search.ask(torch.Generator().manual_seed(1)))


def test_the_elites_are_refit_by_hand() -> None:
    search = cem(2, population_size=5, elite_fraction=0.4, initial_std=1.0, min_std=0.5)
    candidates = torch.tensor([[9.0, 9.0], [1.0, 2.0], [9.0, 9.0], [5.0, 2.2], [9.0, 9.0]])
    elites = search.tell(candidates, torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5]))
    assert elites.tolist() == [3, 1]
    torch.testing.assert_close(search.mean, torch.tensor([3.0, 2.1]))
    # half the range of two; 0.1 is raised to the floor
    torch.testing.assert_close(search.std, torch.tensor([2.0, 0.5]))


def test_it_starts_around_zero_and_a_single_elite_is_enough() -> None:
    search = cem(2, population_size=5, elite_fraction=0.2)
    assert not search.mean.any() and search.n_elites == 1
    candidates = search.double().ask(torch.Generator().manual_seed(0))
    assert candidates.dtype == torch.float64  # as the parameters that they are added to
    assert search.tell(candidates, torch.arange(5.0)).tolist() == [4]
    assert torch.equal(search.mean, candidates[4]) and (search.std == 0.02).all()


def test_ties_go_to_the_first_and_broken_candidates_to_the_end() -> None:
    search = cem(1, population_size=6, elite_fraction=0.5)
    nan, inf = float("nan"), float("inf")
    candidates = torch.tensor([[1.0], [nan], [2.0], [3.0], [inf], [4.0]])
    assert search.tell(candidates, torch.tensor([0.0, nan, 0.0, 0.0, inf, 0.0])).tolist() == [0, 2, 3]
    assert search.tell(candidates, torch.tensor([-inf, nan, nan, -5.0, inf, -2.0])).tolist() == [5, 3]
    assert search.mean == 3.5
    with pytest.raises(ValueError, match="fitness must be finite for at least one candidate"):
        search.tell(candidates, torch.full((6,), nan))
    assert search.mean == 3.5


def test_finds_the_top_of_a_quadratic_and_keeps_its_noise() -> None:
    top = torch.linspace(-1.0, 1.0, 10)
    search = cem(10, initial_std=1.0, min_std=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        candidates = search.ask(generator)
        search.tell(candidates, -(candidates - top).square().sum(-1))
    torch.testing.assert_close(search.mean, top, rtol=0.0, atol=0.03)
    torch.testing.assert_close(search.std, torch.full((10,), 0.01))


def test_a_checkpoint_continues_the_search() -> None:
    search, other = cem(4), cem(4)
    search.tell(search.ask(torch.Generator().manual_seed(0)), torch.arange(100.0))
    other.load_state_dict(search.state_dict())
    draws = [each.ask(torch.Generator().manual_seed(1)) for each in (search, other)]
    assert torch.equal(*draws)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dimension": 0}, "dimension must be at least 1, got 0"),
        ({"population_size": 0}, "population_size must be at least 1, got 0"),
        ({"elite_fraction": 0.0}, "elite_fraction must be in (0, 1], got 0.0"),
        ({"elite_fraction": 1.5}, "elite_fraction must be in (0, 1], got 1.5"),
        ({"elite_fraction": 0.001}, "at least one elite of 100 candidates, got 0.001"),
        ({"min_std": -0.1}, "min_std must be finite and at least 0, got -0.1"),
        ({"initial_std": 0.01, "min_std": 0.02}, "at least min_std (0.02), got 0.01"),
        ({"initial_std": 0.0, "min_std": 0.0}, "initial_std must be finite, above 0"),
        ({"initial_std": float("nan")}, "initial_std must be finite"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        cem(**{"dimension": 3, **arguments})


def test_threads_do_not_change_the_refit() -> None:
    threads = torch.get_num_threads()
    results = []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            search = cem(90_000, population_size=50)
            search.tell(search.ask(torch.Generator().manual_seed(0)), torch.arange(50.0))
            results.append(torch.stack([search.mean, search.std]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
