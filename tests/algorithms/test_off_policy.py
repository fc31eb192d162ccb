"""Old steps in hindsight: what V-trace and the single step make of them."""

from dataclasses import replace

import pytest
import torch

from amal.algorithms.amal import AMAL
from amal.ops.losses import chosen_log_probs, standardize
from amal.replay import RealExperience
from amal.types import EpisodeBatch
from tests.algorithms.episodes import random_batch, train
from tests.algorithms.test_amal import small


def of_the_policy(module: AMAL, batch: EpisodeBatch) -> EpisodeBatch:
    """The batch as if the policy had chosen its actions."""
    logits = module.policy(batch.obs[:, :-1], module.policy.initial_hidden(len(batch.mask)))[0]
    log_probs = chosen_log_probs(logits, batch.available_actions[:, :-1], batch.actions)
    return replace(batch, log_probs=log_probs.detach())


def test_the_policys_own_episodes_have_the_advantages_that_it_would_learn_from() -> None:
    module, batch = small(), random_batch(0)
    own = of_the_policy(module, batch)
    seen = module.hindsight.v_trace([own])
    expected, _ = module.estimate_advantages(own)
    alive = expected.alive
    torch.testing.assert_close(seen.log_ratio, torch.zeros_like(seen.log_ratio), atol=1e-6, rtol=0)
    torch.testing.assert_close(seen.transitions.advantages[alive], expected.advantages[alive])


def test_weights_are_truncated_above_one_and_scale_below() -> None:
    """An action that the policy prefers twice as much counts once, one that it prefers half as much counts half."""
    module, steps = small(), RealExperience.of_episodes(of_the_policy(small(), random_batch(0)))
    shifts = {"as it is": 0.0, "twice": -0.6931472, "half": 0.6931472}
    seen = {
        name: module.hindsight.one_step(replace(steps, log_probs=steps.log_probs + shift)).transitions.advantages
        for name, shift in shifts.items()
    }
    alive = steps.alive
    torch.testing.assert_close(seen["twice"][alive], seen["as it is"][alive])
    torch.testing.assert_close(seen["half"][alive], 0.5 * seen["as it is"][alive])


def test_a_single_step_counts_its_reward_and_what_follows_unless_it_was_the_last() -> None:
    module, batch = small(importance_cap=1e9), random_batch(1)
    steps = RealExperience.of_episodes(of_the_policy(module, batch))
    seen = module.hindsight.one_step(steps).transitions
    values, following = (
        module.value_normalizer.denormalize(module.critic(state, obs)).detach()
        for state, obs in ((steps.state, steps.obs), (steps.next_state, steps.next_obs))
    )
    targets = steps.rewards + torch.where(steps.done.unsqueeze(-1), 0.0, module.gamma * following)
    torch.testing.assert_close(module.value_normalizer.denormalize(seen.targets), targets, atol=1e-5, rtol=1e-5)
    expected = standardize(targets - values, steps.alive)
    torch.testing.assert_close(seen.advantages[steps.alive], expected[steps.alive], atol=1e-5, rtol=1e-5)


def test_the_window_holds_what_was_rolled_out_and_not_what_came_after() -> None:
    """Rollouts reuse their arrays."""
    module = small(replay_window=2)
    arrays = random_batch(0)

    def reusing(index: int) -> EpisodeBatch:
        arrays.rewards.copy_(random_batch(index).rewards)
        return arrays

    train(module, reusing, n_batches=3)
    for kept, index in zip(module.window, (1, 2), strict=True):
        assert torch.equal(kept.rewards, random_batch(index).rewards)


@pytest.mark.parametrize("n_rollouts", [1, 3])
def test_replayed_steps_come_from_the_window(n_rollouts: int) -> None:
    module = small(replay_window=4, aux_ratio=0.0)
    train(module, random_batch, n_batches=n_rollouts)
    drawn, _ = module.replayed_transitions(n_minibatch=1)
    assert drawn is not None
    lived = torch.cat([random_batch(i).obs[:, :-1][random_batch(i).mask] for i in range(n_rollouts)])
    assert all((row == lived).flatten(1).all(dim=1).any() for row in drawn.obs)
