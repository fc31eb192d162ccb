"""Information-seeking objectives: what a team's actions tell, by a world model.

Letters: M transitions, N agents, O observation size, S state size, A actions, K other policies, P parameters of a
policy, E members of an ensemble. Log-probabilities come as from ``masked_log_softmax``. All in nats.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from amal.ops.losses import at_actions, masked_log_softmax, masked_mean
from amal.ops.populations import Policy, flat_parameters, population_logits
from amal.runtime.argument_checks import check_at_least

PERTURBATION_SEED = 0
"""Of the noise that makes the other policies: with a constant one there is nothing to keep in a checkpoint."""


def mixture_log_likelihood(log_probs: Tensor, log_likelihoods: Tensor) -> Tensor:
    """Log-likelihood of an outcome under a policy, log p(o | π) = log Σ_a π(a) p(o | a).

    Args:
        log_probs: [..., A] log π.
        log_likelihoods: [..., A] log p(o | a), broadcast against the former; anything for unavailable actions.

    Returns:
        [...].
    """
    # told from the log-probability: the likelihood of an unavailable action might outweigh it
    available = log_probs > torch.finfo(log_probs.dtype).min / 8
    return torch.where(available, log_probs + log_likelihoods, -torch.inf).logsumexp(dim=-1)


def policy_information(own: Tensor, others: Tensor) -> Tensor:
    """What an outcome tells about the policy that led to it, a term of the estimator in the AMAL paper's proposition.

    î = log p(o | π_φ) − log (1/K) Σ_k p(o | π^(k))

    With the model's parameters fixed this measures how distinguishable the outcomes of π_φ are from the others', not
    what is learnt about the model; ``ensemble_information`` is that. A summand that own and others share cancels.

    Args:
        own: [...] log p(o | π_φ).
        others: [K, ...] log p(o | π^(k)).

    Returns:
        [...]; at most log K if π_φ is one of the K.
    """
    return own - (others.logsumexp(dim=0) - math.log(len(others)))


def realised_action_information(log_probs: Tensor, others: Tensor, actions: Tensor) -> Tensor:
    """The same with each mixture estimated by importance sampling from the one realised action.

    With a ~ b, the behaviour policy, p(o | π) ≈ π(a) / b(a) p(o | a). All K + 1 estimates share the behaviour policy's
    probability and the model's likelihood of that action, so both cancel, and no world model is involved:

    î = log π_φ(a) − log (1/K) Σ_k π^(k)(a)

    Equal to the exact form where the outcome tells which action was taken.

    Args:
        log_probs: [M, N, A] log π_φ.
        others: [K, M, N, A] log π^(k).
        actions: [M, N] int64, the realised ones.

    Returns:
        [M, N].
    """
    return policy_information(at_actions(log_probs, actions), at_actions(others, actions.expand(others.shape[:-1])))


def ensemble_information(means: Tensor, log_vars: Tensor) -> Tensor:
    """Expected information gain about the model's parameters from an outcome, by an ensemble of Gaussian models.

    I(θ; o) = H[1/E Σ_e p_e(o)] − 1/E Σ_e H[p_e(o)] (BALD, Houlsby et al. 2011, arXiv:1112.5745, eq. 2), where the
    entropy of the mixture is replaced by that of the Gaussian with its mean and variance in each dimension, an upper
    bound:

    Σ_d ½ [log(mean_e σ²_ed + var_e μ_ed) − mean_e log σ²_ed]

    Args:
        means: [E, ..., O] μ.
        log_vars: [E, ..., O] log σ².

    Returns:
        [...], at least 0 up to rounding, and 0 if the members agree.
    """
    mean_log_var = log_vars.mean(dim=0)
    # relative to the geometric mean of the variances: the difference of two logarithms would round away small gains
    excess = (log_vars - mean_log_var).expm1().mean(dim=0) + means.var(dim=0, correction=0) / mean_log_var.exp()
    return 0.5 * excess.log1p().sum(dim=-1)


class ObservedSteps(Protocol):
    """M real steps, as much of them as the estimators read."""

    @property
    def obs(self) -> Tensor:
        """[M, N, O]."""

    @property
    def state(self) -> Tensor:
        """[M, S]."""

    @property
    def actions(self) -> Tensor:
        """[M, N] int64."""

    @property
    def available_actions(self) -> Tensor:
        """[M, N, A] bool."""

    @property
    def next_obs(self) -> Tensor:
        """[M, N, O]."""

    @property
    def alive(self) -> Tensor:
        """[M, N] bool: the agent acted. Of the others nothing is used, and the observations may hold anything."""


class OutcomeModel(Protocol):
    """What the estimators ask of a world model."""

    def log_likelihood_by_action(
        self, obs: Tensor, state: Tensor, actions: Tensor, next_obs: Tensor, wanted: Tensor
    ) -> Tensor:
        """Log-likelihood of each agent's next observation for each action it might have taken, the others as they did.

        Args:
            obs: [M, N, O].
            state: [M, S].
            actions: [M, N] int64.
            next_obs: [M, N, O].
            wanted: [M, N, A] bool.

        Returns:
            [M, N, A], 0 where not wanted.
        """

    def outcomes(self, obs: Tensor, state: Tensor, actions: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances of the next observations by each member: [E, M, N, O] both.

        Args:
            obs: [M, N, O].
            state: [M, S].
            actions: [M, N] int64.
            alive: [M, N] bool.
        """

    def unit_disagreement(self, state: Tensor, actions: Tensor) -> Tensor:
        """How far apart entity-wise members are in what they expect, [M], of states [M, S] and actions [M, N]."""


@dataclass(frozen=True)
class _Steps:
    """``ObservedSteps`` from the pieces that ``estimate_mi`` is given."""

    obs: Tensor
    state: Tensor
    actions: Tensor
    available_actions: Tensor
    next_obs: Tensor
    alive: Tensor


class InformationEstimator(ABC):
    """An estimator of information, per transition or on average.

    Args:
        n_samples: transitions that ``estimate_mi`` averages over.
    """

    least_members = 1  # that the world model's ensemble must have
    reads_units = False  # of an entity-wise world model, instead of a flat one's views

    def __init__(self, n_samples: int = 50) -> None:
        check_at_least(1, n_samples=n_samples)
        self.n_samples = n_samples

    @abstractmethod
    def per_transition(self, world_model: OutcomeModel, policy: Policy, steps: ObservedSteps) -> Tensor:
        """Information in each transition, the mean over its living agents: [M], 0 without any; without gradient."""

    def estimate_mi(
        self,
        world_model: OutcomeModel,
        policy: Policy,
        observations: Tensor,
        actions: Tensor,
        states: Tensor,
        available_actions: Tensor,
        next_observations: Tensor,
    ) -> float:
        """Mean information over at most ``n_samples`` of the transitions, evenly spaced; those without a living agent
        do not count.

        Args:
            world_model: predicts the next observations.
            policy: π_φ.
            observations: [M, N, O].
            actions: [M, N] int64.
            states: [M, S].
            available_actions: [M, N, A] bool; an agent lives unless it can only do nothing, action 0.
            next_observations: [M, N, O].
        """
        n_given = len(observations)
        if n_given == 0:
            raise ValueError("observations must hold at least one transition, got none")
        n_used = min(self.n_samples, n_given)
        used = torch.arange(n_used, device=observations.device) * n_given // n_used
        available = available_actions[used]
        steps = _Steps(
            obs=observations[used],
            state=states[used],
            actions=actions[used],
            available_actions=available,
            next_obs=next_observations[used],
            alive=available[..., 1:].any(dim=-1),
        )
        information = self.per_transition(world_model, policy, steps)
        return float(masked_mean(information, steps.alive.any(dim=-1)))


class MutualInformationEstimator(InformationEstimator):
    """How much the outcomes tell the policy from K perturbed ones, the estimator of the AMAL paper's proposition.

    The mean of ``policy_information`` over agents, with p_θ(o | π) summed exactly over the agent's own action, and
    π^(k) = π_φ with noise in its parameters, φ + σ ε_k. The noise ε_k is drawn once and reused; π_φ is none of the K.

    Args:
        n_samples: transitions that ``estimate_mi`` averages over.
        n_policies: K.
        perturbation_std: σ.
        exact: False for ``realised_action_information``, which does not consult the world model.
    """

    def __init__(
        self, n_samples: int = 50, n_policies: int = 10, perturbation_std: float = 0.05, exact: bool = True
    ) -> None:
        super().__init__(n_samples)
        check_at_least(1, n_policies=n_policies)
        if not 0.0 <= perturbation_std < float("inf"):
            raise ValueError(f"perturbation_std must be finite and at least 0, got {perturbation_std}")
        self.n_policies = n_policies
        self.perturbation_std = perturbation_std
        self.exact = exact
        self._noise = torch.empty(n_policies, 0)

    @torch.no_grad()
    def per_transition(self, world_model: OutcomeModel, policy: Policy, steps: ObservedSteps) -> Tensor:
        alive, available = steps.alive, steps.available_actions
        obs = _of_the_living(steps.obs, alive)
        parameters = flat_parameters(policy)
        perturbed = parameters + self.perturbation_std * self._perturbations(parameters)
        logits = population_logits(policy, torch.cat([parameters.unsqueeze(0), perturbed]), obs, shared=True)
        log_probs = masked_log_softmax(logits, available)
        if not self.exact:
            information = realised_action_information(log_probs[0], log_probs[1:], steps.actions)
            return _mean_over_agents(information, alive)
        wanted = available & alive.unsqueeze(-1)
        next_obs = _of_the_living(steps.next_obs, alive)
        likelihoods = world_model.log_likelihood_by_action(obs, steps.state, steps.actions, next_obs, wanted)
        # the best action's likelihood cancels; kept, its hundreds of nats would round away the thousandths that count
        best = torch.where(wanted, likelihoods, -torch.inf).amax(dim=-1, keepdim=True)
        mixtures = mixture_log_likelihood(log_probs, torch.where(wanted, likelihoods - best, 0.0))
        return _mean_over_agents(policy_information(mixtures[0], mixtures[1:]), alive)

    def _perturbations(self, parameters: Tensor) -> Tensor:
        """ε for a policy's parameters [P]: [K, P]."""
        shape = (self.n_policies, len(parameters))
        if self._noise.shape != shape:
            self._noise = torch.randn(shape, generator=torch.Generator().manual_seed(PERTURBATION_SEED))
        self._noise = self._noise.to(parameters)
        return self._noise


class EnsembleInformationGain(InformationEstimator):
    """Expected information gain about the world model's parameters, by the disagreement of its ensemble.

    The mean of ``ensemble_information`` over agents. The policy matters only by the actions it took.

    Args:
        n_samples: transitions that ``estimate_mi`` averages over.
    """

    least_members = 2  # one cannot disagree

    @torch.no_grad()
    def per_transition(self, world_model: OutcomeModel, policy: Policy, steps: ObservedSteps) -> Tensor:
        alive = steps.alive
        obs = _of_the_living(steps.obs, alive)
        means, log_vars = world_model.outcomes(obs, steps.state, steps.actions, alive)
        if len(means) < 2:
            raise ValueError(f"the world model's ensemble must have at least 2 members to disagree, got {len(means)}")
        return _mean_over_agents(ensemble_information(means, log_vars), alive)


class UnitDisagreement(InformationEstimator):
    """What an entity-wise ensemble does not know: how far apart its members are in what they expect of units.

    The variance between members of the expected changes of a unit, summed over its features, mean over living units
    (Pathak et al. 2019, arXiv:1906.04161, with units in the place of features). Not in nats. The policy matters only by
    the actions it took.

    Args:
        n_samples: transitions that ``estimate_mi`` averages over.
    """

    least_members = 2
    reads_units = True

    @torch.no_grad()
    def per_transition(self, world_model: OutcomeModel, policy: Policy, steps: ObservedSteps) -> Tensor:
        return world_model.unit_disagreement(steps.state, steps.actions)


def _of_the_living(obs: Tensor, alive: Tensor) -> Tensor:
    """[M, N, O] with zeros for the dead."""
    return torch.where(alive.unsqueeze(-1), obs, 0.0)


def _mean_over_agents(information: Tensor, alive: Tensor) -> Tensor:
    """[M, N] → [M], over the living agents."""
    return torch.where(alive, information, 0.0).sum(dim=-1) / alive.sum(dim=-1).clamp_min(1)
