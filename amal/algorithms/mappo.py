"""MAPPO: proximal policy optimisation with a centralised critic (Yu et al. 2022, arXiv:2103.01955).

Letters: B episodes, T time, N agents, O observation size, A actions, H hidden state, M transitions.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any, Literal

import torch
from torch import Tensor

from amal.algorithms.base import Algorithm, averages
from amal.algorithms.minibatches import AgentSteps, Minibatch, Transitions, shuffled_episodes, shuffled_transitions
from amal.networks.critics import Critic, MAPPOCritic, TargetCritic, evaluate_critic
from amal.networks.policies import IndependentPolicies, MLPPolicy, Policy
from amal.networks.shape_checks import check_critic, check_policy
from amal.ops.losses import (
    approx_kl,
    at_actions,
    categorical_entropy,
    clip_fraction,
    clipped_surrogate,
    clipped_value_loss,
    entropy_shortfall,
    masked_log_softmax,
    masked_moments,
    mean,
    sample_categorical,
    standardize,
)
from amal.ops.normalization import ValueNormalizer
from amal.ops.returns import explained_variance, generalized_advantages, n_step_returns
from amal.runtime.argument_checks import check_at_least, check_choice, check_positive, check_share
from amal.runtime.distributed import pooled
from amal.runtime.machine import profiled_as_one, side_by_side
from amal.runtime.random_streams import stream_seed
from amal.types import ActionScores, EpisodeBatch, Layout, PlainNetwork

POLICY, CRITIC = 0, 1  # in the order of configure_optimizers
ADAM_EPSILON = 1e-5  # MAPPO's, table of common hyper-parameters; larger than Adam's own 1e-8


def choose(log_probs: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Actions sampled from log-probabilities [..., A], or the likeliest ones without a generator, and their
    log-probabilities; [...] both."""
    actions = log_probs.argmax(dim=-1) if generator is None else sample_categorical(log_probs, generator)
    return actions, at_actions(log_probs, actions)


class MAPPO(Algorithm):
    """Multi-agent PPO: decentralised actors, one critic, clipped objectives (Yu et al. 2022, arXiv:2103.01955).

    With ``IPPOCritic`` it is IPPO, with ``GRUPolicy`` the recurrent MAPPO.

    Args:
        n_agents: number of agents; comes from the scenario.
        n_actions: number of actions; comes from the scenario.
        obs_dim: size of an agent's observation; comes from the scenario.
        state_dim: size of the global state; comes from the scenario.
        policy: class of the policy network.
        critic: class of the critic network.
        lr: learning rate of both Adam optimizers, decayed linearly to 0 at the end of the budget.
        gamma: discount factor.
        gae_lambda: lambda of generalised advantage estimation, 0 for one-step, 1 for Monte-Carlo.
        n_step_returns: n of n-step returns, used instead of generalised advantages.
        target_critic_tau: rate τ of the soft update, once per update, of a target critic that returns bootstrap from.
            Baseline and value clipping use the critic itself. By default there is no target critic.
        standardise_rewards: learn from rewards less their running mean, over their running standard deviation.
        clip_param: how far the probability ratio may leave 1 before the surrogate is clipped.
        value_clip: how far a value may leave its old value before its loss is clipped, in normalised units.
        value_loss: squared or Huber error of the values.
        huber_delta: where Huber's error turns linear, in normalised units.
        entropy_coef: weight of the entropy bonus.
        entropy_floor: entropy below so many nats adds ½ (floor − entropy)² to the loss; the floor falls linearly to 0
            at the end of the budget.
        max_grad_norm: gradients are scaled down to this norm, policy and critic each on its own.
        n_epochs: passes over each batch of episodes.
        n_minibatch: minibatches per pass, at most one per episode.
        share_parameters: one policy network for all agents, or one for each. The critic is always one network.
        layout: names of what is seen; comes from the scenario.
    """

    def __init__(
        self,
        n_agents: int,
        n_actions: int,
        obs_dim: int,
        state_dim: int,
        policy: Callable[[int, int, int], Policy] = MLPPolicy,
        critic: Callable[[int, int, int], Critic] = MAPPOCritic,
        lr: float = 5e-4,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        n_step_returns: int | None = None,
        target_critic_tau: float | None = None,
        standardise_rewards: bool = False,
        clip_param: float = 0.2,
        value_clip: float = 0.2,
        value_loss: Literal["mse", "huber"] = "mse",
        huber_delta: float = 10.0,
        entropy_coef: float = 0.01,
        entropy_floor: float = 0.0,
        max_grad_norm: float = 10.0,
        n_epochs: int = 4,
        n_minibatch: int = 4,
        share_parameters: bool = True,
        layout: Layout | None = None,
    ) -> None:
        super().__init__(n_agents, n_actions, obs_dim, state_dim)
        check_at_least(1, n_epochs=n_epochs, n_minibatch=n_minibatch)
        check_at_least(0.0, entropy_coef=entropy_coef, entropy_floor=entropy_floor)
        check_share(gamma=gamma, gae_lambda=gae_lambda)
        check_positive(lr=lr, value_clip=value_clip, huber_delta=huber_delta, max_grad_norm=max_grad_norm)
        if not 0.0 < clip_param < 1.0:
            raise ValueError(f"clip_param must be in (0, 1), got {clip_param}")
        check_choice(("mse", "huber"), value_loss=value_loss)
        if n_step_returns is not None:
            check_at_least(1, n_step_returns=n_step_returns)

        self.lr = lr
        self.gamma, self.gae_lambda, self.n_step_returns = gamma, gae_lambda, n_step_returns
        self.clip_param, self.value_clip = clip_param, value_clip
        self.value_loss: Literal["mse", "huber"] = value_loss
        self.huber_delta = huber_delta
        self.entropy_coef, self.entropy_floor, self.max_grad_norm = entropy_coef, entropy_floor, max_grad_norm
        self.remaining = 1.0  # share of the budget, as of the last update's start
        self.n_epochs, self.n_minibatch = n_epochs, n_minibatch

        if share_parameters:
            self.policy = policy(obs_dim, n_agents, n_actions)
        else:
            self.policy = IndependentPolicies(policy, obs_dim, n_agents, n_actions)
        self.critic = critic(state_dim, obs_dim, n_agents)
        self.policy.arrange(layout, range(n_agents))
        self.critic.arrange(layout)
        check_policy(self.policy, obs_dim, n_agents, n_actions)
        check_critic(self.critic, state_dim, obs_dim, n_agents)
        self.target_critic = None if target_critic_tau is None else TargetCritic(self.critic, target_critic_tau)
        self.value_normalizer = ValueNormalizer()
        self.reward_normalizer = ValueNormalizer() if standardise_rewards else None
        # a stream of its own, so that nothing drawn elsewhere (actions, other modules' weights) changes the minibatches
        self.generator = torch.Generator().manual_seed(stream_seed(torch.initial_seed(), "minibatches"))

    def check_episodes(self, episodes_per_update: int, snapshots: bool) -> None:
        if self.n_minibatch > episodes_per_update:
            raise ValueError(
                f"n_minibatch must be at most episodes_per_update ({episodes_per_update}), got {self.n_minibatch}"
            )

    def initial_hidden(self, num_battles: int) -> Tensor:
        return self.policy.initial_hidden(num_battles)

    def plain_network(self) -> PlainNetwork | None:
        """The policy's, if ``act`` asks nothing else."""
        return self.policy.plain_network() if type(self).act is MAPPO.act else None

    def act(
        self,
        obs: Tensor,
        available_actions: Tensor,
        hidden: Tensor,
        generator: torch.Generator | None,
        progress: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits, hidden = self.policy.step(obs, hidden)
        return *choose(masked_log_softmax(logits, available_actions), generator), hidden

    def action_scores(self, obs: Tensor, available_actions: Tensor, hidden: Tensor) -> ActionScores:
        """The policy's probabilities [E, N, A]; arguments as of ``act``."""
        logits, _ = self.policy.step(obs, hidden)
        return ActionScores("probability", masked_log_softmax(logits, available_actions).exp())

    def learn(self, batch: EpisodeBatch, progress: float) -> dict[str, Tensor]:
        """One update: returns once, then epochs × minibatches of clipped policy and value losses."""
        lr = self.set_schedules(progress)
        transitions, critic_fit = self.estimate_advantages(batch)
        metrics = self.take_steps(transitions, self.minibatches(batch, transitions))
        return metrics | {"train/explained_variance": critic_fit, "train/lr": lr}

    def take_steps(
        self,
        transitions: Transitions,
        minibatches: list[Minibatch],
        policy_losses: Iterable[Tensor] = (),
    ) -> dict[str, Tensor]:
        """One step of the policy and one of the critic on each minibatch; averages of the steps' metrics. Nothing in it
        waits for the device.

        Args:
            transitions: all that happened in the episodes.
            minibatches: which of them each step learns from.
            policy_losses: of other origin, one for each step or none; each is asked for when its step is due.
        """

        def teach_policy() -> list[dict[str, Tensor]]:
            return self.policy_steps(transitions, minibatches, policy_losses)

        def teach_critic() -> list[dict[str, Tensor]]:
            return [self.critic_step(transitions, minibatch) for minibatch in minibatches]

        with profiled_as_one(self.trainer, "policy_and_critic"):
            policy_steps, critic_steps = side_by_side(teach_policy, teach_critic)  # they share no parameters
        number = torch.tensor(float(len(minibatches)), device=self.device)
        return averages(policy_steps) | averages(critic_steps) | {"train/policy_steps": number}

    def policy_steps(
        self, transitions: Transitions, minibatches: list[Minibatch], further_losses: Iterable[Tensor]
    ) -> list[dict[str, Tensor]]:
        """One step of the policy on each minibatch; the metrics of each. Arguments as of ``take_steps``."""
        return [
            self.policy_step(transitions, minibatch, loss)
            for minibatch, loss in zip_longest(minibatches, further_losses)
        ]

    def policy_step(
        self, transitions: Transitions, minibatch: Minibatch, further_loss: Tensor | None
    ) -> dict[str, Tensor]:
        """One step of the policy on a minibatch; its metrics."""
        lived = transitions[minibatch.steps]
        logits = self.policy.at_rows(lived.obs, minibatch.rows, minibatch.batch_sizes)
        loss, metrics = self.policy_loss(logits, lived.at_rows(minibatch.rows))
        if further_loss is not None:
            loss = loss + further_loss
        norm = self.descend(self.all_optimizers()[POLICY], self.policy, loss, self.max_grad_norm)
        return metrics | {"train/policy_grad_norm": norm}

    def critic_step(self, transitions: Transitions, minibatch: Minibatch) -> dict[str, Tensor]:
        """One step of the critic on a minibatch; its metrics."""
        loss = self.critic_loss(transitions, minibatch)
        norm = self.descend(self.all_optimizers()[CRITIC], self.critic, loss, self.max_grad_norm)
        return {"train/value_loss": loss.detach(), "train/critic_grad_norm": norm}

    @torch.no_grad()
    def estimate_advantages(
        self,
        batch: EpisodeBatch,
        bonus: Tensor | None = None,
        is_real: bool = True,
        importance: Tensor | None = None,
    ) -> tuple[Transitions, Tensor]:
        """The steps of a batch with standardised advantages and value targets, and the critic's explained variance.

        Call it once per update for real episodes: it updates the running statistics and the target critic. Imagined
        episodes (``is_real`` false) change neither. ``bonus`` and ``importance`` as of ``returns_and_advantages``."""
        if is_real and self.target_critic is not None:
            self.target_critic.follow(self.critic)
        if is_real and self.reward_normalizer is not None:
            self.reward_normalizer.update(pooled(masked_moments(batch.rewards, batch.mask)))
        values, advantages, returns = self.returns_and_advantages(batch, bonus, importance)
        happened = batch.mask.unsqueeze(-1).expand_as(returns)  # the dead have values too, see critic_loss
        critic_fit = explained_variance(self.value_normalizer.denormalize(values), returns, happened)
        if is_real:
            self.value_normalizer.update(pooled(masked_moments(returns, happened)))
        targets = self.value_normalizer.normalize(returns)
        advantages = standardize(advantages, batch.alive, pooled(masked_moments(advantages, batch.alive)))
        if importance is not None:
            advantages = advantages * importance.unsqueeze(-1)
        return Transitions.of(batch, advantages, values, targets), critic_fit

    @torch.no_grad()
    def returns_and_advantages(
        self, batch: EpisodeBatch, bonus: Tensor | None = None, importance: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The critic's values, normalised, the advantages, and the returns; [B, T, N] each. Changes nothing.

        Args:
            batch: what was lived through.
            bonus: [B, T], paid to the policy beside the rewards. Advantages hold what follows of it, as they hold the
                rewards, but over no baseline; values and returns are of the rewards alone.
            importance: [B, T], weights of steps in which others acted, see ``generalized_advantages``. The returns
                have them; the advantages of these steps have yet to be weighted. Not with n-step returns or a bonus.
        """
        values = evaluate_critic(self.critic, batch)
        estimates = slow = self.value_normalizer.denormalize(values)
        if self.target_critic is not None:
            slow = self.value_normalizer.denormalize(evaluate_critic(self.target_critic, batch))
        rewards = batch.rewards
        if self.reward_normalizer is not None:
            rewards = self.reward_normalizer.normalize(rewards)
        steps = (rewards, slow, batch.terminated, batch.mask, self.gamma)
        if self.n_step_returns is None:
            # the returns come from the slow values, the baseline from the critic; without a slow one nothing is added
            ahead = generalized_advantages(*steps, self.gae_lambda, importance)
            advantages = ahead + (slow - estimates)[:, :-1]
        else:
            advantages = n_step_returns(*steps, self.n_step_returns) - estimates[:, :-1]
        returns = advantages + estimates[:, :-1]
        if importance is not None:
            assert self.n_step_returns is None and bonus is None
            returns = returns - (1.0 - importance.unsqueeze(-1)) * ahead
        if bonus is not None:
            paid = bonus if self.reward_normalizer is None else bonus / self.reward_normalizer.std
            steps = (paid, torch.zeros_like(slow), *steps[2:])
            if self.n_step_returns is None:
                advantages = advantages + generalized_advantages(*steps, self.gae_lambda)
            else:
                advantages = advantages + n_step_returns(*steps, self.n_step_returns)
        return values[:, :-1], advantages, returns

    def minibatches(
        self, batch: EpisodeBatch, transitions: Transitions, n_epochs: int | None = None, n_minibatch: int | None = None
    ) -> list[Minibatch]:
        """The minibatches of all epochs, drawn in advance, as their sizes depend on what happened. By default as
        many as of fresh episodes."""
        n_minibatch = min(n_minibatch or self.n_minibatch, len(batch.mask))  # a budget's last batch can be smaller

        def shuffled() -> Iterator[Minibatch]:
            if self.policy.recurrent:
                return shuffled_episodes(batch.mask, batch.alive, n_minibatch, self.generator)
            return shuffled_transitions(transitions.alive, n_minibatch, self.generator)

        return [minibatch for _ in range(n_epochs or self.n_epochs) for minibatch in shuffled()]

    def policy_loss(self, logits: Tensor, lived: AgentSteps) -> tuple[Tensor, dict[str, Tensor]]:
        """Clipped surrogate, entropy bonus and floor; the loss to minimise, and its metrics.

        Args:
            logits: [R, A].
            lived: what R living agents did.
        """
        log_probs = masked_log_softmax(logits, lived.available_actions)
        log_ratio = at_actions(log_probs, lived.actions) - lived.log_probs
        surrogate = mean(clipped_surrogate(log_ratio, lived.advantages, self.clip_param))
        entropy = mean(categorical_entropy(log_probs))
        with torch.no_grad():
            metrics = {
                "train/policy_loss": -surrogate,
                "train/entropy": entropy.detach(),
                "train/approx_kl": mean(approx_kl(log_ratio)),
                "train/clip_fraction": mean(clip_fraction(log_ratio, self.clip_param)),
            }
        shortfall = entropy_shortfall(entropy, self.entropy_floor * self.remaining)
        return -surrogate - self.entropy_coef * entropy + shortfall, metrics

    def critic_loss(self, transitions: Transitions, minibatch: Minibatch) -> Tensor:
        """Clipped value loss over a minibatch's steps and all agents. The dead count too: an agent's last step alive
        bootstraps from its value after death."""
        lived = transitions[minibatch.steps]
        values = self.critic(lived.state, lived.obs)
        loss = clipped_value_loss(
            values, lived.values, lived.targets, self.value_clip, self.value_loss, self.huber_delta
        )
        return mean(loss)

    def set_schedules(self, progress: float) -> Tensor:
        """Set the entropy floor and the learning rate of policy and critic, which fall linearly to 0 over the budget;
        returns the learning rate."""
        self.remaining = 1.0 - progress
        lr = self.lr * self.remaining
        for index in (POLICY, CRITIC):
            for group in self.all_optimizers()[index].param_groups:
                group["lr"] = lr
        return torch.tensor(lr)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the policy, Adam for the critic; by these names LearningRateMonitor tells them apart."""
        return [
            torch.optim.Adam([{"params": network.parameters(), "name": name}], self.lr, eps=ADAM_EPSILON, fused=True)
            for name, network in (("policy", self.policy), ("critic", self.critic))
        ]

    def learning_state(self) -> Any:
        return {"minibatch_generator": self.generator.get_state()}

    def load_learning_state(self, state: Any) -> None:
        self.generator.set_state(state["minibatch_generator"].cpu())
