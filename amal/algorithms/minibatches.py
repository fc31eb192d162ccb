"""From episodes to the minibatches of an update.

Letters: B episodes, T time, N agents, O observation size, S state size, A actions, M transitions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from amal.networks.policies import Sequences
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
    advantages: Tensor  # [M, N] float32
    values: Tensor  # [M, N] float32, normalised, of the critic before the update
    targets: Tensor  # [M, N] float32, normalised returns

    def __getitem__(self, rows: Tensor) -> "Transitions":
        """The transitions at ``rows`` [m] int64."""
        return Transitions(**{f.name: getattr(self, f.name).index_select(0, rows) for f in fields(self)})

    def decisions(self, rows: Tensor) -> "Decisions":
        """What agents did, at ``rows`` [R] int64 of [M · N]."""
        return Decisions(**{f.name: at_rows(getattr(self, f.name), rows) for f in fields(Decisions)})


@dataclass(frozen=True)
class Decisions:
    """What single agents did in R steps; fields as of ``Transitions``."""

    available_actions: Tensor  # [R, A] bool
    actions: Tensor  # [R] int64
    log_probs: Tensor  # [R] float32
    advantages: Tensor  # [R] float32


@dataclass(frozen=True)
class Minibatch:
    """Which m transitions to learn from.

    All that depends on what happened is found here, in advance: the update itself never waits for a device.
    """

    rows: Tensor  # [m] int64, into Transitions
    sequences: Sequences  # of the living agents, with rows into Transitions' [M · N]


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
        advantages=advantages[happened],
        values=values[happened],
        targets=targets[happened],
    )


def shuffled_transitions(alive: Tensor, n_minibatch: int, generator: torch.Generator) -> Iterator[Minibatch]:
    """One epoch of random disjoint sets of transitions, of sizes that differ by at most one; ``alive`` is [M, N]."""
    order = torch.randperm(len(alive), generator=generator).to(alive.device)
    for rows in order.tensor_split(n_minibatch):
        yield minibatch_of(rows, single_steps(alive[rows]))


def shuffled_episodes(mask: Tensor, alive: Tensor, n_minibatch: int, generator: torch.Generator) -> Iterator[Minibatch]:
    """One epoch of random disjoint sets of whole episodes, for policies with a memory.

    Args:
        mask: [B, T], which steps happened.
        alive: [B, T, N].
        n_minibatch: how many sets.
        generator: source of the order.
    """
    row = mask.flatten().cumsum(0).view(mask.shape) - 1
    order = torch.randperm(mask.shape[0], generator=generator).to(mask.device)
    for episodes in order.tensor_split(n_minibatch):
        happened, lives = mask[episodes], alive[episodes]
        yield minibatch_of(row[episodes][happened], lifelines(happened, lives))


def lifelines(mask: Tensor, alive: Tensor) -> Sequences:
    """The agents' lives, each from the beginning of its episode to its last step alive.

    Args:
        mask: [b, T], which steps happened; the transitions are those, one episode after the other.
        alive: [b, T, N].
    """
    n_steps, n_agents = alive.shape[1:]
    time = torch.arange(n_steps, device=mask.device)
    lengths = (alive * (time + 1).unsqueeze(-1)).amax(dim=1)  # [b, N]
    first_transition = mask.sum(dim=1).cumsum(0) - mask.sum(dim=1)
    first_row = first_transition.unsqueeze(-1) * n_agents + torch.arange(n_agents, device=mask.device)
    longest_first = lengths.flatten().argsort(descending=True, stable=True)
    runs = time.unsqueeze(-1) < lengths.flatten()[longest_first]  # [T, b · N]
    rows = first_row.flatten()[longest_first] + n_agents * time.unsqueeze(-1)
    running = (time.view(-1, 1, 1) < lengths).sum(dim=1)
    return Sequences(rows[runs], running[running.sum(dim=1) > 0].cpu())


def single_steps(alive: Tensor) -> Sequences:
    """The agents that are alive [m, N], each step for itself."""
    return Sequences(living_rows(alive), alive.sum(dim=0, keepdim=True).cpu())


def minibatch_of(transitions: Tensor, sequences: Sequences) -> Minibatch:
    """A minibatch of the ``transitions`` [m] int64, of whose rows [m · N] the ``sequences`` are."""
    n_agents = sequences.running.shape[1]
    rows = transitions[sequences.rows // n_agents] * n_agents + sequences.rows % n_agents
    return Minibatch(transitions, replace(sequences, rows=rows))


def every_nth(alive: Tensor, n: int) -> list[Sequences]:
    """The ``single_steps`` of transitions k, k + n, k + 2n, … for each k < n, with rows into [M · N]; ``alive`` is
    [M, N]."""
    transitions = torch.arange(len(alive), device=alive.device)
    return [minibatch_of(transitions[k::n], single_steps(alive[k::n])).sequences for k in range(n)]


def living_rows(alive: Tensor) -> Tensor:
    """Where ``alive`` [M, N] holds, as rows [r] int64 of [M · N]."""
    return alive.flatten().nonzero().squeeze(-1)


def at_rows(x: Tensor, rows: Tensor) -> Tensor:
    """What agents have at ``rows`` [R] int64 of [M · N] in x [M, N, ...] → [R, ...]."""
    return x.flatten(0, 1).index_select(0, rows)
