"""One generation of auxiliary policies, redone candidate by candidate."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amal.algorithms.amal.auxiliaries import Auxiliaries
from amal.networks.policies import MLPPolicy
from amal.ops.cem import CrossEntropyMethod
from amal.ops.populations import flat_parameters

N_CANDIDATES, N_ELITES, OBS_DIM, N_AGENTS, N_ACTIONS, N_STEPS = 12, 6, 6, 3, 5, 9
BAND = (0.45, 0.55)


@pytest.fixture
def policy() -> MLPPolicy:
    torch.manual_seed(0)
    return MLPPolicy(OBS_DIM, N_AGENTS, N_ACTIONS, hidden_sizes=(8, 8))


def auxiliaries(**options: Any) -> Auxiliaries:
    sizes = {"cem_population_size": N_CANDIDATES, "cem_elite_fraction": N_ELITES / N_CANDIDATES}
    defaults = {"num_auxiliary_agents": 4, "cem_initial_std": 0.5, "cem_min_std": 0.05, "distance_band": BAND}
    return Auxiliaries(**{**sizes, **defaults, **options})


def search_around(policy: MLPPolicy, **options: Any) -> CrossEntropyMethod:
    search = auxiliaries(**options).build(len(flat_parameters(policy)))
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
    fittest, told = auxiliaries(distance_weight=distance_weight).evolve(search, policy, *probe(), generator)

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
    search, generator = search_around(policy, cem_initial_std=0.05), torch.Generator().manual_seed(0)
    auxiliaries().evolve(search, policy, *probe(), generator)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 1.0
    fittest, _ = auxiliaries().evolve(search, policy, *probe(), generator)
    assert (fittest - flat_parameters(policy)).abs().mean() < 0.2


def test_two_are_diverse_and_a_single_one_is_not(policy: MLPPolicy) -> None:
    for number in (1, 2):
        generator = torch.Generator().manual_seed(0)
        one_or_two = auxiliaries(num_auxiliary_agents=number)
        fittest, told = one_or_two.evolve(search_around(policy), policy, *probe(), generator)
        assert len(fittest) == number and (told["diversity"] > 0) == (number == 2) and told["distance"] > 0


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("num_auxiliary_agents", 0, "at least 1"),
        ("num_auxiliary_agents", N_ELITES + 1, r"at most the elites of cem_population_size \(6\)"),
        ("evolution_frequency", 0, "at least 1"),
        ("auxiliary_buffer_size", 0, "at least 1"),
        ("imagination_starts", 0, "at least 1"),
        ("imagination_horizon", 0, "at least 1"),
        ("cem_population_size", 0, "at least 1"),
        ("cem_elite_fraction", 0.0, r"in \(0, 1\]"),
        ("cem_initial_std", 0.01, r"finite, above 0 and at least min_std \(0.05\)"),
        ("cem_min_std", -1.0, "finite and at least 0"),
        ("distance_weight", -0.1, r"at least 0\.0"),
        ("distance_band", (0.5, 0.1), "two divergences, the lower one first"),
        ("distance_band", (-0.1, 0.1), "two divergences, the lower one first"),
    ],
)
def test_arguments_are_checked(argument: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument} must be {allowed}, got"):
        auxiliaries(**{argument: value})


def test_the_least_is_allowed() -> None:
    counts = ("num_auxiliary_agents", "evolution_frequency", "auxiliary_buffer_size", "imagination_starts")
    ones = dict.fromkeys((*counts, "imagination_horizon", "cem_population_size"), 1)
    auxiliaries(**ones, cem_elite_fraction=1.0, cem_min_std=0.0, distance_weight=0.0, distance_band=(0.0, 0.0))
    auxiliaries(num_auxiliary_agents=N_ELITES)
