from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import Trainer, seed_everything
from lightning.pytorch.profilers import PassThroughProfiler
from torch.utils.data import DataLoader

from amal.algorithms.base import NonFiniteLoss, check_finite
from amal.algorithms.mappo import MAPPO
from amal.algorithms.minibatches import Minibatch, shuffled_transitions
from amal.networks.critics import IPPOCritic, MAPPOCritic, evaluate_critic
from amal.networks.policies import GRUPolicy, IndependentPolicies, MLPPolicy
from amal.ops.losses import masked_moments
from amal.ops.returns import generalized_advantages, n_step_returns
from amal.types import EpisodeBatch
from tests.algorithms.episodes import (
    N_ACTIONS,
    N_AGENTS,
    SIZES,
    SMALL_CRITIC,
    SMALL_MLP,
    Batches,
    assert_identical,
    matching_game,
    parameters,
    random_batch,
    train,
)

SMALL_GRU = partial(GRUPolicy, hidden_size=16)
NORMED_MLP, NORMED_GRU = (partial(policy, feature_norm=True, layer_norm=True) for policy in (SMALL_MLP, SMALL_GRU))
NORMED_CRITIC = partial(MAPPOCritic, hidden_sizes=(16, 16), feature_norm=True, layer_norm=True, death_masking=True)
JOINT_CRITIC = partial(MAPPOCritic, hidden_sizes=(16, 16), joint_obs=True)


def small(seed: int = 0, **options: Any) -> MAPPO:
    seed_everything(seed, verbose=False)
    return MAPPO(**{**SIZES, "policy": SMALL_MLP, "critic": SMALL_CRITIC, "n_minibatch": 2, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"policy": SMALL_GRU},
        {"critic": partial(IPPOCritic, hidden_sizes=(16, 16)), "value_loss": "huber"},
        {"share_parameters": False},
        {"n_step_returns": 5, "target_critic_tau": 0.1, "standardise_rewards": True},
    ],
    ids=["mappo", "recurrent", "ippo", "independent", "like epymarl"],
)
def test_learns_to_match_the_sign(options: dict[str, Any]) -> None:
    """A random team scores 0.25, the best 1."""
    n_updates = 60
    module = small(lr=5e-3, n_minibatch=4, **options)
    scores: list[float] = []
    generator = torch.Generator().manual_seed(0)
    train(module, lambda i: matching_game(module, generator, n_updates, scores, i), n_updates)
    assert scores[0] < 0.45
    assert sum(scores[-10:]) / 10 > 0.95


def disturbed(batch: EpisodeBatch, dead: bool, padding: bool) -> EpisodeBatch:
    """The batch with other contents where dead agents or padding are; the dead keep only the no-op available."""
    g = torch.Generator().manual_seed(99)
    absent = torch.zeros_like(batch.alive)
    if dead:
        absent |= batch.mask.unsqueeze(-1) & ~batch.alive
    if padding:
        absent |= ~batch.mask.unsqueeze(-1).expand_as(absent)
    assert absent.any()

    def disturb(x: torch.Tensor, where: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return torch.where(where.view(*where.shape, *[1] * (x.dim() - where.dim())), noise.to(x.dtype), x)

    obs, state, rewards = batch.obs.clone(), batch.state.clone(), batch.rewards
    obs[:, :-1] = disturb(obs[:, :-1], absent, torch.randn(obs[:, :-1].shape, generator=g))
    terminated = batch.terminated
    if padding:
        # the slot after the last step is what the episode ended with, and is not padding
        beyond = torch.arange(state.shape[1]) > batch.lengths.unsqueeze(-1)
        obs = disturb(batch.obs, beyond, torch.randn(obs.shape, generator=g))
        state = disturb(state, beyond, torch.randn(state.shape, generator=g))
        rewards = disturb(rewards, ~batch.mask, torch.randn(rewards.shape, generator=g))
        terminated = terminated | ~batch.mask
    return replace(
        batch,
        obs=obs,
        state=state,
        rewards=rewards,
        terminated=terminated,
        actions=disturb(batch.actions, absent, torch.randint(N_ACTIONS, absent.shape, generator=g)),
        log_probs=disturb(batch.log_probs, absent, torch.full(absent.shape, -200.0)),
    )


@pytest.mark.parametrize("policy", [SMALL_MLP, SMALL_GRU], ids=["mlp", "gru"])
@pytest.mark.parametrize(
    ("critic", "dead", "padding"),
    [(SMALL_CRITIC, True, False), (SMALL_CRITIC, False, True), (JOINT_CRITIC, False, True)],
)
def test_dead_agents_and_padding_have_no_influence(policy: Any, critic: Any, dead: bool, padding: bool) -> None:
    """What the dead "see" and "do" reaches nothing but a critic that is shown the observations; padding nothing."""
    results = []
    for change in (lambda b: b, lambda b: disturbed(b, dead, padding)):
        module = small(policy=policy, critic=critic)
        train(module, lambda i, change=change: change(random_batch(i)), n_batches=2)
        results.append(parameters(module))
    assert_identical(*results)


@pytest.mark.parametrize("critic", [JOINT_CRITIC, partial(IPPOCritic, hidden_sizes=(16, 16))], ids=["joint", "ippo"])
def test_values_of_the_dead_are_learned(critic: Any) -> None:
    """An agent's last step alive is judged by its value once dead, which no critic of observations knows by itself."""
    module, batch = small(critic=critic, lr=2e-2, n_epochs=20, value_clip=10.0), random_batch(0)
    batch.obs[:, 2:, 2] = 0.0  # what the dead see
    batch.rewards[:, :2] += 5.0 * batch.mask[:, :2]  # so that returns are others before its death than after
    dead = batch.mask.unsqueeze(-1) & ~batch.alive
    train(module, lambda _: batch, n_batches=12)
    with torch.no_grad():
        values, _, returns = module.returns_and_advantages(batch)
        values = module.value_normalizer.denormalize(values)
    assert returns[dead].mean() < 2.0 < 5.0 < returns[batch.alive].mean()
    torch.testing.assert_close(values[dead].mean(), returns[dead].mean(), atol=0.3, rtol=0)


def test_policy_and_advantages_leave_dead_agents_out() -> None:
    """Whatever advantages and ratios the dead have, the policy's loss and gradients stay the same."""
    module, batch = small(critic=partial(IPPOCritic, hidden_sizes=(16, 16))), random_batch(0)
    transitions, _ = module.estimate_advantages(batch)
    assert not transitions.alive.all()
    advantages = transitions.advantages[transitions.alive]
    torch.testing.assert_close(advantages.mean(), torch.tensor(0.0))
    torch.testing.assert_close(advantages.std(correction=0), torch.tensor(1.0))
    normalized = transitions.targets  # of all agents; so far the normaliser has seen just this batch
    torch.testing.assert_close(normalized.mean(), torch.tensor(0.0))
    torch.testing.assert_close(normalized.std(correction=0), torch.tensor(1.0))

    changes = {"advantages": 7.0, "log_probs": -500.0}
    dead = {name: getattr(transitions, name).masked_fill(~transitions.alive, x) for name, x in changes.items()}
    outcomes = []
    for case in (transitions, replace(transitions, **dead)):
        everything = next(shuffled_transitions(case.alive, 1, torch.Generator().manual_seed(0)))
        shuffled = case[everything.steps]
        logits = module.policy.at_rows(shuffled.obs, everything.rows)
        loss, _ = module.policy_loss(logits, shuffled.at_rows(everything.rows))
        outcomes.append([loss, *torch.autograd.grad(loss, list(module.policy.parameters()))])
    assert all(torch.equal(before, after) for before, after in zip(*outcomes, strict=True))


def test_what_alive_agents_saw_has_influence() -> None:
    """The control of the test above: the same disturbance of a living agent does change the parameters."""
    results = []
    for shift in (0.0, 1.0):
        module, batch = small(), random_batch(0)
        batch.obs[0, 0, 0] += shift
        train(module, lambda i, batch=batch: batch, n_batches=1)
        results.append(parameters(module))
    assert not torch.equal(results[0]["policy.layers.last.weight"], results[1]["policy.layers.last.weight"])


def test_same_seed_same_parameters() -> None:
    runs = []
    for seed in (3, 3, 4):
        module = small(seed)
        torch.rand(1 + len(runs))  # what others draw from the global stream must not matter
        train(module, random_batch, n_batches=3)
        runs.append(parameters(module))
    assert_identical(runs[0], runs[1])
    assert not torch.equal(runs[0]["policy.layers.last.weight"], runs[2]["policy.layers.last.weight"])


def test_resuming_continues_bit_for_bit(tmp_path: Path) -> None:
    """Two updates, a checkpoint and two more are four updates: optimizers, normaliser and minibatch order included."""
    whole = small()
    train(whole, random_batch, n_batches=4)

    first = small()
    trainer = train(first, random_batch, n_batches=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = small(seed=77)
    checkpoint = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert set(checkpoint) >= {"learning_state", "optimizer_states"}
    rest = Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    batches = DataLoader(Batches(lambda i: random_batch(i + 2), 2), batch_size=None)
    rest.fit(second, batches, ckpt_path=tmp_path / "half.ckpt")
    assert_identical(parameters(whole), parameters(second))


LIKE_EPYMARL = {"n_step_returns": 2, "target_critic_tau": 0.25, "standardise_rewards": True}


def test_resuming_with_target_critic_and_standardised_rewards(tmp_path: Path) -> None:
    whole = small(**LIKE_EPYMARL)
    train(whole, random_batch, n_batches=4)
    train(small(**LIKE_EPYMARL), random_batch, n_batches=2).save_checkpoint(tmp_path / "half.ckpt")
    second = small(seed=77, **LIKE_EPYMARL)
    rest = Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    batches = DataLoader(Batches(lambda i: random_batch(i + 2), 2), batch_size=None)
    rest.fit(second, batches, ckpt_path=tmp_path / "half.ckpt")
    assert_identical(parameters(whole), parameters(second))
    assert {"reward_normalizer.mean", "target_critic.critic.layers.last.weight"} < parameters(whole).keys()


def test_options_that_are_not_used_change_nothing() -> None:
    """With τ = 1 the slow critic is the critic itself, and λ = 0 is one step."""
    runs = []
    for options in ({}, {"target_critic_tau": 1.0}, {"gae_lambda": 0.0}, {"n_step_returns": 1}):
        module = small(**options)
        train(module, random_batch, n_batches=3)
        runs.append({k: v for k, v in parameters(module).items() if not k.startswith("target_critic")})
    assert runs[0].keys() == parameters(small()).keys()
    for first, second in (runs[:2], runs[2:]):
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5)
    assert not torch.equal(runs[0]["critic.layers.last.weight"], runs[2]["critic.layers.last.weight"])


@pytest.mark.parametrize("n", [None, 2])
def test_returns_are_made_of_the_target_critic_and_advantages_are_over_the_critic(n: int | None) -> None:
    module, batch = small(n_step_returns=n, target_critic_tau=0.5, standardise_rewards=True), random_batch(0)
    assert module.target_critic is not None
    with torch.no_grad():
        for p in module.critic.parameters():
            p += 0.1
    half_way = [p + 0.05 for p in module.target_critic.parameters()]
    transitions, _ = module.estimate_advantages(batch)
    for moved, expected in zip(module.target_critic.parameters(), half_way, strict=True):
        torch.testing.assert_close(moved, expected)

    lived = batch.rewards[batch.mask]
    rewards = (batch.rewards - lived.mean()) / lived.std(correction=0)
    fast, slow = evaluate_critic(module.critic, batch), evaluate_critic(module.target_critic, batch)
    steps = (rewards, slow, batch.terminated, batch.mask, module.gamma)
    if n is None:
        expected = generalized_advantages(*steps, module.gae_lambda) + slow[:, :-1]
    else:
        expected = n_step_returns(*steps, n)
    alive = transitions.alive
    targets = module.value_normalizer.denormalize(transitions.targets)
    torch.testing.assert_close(targets, expected[batch.mask])
    torch.testing.assert_close(transitions.values, fast[:, :-1][batch.mask])
    advantages = (expected - fast[:, :-1])[batch.mask][alive]
    advantages = (advantages - advantages.mean()) / advantages.std(correction=0)
    torch.testing.assert_close(transitions.advantages[alive], advantages)


@pytest.mark.parametrize("options", [{}, {"n_step_returns": 2}, {"standardise_rewards": True}], ids=str)
def test_a_bonus_counts_from_where_it_is_paid_backwards_and_in_no_value(options: dict[str, Any]) -> None:
    """1 in step 2 is worth γλ a step before, γ among two rewards, and nothing afterwards."""
    module, batch = small(gamma=0.5, gae_lambda=0.5, **options), random_batch(0)
    unit = 1.0
    if module.reward_normalizer is not None:
        module.reward_normalizer.update(masked_moments(batch.rewards, batch.mask))
        unit = 1.0 / module.reward_normalizer.std.item()
    bonus = torch.zeros_like(batch.rewards)
    bonus[2, 2] = 1.0
    plain, paid = module.returns_and_advantages(batch), module.returns_and_advantages(batch, bonus)
    assert torch.equal(plain[0], paid[0])
    assert torch.equal(plain[2], paid[2])
    expected = torch.zeros_like(plain[1])
    decay = 0.5 if "n_step_returns" in options else 0.25
    expected[2, 2], expected[2, 1] = unit, unit * decay
    expected[2, 0] = 0.0 if "n_step_returns" in options else unit * decay**2
    torch.testing.assert_close(paid[1] - plain[1], expected, atol=1e-6, rtol=0)


def test_standardised_rewards_are_for_learning_only() -> None:
    """A bonus and a scale on all rewards are not felt, but reported."""
    results, logged = [], []
    for scale, shift in ((1.0, 0.0), (3.0, 5.0)):
        module = small(standardise_rewards=True)
        metrics = train(module, lambda i, a=scale, b=shift: rewarded(random_batch(i), a, b), n_batches=3).logged_metrics
        results.append(parameters(module))
        logged.append(metrics["train/return"].item())
    for name in results[0]:
        if not name.startswith("reward_normalizer"):
            torch.testing.assert_close(results[0][name], results[1][name], rtol=1e-3, atol=1e-4)
    assert logged[0] == pytest.approx(random_batch(2).returns.mean().item())
    assert logged[1] == pytest.approx(logged[0] * 3 + 5 * random_batch(2).mask.sum().item() / 5)


def rewarded(batch: EpisodeBatch, scale: float, shift: float) -> EpisodeBatch:
    return replace(batch, rewards=torch.where(batch.mask, batch.rewards * scale + shift, 0.0))


def test_padding_has_no_influence_on_n_steps_target_critic_and_rewards() -> None:
    results = []
    for change in (lambda b: b, lambda b: disturbed(b, dead=False, padding=True)):
        module = small(critic=JOINT_CRITIC, **LIKE_EPYMARL)
        train(module, lambda i, change=change: change(random_batch(i)), n_batches=2)
        results.append(parameters(module))
    assert_identical(*results)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "independent"])
@pytest.mark.parametrize(
    ("policy", "critic"),
    [(SMALL_MLP, SMALL_CRITIC), (SMALL_GRU, SMALL_CRITIC), (NORMED_MLP, NORMED_CRITIC), (NORMED_GRU, NORMED_CRITIC)],
    ids=["mlp", "gru", "normed mlp", "normed gru"],
)
def test_learning_never_waits_for_the_device(
    policy: Any, critic: Any, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device tensors have no values: whatever asks for one (item, cpu, nonzero, a bool mask) raises."""

    def valueless(record: Any) -> Any:
        if isinstance(record, torch.Tensor):
            return record.to("meta")
        if isinstance(record, Minibatch):  # the sizes are on the CPU, on purpose
            return replace(record, steps=record.steps.to("meta"), rows=record.rows.to("meta"))
        return type(record)(**{f.name: valueless(getattr(record, f.name)) for f in fields(record)})

    batch, module = random_batch(0), small(policy=policy, critic=critic, share_parameters=shared)
    transitions, _ = module.estimate_advantages(batch)
    minibatches = [valueless(minibatch) for minibatch in module.minibatches(batch, transitions)]
    module.to("meta")
    optimizers = [torch.optim.Adam(network.parameters()) for network in (module.policy, module.critic)]
    monkeypatch.setattr(module, "all_optimizers", lambda: optimizers)
    monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())
    module.trainer = SimpleNamespace(profiler=PassThroughProfiler(), model=None)
    metrics = module.take_steps(valueless(transitions), minibatches)
    assert all(value.is_meta for value in metrics.values())
    with pytest.raises(RuntimeError):
        check_finite(metrics)


def test_critic_is_evaluated_up_to_the_end_of_each_episode() -> None:
    batch, module = random_batch(0), small(critic=JOINT_CRITIC)
    values = evaluate_critic(module.critic, batch)
    everything = module.critic(batch.state, batch.obs)
    for i, length in enumerate(batch.lengths.tolist()):
        torch.testing.assert_close(values[i, : length + 1], everything[i, : length + 1])
        assert (values[i, length + 1 :] == 0).all()


def test_first_pass_is_on_policy_whatever_the_policy() -> None:
    """Log-probabilities of acting step by step are those of the update: with a tiny lr, KL and clipping are nil."""
    for policy in (SMALL_MLP, SMALL_GRU, NORMED_MLP, NORMED_GRU):
        module, batch = small(policy=policy, lr=1e-12), random_batch(1)
        hidden, steps = module.policy.initial_hidden(5), []
        generator = torch.Generator().manual_seed(0)
        for t in range(batch.mask.shape[1]):
            *step, hidden = module.act(batch.obs[:, t], batch.available_actions[:, t], hidden, generator, 0.0)
            steps.append(step)
        actions, log_probs = (torch.stack(field, dim=1).clone() for field in zip(*steps, strict=True))
        acted = replace(batch, actions=actions, log_probs=log_probs)
        metrics = train(module, lambda i, acted=acted: acted, n_batches=1).logged_metrics
        assert metrics["train/approx_kl"] < 1e-6
        assert metrics["train/clip_fraction"] == 0


def test_act_respects_availability_and_greedy_takes_the_most_probable() -> None:
    module, batch = small(), random_batch(0)
    obs, available = batch.obs[:, 0], batch.available_actions[:, 0]
    hidden = module.policy.initial_hidden(5)
    sampled, log_probs, _ = module.act(obs, available, hidden, torch.Generator().manual_seed(1), 0.0)
    again, _, _ = module.act(obs, available, hidden, torch.Generator().manual_seed(1), 0.0)
    assert torch.equal(sampled, again)
    assert available.gather(-1, sampled.unsqueeze(-1)).all()
    greedy, best, _ = module.act(obs, available, hidden, None, 0.0)
    assert available.gather(-1, greedy.unsqueeze(-1)).all()
    assert (best >= log_probs).all()
    assert greedy.dtype == torch.int64
    assert greedy.shape == best.shape == (5, N_AGENTS)


def test_metrics_and_learning_rate() -> None:
    metrics = train(small(lr=1e-3), random_batch, n_batches=1).logged_metrics
    assert {name.removeprefix("train/") for name in metrics} == {
        *("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "explained_variance"),
        *("policy_grad_norm", "critic_grad_norm", "lr", "return", "win_rate", "episode_length"),
        "policy_steps",
    }
    assert metrics["train/lr"] == pytest.approx(0.75e-3)
    assert metrics["train/win_rate"] == pytest.approx(3 / 5)
    assert metrics["train/policy_steps"] == 4 * 2  # epochs × minibatches
    assert metrics["train/episode_length"] == 4
    assert metrics["train/return"] == pytest.approx(random_batch(0).rewards.sum().item() / 5)


def test_nothing_is_learned_at_the_end_of_the_budget() -> None:
    module = small()
    before = [p.clone() for p in module.parameters()]
    train(module, lambda i: replace(random_batch(i), progress=1.0), n_batches=1)
    assert all(torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))


def test_a_diverged_update_says_so_and_logs_nothing() -> None:
    module, batch = small(), random_batch(0)
    batch.rewards[0, 0] = float("nan")
    with pytest.raises(NonFiniteLoss, match="train/value_loss = nan"):
        train(module, lambda i: batch, n_batches=1)
    assert "train/value_loss" not in module.trainer.logged_metrics


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("n_agents", 0, "at least 1"),
        ("n_epochs", 0, "at least 1"),
        ("gamma", 1.5, "in [0, 1]"),
        ("gae_lambda", -0.1, "in [0, 1]"),
        ("lr", 0.0, "greater than 0"),
        ("lr", float("nan"), "greater than 0"),
        ("clip_param", 1.0, "in (0, 1)"),
        ("entropy_coef", -1.0, "at least 0"),
        ("entropy_floor", -1.0, "at least 0"),
        ("n_step_returns", 0, "at least 1"),
        ("target_critic_tau", 0.0, "in (0, 1]"),
        ("value_loss", "l1", "'mse' or 'huber'"),
    ],
)
def test_arguments_are_checked(argument: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError) as error:
        small(**{argument: value})
    message = str(error.value)
    assert message.startswith(f"{argument} must be")
    assert allowed in message
    assert str(value) in message


@pytest.mark.parametrize("tau", [None, 0.5], ids=["critic", "target critic"])
def test_a_step_without_weight_teaches_nothing(tau: float | None) -> None:
    """Neither policy nor critic, whatever the other steps are standardised by."""
    module, batch = small(target_critic_tau=tau), random_batch(0, (6, 6, 6, 6))
    weights = torch.ones(batch.mask.shape)
    weights[2, 3] = weights[2, 5] = 0.0
    transitions, _ = module.estimate_advantages(batch, is_real=False, importance=weights)
    advantages, targets, values = (
        x.view(*batch.mask.shape, -1) for x in (transitions.advantages, transitions.targets, transitions.values)
    )
    assert (advantages[weights == 0.0] == 0.0).all() and (advantages[0] != 0.0).any()
    if tau is None:
        torch.testing.assert_close(targets[weights == 0.0], values[weights == 0.0])
    plain, _ = module.estimate_advantages(batch, is_real=False)
    ones, _ = module.estimate_advantages(batch, is_real=False, importance=torch.ones(batch.mask.shape))
    assert torch.equal(plain.advantages, ones.advantages) and torch.equal(plain.targets, ones.targets)


def test_networks_are_chosen_by_class_path() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(MAPPO, "model")
    sizes = [f"--model.{name}={size}" for name, size in SIZES.items()]
    default = parser.instantiate(parser.parse_args(sizes)).model
    assert isinstance(default.policy, MLPPolicy)
    chosen = [
        *("--model.policy=amal.networks.GRUPolicy", "--model.policy.hidden_size=32"),
        *("--model.critic=amal.networks.MAPPOCritic", "--model.critic.joint_obs=true"),
    ]
    module = parser.instantiate(parser.parse_args(sizes + chosen)).model
    assert isinstance(module.policy, GRUPolicy)
    assert module.policy.hidden_size == 32
    assert module.critic.joint_obs


def test_parameter_sharing_can_be_turned_off() -> None:
    module = small(share_parameters=False)
    assert isinstance(module.policy, IndependentPolicies)
    assert len(module.policy.policies) == N_AGENTS
