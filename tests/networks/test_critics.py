import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from amal.battle import VectorBattle
from amal.networks.critics import (
    AttentionCritic,
    Critic,
    DualPathCritic,
    EPyMARLCritic,
    FiLMCritic,
    IPPOCritic,
    MAPPOCritic,
    TargetCritic,
)
from tests.conftest import ROOT

STATE_DIM, OBS_DIM, N_AGENTS = 11, 7, 3
CENTRAL_V = f"{ROOT}/tests/networks/epymarl_critics.py:CentralVCritic"

Factory = Callable[[int, int, int], Critic]
CRITICS: dict[str, tuple[Factory, str, str]] = {  # and whether it sees the state, and whose observations
    "mappo": (MAPPOCritic, "state", ""),
    "joint": (partial(MAPPOCritic, joint_obs=True), "state", "own"),
    "mappo normed": (partial(MAPPOCritic, feature_norm=True, layer_norm=True, death_masking=True), "state", ""),
    "joint normed": (
        partial(MAPPOCritic, joint_obs=True, feature_norm=True, layer_norm=True, death_masking=True),
        *("state", "own"),
    ),
    "ippo": (IPPOCritic, "", "own"),
    "ippo normed": (partial(IPPOCritic, feature_norm=True, layer_norm=True), "", "own"),
    "film": (FiLMCritic, "state", "own"),
    "dual path": (DualPathCritic, "state", "own"),
    "attention": (AttentionCritic, "state", "all"),
    "epymarl": (partial(EPyMARLCritic, source=CENTRAL_V), "state", ""),
    "epymarl joint": (partial(EPyMARLCritic, source=CENTRAL_V, obs_individual_obs=True), "state", "own"),
}
FACTORIES = [factory for factory, _, _ in CRITICS.values()]
all_critics = pytest.mark.parametrize("factory", FACTORIES, ids=CRITICS)


def rows(*leading: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*leading, STATE_DIM), torch.randn(*leading, N_AGENTS, OBS_DIM)


@all_critics
@pytest.mark.parametrize("leading", [(), (1,), (4,), (2, 6), (2, 1, 3)], ids=str)
def test_one_value_per_agent_for_any_leading_dimensions(factory: Factory, leading: tuple[int, ...]) -> None:
    critic = factory(STATE_DIM, OBS_DIM, N_AGENTS)
    state, obs = rows(*leading)
    values = critic(state, obs)
    assert values.shape == (*leading, N_AGENTS)
    flat = critic(state.view(-1, STATE_DIM), obs.view(-1, N_AGENTS, OBS_DIM))
    torch.testing.assert_close(values.view(-1, N_AGENTS), flat, rtol=0, atol=1e-6)


@all_critics
def test_a_row_has_the_value_it_has_alone(factory: Factory) -> None:
    """In double precision, for how single numbers round depends on the processor."""
    critic = factory(STATE_DIM, OBS_DIM, N_AGENTS).double()
    state, obs = (x.double() for x in rows(33))
    alone = torch.cat([critic(state[i : i + 1], obs[i : i + 1]) for i in range(33)])
    torch.testing.assert_close(critic(state, obs), alone, rtol=0, atol=1e-6)


@all_critics
@pytest.mark.parametrize("rubbish", [1e3, float("nan")])
def test_nothing_leaks_between_steps_or_episodes(factory: Factory, rubbish: float) -> None:
    critic = factory(STATE_DIM, OBS_DIM, N_AGENTS)
    state, obs = rows(4, 5)
    before = critic(state, obs)
    state[1, 2], obs[1, 2] = rubbish, rubbish
    others = torch.ones(4, 5, dtype=torch.bool)
    others[1, 2] = False
    after = critic(state, obs)
    assert torch.equal(after[others], before[others])
    assert not torch.equal(after[~others], before[~others])


@pytest.mark.parametrize(("factory", "seen_state", "seen_obs"), CRITICS.values(), ids=CRITICS)
def test_what_a_critic_sees(factory: Factory, seen_state: str, seen_obs: str) -> None:
    """The value of agent 1 after a change of the state, of its own observation, and of another agent's."""
    critic = factory(STATE_DIM, OBS_DIM, N_AGENTS)
    state, obs = rows(2)
    before = critic(state, obs)[:, 1]
    assert torch.equal(critic(state + torch.randn(STATE_DIM), obs)[:, 1], before) is (seen_state == "")
    for agent, sees in ((0, seen_obs == "all"), (1, seen_obs != ""), (2, seen_obs == "all")):
        changed = obs.clone()
        changed[:, agent] += torch.randn(OBS_DIM)
        assert torch.equal(critic(state, changed)[:, 1], before) is not sees


@all_critics
def test_agents_are_told_apart_by_their_id_alone(factory: Factory) -> None:
    values = factory(STATE_DIM, OBS_DIM, N_AGENTS)(torch.randn(1, STATE_DIM), torch.zeros(1, N_AGENTS, OBS_DIM))
    assert values.unique().numel() == N_AGENTS


@all_critics
def test_the_gradient_reaches_every_parameter(factory: Factory) -> None:
    critic = factory(STATE_DIM, OBS_DIM, N_AGENTS)
    critic(*rows(64)).square().sum().backward()
    assert [name for name, p in critic.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-6] == []


@pytest.fixture
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@all_critics
@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize(("state_dim", "obs_dim", "n_agents"), [(120, 80, 5), (48, 30, 3)])
def test_the_number_of_threads_changes_nothing(factory: Factory, state_dim: int, obs_dim: int, n_agents: int) -> None:
    """Values and gradients, bit for bit, with enough rows for torch to share the work."""
    critic = factory(state_dim, obs_dim, n_agents)
    state, obs = torch.randn(1500, state_dim), torch.randn(1500, n_agents, obs_dim)
    obs[torch.rand(1500, n_agents) < 0.3] = 0.0  # the dead
    weights = torch.randn(1500, n_agents)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        values = critic(state, obs)
        results.append([values, *torch.autograd.grad(values, list(critic.parameters()), weights)])
    for other in results[1:]:
        assert all(torch.equal(first, second) for first, second in zip(results[0], other, strict=True))


@all_critics
def test_equal_seeds_give_equal_critics(factory: Factory) -> None:
    state, obs = rows(3)
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(factory(STATE_DIM, OBS_DIM, N_AGENTS)(state, obs))
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])


@pytest.mark.parametrize("critic_class", [FiLMCritic, DualPathCritic, AttentionCritic])
def test_hidden_size_is_checked(critic_class: Callable[..., Critic]) -> None:
    with pytest.raises(ValueError, match="hidden_size must be at least 1, got 0"):
        critic_class(STATE_DIM, OBS_DIM, N_AGENTS, hidden_size=0)


def test_attention_heads_divide_the_hidden_size() -> None:
    with pytest.raises(ValueError, match=r"hidden_size must be a multiple of n_heads \(3\), got 8"):
        AttentionCritic(STATE_DIM, OBS_DIM, N_AGENTS, hidden_size=8, n_heads=3)


def test_mappo_critic_is_an_mlp_on_the_concatenation() -> None:
    critic = MAPPOCritic(STATE_DIM, OBS_DIM, N_AGENTS, hidden_sizes=(16, 8))
    state = torch.randn(5, STATE_DIM)
    hidden = with_ids(state.unsqueeze(1).expand(-1, N_AGENTS, -1))
    weights = [p for p in critic.parameters() if p.dim() == 2]
    assert [tuple(w.shape) for w in weights] == [(16, STATE_DIM + N_AGENTS), (8, 16), (1, 8)]
    for i, weight in enumerate(weights):  # the biases start at 0
        hidden = hidden @ weight.t()
        hidden = hidden.relu() if i < 2 else hidden
    torch.testing.assert_close(critic(state, torch.zeros(5, N_AGENTS, OBS_DIM)), hidden.squeeze(-1))


def with_ids(features: Tensor) -> Tensor:
    """[B, N, F] → [B, N, F + N], the plain concatenation that the critics spare themselves."""
    return torch.cat([features, torch.eye(N_AGENTS).expand(len(features), -1, -1)], dim=-1)


def random_biases(critic: Critic) -> dict[str, Tensor]:
    """The parameters, with biases other than the zeros they start with."""
    with torch.no_grad():
        for name, parameter in critic.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return dict(critic.named_parameters())


def linear(x: Tensor, p: dict[str, Tensor], name: str) -> Tensor:
    return x @ p[f"{name}.weight"].t() + p.get(f"{name}.bias", 0.0)


def normed(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()


def head(h: Tensor, p: dict[str, Tensor]) -> Tensor:
    return linear(linear(h, p, "head.0").relu(), p, "head.2").squeeze(-1)


@pytest.mark.parametrize("joint_obs", [False, True])
@pytest.mark.parametrize("feature_norm", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_norms_and_death_masks_are_those_of_the_plain_network(
    joint_obs: bool, feature_norm: bool, layer_norm: bool
) -> None:
    """Values and gradients of features, zeros for the dead → norm → ⊕ id → (linear → ReLU → norm)² → linear."""
    critic = MAPPOCritic(STATE_DIM, OBS_DIM, N_AGENTS, (16, 8), joint_obs, feature_norm, layer_norm, death_masking=True)
    random_biases(critic)
    for name, parameter in critic.named_parameters():
        if name.endswith("gain"):
            torch.nn.init.normal_(parameter)
    p = {name.removeprefix("layers."): parameter for name, parameter in critic.named_parameters()}

    def affine(x: Tensor, name: str, wanted: bool) -> Tensor:
        return normed(x) * p[f"{name}.gain"] + p[f"{name}.bias"] if wanted else x

    state, obs = rows(5)
    obs[1, 2], obs[3, 0], obs[4] = 0.0, 0.0, 0.0
    features = state.unsqueeze(1).expand(-1, N_AGENTS, -1)
    features = torch.cat([features, obs], dim=-1) if joint_obs else features
    features = torch.where((obs == 0).all(-1, keepdim=True), 0.0, features)
    hidden = with_ids(affine(features, "first.feature_norm", feature_norm))
    for i, layer in enumerate(("first", "middle.0")):
        hidden = affine(linear(hidden, p, layer).relu(), f"norms.{i}", layer_norm)
    expected, values = linear(hidden, p, "last").squeeze(-1), critic(state, obs)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)
    direction = torch.randn_like(expected)
    gradients = (torch.autograd.grad(v, list(p.values()), direction, retain_graph=True) for v in (values, expected))
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(critic(state, obs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scenario", ["3m", "MMM"])
def test_only_the_dead_see_nothing_at_all(scenario: str) -> None:
    """By which death masking tells them; who has the no-op is dead."""
    battle = VectorBattle(scenario, num_battles=4, auto_reset=False)
    battle.reset()
    random, n_dead = np.random.default_rng(0), 0
    while not (battle.terminated | battle.truncated).all():
        dead = battle.available_actions[..., 0]
        assert (battle.obs.any(axis=-1) == ~dead).all()
        n_dead += dead.sum()
        battle.step((battle.available_actions * random.random(battle.available_actions.shape)).argmax(axis=-1))
    assert n_dead > 0


def test_film_and_dual_path_follow_their_equations() -> None:
    state, obs = rows(5)
    each = with_ids(state.unsqueeze(1).expand(-1, N_AGENTS, -1))
    film, dual = (c(STATE_DIM, OBS_DIM, N_AGENTS, hidden_size=16) for c in (FiLMCritic, DualPathCritic))

    p = random_biases(film)
    h_s, h_o = linear(state, p, "state").relu().unsqueeze(1), linear(with_ids(obs), p, "observation").relu()
    h = normed(linear(h_o, p, "scale").sigmoid() * h_s + linear(h_o, p, "shift") + h_o)
    torch.testing.assert_close(film(state, obs), head(h, p))

    p = random_biases(dual)
    h_s, h_o = linear(state, p, "state").relu().unsqueeze(1), linear(with_ids(obs), p, "observation").relu()
    h = linear(each, p, "direct").relu() + linear(h_o, p, "gate").sigmoid() * h_s
    torch.testing.assert_close(dual(state, obs), head(h, p))


def test_attention_follows_its_equation() -> None:
    critic = AttentionCritic(STATE_DIM, OBS_DIM, N_AGENTS, hidden_size=16, n_heads=2)
    state, obs = rows(5)
    p = random_biases(critic)
    joined = torch.cat([state.unsqueeze(1).expand(-1, N_AGENTS, -1), obs], dim=-1)
    x = linear(with_ids(joined), p, "embedding").relu()
    query, key, value = (linear(normed(x), p, name) for name in ("query", "key", "value"))
    heads = []
    for part in (slice(0, 8), slice(8, 16)):
        scores = query[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(8)
        heads.append(F.softmax(scores, dim=-1) @ value[..., part])
    h = x + linear(torch.cat(heads, dim=-1), p, "projection")
    torch.testing.assert_close(critic(state, obs), head(normed(h), p))


def test_a_target_critic_follows_slowly_and_learns_nothing_itself() -> None:
    critic = MAPPOCritic(STATE_DIM, OBS_DIM, N_AGENTS, hidden_sizes=(16,))
    target = TargetCritic(critic, tau=0.25)
    state, obs = rows(3)
    assert torch.equal(target(state, obs), critic(state, obs))
    start = [p.clone() for p in critic.parameters()]
    with torch.no_grad():
        for p in critic.parameters():
            p += 4.0
    assert all(torch.equal(slow, old) for slow, old in zip(target.parameters(), start, strict=True))
    target.follow(critic)
    for slow, old in zip(target.parameters(), start, strict=True):
        torch.testing.assert_close(slow, old + 1.0)
    assert not any(p.requires_grad for p in target.parameters())
    for tau in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"target_critic_tau must be in \(0, 1\]"):
            TargetCritic(critic, tau)
