"""From episodes to the minibatches of an update.

Letters: B episodes, T time, N agents, O observation size, S state size, A actions, M transitions, R rows: single agents
in single steps, as indices into [M · N].
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

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

    @classmethod
    def of(cls, batch: EpisodeBatch, advantages: Tensor, values: Tensor, targets: Tensor) -> "Transitions":
        """Those of a batch; advantages, values and targets are [B, T, N]."""
        learned = {"advantages": advantages, "values": values, "targets": targets}
        recorded = {f.name: batch.happened(f.name) for f in fields(cls) if f.name not in learned}
        return cls(**recorded, **{name: x[batch.mask] for name, x in learned.items()})

    def __getitem__(self, steps: Tensor) -> "Transitions":
        """The transitions ``steps`` [m] int64."""
        return type(self)(**{f.name: getattr(self, f.name).index_select(0, steps) for f in fields(self)})

    def at_rows(self, rows: Tensor) -> "AgentSteps":
        """What single agents did, at ``rows`` [R]."""
        return AgentSteps(**{f.name: at_rows(getattr(self, f.name), rows) for f in fields(AgentSteps)})


@dataclass(frozen=True)
class AgentSteps:
    """What single agents did in single steps, R of them; fields as of ``Transitions``."""

    available_actions: Tensor  # [R, A] bool
    actions: Tensor  # [R] int64
    log_probs: Tensor  # [R] float32
    advantages: Tensor  # [R] float32


@dataclass(frozen=True)
class Minibatch:
    """Which m transitions to learn from.

    All that depends on what happened is found here, in advance: the update itself never waits for a device.
    """

    steps: Tensor  # [m] int64, into Transitions
    rows: Tensor  # [R] int64, of the living agents, into these steps' [m · N]
    batch_sizes: Tensor | None = None  # [T, N] int64, for recurrent policies, see Policy.at_rows

    def of_agent(self, agent: int, n_agents: int) -> "Minibatch":
        """The same steps, with the rows of one agent; it waits for the device."""
        sizes = self.batch_sizes
        if sizes is not None:
            sizes = torch.where(torch.arange(n_agents) == agent, sizes, 0)
            sizes = sizes[sizes.sum(dim=1) > 0]
        return Minibatch(self.steps, self.rows[self.rows % n_agents == agent], sizes)


def shuffled_transitions(alive: Tensor, n_minibatch: int, generator: torch.Generator) -> Iterator[Minibatch]:
    """One epoch of random disjoint sets of transitions, of sizes that differ by at most one; ``alive`` is [M, N]."""
    order = torch.randperm(len(alive), generator=generator).to(alive.device)
    for steps in order.tensor_split(n_minibatch):
        yield Minibatch(steps, rows_of(alive[steps]))


def shuffled_episodes(mask: Tensor, alive: Tensor, n_minibatch: int, generator: torch.Generator) -> Iterator[Minibatch]:
    """One epoch of random disjoint sets of whole episodes, for recurrent policies.

    Args:
        mask: [B, T], which steps happened.
        alive: [B, T, N].
        n_minibatch: how many sets.
        generator: source of the order.
    """
    step = mask.flatten().cumsum(0).view(mask.shape) - 1
    order = torch.randperm(mask.shape[0], generator=generator).to(mask.device)
    for episodes in order.tensor_split(n_minibatch):
        happened, lives = mask[episodes], alive[episodes]
        yield Minibatch(step[episodes][happened], *packed_lives(happened, lives))


def packed_lives(mask: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
    """The agents' lives, each from the beginning of its episode to its last step alive, as a PackedSequence.

    Args:
        mask: [b, T], which steps happened; the transitions are those, one episode after the other.
        alive: [b, T, N].

    Returns:
        Its data, rows [R] int64 into the transitions' [m · N], and its batch sizes, by agent: [T', N] int64 on the CPU.
    """
    n_steps, n_agents = alive.shape[1:]
    time = torch.arange(n_steps, device=mask.device)
    lengths = (alive * (time + 1).unsqueeze(-1)).amax(dim=1)  # [b, N]
    first_transition = mask.sum(dim=1).cumsum(0) - mask.sum(dim=1)
    first_row = first_transition.unsqueeze(-1) * n_agents + torch.arange(n_agents, device=mask.device)
    longest_first = lengths.flatten().argsort(descending=True, stable=True)
    runs = time.unsqueeze(-1) < lengths.flatten()[longest_first]  # [T, b · N]
    rows = first_row.flatten()[longest_first] + n_agents * time.unsqueeze(-1)
    batch_sizes = (time.view(-1, 1, 1) < lengths).sum(dim=1)
    return rows[runs], batch_sizes[batch_sizes.sum(dim=1) > 0].cpu()


def every_nth(alive: Tensor, n: int) -> list[Minibatch]:
    """Transitions k, k + n, k + 2n, … for each k < n; ``alive`` is [M, N]."""
    steps = torch.arange(len(alive), device=alive.device)
    return [Minibatch(steps[k::n], rows_of(alive[k::n])) for k in range(n)]


def rows_of(alive: Tensor) -> Tensor:
    """Where ``alive`` [M, N] holds, as rows [R] int64 of [M · N]."""
    return alive.flatten().nonzero().squeeze(-1)


def at_rows(x: Tensor, rows: Tensor) -> Tensor:
    """What agents have at ``rows`` [R] in x [M, N, ...] → [R, ...]."""
    return x.flatten(0, 1).index_select(0, rows)
