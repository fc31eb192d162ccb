"""Where the team imagines: battles that go on from real moments, in a world model or in the simulator.

Letters: M battles, N agents, O observation size, S state size, A actions.
"""

from __future__ import annotations

from functools import cache, partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from amal.battle import VectorBattle
from amal.battle.battlefield import LONGEST_EPISODE, Scenario
from amal.networks.entity_model import HP, EntityWorldModel, disagreement
from amal.networks.world_model_ensemble import WorldModelEnsemble
from amal.replay import RealSequences
from amal.types import alive_agents


class Views(NamedTuple):
    """What is seen of M battles."""

    obs: Tensor  # [M, N, O] float32
    state: Tensor  # [M, S] float32
    available_actions: Tensor  # [M, N, A] bool


class Outcome(NamedTuple):
    """Of a step of M battles."""

    views: Views  # what is seen then
    rewards: Tensor  # [M], the team's
    ended: Tensor  # [M] bool
    uncertain: Tensor | None = None  # [M] bool, to be truncated: the world models disagree too much


class ImaginedBattles(Protocol):
    """Battles that go on from real moments: in a world model, or in the simulator."""

    past: int  # real steps before a moment that ``reset`` needs to see

    def reset(self, moments: RealSequences, generator: Generator, copies: int = 1) -> Views:
        """Goes to the moments before the last steps of M real stretches; what is seen there.

        The stretches may be so many copies of the same ones, one after the other, which the same world model goes on
        with."""

    def step(self, actions: Tensor, generator: Generator) -> Outcome:
        """Steps with actions [M, N]. Battles that ended before yield anything finite."""


class SimulatedBattles:
    """The simulator as a perfect world model: battles continue from real moments with new random outcomes.

    Args:
        scenario: of the moments.
    """

    past = 0

    def __init__(self, scenario: Scenario) -> None:
        self.of_size = cache(partial(_endless, scenario))

    def reset(self, moments: RealSequences, generator: Generator, copies: int = 1) -> Views:
        if moments.snapshots is None:
            raise ValueError("imagination.perfect needs data.snapshots: true")
        number = len(moments.last)
        chances = torch.randint(1, 2**62, (number,), generator=generator, device=generator.device)
        views = {name: getattr(moments.last, name) for name in ("obs", "state", "available_actions")}
        self.battle = self.of_size(number)
        self.battle.go_on_from(
            moments.snapshots.cpu().numpy(),
            chances.cpu().numpy().astype(np.uint64),
            {name: view.cpu().numpy() for name, view in views.items()},
        )
        self.device = moments.states.device
        return self._views()

    def step(self, actions: Tensor, generator: Generator) -> Outcome:
        self.battle.step(actions.cpu().numpy())
        rewards, ended = (
            torch.from_numpy(x.copy()).to(self.device) for x in (self.battle.rewards, self.battle.terminated)
        )
        return Outcome(self._views(), rewards, ended)

    def _views(self) -> Views:
        battle = self.battle
        arrays = (battle.obs, battle.state, battle.available_actions)
        return Views(*(torch.from_numpy(array.copy()).to(self.device) for array in arrays))


def _endless(scenario: Scenario, num_battles: int) -> VectorBattle:
    """Battles without the scenario's limit: imagined episodes do not know how long the real one had lasted."""
    return VectorBattle(scenario, num_battles, auto_reset=False, episode_limit=LONGEST_EPISODE)


class EntityBattles:
    """Battles in entity-wise world models; each goes on in one of the ensemble's members. The others follow it only
    with ``max_disagreement``, which asks whether they agree.

    Args:
        world_model: the ensemble.
        max_disagreement: battles are uncertain where the members disagree by more than so many times what they disagree
            by in a first step on average, which is from real moments; by default none is.
    """

    def __init__(self, world_model: WorldModelEnsemble, max_disagreement: float | None = None) -> None:
        self.max_disagreement = max_disagreement
        self.members = [member for member in world_model.members if isinstance(member, EntityWorldModel)]
        self.past = world_model.past

    def reset(self, moments: RealSequences, generator: Generator, copies: int = 1) -> Views:
        number, n_members = len(moments.last), len(self.members)
        everything = torch.arange(number, device=moments.states.device)
        distinct = everything[: number // copies]
        turns = everything % len(distinct) % n_members  # neighbours are often alike
        self.own = [everything[turns == k] for k in range(n_members)]
        self.places = torch.cat(self.own).argsort()
        self.followed = self.own if self.max_disagreement is None else [everything] * n_members
        to_recall = [rows[rows < len(distinct)] for rows in self.followed]
        recalled = [member.recall(moments[rows]) for member, rows in zip(self.members, to_recall, strict=True)]
        self.memories = [memory.repeat(copies, 1, 1) for _, memory in recalled]
        self.units = self._joined([units.repeat(copies, 1, 1, 1) for units, _ in recalled])
        self.usual: Tensor | None = None
        return Views(moments.last.obs, moments.last.state, moments.last.available_actions)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """Of all battles [M, ...], what each member says [M_i, ...] of those that it follows."""
        if self.max_disagreement is not None:
            parts = [part[rows] for part, rows in zip(parts, self.own, strict=True)]
        return torch.cat(parts)[self.places]

    def step(self, actions: Tensor, generator: Generator) -> Outcome:
        before, now = self.units.unbind(dim=1)
        following = zip(self.members, self.followed, self.memories, strict=True)
        expected = [member(before[rows], now[rows], actions[rows], memory) for member, rows, memory in following]
        outputs, self.memories = [output for output, _ in expected], [memory for _, memory in expected]
        first = self.members[0]
        after = first.outcome(now, self._joined(outputs), generator)
        own = zip(self.members, self.own, strict=True)
        rewards = torch.cat([member.rewards(now[rows], after[rows]) for member, rows in own])[self.places]
        self.units = torch.stack([now, after], dim=1)
        lives = after[..., HP] > 0
        ended = ~lives[:, : first.n_agents].any(dim=1) | ~lives[:, first.n_agents :].any(dim=1)
        last_actions = F.one_hot(actions, first.views.n_actions).to(after.dtype)
        views = Views(*first.views.see(after, last_actions))
        return Outcome(views, rewards, ended, self._uncertain(outputs, now[..., HP] > 0))

    def _uncertain(self, outputs: list[Tensor], lives: Tensor) -> Tensor | None:
        """[M] bool, or None where nothing is ever uncertain. In the first step the moments are real."""
        if self.max_disagreement is None:
            return None
        expected = [member.expected(output) for member, output in zip(self.members, outputs, strict=True)]
        apart = disagreement(torch.stack(expected), lives)
        if self.usual is None:
            self.usual = apart.mean()
        return apart > self.max_disagreement * self.usual


class FlatBattles:
    """Battles in flat world models, of a random member for each step."""

    past = 0

    def __init__(self, world_model: WorldModelEnsemble) -> None:
        self.world_model = world_model

    def reset(self, moments: RealSequences, generator: Generator, copies: int = 1) -> Views:
        self.views = Views(moments.last.obs, moments.last.state, moments.last.available_actions)
        return self.views

    def step(self, actions: Tensor, generator: Generator) -> Outcome:
        obs, state, available = self.views
        outcome = self.world_model.predict(obs, state, actions, alive_agents(available), generator)
        self.views = Views(outcome.next_obs, outcome.next_state, outcome.next_available)
        return Outcome(self.views, outcome.reward, outcome.done)


def modelled_battles(world_model: WorldModelEnsemble, max_disagreement: float | None) -> ImaginedBattles:
    """Battles in a world model, of the kind that it is of."""
    return FlatBattles(world_model) if world_model.is_flat else EntityBattles(world_model, max_disagreement)
