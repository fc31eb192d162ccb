"""Old steps, with what the learner makes of them now."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from amal.algorithms.amal import AMAL, OffPolicyReplay
from amal.algorithms.amal.off_policy import off_policy_targets
from amal.ops.losses import chosen_log_probs, masked_moments, standardize
from amal.replay import RealExperience
from amal.types import EpisodeBatch
from tests.algorithms.amal.test_algorithm import small
from tests.algorithms.episodes import random_batch


def of_the_policy(module: AMAL, batch: EpisodeBatch) -> EpisodeBatch:
    """The batch as if the policy had chosen its actions."""
    logits = module.policy(batch.obs[:, :-1], module.policy.initial_hidden(len(batch.mask)))[0]
    log_probs = chosen_log_probs(logits, batch.available_actions[:, :-1], batch.actions)
    return replace(batch, log_probs=log_probs.detach())


def test_weights_are_truncated_above_one_and_scale_below() -> None:
    """An action that the policy prefers twice as much counts once, one that it prefers half as much counts half."""
    module, steps = small(), RealExperience.of_episodes(of_the_policy(small(), random_batch(0)))

    def advantages(shift: float) -> torch.Tensor:
        shifted = replace(steps, log_probs=steps.log_probs + shift)
        return off_policy_targets(module, shifted, importance_cap=1.0)[0].advantages

    as_it_is, twice, half = map(advantages, (0.0, -0.6931472, 0.6931472))
    alive = steps.alive
    torch.testing.assert_close(twice[alive], as_it_is[alive])
    torch.testing.assert_close(half[alive], 0.5 * as_it_is[alive])


def test_a_single_step_counts_its_reward_and_what_follows_unless_it_was_the_last() -> None:
    module, batch = small(), random_batch(1)
    steps = RealExperience.of_episodes(of_the_policy(module, batch))
    seen, log_ratio = off_policy_targets(module, steps, importance_cap=1e9)
    torch.testing.assert_close(log_ratio, torch.zeros_like(log_ratio), atol=1e-6, rtol=0)
    values, following = (
        module.value_normalizer.denormalize(module.critic(state, obs)).detach()
        for state, obs in ((steps.state, steps.obs), (steps.next_state, steps.next_obs))
    )
    targets = steps.rewards + torch.where(steps.done.unsqueeze(-1), 0.0, module.gamma * following)
    learned = module.value_normalizer.denormalize(seen.targets)
    expected = standardize(targets - values, steps.alive, masked_moments(targets - values, steps.alive))
    for found, wanted in ((learned, targets), (seen.advantages, expected)):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_steps_of_the_policy_itself_are_not_truncated_and_count_in_full() -> None:
    module, steps = small(), RealExperience.of_episodes(random_batch(0))
    now, _ = off_policy_targets(module, steps, importance_cap=1.0)
    own = replace(steps, log_probs=now.log_probs)
    remembered: Any = SimpleNamespace(sample_mixed=lambda number, ratio: own)
    _, told = OffPolicyReplay().draw(module, remembered, n_minibatch=1)
    assert told["train/importance_truncated"] == 0 and told["train/replay_effective_share"] == 1


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("coef", 0.0, "greater than 0"),
        ("batch_size", 0, "at least 1"),
        ("aux_ratio", 1.5, r"in \[0, 1\]"),
        ("importance_cap", 0.0, "greater than 0"),
    ],
)
def test_arguments_are_checked(argument: str, value: float, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument} must be {allowed}, got"):
        OffPolicyReplay(**{argument: value})


def test_a_batch_of_one_is_allowed() -> None:
    OffPolicyReplay(batch_size=1)
