"""What is fought: unit types, groups, families and scenarios, where units start and how features are named."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from amal.battle.entries import ScenarioError
from amal.runtime.argument_checks import check_whole
from amal.types import BattleSpec, Layout

FIELD_SIZE = 32
TICK = 1.0 / 16.0  # s
UNIT_GAP = 0.05  # between the rims of neighbours at placement
MOVE_ACTIONS = 6  # no-op, stop and four directions come before the targets
SIGHT = 9.0  # cells, unless a scenario says otherwise
FULL_TURN = 360.0  # degrees
LONGEST_EPISODE = 100_000  # steps, 14 hours of battle; recorders keep room for whole episodes
RANDOM_DELAY = (-1, 2)  # ticks: -0.0625 s to 0.125 s, of most weapons of StarCraft II
MOST_DELAY = 160  # ticks, ten seconds

Plane = Literal["ground", "air"]
Weapon = Literal["standard", "kamikaze", "laser", "heal"]
Side = Literal["ally", "enemy"]


@dataclass(frozen=True)
class UnitType:
    """One entry of units.yaml. Distances in cells, times in seconds, speed and regeneration per second."""

    name: str
    hp: float
    size: float
    speed: float
    attributes: tuple[str, ...]
    targets: tuple[Plane, ...]
    attack_range: float
    shield: float = 0.0
    armor: float = 0.0
    energy: float = 0.0
    starting_energy: float = 0.0
    damage: float = 0.0
    attacks: int = 1
    cooldown: float = 0.0
    bonuses: Mapping[str, float] = field(default_factory=dict)
    plane: Plane = "ground"
    hp_regen: float = 0.0
    scan_range: float = 5.0
    weapon: Weapon = "standard"
    blast_radius: float = 0.0
    beam_width: float = 0.0
    beam_length: float = 0.0

    @property
    def radius(self) -> float:
        return self.size / 2

    def damage_to(self, target: UnitType) -> float:
        """Damage of one attack before shield and armor."""
        return self.damage + sum(bonus for attribute, bonus in self.bonuses.items() if attribute in target.attributes)


@dataclass(frozen=True)
class Group:
    """Units of one side that start as a block around a centre."""

    side: Side
    centre: tuple[float, float]
    units: tuple[UnitType, ...]


@dataclass(frozen=True)
class Family:
    """Battles whose units and start positions are drawn anew for every episode, as in SMACv2 (Ellis et al. 2022,
    arXiv:2212.07489); casting.py draws them."""

    allies: int
    enemies: int
    types: tuple[UnitType, ...]  # by name
    weights: tuple[float, ...]  # of the types, sum 1
    surrounded: float  # share of battles that start surrounded; the others start reflected

    @property
    def radius(self) -> float:
        """The largest of its types'."""
        return max(unit.radius for unit in self.types)


@dataclass(frozen=True)
class Scenario:
    """A validated scenario. Units are numbered by global id in group order, and by id within their side.

    With a family, ``groups`` is empty and nobody knows the units before a battle begins: ``VectorBattle.fought``
    tells them."""

    name: str
    groups: tuple[Group, ...]
    attack_point: tuple[float, float]  # with a family, where the allies start on average
    episode_limit: int
    ground: np.ndarray  # [32, 32] bool, ground[y, x]: open to ground units
    family: Family | None = None
    sight: float = SIGHT  # cells from centre to centre
    view_angle: float = FULL_TURN  # degrees, of the cone that an agent sees, around where it looks
    random_delay: tuple[int, int] | None = None  # least and most ticks that a shot adds to the cooldown after it
    source: Path | None = None  # the scenario's own file, absolute
    digest: str | None = None  # sha256 of that file

    @property
    def reference(self) -> str:
        """What load_scenario knows it by."""
        return self.name if self.source is None else str(self.source)

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint tells about the battles that it was trained on."""
        delay = None if self.random_delay is None else list(self.random_delay)
        return {"name": self.name, "digest": self.digest, "random_delay": delay}

    @property
    def units(self) -> list[UnitType]:
        if self.family is not None and not self.groups:
            raise ScenarioError(f"{self.name}: its units are drawn for every battle; ask VectorBattle.fought(e)")
        return [unit for group in self.groups for unit in group.units]

    @property
    def sides(self) -> list[Side]:
        if self.family is not None:
            allies: list[Side] = ["ally"] * self.family.allies
            enemies: list[Side] = ["enemy"] * self.family.enemies
            return allies + enemies
        return [group.side for group in self.groups for _ in group.units]

    def of_side(self, side: Side) -> list[UnitType]:
        return [unit for unit, s in zip(self.units, self.sides, strict=True) if s == side]

    def types(self, side: Side) -> list[UnitType]:
        """Those that can take part on a side, maybe repeated."""
        return list(self.family.types) if self.family is not None else self.of_side(side)

    @property
    def type_names(self) -> list[str]:
        """Unit types in one-hot order; empty if neither side mixes types."""
        per_side = [{unit.name for unit in self.types(side)} for side in get_args(Side)]
        return sorted(set.union(*per_side)) if max(len(names) for names in per_side) > 1 else []

    @property
    def n_agents(self) -> int:
        return self.sides.count("ally")

    @property
    def n_enemies(self) -> int:
        return self.sides.count("enemy")

    @property
    def n_actions(self) -> int:
        healers = sum(unit.weapon == "heal" for unit in self.types("ally"))
        surely = 0 if self.family is not None else healers  # a drawn team may have none
        return MOVE_ACTIONS + max(self.n_agents - surely if healers else 0, self.n_enemies)

    def has_shields(self, side: Side) -> bool:
        return any(unit.shield > 0 for unit in self.types(side))

    def drawn(self, units: list[UnitType], positions: np.ndarray) -> Scenario:
        """The scenario of one battle of the family: with these units, global ids in order, at positions [U, 2]."""
        groups = []
        for side in get_args(Side):
            mine = [i for i, s in enumerate(self.sides) if s == side]
            x, y = positions[mine].mean(axis=0)
            groups.append(Group(side, (float(x), float(y)), tuple(units[i] for i in mine)))
        return replace(self, groups=tuple(groups), attack_point=groups[0].centre)

    def obs_features(self) -> list[str]:
        """Names of an agent's observation, in order: 'enemy3' is the enemy with that id in its side, 'ally3' the fourth
        of the other agents."""
        enemy = ["targetable", "distance", "dx", "dy", "hp"] + self._extras("enemy")
        ally = ["seen", "distance", "dx", "dy", "hp"] + self._extras("ally")
        return (
            ["can_move_north", "can_move_south", "can_move_east", "can_move_west"]
            + [f"enemy{j}.{name}" for j in range(self.n_enemies) for name in enemy]
            + [f"ally{j}.{name}" for j in range(self.n_agents - 1) for name in ally]
            + [f"own.{name}" for name in ["hp"] + self._extras("ally") + self._facing()]
        )

    def state_features(self) -> list[str]:
        """Names of the state's features, in order."""
        ally = ["hp", "cooldown", "x", "y"] + self._extras("ally") + self._facing()
        enemy = ["hp", "x", "y"] + self._extras("enemy")
        return (
            [f"ally{j}.{name}" for j in range(self.n_agents) for name in ally]
            + [f"enemy{j}.{name}" for j in range(self.n_enemies) for name in enemy]
            + [f"ally{j}.last_action{a}" for j in range(self.n_agents) for a in range(self.n_actions)]
        )

    def _extras(self, side: Side) -> list[str]:
        return ["shield"] * self.has_shields(side) + [f"is_{name}" for name in self.type_names]

    def _facing(self) -> list[str]:
        return ["facing_x", "facing_y"] if self.view_angle < FULL_TURN else []

    def spec(self, episode_limit: int | None = None) -> BattleSpec:
        """Sizes of the scenario, with its own or another episode limit. Raises ValueError for an impossible one."""
        limit = self.episode_limit if episode_limit is None else episode_limit
        check_whole(1, LONGEST_EPISODE, episode_limit=limit)
        return BattleSpec(
            scenario=self.name,
            n_agents=self.n_agents,
            n_enemies=self.n_enemies,
            n_actions=self.n_actions,
            obs_dim=len(self.obs_features()),
            state_dim=len(self.state_features()),
            episode_limit=int(limit),
            layout=self.layout(),
        )

    def layout(self) -> Layout:
        """The names of all features, and which types heal."""
        healers = {unit.name for unit in self.types("ally") if unit.weapon == "heal"}
        return Layout(tuple(self.obs_features()), tuple(self.state_features()), tuple(sorted(healers)))


def delay_in_words(random_delay: Sequence[int] | None) -> str:
    """What a scenario's random delay makes of its battles."""
    return "without random delay" if random_delay is None else f"with random delay {list(random_delay)}"


def place(scenario: Scenario) -> np.ndarray:
    """Start positions [U, 2] in global id order: every group a square grid, ally blocks growing up and right from
    their corner, enemy blocks down and left from the opposite one."""
    return np.array([position for group in scenario.groups for position in _place_group(group)], dtype=np.float64)


def _place_group(group: Group) -> list[tuple[float, float]]:
    columns = math.ceil(math.sqrt(len(group.units)))
    rows = [group.units[i : i + columns] for i in range(0, len(group.units), columns)]
    tallest = [max(unit.radius for unit in row) for row in rows]
    width = max(sum(unit.size for unit in row) for row in rows)
    height = 2 * sum(tallest) + (columns - 1) * UNIT_GAP
    sign = 1 if group.side == "ally" else -1
    start_x, y = group.centre[0] - sign * width / 2, group.centre[1] - sign * height / 2
    positions = []
    for i, row in enumerate(rows):
        y += sign * (tallest[i] if i == 0 else tallest[i - 1] + tallest[i] + UNIT_GAP)
        x = start_x
        for unit in row:
            positions.append((x + sign * unit.radius, y))
            x += sign * (unit.size + UNIT_GAP)
    return positions
