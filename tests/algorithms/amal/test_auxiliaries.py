"""One generation of auxiliary policies, redone candidate by candidate."""

import copy

import pytest
import torch
from torch import Tensor, nn

from amal.algorithms.amal.auxiliaries import evolve
from amal.networks.policies import MLPPolicy
from amal.ops.cem import CrossEntropyMethod
from amal.ops.populations import flat_parameters

N_CANDIDATES, N_ELITES, OBS_DIM, N_AGENTS, N_ACTIONS, N_STEPS = 12, 6, 6, 3, 5, 9
BAND = (0.45, 0.55)


@pytest.fixture
def policy() -> MLPPolicy:
    torch.manual_seed(0)
    return MLPPolicy(OBS_DIM, N_AGENTS, N_ACTIONS, hidden_sizes=(8, 8))


def search_around(policy: MLPPolicy, std: float = 0.5) -> CrossEntropyMethod:
    search = CrossEntropyMethod(len(flat_parameters(policy)), N_CANDIDATES, N_ELITES / N_CANDIDATES, std, 0.05)
    search.mean += 0.1  # as if it had moved already
    return search


def probe() -> tuple[Tensor, Tensor]:
    """Observations and available actions; some agents are dead and can do nothing else than that."""
    g = torch.Generator().manual_seed(1)
    available = torch.rand(N_STEPS, N_AGENTS, N_ACTIONS, generator=g) < 0.6
    available[..., 0], available[..., 1] = False, True
    dead = torch.rand(N_STEPS, N_AGENTS, generator=g) < 0.3
    available[dead] = torch.tensor([True] + [False] * (N_ACTIONS - 1))
    return torch.randn(N_STEPS, N_AGENTS, OBS_DIM, generator=g), available


def probabilities(policy: MLPPolicy, parameters: Tensor) -> Tensor:
    """Of the living agents' actions, [R, A]."""
    obs, available = probe()
    own = copy.deepcopy(policy)
    nn.utils.vector_to_parameters(parameters, own.parameters())
    with torch.no_grad():
        logits = own(obs.unsqueeze(1), own.initial_hidden(N_STEPS))[0].squeeze(1).double()
    return logits.masked_fill(~available, -torch.inf).softmax(dim=-1)[~available[..., 0]]


def kl(p: Tensor, q: Tensor) -> float:
    return float(torch.where(p > 0, p * (p / q).log(), 0.0).sum(dim=-1).mean())


def js(p: Tensor, q: Tensor) -> float:
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


@pytest.mark.parametrize("distance_weight", [0.0, 0.7, 50.0])
def test_the_fittest_are_diverse_and_within_the_band_around_the_policy(
    policy: MLPPolicy, distance_weight: float
) -> None:
    search, generator = search_around(policy), torch.Generator().manual_seed(4)
    deltas = search_around(policy).ask(torch.Generator().manual_seed(4))
    fittest, told = evolve(search, policy, *probe(), 4, distance_weight, BAND, generator)

    candidates = flat_parameters(policy) + deltas
    acts, reference = [probabilities(policy, own) for own in candidates], probabilities(policy, flat_parameters(policy))
    distances = [kl(own, reference) for own in acts]
    assert any(d < BAND[0] for d in distances) and any(d > BAND[1] for d in distances)
    diversity = [sum(js(own, other) for other in acts) / (N_CANDIDATES - 1) for own in acts]
    outside = [max(0.0, BAND[0] - d) + max(0.0, d - BAND[1]) for d in distances]
    fitness = [apart - distance_weight * away for apart, away in zip(diversity, outside, strict=True)]
    best = sorted(range(N_CANDIDATES), key=lambda k: -fitness[k])
    torch.testing.assert_close(fittest, candidates[best[:4]], rtol=0, atol=1e-6)
    torch.testing.assert_close(search.mean, deltas[best[:N_ELITES]].mean(dim=0))
    apart = [js(acts[k], acts[other]) for k in best[:4] for other in best[:4] if other != k]
    assert told["diversity"].item() == pytest.approx(sum(apart) / len(apart), rel=1e-4)
    assert told["distance"].item() == pytest.approx(sum(distances[k] for k in best[:4]) / 4, rel=1e-4)


def test_the_search_follows_the_policy(policy: MLPPolicy) -> None:
    """The next generation is drawn around the policy as it is by then, not around what it was."""
    search, generator = search_around(policy, std=0.05), torch.Generator().manual_seed(0)
    evolve(search, policy, *probe(), 4, 1.0, BAND, generator)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 1.0
    fittest, _ = evolve(search, policy, *probe(), 4, 1.0, BAND, generator)
    assert (fittest - flat_parameters(policy)).abs().mean() < 0.2


def test_two_are_diverse_and_a_single_one_is_not(policy: MLPPolicy) -> None:
    for number in (1, 2):
        generator = torch.Generator().manual_seed(0)
        fittest, told = evolve(search_around(policy), policy, *probe(), number, 1.0, BAND, generator)
        assert len(fittest) == number and (told["diversity"] > 0) == (number == 2) and told["distance"] > 0
