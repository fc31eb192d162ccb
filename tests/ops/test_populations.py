from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from amal.networks.policies import GRUPolicy, IndependentPolicies, MLPPolicy, Policy
from amal.ops.populations import ROWS_PER_BLOCK, ROWS_PER_CALL, flat_parameters, population_logits

OBS_DIM, N_AGENTS, N_ACTIONS = 7, 3, 5


def narrow(obs_dim: int, n_agents: int, n_actions: int) -> Policy:
    return MLPPolicy(obs_dim, n_agents, n_actions, hidden_sizes=(16, 8))


def normed(obs_dim: int, n_agents: int, n_actions: int) -> Policy:
    return MLPPolicy(obs_dim, n_agents, n_actions, hidden_sizes=(16, 8), feature_norm=True, layer_norm=True)


def independent(obs_dim: int, n_agents: int, n_actions: int) -> Policy:
    return IndependentPolicies(narrow, obs_dim, n_agents, n_actions)


def logits_of(policy: Policy, obs: Tensor) -> Tensor:
    with torch.no_grad():
        return policy(obs.unsqueeze(1), policy.initial_hidden(len(obs)))[0].squeeze(1)


def test_flat_parameters_are_a_detached_copy_in_the_order_of_the_names() -> None:
    policy = narrow(OBS_DIM, N_AGENTS, N_ACTIONS)
    flat = flat_parameters(policy)
    assert not flat.requires_grad
    start = 0
    for _, parameter in policy.named_parameters():
        assert torch.equal(flat[start : start + parameter.numel()], parameter.flatten())
        start += parameter.numel()
    assert start == len(flat)
    flat.zero_()
    assert all(parameter.any() for name, parameter in policy.named_parameters() if name.endswith("weight"))


@pytest.mark.parametrize("factory", [narrow, normed, independent])
@pytest.mark.parametrize("shared", [True, False])
# the last two are cut into blocks of transitions, and into blocks of policies
@pytest.mark.parametrize(("n_policies", "n_transitions"), [(4, 6), (3, 2 * ROWS_PER_BLOCK // 3 + 5), (1500, 1)])
def test_each_policy_gives_the_logits_it_gives_alone(
    factory: Callable[[int, int, int], Policy], shared: bool, n_policies: int, n_transitions: int
) -> None:
    assert 1500 * N_AGENTS > ROWS_PER_CALL
    policies = [factory(OBS_DIM, N_AGENTS, N_ACTIONS) for _ in range(min(n_policies, 5))] * (n_policies // 3)
    for policy in policies[:5]:
        for name, parameter in policy.named_parameters():
            if "norm" in name:  # they all start alike
                torch.nn.init.normal_(parameter)
    policies = policies[:n_policies]
    parameters = torch.stack([flat_parameters(policy) for policy in policies])
    obs = torch.randn(n_transitions, N_AGENTS, OBS_DIM)
    if not shared:
        obs = torch.stack([obs + k for k in range(n_policies)])
    architecture = factory(OBS_DIM, N_AGENTS, N_ACTIONS)
    untouched = flat_parameters(architecture)
    logits = population_logits(architecture, parameters, obs, shared)
    expected = torch.stack([logits_of(policy, obs if shared else obs[k]) for k, policy in enumerate(policies)])
    torch.testing.assert_close(logits, expected)
    assert not logits.requires_grad
    assert torch.equal(flat_parameters(architecture), untouched)


def test_recurrent_policies_are_refused() -> None:
    policy = GRUPolicy(OBS_DIM, N_AGENTS, N_ACTIONS)
    with pytest.raises(ValueError, match="only feed-forward policies .* got GRUPolicy"):
        population_logits(policy, flat_parameters(policy).unsqueeze(0), torch.zeros(1, N_AGENTS, OBS_DIM), True)


@pytest.mark.parametrize(("n_policies", "n_transitions"), [(11, 300), (40, 64)])
def test_threads_do_not_change_the_logits(n_policies: int, n_transitions: int) -> None:
    policy = MLPPolicy(80, 5, 11)
    parameters = flat_parameters(policy) + 0.05 * torch.randn(n_policies, len(flat_parameters(policy)))
    obs = torch.randn(n_transitions, 5, 80)
    threads = torch.get_num_threads()
    results = []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            results.append(population_logits(policy, parameters, obs, True))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
