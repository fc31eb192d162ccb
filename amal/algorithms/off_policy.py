"""Steps that other policies took, as the learner sees them now.

Letters: M transitions, N agents, B episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from amal.algorithms.minibatches import Transitions, gather_transitions, single_steps
from amal.critics import Critic, evaluate_critic
from amal.networks import Policy
from amal.ops.losses import chosen_log_probs, standardize, truncated_importance
from amal.ops.normalization import ValueNormalizer
from amal.ops.returns import generalized_advantages
from amal.replay import Experience
from amal.types import EpisodeBatch


@dataclass(frozen=True)
class Replayed:
    """Old steps with new advantages, which carry the importance weights ρ = min(π_φ / μ, ρ̄).

    The ``log_probs`` are of π_φ as it is now, around which the ratio of the surrogate is clipped.
    """

    transitions: Transitions
    log_ratio: Tensor  # [M, N] log π_φ(a) − log μ(a), 0 of the dead

    @classmethod
    def concatenate(cls, parts: Sequence[Replayed]) -> Replayed:
        """All steps of the parts, in order."""
        transitions = Transitions.concatenate([part.transitions for part in parts])
        return cls(transitions, torch.cat([part.log_ratio for part in parts]))

    def __getitem__(self, rows: Tensor) -> Replayed:
        """The steps at ``rows`` [m] int64."""
        return Replayed(self.transitions[rows], self.log_ratio[rows])


@dataclass(frozen=True)
class Hindsight:
    """Values old steps by a learner's networks as they are now; without gradients.

    Args:
        policy, critic, value_normalizer, reward_normalizer: the learner's.
        gamma: discount factor γ.
        gae_lambda: λ of V-trace.
        importance_cap: ρ̄.
    """

    policy: Policy
    critic: Critic
    value_normalizer: ValueNormalizer
    reward_normalizer: ValueNormalizer | None
    gamma: float
    gae_lambda: float
    importance_cap: float

    @torch.no_grad()
    def one_step(self, drawn: Experience) -> Replayed:
        """Single steps, real or imagined: δ = r + γ V(s') − V(s), Â = ρ · standardised δ, and value targets V + ρ δ."""
        log_probs = self._log_probs(drawn.obs, drawn.available_actions, drawn.actions, drawn.alive)
        log_ratio = torch.where(drawn.alive, log_probs - drawn.log_probs, 0.0)
        weights = truncated_importance(log_ratio, self.importance_cap)
        values = self.critic(drawn.state, drawn.obs)
        estimates = self.value_normalizer.denormalize(values)
        following = self.value_normalizer.denormalize(self.critic(drawn.next_state, drawn.next_obs))
        bootstrap = torch.where(drawn.done.unsqueeze(-1), 0.0, self.gamma * following)
        differences = self._learned_from(drawn.rewards) + bootstrap - estimates
        transitions = Transitions(
            obs=drawn.obs,
            state=drawn.state,
            available_actions=drawn.available_actions,
            actions=drawn.actions,
            log_probs=log_probs,
            alive=drawn.alive,
            advantages=weights * standardize(differences, drawn.alive),
            values=values,
            targets=self.value_normalizer.normalize(estimates + weights * differences),
        )
        return Replayed(transitions, log_ratio)

    @torch.no_grad()
    def v_trace(self, rollouts: Sequence[EpisodeBatch]) -> Replayed:
        """All steps of older episodes, with V-trace's advantages, standardised over all of them, and its targets."""
        parts = [self._v_trace(rollout) for rollout in rollouts]
        whole = Replayed.concatenate(parts)
        steps = whole.transitions
        return replace(whole, transitions=replace(steps, advantages=standardize(steps.advantages, steps.alive)))

    def _v_trace(self, batch: EpisodeBatch) -> Replayed:
        happened, alive = batch.mask, batch.alive
        views = batch.obs[:, :-1][happened], batch.available_actions[:, :-1][happened]
        now = self._log_probs(*views, batch.actions[happened], alive[happened])
        log_probs = torch.zeros_like(batch.log_probs).masked_scatter(happened.unsqueeze(-1), now)
        log_ratio = torch.where(alive, log_probs - batch.log_probs, 0.0)
        weights = truncated_importance(log_ratio, self.importance_cap)
        values = evaluate_critic(self.critic, batch)
        estimates = self.value_normalizer.denormalize(values)
        steps = (self._learned_from(batch.rewards), estimates, batch.terminated, happened)
        advantages = generalized_advantages(*steps, self.gamma, self.gae_lambda, weights)
        targets = self.value_normalizer.normalize(advantages + estimates[:, :-1])
        transitions = gather_transitions(replace(batch, log_probs=log_probs), advantages, values[:, :-1], targets)
        return Replayed(transitions, log_ratio[happened])

    def _learned_from(self, rewards: Tensor) -> Tensor:
        return rewards if self.reward_normalizer is None else self.reward_normalizer.normalize(rewards)

    def _log_probs(self, obs: Tensor, available_actions: Tensor, actions: Tensor, alive: Tensor) -> Tensor:
        """log π_φ of what was done, [M, N]."""
        return chosen_log_probs(self.policy.some(obs, single_steps(alive)), available_actions, actions)
