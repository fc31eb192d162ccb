import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from amal.networks import world_models
from amal.networks.world_model_ensemble import WorldModelEnsemble, open_loop_errors
from amal.networks.world_models import (
    MAX_LOG_VAR,
    MIN_LOG_VAR,
    Prediction,
    WorldModel,
    bounded_log_var,
    combined,
    gaussian_log_likelihood,
    sample_step,
    world_model_losses,
)
from amal.replay import Experience
from amal.runtime.machine import one_thread

N_AGENTS, N_ACTIONS, OBS_DIM, STATE_DIM = 3, 4, 5, 7
SIZES = (N_AGENTS, N_ACTIONS, OBS_DIM, STATE_DIM)
LOG_2PI = math.log(2 * math.pi)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def small_model(*sizes: int) -> WorldModel:
    """With heads as large as the other layers, so that nothing in it is near zero."""
    model = WorldModel(*sizes, hidden_dims=(32, 16), decoder_dims=(24,))
    for head in (model.agent_head, model.team_head):
        torch.nn.init.normal_(head.weight, std=0.3)
        torch.nn.init.normal_(head.bias, std=0.3)
    return model


def random_experience(size: int, dead: float = 0.3) -> Experience:
    def available() -> Tensor:
        living = torch.rand(size, N_AGENTS, 1) >= dead
        return torch.cat([~living, living, living & (torch.rand(size, N_AGENTS, N_ACTIONS - 2) < 0.5)], dim=-1)

    return Experience(
        obs=torch.rand(size, N_AGENTS, OBS_DIM) - 0.5,
        state=torch.rand(size, STATE_DIM) - 0.5,
        available_actions=available(),
        actions=torch.randint(N_ACTIONS, (size, N_AGENTS)),
        log_probs=torch.zeros(size, N_AGENTS),
        rewards=torch.rand(size, 1).expand(size, N_AGENTS),
        next_obs=torch.rand(size, N_AGENTS, OBS_DIM) - 0.5,
        next_state=torch.rand(size, STATE_DIM) - 0.5,
        next_available_actions=available(),
        done=torch.rand(size) < 0.2,
        provenance=torch.zeros(size, dtype=torch.int64),
    )


def inputs(experience: Experience) -> tuple[Tensor, Tensor, Tensor]:
    return experience.obs, experience.state, experience.actions


def test_gaussian_log_likelihood_is_the_sum_of_normal_densities() -> None:
    x, mean, log_var = torch.randn(3, 6, 4)
    expected = torch.distributions.Normal(mean, (0.5 * log_var).exp()).log_prob(x).sum(-1)
    torch.testing.assert_close(gaussian_log_likelihood(x, mean, log_var), expected)


def test_log_variances_are_bounded() -> None:
    raw = torch.tensor([-1e6, 0.0, 1e6])
    expected = torch.tensor([MIN_LOG_VAR, (MIN_LOG_VAR + MAX_LOG_VAR) / 2, MAX_LOG_VAR])
    torch.testing.assert_close(bounded_log_var(raw), expected)


def test_losses_by_hand() -> None:
    """Two transitions, two agents (the second one dead in the second), one feature each."""
    prediction = Prediction(
        obs_mean=torch.tensor([[[1.0], [2.0]], [[3.0], [9.0]]]),
        obs_log_var=torch.tensor([[[0.0], [0.0]], [[math.log(4.0)], [1.0]]]),
        available_logits=torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[math.log(3.0), 0.0], [5.0, 5.0]]]),
        state_mean=torch.tensor([[0.0, 1.0], [0.0, 0.0]]),
        state_log_var=torch.zeros(2, 2),
        reward=torch.tensor([1.0, 5.0]),
        done_logit=torch.tensor([0.0, -math.log(3.0)]),
    )
    experience = replace(
        random_experience(2),
        available_actions=torch.tensor([[[False, True], [False, True]], [[False, True], [True, False]]]),
        rewards=torch.tensor([[2.0, 2.0], [2.0, 2.0]]),
        next_obs=torch.tensor([[[1.0], [4.0]], [[5.0], [0.0]]]),
        next_state=torch.tensor([[0.0, 0.0], [0.0, 3.0]]),
        next_available_actions=torch.tensor([[[True, True], [True, True]], [[False, True], [True, True]]]),
        done=torch.tensor([False, True]),
    )
    expected = {
        "obs": (0 + 2**2 / 2 + math.sqrt(4) * (2**2 / 4 + math.log(4)) / 2) / 3,
        "available": (5 * math.log(2) + math.log(4)) / 6,
        "state": (1 + 9) / 2 / 4,
        "reward": 0.5 * (1 + 9) / 2,
        "done": (math.log(2) + math.log(4)) / 2,
    }
    losses = world_model_losses(prediction, experience)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected)
    assert combined(losses).item() == pytest.approx(sum(expected.values()))


def test_the_dead_have_no_influence() -> None:
    model, experience = small_model(*SIZES), random_experience(20)
    dead = ~experience.alive.unsqueeze(-1)
    assert dead.any()
    poisoned = replace(
        experience,
        obs=experience.obs.masked_fill(dead, math.nan),
        next_obs=experience.next_obs.masked_fill(dead, math.nan),
        next_available_actions=experience.next_available_actions ^ dead,
    )
    results = []
    for data in (experience, poisoned):
        loss = combined(world_model_losses(model(*inputs(data), data.alive), data))
        results.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    for clean, other in zip(*results, strict=True):
        assert clean.isfinite().all() and torch.equal(clean, other)


def test_nobody_alive_is_no_trouble() -> None:
    model, experience = small_model(*SIZES), random_experience(4, dead=1.0)
    losses = world_model_losses(model(*inputs(experience), experience.alive), experience)
    assert losses["obs"] == losses["available"] == 0
    assert torch.stack(list(losses.values())).isfinite().all()


def test_an_untrained_model_says_that_nothing_changes() -> None:
    experience = random_experience(10, dead=0.0)
    prediction = WorldModel(*SIZES)(*inputs(experience), experience.alive)
    torch.testing.assert_close(prediction.obs_mean, experience.obs, atol=0.02, rtol=0)
    torch.testing.assert_close(prediction.state_mean, experience.state, atol=0.02, rtol=0)


@pytest.mark.parametrize("decoder_dims", [(), (8, 9)])
def test_gradients_reach_every_parameter(decoder_dims: tuple[int, ...]) -> None:
    model, experience = WorldModel(*SIZES, decoder_dims=decoder_dims), random_experience(20)
    combined(world_model_losses(model(*inputs(experience), experience.alive), experience)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_likelihoods_by_action_are_those_of_acting_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_models, "ROWS_AT_ONCE", 17)
    model, experience = small_model(*SIZES), random_experience(12)
    wanted = experience.available_actions & experience.alive.unsqueeze(-1)
    dead = ~experience.alive.unsqueeze(-1)
    obs, next_obs = experience.obs.masked_fill(dead, math.nan), experience.next_obs.masked_fill(dead, math.nan)
    found = model.log_likelihood_by_action(obs, experience.state, experience.actions, next_obs, wanted)
    assert torch.equal(found[~wanted], torch.zeros(int((~wanted).sum())))
    for agent in range(N_AGENTS):
        for action in range(N_ACTIONS):  # among them the realised ones
            different = experience.actions.clone()
            different[:, agent] = action
            outcome = model(experience.obs, experience.state, different, experience.alive)
            rows = wanted[:, agent, action]
            views = (next_obs, outcome.obs_mean, outcome.obs_log_var)
            expected = gaussian_log_likelihood(*(view[rows, agent] for view in views))
            torch.testing.assert_close(found[rows, agent, action], expected, atol=1e-4, rtol=1e-5)
    several = found.masked_fill(~wanted, math.nan)[wanted.sum(dim=-1) > 1]
    assert (several.nan_to_num(-math.inf).amax(-1) - several.nan_to_num(math.inf).amin(-1)).min() > 1e-3  # it matters
    gradients = torch.autograd.grad(found.sum(), [model.first.weight, model.agent_head.weight])
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)


def test_nothing_wanted() -> None:
    model, experience = small_model(*SIZES), random_experience(3)
    nothing = torch.zeros(3, N_AGENTS, N_ACTIONS, dtype=torch.bool)
    assert not model.log_likelihood_by_action(*inputs(experience), experience.next_obs, nothing).any()


def test_refuses_sizes_that_make_no_network() -> None:
    with pytest.raises(ValueError, match="hidden_dims"):
        WorldModel(*SIZES, hidden_dims=())
    with pytest.raises(ValueError, match="at least 1"):
        WorldModel(*SIZES, decoder_dims=(0,))
    with pytest.raises(ValueError, match="ensemble_size"):
        WorldModelEnsemble(small_model, 0, *SIZES)


def toy_dynamics(experience: Experience) -> Experience:
    """Own action moves the first feature, the state counts who chose action 2, others' actions show in the last."""
    moves = torch.tensor([0.0, 0.3, -0.3, 0.1])[experience.actions]
    next_obs = experience.obs.clone()
    next_obs[..., 0] += moves
    next_obs[..., -1] = 0.1 * (experience.actions == 2).sum(dim=1, keepdim=True)
    next_obs[..., 1] = experience.state[:, :1]
    next_state = experience.state.roll(1, dims=1)
    next_state[:, 0] = experience.obs[..., 0].mean(dim=1)
    available = torch.ones_like(experience.available_actions)
    available[..., 0], available[..., 2] = False, next_obs[..., 0] > 0
    reward = moves.sum(dim=1, keepdim=True).expand(-1, N_AGENTS)
    done = experience.state[:, 0] > 0.2
    return replace(
        experience,
        next_obs=next_obs,
        next_state=next_state,
        next_available_actions=available,
        rewards=reward,
        done=done,
    )


def trained(steps: int) -> WorldModel:
    torch.manual_seed(1)
    model = WorldModel(*SIZES, hidden_dims=(64, 64))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3, fused=True)
    for _ in range(steps):
        experience = toy_dynamics(random_experience(128, dead=0.0))
        optimizer.zero_grad()
        combined(world_model_losses(model(*inputs(experience), experience.alive), experience)).backward()
        optimizer.step()
    return model


def test_learns_simple_dynamics() -> None:
    model = trained(400)
    experience = toy_dynamics(random_experience(500, dead=0.0))
    with torch.no_grad():
        prediction = model(*inputs(experience), experience.alive)
        step = model.predict(*inputs(experience), experience.alive)
    for before, mean, after in (
        (experience.obs, prediction.obs_mean, experience.next_obs),
        (experience.state, prediction.state_mean, experience.next_state),
    ):
        assert (mean - after).square().mean() < 0.1 * (before - after).square().mean()
    reward = experience.rewards[:, 0]
    assert (prediction.reward - reward).square().mean() < 0.1 * reward.var()
    assert (step.done == experience.done).float().mean() > 0.9
    assert (step.next_available == experience.next_available_actions).float().mean() > 0.95


def test_training_does_not_depend_on_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = trained(5)
    finally:
        torch.set_num_threads(threads)
    with one_thread():
        one = trained(5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def certain(available_logits: Tensor, **changes: Tensor) -> Prediction:
    size = len(available_logits)
    prediction = Prediction(
        obs_mean=torch.full((size, N_AGENTS, 2), 0.5),
        obs_log_var=torch.full((size, N_AGENTS, 2), -2.0),
        available_logits=available_logits,
        state_mean=torch.full((size, 2), 0.5),
        state_log_var=torch.full((size, 2), -2.0),
        reward=torch.zeros(size),
        done_logit=torch.full((size,), -100.0),
    )
    return replace(prediction, **changes)


@pytest.mark.parametrize("sampled", [False, True])
def test_imagined_steps_are_possible(sampled: bool) -> None:
    # three agents: dies now (everything expected), lives without anything else, was dead and is expected to rise
    logits = torch.tensor([[[99.0, 1.0, 1.0, 1.0], [-99.0, -1.0, -1.0, -1.0], [-99.0, 1.0, 1.0, 1.0]]])
    alive = torch.tensor([[True, True, False]])
    generator = torch.Generator().manual_seed(0) if sampled else None
    step = sample_step(certain(logits), alive, generator)
    assert step.next_available.tolist() == [
        [[True, False, False, False], [False, True, False, False], [True, False, False, False]]
    ]
    assert not step.next_obs[0, [0, 2]].any() and step.next_obs[0, 1].all()
    assert not step.done.any()
    assert sample_step(certain(logits), torch.tensor([[True, False, False]]), generator).done.all()  # nobody lives on
    for limit in (-9.0, 9.0):
        far = certain(logits, obs_mean=torch.full((1, N_AGENTS, 2), limit), state_mean=torch.full((1, 2), limit))
        step = sample_step(far, alive, generator)
        assert step.next_obs[0, 1].tolist() == step.next_state[0].tolist() == [math.copysign(1, limit)] * 2


def test_deaths_and_ends_are_drawn_and_views_are_means() -> None:
    size = 4000
    logits = torch.full((size, N_AGENTS, N_ACTIONS), -math.log(4.0))
    alive = torch.ones(size, N_AGENTS, dtype=torch.bool)
    prediction = certain(logits, done_logit=torch.full((size,), -math.log(3.0)))
    step = sample_step(prediction, alive, torch.Generator().manual_seed(0))
    died = step.next_available[..., 0]
    assert died.float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert step.done[~died.all(dim=-1)].float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (step.next_obs[~died] == 0.5).all() and (step.next_state == 0.5).all()
    assert not sample_step(prediction, alive).next_available[..., 0].any()


def test_noisy_views_are_draws_of_the_prediction_and_deaths_its_mode() -> None:
    size = 4000
    logits = torch.full((size, N_AGENTS, N_ACTIONS), -1.0)
    alive = torch.ones(size, N_AGENTS, dtype=torch.bool)
    small = {"obs_log_var": torch.full((size, N_AGENTS, 2), -6.0), "state_log_var": torch.full((size, 2), -4.0)}
    prediction = certain(logits, **small, done_logit=torch.full((size,), -math.log(3.0)))
    step = sample_step(prediction, alive, torch.Generator().manual_seed(0), noisy_views=True)
    assert step.done.float().mean().item() == pytest.approx(0.25, abs=0.03) and not step.next_available[..., 0].any()
    for drawn, std in ((step.next_obs, math.exp(-3)), (step.next_state, math.exp(-2))):
        assert drawn.mean().item() == pytest.approx(0.5, abs=0.01)
        assert drawn.std().item() == pytest.approx(std, rel=0.05)
    expected = sample_step(prediction, alive)
    assert torch.equal(expected.next_obs, prediction.obs_mean) and not expected.done.any()


def test_equal_generators_make_equal_steps() -> None:
    ensemble, experience = WorldModelEnsemble(small_model, 3, *SIZES), random_experience(50)
    for model in (ensemble, ensemble.members[0]):
        first, again, other = (
            model.predict(*inputs(experience), experience.alive, torch.Generator().manual_seed(seed))
            for seed in (1, 1, 2)
        )
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first.done, other.done)


def test_members_differ_and_their_likelihoods_are_averaged() -> None:
    ensemble, experience = WorldModelEnsemble(small_model, 3, *SIZES), random_experience(10)
    means, log_vars = ensemble.outcomes(*inputs(experience), experience.alive)
    assert means.shape == log_vars.shape == (3, 10, N_AGENTS, OBS_DIM)
    for e, member in enumerate(ensemble.members):
        prediction = member(*inputs(experience), experience.alive)
        assert torch.equal(means[e], prediction.obs_mean) and torch.equal(log_vars[e], prediction.obs_log_var)
        assert e == 0 or not torch.equal(means[e], means[0])
    wanted = experience.available_actions
    arguments = (*inputs(experience), experience.next_obs, wanted)
    each = torch.stack([member.log_likelihood_by_action(*arguments) for member in ensemble.members])
    expected = torch.where(wanted, each.double().exp().mean(dim=0).log().float(), 0.0)
    torch.testing.assert_close(ensemble.log_likelihood_by_action(*arguments), expected)


def test_each_transition_is_imagined_by_a_random_member() -> None:
    ensemble, experience = WorldModelEnsemble(small_model, 3, *SIZES), random_experience(60, dead=0.0)
    # the reward carries no noise
    rewards = torch.stack([m(*inputs(experience), experience.alive).reward for m in ensemble.members])
    step = ensemble.predict(*inputs(experience), experience.alive, torch.Generator().manual_seed(0))
    matches = (step.reward - rewards).abs() < 1e-5
    assert matches.any(dim=0).all() and (matches.sum(dim=1) > 10).all()
    few = ensemble.predict(*(x[:1] for x in inputs(experience)), experience.alive[:1], torch.Generator().manual_seed(0))
    assert few.reward.shape == (1,)  # two members had nothing to do
    average = ensemble.predict(*inputs(experience), experience.alive)
    torch.testing.assert_close(average.reward, rewards.mean(dim=0))


def test_open_loop_errors_of_networks() -> None:
    ensemble = WorldModelEnsemble(WorldModel, 2, *SIZES)
    steps = [random_experience(6) for _ in range(4)]
    obs, state, available, actions = (
        torch.stack([getattr(step, name) for step in steps], dim=1)
        for name in ("obs", "state", "available_actions", "actions")
    )
    errors = open_loop_errors(ensemble, obs, state, available, actions[:, :3], horizon=3)
    # untrained, it says that nothing changes
    assert errors["state"].item() == pytest.approx(errors["state_trivial"].item(), rel=0.1)
    assert errors["obs"].item() == pytest.approx(errors["obs_trivial"].item(), rel=0.1)


def test_every_field_of_a_prediction_has_the_shape_it_claims() -> None:
    experience = random_experience(6)
    prediction = small_model(*SIZES)(*inputs(experience), experience.alive)
    shapes = {f.name: tuple(getattr(prediction, f.name).shape) for f in fields(prediction)}
    assert shapes == {
        "obs_mean": (6, N_AGENTS, OBS_DIM),
        "obs_log_var": (6, N_AGENTS, OBS_DIM),
        "available_logits": (6, N_AGENTS, N_ACTIONS),
        "state_mean": (6, STATE_DIM),
        "state_log_var": (6, STATE_DIM),
        "reward": (6,),
        "done_logit": (6,),
    }
