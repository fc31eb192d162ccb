from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from amal.algorithms.mappo import MAPPO
from amal.algorithms.minibatches import Minibatch, packed_lives
from amal.networks.critics import MAPPOCritic
from amal.networks.layers import AgentLinear
from amal.networks.policies import GRUPolicy, IndependentPolicies, MLPPolicy, Policy

OBS_DIM, N_AGENTS, N_ACTIONS = 7, 3, 5
NORMS = {"feature_norm": True, "layer_norm": True}


def test_agent_linear_is_the_layer_on_the_concatenation() -> None:
    layer = AgentLinear(4 + 6, N_AGENTS, 8)
    shared, own = torch.randn(2, 9, 1, 4), torch.randn(2, 9, N_AGENTS, 6)
    torch.nn.init.normal_(layer.bias)
    concatenated = torch.cat(
        [shared.expand(2, 9, N_AGENTS, 4), own, torch.eye(N_AGENTS).expand(2, 9, N_AGENTS, N_AGENTS)], dim=-1
    )
    output, expected = layer(shared, own), F.linear(concatenated, layer.weight, layer.bias)
    torch.testing.assert_close(output, expected)
    direction = torch.randn_like(expected)
    gradients = torch.autograd.grad(output, list(layer.parameters()), direction)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, list(layer.parameters()), direction))


def test_agent_linear_starts_orthogonal_over_features_and_ids() -> None:
    weight = AgentLinear(13, N_AGENTS, 6).weight
    torch.testing.assert_close(weight @ weight.t(), 2 * torch.eye(6))


def test_agent_linear_says_what_size_it_expected() -> None:
    with pytest.raises(AssertionError, match="expected 4 in total"):
        AgentLinear(4, N_AGENTS, 2)(torch.zeros(1, N_AGENTS, 5))


@pytest.mark.parametrize(
    "policy_class",
    [
        MLPPolicy,
        GRUPolicy,
        partial(MLPPolicy, hidden_sizes=(16,)),
        partial(MLPPolicy, **NORMS),
        partial(GRUPolicy, **NORMS),
    ],
)
@pytest.mark.parametrize("independent", [False, True])
def test_acting_step_by_step_equals_evaluating_whole_sequences(policy_class: type[Policy], independent: bool) -> None:
    if independent:
        policy: Policy = IndependentPolicies(policy_class, OBS_DIM, N_AGENTS, N_ACTIONS)
    else:
        policy = policy_class(OBS_DIM, N_AGENTS, N_ACTIONS)
    obs = torch.randn(4, 6, N_AGENTS, OBS_DIM)
    whole, last = policy(obs, policy.initial_hidden(4))
    assert whole.shape == (4, 6, N_AGENTS, N_ACTIONS)
    hidden = policy.initial_hidden(4)
    steps = []
    for t in range(6):
        logits, hidden = policy.step(obs[:, t], hidden)
        steps.append(logits)
    torch.testing.assert_close(torch.stack(steps, dim=1), whole)
    torch.testing.assert_close(hidden, last)


def normed(x: Tensor, p: dict[str, Tensor], name: str) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * p[f"{name}.gain"] + p[f"{name}.bias"]


def test_a_recurrent_policy_normalises_features_input_and_output_but_not_its_memory() -> None:
    policy = GRUPolicy(OBS_DIM, N_AGENTS, N_ACTIONS, hidden_size=8, **NORMS)
    for name, parameter in policy.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter)
    p = dict(policy.named_parameters())
    obs, memory = torch.randn(4, N_AGENTS, OBS_DIM), torch.randn(4, N_AGENTS, 8)
    joined = torch.cat([normed(obs, p, "encoder.feature_norm"), torch.eye(N_AGENTS).expand(4, -1, -1)], dim=-1)
    encoded = normed(F.linear(joined, policy.encoder.weight, policy.encoder.bias).relu(), p, "input_norm")
    after = policy.gru(encoded.flatten(0, 1), memory.flatten(0, 1)).view_as(memory)
    logits, hidden = policy(obs.unsqueeze(1), memory)
    torch.testing.assert_close(hidden, after, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits.squeeze(1), policy.head(normed(after, p, "output_norm")), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy_class", [MLPPolicy, GRUPolicy])
def test_with_norms_scale_and_offset_of_the_observation_do_not_matter(policy_class: type[Policy]) -> None:
    """And the network starts with the weights that it has without them."""
    policies = []
    for norms in ({}, NORMS):
        torch.manual_seed(0)
        policies.append(policy_class(OBS_DIM, N_AGENTS, N_ACTIONS, **norms))
    plain, policy = policies
    weights = dict(policy.named_parameters())
    assert all(torch.equal(weights[name], parameter) for name, parameter in plain.named_parameters())
    assert sorted(set(weights) - set(dict(plain.named_parameters()))) == sorted(n for n in weights if "norm" in n)
    obs = torch.randn(3, 1, N_AGENTS, OBS_DIM)
    for each, matters in ((plain, True), (policy, False)):
        before, after = (each(x, each.initial_hidden(3))[0] for x in (obs, 5 * obs + 2))
        assert torch.allclose(before, after, rtol=1e-3, atol=1e-5) is not matters


@pytest.mark.parametrize("policy_class", [MLPPolicy, GRUPolicy])
@pytest.mark.parametrize("name", NORMS)
def test_switches_are_checked(policy_class: type[Policy], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be True or False, got 'no'"):
        policy_class(OBS_DIM, N_AGENTS, N_ACTIONS, **{name: "no"})


def test_only_the_recurrent_policy_remembers() -> None:
    first, second = torch.randn(2, 1, 4, N_AGENTS, OBS_DIM)
    second[:, -1] = first[:, -1]  # different pasts, same present
    for policy, remembers in [(MLPPolicy(OBS_DIM, N_AGENTS, N_ACTIONS), False), (GRUPolicy(7, 3, 5), True)]:
        presents = [policy(obs, policy.initial_hidden(1))[0][:, -1] for obs in (first, second)]
        assert policy.recurrent is remembers
        assert torch.allclose(*presents, atol=1e-6) is not remembers


@pytest.mark.parametrize("policy_class", [MLPPolicy, GRUPolicy])
def test_policies_start_near_uniform_and_tell_agents_apart(policy_class: type[Policy]) -> None:
    policy = policy_class(OBS_DIM, N_AGENTS, N_ACTIONS)
    obs = torch.randn(50, 1, 1, OBS_DIM).expand(50, 1, N_AGENTS, OBS_DIM)
    logits, _ = policy(obs, policy.initial_hidden(50))
    assert logits.abs().max() < 0.1
    assert not torch.allclose(logits[:, :, 0], logits[:, :, 1], rtol=1e-3)


def test_independent_policies_share_nothing() -> None:
    policy = IndependentPolicies(MLPPolicy, OBS_DIM, N_AGENTS, N_ACTIONS)
    logits, _ = policy(torch.randn(2, 1, N_AGENTS, OBS_DIM), policy.initial_hidden(2))
    logits[:, :, 1].sum().backward()
    touched = [any(p.grad is not None and p.grad.any() for p in each.parameters()) for each in policy.policies]
    assert touched == [False, True, False]


def test_gradients_flow_through_the_whole_sequence() -> None:
    policy = GRUPolicy(OBS_DIM, N_AGENTS, N_ACTIONS)
    obs = torch.randn(1, 5, N_AGENTS, OBS_DIM, requires_grad=True)
    policy(obs, policy.initial_hidden(1))[0][:, -1, 1].sum().backward()
    reached = obs.grad.abs().sum(dim=(0, 3)) > 0
    assert reached[:, 1].all()
    assert not reached[:, [0, 2]].any()


@pytest.mark.parametrize("sizes", [(), (0,), (8, -1)])
def test_hidden_sizes_are_checked(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="hidden_sizes must be"):
        MLPPolicy(OBS_DIM, N_AGENTS, N_ACTIONS, hidden_sizes=sizes)


def test_hidden_size_is_checked() -> None:
    with pytest.raises(ValueError, match="hidden_size must be at least 1, got 0"):
        GRUPolicy(OBS_DIM, N_AGENTS, N_ACTIONS, hidden_size=0)


@pytest.mark.parametrize("factory", [MLPPolicy, GRUPolicy], ids=["mlp", "gru"])
def test_one_agent_can_learn_by_itself(factory: type[Policy]) -> None:
    """Its logits are those of all agents' rows, and the others' parameters have no gradient at all."""
    torch.manual_seed(0)
    policy, obs, agent = (
        IndependentPolicies(factory, OBS_DIM, N_AGENTS, N_ACTIONS),
        torch.randn(4, N_AGENTS, OBS_DIM),
        1,
    )
    mask, alive = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 4, N_AGENTS, dtype=torch.bool)
    rows, sizes = packed_lives(mask, alive) if policy.recurrent else (torch.arange(4 * N_AGENTS), None)
    own = Minibatch(torch.arange(4), rows, sizes).of_agent(agent, N_AGENTS)
    logits = policy.at_rows_of(agent, obs, own.rows, own.batch_sizes)
    torch.testing.assert_close(logits, policy.at_rows(obs, rows, sizes)[rows % N_AGENTS == agent])
    logits.sum().backward()
    has_gradient = [any(p.grad is not None for p in policy[i].parameters()) for i in range(N_AGENTS)]
    assert has_gradient == [False, True, False]


def test_networks_of_a_wrong_shape_are_told_when_they_are_built() -> None:
    sizes = {"n_agents": N_AGENTS, "n_actions": N_ACTIONS, "obs_dim": OBS_DIM, "state_dim": 6}

    class Reshaped(MAPPOCritic):
        def forward(self, state: Tensor, obs: Tensor) -> Tensor:
            return super().forward(state, obs).unsqueeze(-1)

    class Broken(MAPPOCritic):
        def forward(self, state: Tensor, obs: Tensor) -> Tensor:
            return super().forward(state[..., 1:], obs)

    class OneTooMany(MLPPolicy):
        def forward(self, obs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
            logits, hidden = super().forward(obs, hidden)
            return F.pad(logits, (0, 1)), hidden

    for network, words in (
        ({"critic": Reshaped}, r"critic: Reshaped must return values \[..., N\] = \[4, 3\], got \[4, 3, 1\]"),
        ({"critic": Broken}, "critic: Broken fails on a batch of zeros: AssertionError: the parts have sizes"),
        ({"policy": OneTooMany}, r"policy: OneTooMany must return logits .* = \[4, 1, 3, 5\], got \[4, 1, 3, 6\]"),
    ):
        with pytest.raises(ValueError, match=words):
            MAPPO(**sizes, **network)  # type: ignore[arg-type]
