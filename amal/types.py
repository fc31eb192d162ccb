"""Records that travel between the parts, with a shape on every field.

Letters: B episodes, E battles, T time, M steps that happened, N agents, A actions, O observation size, S state size,
H hidden size, W layer width, K bytes of a snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:  # the battle and the study commands use this module without paying for torch
    from collections.abc import Callable, Mapping

    import numpy as np
    import torch


@dataclass(frozen=True)
class Layout:
    """Names of the features of observations and states, from ``Scenario.obs_features()`` and ``state_features()``."""

    obs: tuple[str, ...]  # O names
    state: tuple[str, ...]  # S names
    healers: tuple[str, ...] = ()  # unit types whose targets are allies


@dataclass(frozen=True)
class BattleSpec:
    """Sizes of a scenario, all that a learner needs to know about it."""

    scenario: str
    n_agents: int
    n_enemies: int
    n_actions: int
    obs_dim: int
    state_dim: int
    episode_limit: int
    layout: Layout | None = None  # where the back end names what it shows


class Battles(Protocol):
    """E battles of any simulator, from which episodes are recorded. Arrays are written in place."""

    spec: BattleSpec
    num_battles: int
    auto_reset: bool

    @property
    def obs(self) -> np.ndarray:
        """[E, N, O] float32."""

    @property
    def state(self) -> np.ndarray:
        """[E, S] float32."""

    @property
    def available_actions(self) -> np.ndarray:
        """[E, N, A] bool."""

    @property
    def rewards(self) -> np.ndarray:
        """[E] float64."""

    @property
    def terminated(self) -> np.ndarray:
        """[E] bool."""

    @property
    def truncated(self) -> np.ndarray:
        """[E] bool."""

    @property
    def won(self) -> np.ndarray:
        """[E] bool."""

    def dead(self, side: str) -> np.ndarray:
        """[E] int64: how many units of side 'ally' or 'enemy' are dead."""

    def reset(self, *, battles: np.ndarray | None = None) -> None:
        """Starts new episodes in the battles of a mask [E] bool; by default in all."""

    def step(self, actions: np.ndarray) -> None:
        """Steps every running battle with actions [E, N]. Finished battles do not change."""


class Actor(Protocol):
    """What plays battles: any module with these three."""

    @property
    def device(self) -> torch.device: ...

    def initial_hidden(self, num_battles: int) -> torch.Tensor:
        """[E, N, H], the memory before an episode's first step."""

    def act(
        self,
        obs: torch.Tensor,
        available_actions: torch.Tensor,
        hidden: torch.Tensor,
        generator: torch.Generator | None,
        progress: float,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Chooses actions; greedily without a generator.

        Args:
            obs: [E, N, O] float32.
            available_actions: [E, N, A] bool.
            hidden: [E, N, H], from ``initial_hidden`` or the last call.
            generator: source of the samples, or None.
            progress: share of the training budget that is used, in [0, 1].

        Returns:
            Actions [E, N] int64; their log-probabilities [E, N], or None if the actor has none; hidden [E, N, H].
        """


class PlainNetwork(NamedTuple):
    """A policy of linear layers, with ReLUs between them, on an observation and the agent's id: its parameters, float32
    on the CPU. An actor whose method ``plain_network()`` returns one is played in compiled rollouts."""

    first: torch.Tensor  # [W, O]
    agents: torch.Tensor  # [N, W], what the first layer adds for each agent: the weights of its id, and the bias
    middle: list[tuple[torch.Tensor, torch.Tensor]]  # weight [W', W] and bias [W'] of each further hidden layer
    last: tuple[torch.Tensor, torch.Tensor]  # weight [A, W] and bias [A]


class StepField(NamedTuple):
    """What a rollout records of every step."""

    axes: tuple[str, ...]  # attributes of BattleSpec: the sizes of a battle's entry
    dtype: str
    is_view: bool  # seen before each step and once more at the end of the episode

    def shape(self, sizes: Mapping[str, Any]) -> tuple[int, ...]:
        """Of a battle's entry in one step, from sizes by the names of BattleSpec."""
        return tuple(sizes[axis] for axis in self.axes)


def per_step(*axes: str, dtype: str = "float32", is_view: bool = False) -> dict[str, StepField]:
    """Metadata of a field of EpisodeBatch that a rollout records in every step."""
    return {"step": StepField(axes, dtype, is_view)}


def alive_agents(available_actions: torch.Tensor) -> torch.Tensor:
    """Who is alive, by what is seen: only the dead have the no-op, action 0, available.

    Args:
        available_actions: [..., N, A] bool.

    Returns:
        [..., N] bool; True in padding, where nothing is available.
    """
    return ~available_actions[..., 0]


@dataclass(frozen=True)
class ActionScores:
    """An algorithm's scores of all actions in E battles, for display.

    Probabilities of an agent's actions add up to 1, and are 0 where an action is not available. Values are finite where
    an action is available, and -inf or NaN where not.
    """

    kind: Literal["probability", "value"]
    scores: torch.Tensor  # [E, N, A] float


@dataclass(frozen=True)
class EpisodeBatch:
    """B whole episodes, padded with zeros to the longest: a rollout yields it, an update consumes it.

    Slot t of ``obs``, ``state`` and ``available_actions`` was seen before ``actions[:, t]``. The slot after an
    episode's last step was seen at its end, so truncated episodes can be bootstrapped.

    ``EpisodeRecorder`` and ``EpisodeReplay`` take shapes and types of the fields with ``per_step`` from their
    declarations. The compiled rollout and the asymmetric replay buffer list the fields that they keep.
    """

    obs: torch.Tensor = field(metadata=per_step("n_agents", "obs_dim", is_view=True))  # [B, T+1, N, O] float32
    state: torch.Tensor = field(metadata=per_step("state_dim", is_view=True))  # [B, T+1, S] float32
    # [B, T+1, N, A]
    available_actions: torch.Tensor = field(metadata=per_step("n_agents", "n_actions", dtype="bool", is_view=True))
    actions: torch.Tensor = field(metadata=per_step("n_agents", dtype="int64"))  # [B, T, N]
    log_probs: torch.Tensor = field(metadata=per_step("n_agents"))  # [B, T, N] float32, of the actor, 0 without
    rewards: torch.Tensor = field(metadata=per_step())  # [B, T] float32, shared by the team
    terminated: torch.Tensor = field(metadata=per_step(dtype="bool"))  # [B, T], the step ended the battle
    truncated: torch.Tensor = field(metadata=per_step(dtype="bool"))  # [B, T], the step reached the episode limit
    mask: torch.Tensor  # [B, T] bool, the step happened
    won: torch.Tensor  # [B] bool
    dead_allies: torch.Tensor  # [B] int64
    dead_enemies: torch.Tensor  # [B] int64
    progress: float  # share of the training budget that was used before this batch, in [0, 1]
    greedy: bool = False  # no action was drawn
    snapshots: torch.Tensor | None = None  # [B, T+1, K] uint8, of the embedded simulator, where they were asked for

    @classmethod
    def step_fields(cls) -> dict[str, StepField]:
        """The fields that a rollout records of every step."""
        return {f.name: f.metadata["step"] for f in fields(cls) if "step" in f.metadata}

    @property
    def alive(self) -> torch.Tensor:
        """[B, T, N] bool: the agent acted."""
        return self.mask.unsqueeze(-1) & alive_agents(self.available_actions[:, :-1])

    @property
    def lengths(self) -> torch.Tensor:
        """[B] int64: steps of each episode."""
        return self.mask.sum(dim=1)

    @property
    def returns(self) -> torch.Tensor:
        """[B] float32: undiscounted team return of each episode."""
        return (self.rewards * self.mask).sum(dim=1)

    def happened(self, name: str) -> torch.Tensor:
        """[M, ...]: what the field has at the M steps that happened, in the order of ``mask``."""
        values: torch.Tensor = getattr(self, name)
        return values[:, : self.mask.shape[1]][self.mask]

    def to(self, *args: object, **kwargs: object) -> EpisodeBatch:
        """Move every tensor as ``Tensor.to`` would, keeping dtypes; Lightning calls this for the device transfer."""
        return self._each(lambda tensor: tensor.to(*args, **kwargs))

    def __getitem__(self, episodes: slice) -> EpisodeBatch:
        """Some of the episodes, padded as they are."""
        return self._each(lambda tensor: tensor[episodes])

    def _each(self, change: Callable[[Any], torch.Tensor]) -> EpisodeBatch:
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("progress", "greedy")}
        changed = {name: change(tensor) for name, tensor in tensors.items() if tensor is not None}
        return EpisodeBatch(**changed, progress=self.progress, greedy=self.greedy)
