"""What agents and critics see, from the units of a battle and back: the observation function of SMAC, which is given.

Letters: M battles, N agents, U units (agents first), F features of a unit, O observation size, S state size, A actions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amal.battle.battlefield import FIELD_SIZE, FULL_TURN, MOVE_ACTIONS, Scenario
from amal.battle.observer import TARGET_DISTANCE

HP, SHIELD, COOLDOWN, X, Y, TYPES = range(6)  # features of a unit; its type's one-hot is from TYPES on
MOVES = 4  # north, south, east, west
FIRST_MOVE = MOVE_ACTIONS - MOVES


class UnitViews(nn.Module):
    """Units [M, U, F] from states and views from units, by the names of the views' features.

    A unit's features are those of the state: fractions of hp, shield and (of allies) cooldown, position from the middle
    of the field in shares of its width, type. All are 0 of the dead and 0 where the state does not tell.

    Which way an agent can walk is not known: ``learn_paths`` remembers for each cell of the field what was seen there.

    Args:
        scenario: names and ranges; nothing is asked of it about units, terrain or dynamics, but which types heal.
    """

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        if scenario.view_angle < FULL_TURN:
            raise ValueError(f"{scenario.name}: agents that see a cone are not modelled; use the flat world model")
        self.n_agents, self.n_enemies, self.n_actions = scenario.n_agents, scenario.n_enemies, scenario.n_actions
        self.n_units = self.n_agents + self.n_enemies
        self.sight = scenario.sight
        types = [f"is_{name}" for name in scenario.type_names]
        self.n_features = TYPES + len(types)
        names = ["hp", "shield", "cooldown", "x", "y", *types]
        self.state_columns = {
            side: [names.index(name) for name in _features_of(f"{side}0.", scenario.state_features(), "last_action")]
            for side in ("ally", "enemy")
        }
        seen = ["seen", "distance", "dx", "dy", "hp", "shield", *types]
        self.obs_columns = {
            side: [
                seen.index("seen" if name == "targetable" else name)
                for name in _features_of(f"{side}0.", scenario.obs_features())
            ]
            for side in ("enemy", "ally")[: 1 + (self.n_agents > 1)]
        }
        self.own_columns = [names.index(name) for name in _features_of("own.", scenario.obs_features())]
        healers = scenario.layout().healers
        self.healers = [TYPES + i for i, name in enumerate(scenario.type_names) if name in healers]
        self.all_heal = not types and bool(healers)
        others = [[j for j in range(self.n_agents) if j != i] for i in range(self.n_agents)]
        self.others: Tensor
        self.register_buffer("others", torch.tensor(others, dtype=torch.int64), persistent=False)
        self.paths: Tensor
        self.register_buffer("paths", torch.ones(FIELD_SIZE + 2, FIELD_SIZE + 2, MOVES, dtype=torch.bool))

    def units(self, states: Tensor) -> Tensor:
        """[..., S] → [..., U, F]."""
        ally, enemy = self.state_columns["ally"], self.state_columns["enemy"]
        allies, enemies, _ = states.split(
            [
                self.n_agents * len(ally),
                self.n_enemies * len(enemy),
                states.shape[-1] - self.n_agents * len(ally) - self.n_enemies * len(enemy),
            ],
            dim=-1,
        )
        units = states.new_zeros(*states.shape[:-1], self.n_units, self.n_features)
        units[..., : self.n_agents, ally] = allies.unflatten(-1, (self.n_agents, len(ally)))
        units[..., self.n_agents :, enemy] = enemies.unflatten(-1, (self.n_enemies, len(enemy)))
        return units

    def last_actions(self, states: Tensor) -> Tensor:
        """[..., S] → one-hots [..., N, A] of the joint action before; zeros at the start of an episode."""
        return states[..., -self.n_agents * self.n_actions :].unflatten(-1, (self.n_agents, self.n_actions))

    def learn_paths(self, units: Tensor, available_actions: Tensor) -> None:
        """Remembers where agents could walk: units [M, U, F], available actions [M, N, A]."""
        agents = units[:, : self.n_agents]
        lives = agents[..., HP] > 0
        column, row = self._cells(agents[lives])
        self.paths[column, row] = available_actions[lives][:, FIRST_MOVE:MOVE_ACTIONS]

    def targets(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """Who action 6 + j aims at: global index [M, N, A − 6] of a unit, and whether it may be chosen at any distance:
        it lives and, if it is aimed at to be healed, does not heal itself."""
        slots = torch.arange(self.n_actions - MOVE_ACTIONS, device=units.device)
        heals = self.heals(units)
        index = torch.where(
            heals[:, : self.n_agents, None],
            slots.clamp_max(self.n_agents - 1),
            (self.n_agents + slots).clamp_max(self.n_units - 1),
        )
        exists = torch.where(heals[:, : self.n_agents, None], slots < self.n_agents, slots < self.n_enemies)
        lives = units[..., HP] > 0
        may = lives & ~(heals & (torch.arange(self.n_units, device=units.device) < self.n_agents))
        return index, exists & may.gather(1, index.flatten(1)).view(index.shape)

    def heals(self, units: Tensor) -> Tensor:
        """[M, U] bool."""
        if not self.healers:
            return torch.full(units.shape[:-1], self.all_heal, device=units.device)
        return units[..., self.healers].sum(dim=-1) > 0

    def see(self, units: Tensor, last_actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observations [M, N, O], states [M, S] and available actions [M, N, A] of units [M, U, F], with the one-hots
        [M, N, A] of the actions before."""
        agents, lives = units[:, : self.n_agents], units[..., HP] > 0
        positions = units[..., X : Y + 1] * FIELD_SIZE
        relative = positions.unsqueeze(1) - positions[:, : self.n_agents].unsqueeze(2)  # [M, N, U, 2]
        distance = relative.square().sum(dim=-1).sqrt()
        available = self._available(units, distance)
        seen = (distance <= self.sight) & lives.unsqueeze(1)
        whole = units.unsqueeze(1).expand(-1, self.n_agents, -1, -1)
        features = torch.cat(
            [
                torch.ones_like(distance).unsqueeze(-1),
                (distance / self.sight).unsqueeze(-1),
                relative / self.sight,
                whole[..., HP : SHIELD + 1],
                whole[..., TYPES:],
            ],
            dim=-1,
        )
        features = torch.where(seen.unsqueeze(-1), features, 0.0)
        enemies = features[:, :, self.n_agents :]
        targetable = available[..., MOVE_ACTIONS : MOVE_ACTIONS + self.n_enemies] & seen[:, :, self.n_agents :]
        enemies[..., 0] = targetable.to(features.dtype)
        parts = [
            available[..., FIRST_MOVE:MOVE_ACTIONS].to(features.dtype),
            enemies[..., self.obs_columns["enemy"]].flatten(2),
        ]
        if self.n_agents > 1:
            allies = features[:, torch.arange(self.n_agents, device=units.device).unsqueeze(1), self.others]
            parts.append(allies[..., self.obs_columns["ally"]].flatten(2))
        parts.append(agents[..., self.own_columns])
        obs = torch.where(lives[:, : self.n_agents, None], torch.cat(parts, dim=-1), 0.0)
        state = torch.cat(
            [
                agents[..., self.state_columns["ally"]].flatten(1),
                units[:, self.n_agents :, self.state_columns["enemy"]].flatten(1),
                last_actions.flatten(1),
            ],
            dim=-1,
        )
        return obs, state, available

    def _available(self, units: Tensor, distance: Tensor) -> Tensor:
        lives = units[:, : self.n_agents, HP] > 0
        available = units.new_zeros(*lives.shape, self.n_actions, dtype=torch.bool)
        available[..., 1] = True
        available[..., FIRST_MOVE:MOVE_ACTIONS] = self.paths[self._cells(units[:, : self.n_agents])]
        index, may = self.targets(units)
        available[..., MOVE_ACTIONS:] = may & (distance.gather(2, index) <= TARGET_DISTANCE)
        available &= lives.unsqueeze(-1)
        available[..., 0] = ~lives
        return available

    def _cells(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """Column and row [...] of the cells that units [..., F] stand in; there is a rim around the field, for units
        push each other over its edge."""
        cells = (units[..., X : Y + 1] * FIELD_SIZE + FIELD_SIZE / 2).floor().long().clamp(-1, FIELD_SIZE) + 1
        return cells[..., 0], cells[..., 1]


def _features_of(prefix: str, names: Sequence[str], but: str | None = None) -> list[str]:
    """What the names that begin with the prefix go on with; names that hold ``but`` are left out."""
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix) and (but is None or but not in name)]
