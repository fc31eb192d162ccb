"""HAPPO: agents with policies of their own learn one after the other (Kuba et al. 2022, arXiv:2109.11251).

Letters: M transitions, N agents.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from amal.algorithms.mappo import MAPPO, POLICY
from amal.algorithms.minibatches import Minibatch, Transitions
from amal.networks.policies import IndependentPolicies
from amal.ops.losses import chosen_log_probs
from amal.runtime.distributed import of_first
from amal.runtime.machine import one_thread


class HAPPO(MAPPO):
    """Heterogeneous-agent PPO: MAPPO whose agents share nothing and learn in a random order (Kuba et al. 2022).

    An agent's advantages are weighted by the probability ratios of the agents that were updated before it:

    M_i = Â · Π_{j before i} π_j(a_j | o_j) / π_j,old(a_j | o_j), and the agent maximises E min(ρ_i M_i, clip(ρ_i) M_i)

    (algorithm 4 of the paper, with Â of MAPPO). So the joint step improves the team as each agent's does. The dead
    choose nothing, and their ratio is 1. All else is MAPPO's, the critic and its defaults too.

    Args:
        n_agents: number of agents; comes from the scenario.
        n_actions: number of actions; comes from the scenario.
        obs_dim: size of an agent's observation; comes from the scenario.
        state_dim: size of the global state; comes from the scenario.
        mappo: further arguments of MAPPO.
    """

    def __init__(self, n_agents: int, n_actions: int, obs_dim: int, state_dim: int, **mappo: Any) -> None:
        super().__init__(n_agents, n_actions, obs_dim, state_dim, share_parameters=False, **mappo)

    def policy_steps(
        self, transitions: Transitions, minibatches: list[Minibatch], further_losses: Iterable[Tensor]
    ) -> list[dict[str, Tensor]]:
        """A step of each agent's policy on each minibatch, one agent after the other; there are no further losses.

        On one thread: an agent's rows are few, and products of few rows round by number of threads.
        """
        with one_thread():
            return self._policy_steps(transitions, minibatches)

    def _policy_steps(self, transitions: Transitions, minibatches: list[Minibatch]) -> list[dict[str, Tensor]]:
        order = of_first(torch.randperm(self.n_agents, generator=self.generator).to(self.device)).tolist()
        log_ratios = torch.zeros(len(transitions.alive), device=self.device)  # [M], of the agents before
        steps = []
        for agent in order:
            weighted = replace(transitions, advantages=transitions.advantages * log_ratios.exp().unsqueeze(-1))
            own = [minibatch.of_agent(agent, self.n_agents) for minibatch in minibatches]
            steps += [self.agent_step(agent, weighted, minibatch) for minibatch in own]
            first_epoch = own[: len(own) // self.n_epochs]  # which has every transition once
            log_ratios += self.log_ratios(agent, transitions, first_epoch)
        return steps

    def agent_step(self, agent: int, transitions: Transitions, minibatch: Minibatch) -> dict[str, Tensor]:
        """One step of an agent's policy on a minibatch of its own rows; its metrics."""
        lived = transitions[minibatch.steps]
        policies = cast(IndependentPolicies, self.policy)
        logits = policies.at_rows_of(agent, lived.obs, minibatch.rows, minibatch.batch_sizes)
        loss, metrics = self.policy_loss(logits, lived.at_rows(minibatch.rows))
        norm = self.descend(self.all_optimizers()[POLICY], policies[agent], loss, self.max_grad_norm)
        return metrics | {"train/policy_grad_norm": norm}

    @torch.no_grad()
    def log_ratios(self, agent: int, transitions: Transitions, minibatches: list[Minibatch]) -> Tensor:
        """log π(a) − log π_old(a) [M] of an agent's actions, by its policy as it is now; 0 where it was dead.

        Args:
            agent: whose policy.
            transitions: M of them.
            minibatches: with the agent's rows, that have every transition once.
        """
        ratios = torch.zeros(len(transitions.alive), device=self.device)
        for minibatch in minibatches:
            seen = transitions[minibatch.steps]
            sequences = (minibatch.rows, minibatch.batch_sizes)
            logits = cast(IndependentPolicies, self.policy).at_rows_of(agent, seen.obs, *sequences)
            lived = seen.at_rows(minibatch.rows)
            log_probs = chosen_log_probs(logits, lived.available_actions, lived.actions)
            ratios[minibatch.steps[minibatch.rows // self.n_agents]] = log_probs - lived.log_probs
        return ratios
