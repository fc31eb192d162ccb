"""Replay: the policy learns off-policy from replayed and imagined steps, with importance weights.

Letters: M transitions, N agents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from amal.algorithms.mappo import MAPPO
from amal.algorithms.minibatches import Minibatch, Transitions, at_rows, every_nth, rows_of
from amal.ops.losses import (
    chosen_log_probs,
    clipped_surrogate,
    effective_sample_share,
    masked_mean,
    masked_moments,
    mean,
    standardize,
    truncated_importance,
)
from amal.replay import REAL, AsymmetricReplayBuffer, Experience
from amal.runtime.argument_checks import check_at_least, check_positive, check_share
from amal.runtime.distributed import pooled


@dataclass(frozen=True)
class OffPolicyReplay:
    """The off-policy part of the policy's loss, on replayed and imagined steps. The critic does not learn from them.

    Args:
        coef: weight of that part.
        batch_size: transitions beside each minibatch of fresh ones.
        aux_ratio: share of them that are imagined.
        importance_cap: ρ̄, where importance weights are truncated.
    """

    coef: float = 1.0
    batch_size: int = 256
    aux_ratio: float = 0.3
    importance_cap: float = 1.0

    def __post_init__(self) -> None:
        check_positive(coef=self.coef, importance_cap=self.importance_cap)
        check_at_least(1, batch_size=self.batch_size)
        check_share(aux_ratio=self.aux_ratio)

    def losses(
        self, learner: MAPPO, replay_buffer: AsymmetricReplayBuffer, n_minibatch: int
    ) -> tuple[Iterator[Tensor], dict[str, Tensor]]:
        """What the policy's steps minimise beside their fresh minibatches.

        Args:
            learner: whose policy learns, as it is when a loss is asked for.
            replay_buffer: D_P and D_A.
            n_minibatch: how many steps there will be.

        Returns:
            A loss for each step, and what the replayed steps are like.
        """
        replayed, metrics = self.draw(learner, replay_buffer, n_minibatch)
        shares = every_nth(replayed.alive, n_minibatch)  # real ones come first: a fair share for each
        return (self.loss(learner, replayed, share) for share in shares), metrics

    def draw(
        self, learner: MAPPO, replay_buffer: AsymmetricReplayBuffer, n_minibatch: int
    ) -> tuple[Transitions, dict[str, Tensor]]:
        """Real and then imagined steps for all minibatches, with the learner's targets, and what they are like;
        arguments as of ``losses``."""
        drawn = replay_buffer.sample_mixed(n_minibatch * self.batch_size, self.aux_ratio).to(learner.device)
        transitions, log_ratio = off_policy_targets(learner, drawn, self.importance_cap)
        truncated = log_ratio > math.log(self.importance_cap)
        return transitions, {
            "train/importance_truncated": masked_mean(truncated, transitions.alive),
            "train/replay_effective_share": effective_sample_share(log_ratio, transitions.alive),
            "train/replay_imagined_share": (drawn.provenance != REAL).float().mean(),
        }

    def loss(self, learner: MAPPO, replayed: Transitions, minibatch: Minibatch) -> Tensor:
        """Clipped surrogate on some of the replayed steps, to be minimised."""
        chosen = replayed[minibatch.steps]
        logits = learner.policy.at_rows(chosen.obs, minibatch.rows)
        lived = chosen.at_rows(minibatch.rows)
        log_ratio = chosen_log_probs(logits, lived.available_actions, lived.actions) - lived.log_probs
        return -self.coef * mean(clipped_surrogate(log_ratio, lived.advantages, learner.clip_param))


@torch.no_grad()
def off_policy_targets(learner: MAPPO, drawn: Experience, importance_cap: float) -> tuple[Transitions, Tensor]:
    """Single steps, real or imagined, with one-step advantages: δ = r + γ V(s') − V(s), Â = ρ · standardised δ, where
    ρ = min(π_φ / μ, ρ̄) of each agent's action.

    Args:
        learner: whose policy π_φ, critic V and γ count, as they are now.
        drawn: M steps, with the log-probabilities of the policies μ that took them.
        importance_cap: ρ̄.

    Returns:
        The steps, whose ``log_probs`` are of π_φ as it is now, around which the ratio of the surrogate is clipped; and
        log π_φ(a) − log μ(a) [M, N], 0 of the dead.
    """
    rows = rows_of(drawn.alive)
    logits = learner.policy.at_rows(drawn.obs, rows)
    available, actions = (at_rows(x, rows) for x in (drawn.available_actions, drawn.actions))
    log_probs = drawn.log_probs.flatten().index_copy(0, rows, chosen_log_probs(logits, available, actions))
    log_probs = log_probs.view_as(drawn.log_probs)
    log_ratio = log_probs - drawn.log_probs
    values = learner.critic(drawn.state, drawn.obs)
    following = learner.value_normalizer.denormalize(learner.critic(drawn.next_state, drawn.next_obs))
    rewards = drawn.rewards if learner.reward_normalizer is None else learner.reward_normalizer.normalize(drawn.rewards)
    targets = rewards + torch.where(drawn.done.unsqueeze(-1), 0.0, learner.gamma * following)
    differences = targets - learner.value_normalizer.denormalize(values)
    moments = pooled(masked_moments(differences, drawn.alive))
    transitions = Transitions(
        obs=drawn.obs,
        state=drawn.state,
        available_actions=drawn.available_actions,
        actions=drawn.actions,
        log_probs=log_probs,
        alive=drawn.alive,
        advantages=truncated_importance(log_ratio, importance_cap) * standardize(differences, drawn.alive, moments),
        values=values,
        targets=learner.value_normalizer.normalize(targets),
    )
    return transitions, log_ratio
