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
    """Which m transitions to learn from. A recurrent policy walks whole episodes (b of them) to reach them.

    All that depends on what happened is found here, in advance: the update itself never waits for a device.
    """

    rows: Tensor  # [m] int64, into Transitions
    living: Tensor  # [r] int64, rows of the alive in [m · N]
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


def shuffled_transitions(alive: Tensor, n_minibatch: int, generator: torch.Generator) -> Iterator[Minibatch]:
    """One epoch of random disjoint sets of transitions, of sizes that differ by at most one; ``alive`` is [M, N]."""
    nothing = torch.empty(0, dtype=torch.int64, device=alive.device)
    order = torch.randperm(len(alive), generator=generator).to(alive.device)
    for rows in order.tensor_split(n_minibatch):
        yield Minibatch(rows, living_rows(alive[rows]), episodes=nothing, slots=nothing)


def shuffled_episodes(mask: Tensor, alive: Tensor, n_minibatch: int, generator: torch.Generator) -> Iterator[Minibatch]:
    """One epoch of random disjoint sets of whole episodes, for policies with a memory.

    Args:
        mask: [B, T], which steps happened.
        alive: [M, N], of the M steps that did.
        n_minibatch: how many sets.
        generator: source of the order.
    """
    row = mask.flatten().cumsum(0).view(mask.shape) - 1
    order = torch.randperm(mask.shape[0], generator=generator).to(mask.device)
    for episodes in order.tensor_split(n_minibatch):
        happened = mask[episodes]
        slots = happened.flatten().nonzero().squeeze(-1)
        rows = row[episodes][happened]
        yield Minibatch(rows, living_rows(alive[rows]), episodes=episodes, slots=slots)


def every_nth(transitions: Transitions, n: int) -> list[tuple[Transitions, Tensor]]:
    """The transitions k, k + n, k + 2n, … and their ``living_rows``, for each k < n."""
    rows = torch.arange(len(transitions.alive), device=transitions.alive.device)
    parts = [transitions[rows[k::n]] for k in range(n)]
    return [(part, living_rows(part.alive)) for part in parts]


def living_rows(alive: Tensor) -> Tensor:
    """Where ``alive`` [M, N] holds, as rows [r] int64 of [M · N]."""
    return alive.flatten().nonzero().squeeze(-1)


def minibatch_logits(policy: Policy, batch: EpisodeBatch, transitions: Transitions, minibatch: Minibatch) -> Tensor:
    """Logits [m, N, A] of the minibatch's ``transitions``; a recurrent policy starts from each episode's beginning."""
    logits: Tensor
    if policy.recurrent:
        obs = batch.obs[:, :-1].index_select(0, minibatch.episodes)
        logits, _ = policy(obs, policy.initial_hidden(len(obs)))
        return logits.flatten(0, 1).index_select(0, minibatch.slots)
    return step_logits(policy, transitions.obs, minibatch.living)


def step_logits(policy: Policy, obs: Tensor, living: Tensor) -> Tensor:
    """Logits [M, N, A] of a feed-forward policy for single steps obs [M, N, O]; those of rows that are not among the
    ``living_rows`` mean nothing."""
    logits, _ = policy(obs.unsqueeze(1), policy.initial_hidden(len(obs)), wanted=living)
    return logits.squeeze(1)
