"""From episodes to the minibatches of an update.

Letters: B episodes, T time, N agents, O observation size, S state size, A actions, M transitions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from amal.networks import Policy
from amal.ops.losses import standardize
from amal.types import EpisodeBatch


@dataclass(frozen=True)
class Transitions:
    """M steps that happened, in the order of the batch's mask, without the padding."""

    obs: Tensor  # [M, N, O] float32
    state: Tensor  # [M, S] float32
    available_actions: Tensor  # [M, N, A] bool
    actions: Tensor  # [M, N] int64
    log_probs: Tensor  # [M, N] float32, of the behaviour policy
    alive: Tensor  # [M, N] bool
    advantages: Tensor  # [M, N] float32, standardised over alive agents
    values: Tensor  # [M, N] float32, normalised, of the critic before the update
    targets: Tensor  # [M, N] float32, normalised returns

    def __getitem__(self, rows: Tensor) -> "Transitions":
        """The transitions at ``rows`` [m] int64."""
        return Transitions(**{f.name: getattr(self, f.name).index_select(0, rows) for f in fields(self)})


@dataclass(frozen=True)
class Minibatch:
    """Which m transitions to learn from. A recurrent policy walks whole episodes (b of them) to reach them."""

    rows: Tensor  # [m] int64, into Transitions
    episodes: Tensor  # [b] int64, into EpisodeBatch; empty for feed-forward policies
    slots: Tensor  # [m] int64, where the rows lie in the episodes' [b · T] slots; empty for feed-forward policies


def gather_transitions(batch: EpisodeBatch, advantages: Tensor, values: Tensor, targets: Tensor) -> Transitions:
    """The steps that happened, without the padding; advantages, values and targets are [B, T, N]."""
    happened, alive = batch.mask, batch.alive
    return Transitions(
        obs=batch.obs[:, :-1][happened],
        state=batch.state[:, :-1][happened],
        available_actions=batch.available_actions[:, :-1][happened],
        actions=batch.actions[happened],
        log_probs=batch.log_probs[happened],
        alive=alive[happened],
        advantages=standardize(advantages, alive)[happened],
        values=values[happened],
        targets=targets[happened],
    )


def shuffled_transitions(mask: Tensor, n_minibatch: int, generator: torch.Generator) -> Iterator[Minibatch]:
    """One epoch of random disjoint sets of transitions, of sizes that differ by at most one; ``mask`` is [B, T]."""
    nothing = torch.empty(0, dtype=torch.int64, device=mask.device)
    order = torch.randperm(int(mask.sum()), generator=generator).to(mask.device)
    for rows in order.tensor_split(n_minibatch):
        yield Minibatch(rows, episodes=nothing, slots=nothing)


def shuffled_episodes(mask: Tensor, n_minibatch: int, generator: torch.Generator) -> Iterator[Minibatch]:
    """One epoch of random disjoint sets of whole episodes, for policies with a memory; ``mask`` is [B, T]."""
    row = mask.flatten().cumsum(0).view(mask.shape) - 1
    order = torch.randperm(mask.shape[0], generator=generator).to(mask.device)
    for episodes in order.tensor_split(n_minibatch):
        happened = mask[episodes]
        yield Minibatch(row[episodes][happened], episodes, slots=happened.flatten().nonzero().squeeze(-1))


def minibatch_logits(policy: Policy, batch: EpisodeBatch, transitions: Transitions, minibatch: Minibatch) -> Tensor:
    """Logits [m, N, A] of the minibatch's ``transitions``; a recurrent policy starts from each episode's beginning."""
    logits: Tensor
    if policy.recurrent:
        obs = batch.obs[:, :-1].index_select(0, minibatch.episodes)
        logits, _ = policy(obs, policy.initial_hidden(len(obs)))
        return logits.flatten(0, 1).index_select(0, minibatch.slots)
    return step_logits(policy, transitions.obs, transitions.alive)


def step_logits(policy: Policy, obs: Tensor, alive: Tensor) -> Tensor:
    """Logits [M, N, A] of a feed-forward policy for single steps obs [M, N, O]; the dead's [M, N] mean nothing."""
    logits, _ = policy(obs.unsqueeze(1), policy.initial_hidden(len(obs)), wanted=alive.unsqueeze(1))
    return logits.squeeze(1)
