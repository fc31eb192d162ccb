"""Scenarios: loads units.yaml, scenarios.yaml and terrain.yaml, validates them and places the units."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml

from amal.types import BattleSpec

FIELD_SIZE = 32
UNIT_GAP = 0.05  # between the rims of neighbours at placement
MOVE_ACTIONS = 6  # no-op, stop and four directions come before the targets

Plane = Literal["ground", "air"]
Weapon = Literal["standard", "kamikaze", "laser", "heal"]
Side = Literal["ally", "enemy"]


class ScenarioError(ValueError):
    """A scenario or unit that cannot be fought; the message names file and key."""


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' for the closest known word, or nothing."""
    match = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {match[0]}?)" if match else ""


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
class Scenario:
    """A validated scenario. Units are numbered by global id in group order, and by id within their side."""

    name: str
    groups: tuple[Group, ...]
    attack_point: tuple[float, float]
    episode_limit: int
    ground: np.ndarray  # [32, 32] bool, ground[y, x]: open to ground units

    @property
    def units(self) -> list[UnitType]:
        return [unit for group in self.groups for unit in group.units]

    @property
    def sides(self) -> list[Side]:
        return [group.side for group in self.groups for _ in group.units]

    def of_side(self, side: Side) -> list[UnitType]:
        return [unit for unit, s in zip(self.units, self.sides, strict=True) if s == side]

    @property
    def type_names(self) -> list[str]:
        """Unit types in one-hot order; empty if neither side mixes types."""
        per_side = [{unit.name for unit in self.of_side(side)} for side in get_args(Side)]
        return sorted(set.union(*per_side)) if max(len(names) for names in per_side) > 1 else []

    @property
    def n_actions(self) -> int:
        allies = self.of_side("ally")
        healers = sum(unit.weapon == "heal" for unit in allies)
        return MOVE_ACTIONS + max(len(allies) - healers if healers else 0, len(self.of_side("enemy")))

    def has_shields(self, side: Side) -> bool:
        return any(unit.shield > 0 for unit in self.of_side(side))

    def obs_features(self) -> list[str]:
        """Names of an agent's observation, in order: 'enemy3' is the enemy with that id in its side, 'ally3' the fourth
        of the other agents."""
        enemy = ["targetable", "distance", "dx", "dy", "hp"] + self._extras("enemy")
        ally = ["seen", "distance", "dx", "dy", "hp"] + self._extras("ally")
        return (
            ["can_move_north", "can_move_south", "can_move_east", "can_move_west"]
            + [f"enemy{j}.{name}" for j in range(len(self.of_side("enemy"))) for name in enemy]
            + [f"ally{j}.{name}" for j in range(len(self.of_side("ally")) - 1) for name in ally]
            + [f"own.{name}" for name in ["hp"] + self._extras("ally")]
        )

    def state_features(self) -> list[str]:
        """Names of the state's features, in order."""
        n_agents, n_enemies = len(self.of_side("ally")), len(self.of_side("enemy"))
        ally = ["hp", "cooldown", "x", "y"] + self._extras("ally")
        enemy = ["hp", "x", "y"] + self._extras("enemy")
        return (
            [f"ally{j}.{name}" for j in range(n_agents) for name in ally]
            + [f"enemy{j}.{name}" for j in range(n_enemies) for name in enemy]
            + [f"ally{j}.last_action{a}" for j in range(n_agents) for a in range(self.n_actions)]
        )

    def _extras(self, side: Side) -> list[str]:
        return ["shield"] * self.has_shields(side) + [f"is_{name}" for name in self.type_names]

    def spec(self, episode_limit: int | None = None) -> BattleSpec:
        """Sizes of the scenario, with its own or another episode limit."""
        return BattleSpec(
            scenario=self.name,
            n_agents=len(self.of_side("ally")),
            n_enemies=len(self.of_side("enemy")),
            n_actions=self.n_actions,
            obs_dim=len(self.obs_features()),
            state_dim=len(self.state_features()),
            episode_limit=episode_limit or self.episode_limit,
        )


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


def wall_rectangles(ground: np.ndarray) -> np.ndarray:
    """Obstacle cells as axis-parallel rectangles [W, 4] of (x0, y0, x1, y1): each maximal run of unused cells of a row
    is extended upwards while all of it stays blocked."""
    unused = ~ground
    rectangles = []
    for y in range(FIELD_SIZE):
        x = 0
        while x < FIELD_SIZE:
            if not unused[y, x]:
                x += 1
                continue
            end = x
            while end < FIELD_SIZE and unused[y, end]:
                end += 1
            top = y + 1
            while top < FIELD_SIZE and not ground[top, x:end].any():
                top += 1
            unused[y:top, x:end] = False
            rectangles.append((x, y, end, top))
            x = end
    return np.array(rectangles, dtype=np.float64).reshape(-1, 4)


def scenario_names() -> list[str]:
    return list(_read("scenarios.yaml"))


@cache
def load_scenario(name: str) -> Scenario:
    """The scenario of that name. Raises ScenarioError naming file and key for anything that cannot be fought."""
    entries = _read("scenarios.yaml")
    if name not in entries:
        raise ScenarioError(f"unknown scenario {name!r}{nearest(name, entries)}; known: {', '.join(entries)}")
    return parse_scenario(name, entries[name], unit_types(), terrains(), "scenarios.yaml")


@cache
def unit_types() -> dict[str, UnitType]:
    return {name: parse_unit(name, entry, "units.yaml") for name, entry in _read("units.yaml").items()}


@cache
def terrains() -> dict[str, np.ndarray]:
    return {name: parse_terrain(name, rows, "terrain.yaml") for name, rows in _read("terrain.yaml").items()}


@cache
def _read(file: str) -> dict[str, Any]:
    return yaml.safe_load((Path(__file__).parent / file).read_text(encoding="utf-8"))


def parse_unit(name: str, entry: Any, file: str) -> UnitType:
    """A unit type from its YAML entry; raises ScenarioError."""
    where = f"{file}: {name}"
    declared = [f for f in fields(UnitType) if f.name != "name"]
    required = [f.name for f in declared if f.default is MISSING and f.default_factory is MISSING]
    _check_keys(entry, where, required, [f.name for f in declared])
    words = {"attributes": None, "targets": get_args(Plane), "plane": get_args(Plane), "weapon": get_args(Weapon)}
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if key == "bonuses":
            _check_keys(value, f"{where}: bonuses", [], None)
            values[key] = {word: _number(bonus, f"{where}: bonuses: {word}") for word, bonus in value.items()}
        elif key in ("attributes", "targets"):
            if not isinstance(value, list):
                raise ScenarioError(f"{where}: {key}: expected a list, got {value!r}")
            values[key] = tuple(_word(word, f"{where}: {key}", words[key]) for word in value)
        elif key in words:
            values[key] = _word(value, f"{where}: {key}", words[key])
        else:
            values[key] = _number(value, f"{where}: {key}")
    for key in ("hp", "size"):
        if values[key] <= 0:
            raise ScenarioError(f"{where}: {key}: must be above 0, got {values[key]:g}")
    values["attacks"] = _count(entry.get("attacks", 1), f"{where}: attacks")
    energy, start = values.get("energy", 0.0), values.get("starting_energy", 0.0)
    if values.get("weapon") == "heal" and energy == 0:
        raise ScenarioError(f"{where}: energy: a healer needs more than 0")
    if start > energy:
        raise ScenarioError(f"{where}: starting_energy: {start:g} is more than the energy of {energy:g}")
    return UnitType(name=name, **values)


def parse_terrain(name: str, rows: Any, file: str) -> np.ndarray:
    """ground[y, x] from its picture, top row first; raises ScenarioError."""
    lines = rows.split() if isinstance(rows, str) else []
    if len(lines) != FIELD_SIZE or any(len(line) != FIELD_SIZE or set(line) - {"_", "X"} for line in lines):
        raise ScenarioError(f"{file}: {name}: expected {FIELD_SIZE} rows of {FIELD_SIZE} characters, each '_' or 'X'")
    return np.array([[cell == "_" for cell in line] for line in reversed(lines)])


def parse_scenario(
    name: str, entry: Any, types: Mapping[str, UnitType], fields_of_battle: Mapping[str, np.ndarray], file: str
) -> Scenario:
    """A scenario from its YAML entry; raises ScenarioError."""
    where = f"{file}: {name}"
    keys = ["terrain", "episode_limit", "attack_point", "groups"]
    _check_keys(entry, where, keys, keys)
    terrain = _word(entry["terrain"], f"{where}: terrain", fields_of_battle)
    if not isinstance(entry["groups"], list):
        raise ScenarioError(f"{where}: groups: expected a list")
    groups = tuple(_parse_group(g, f"{where}: groups[{i}]", types) for i, g in enumerate(entry["groups"]))
    scenario = Scenario(
        name=name,
        groups=groups,
        attack_point=_point(entry["attack_point"], f"{where}: attack_point"),
        episode_limit=_count(entry["episode_limit"], f"{where}: episode_limit"),
        ground=fields_of_battle[terrain],
    )
    if max(scenario.attack_point) > FIELD_SIZE:
        raise ScenarioError(f"{where}: attack_point: {scenario.attack_point} is no part of the field")
    _check_armies(scenario, where)
    _check_placement(scenario, where)
    return scenario


def _parse_group(entry: Any, where: str, types: Mapping[str, UnitType]) -> Group:
    keys = ["side", "centre", "units"]
    _check_keys(entry, where, keys, keys)
    side = _word(entry["side"], f"{where}: side", get_args(Side))
    _check_keys(entry["units"], f"{where}: units", [], list(types))
    if not entry["units"]:
        raise ScenarioError(f"{where}: units: expected at least one unit")
    counts = {unit: _count(count, f"{where}: units: {unit}") for unit, count in entry["units"].items()}
    units = tuple(types[unit] for unit, count in counts.items() for _ in range(count))
    return Group(side=side, centre=_point(entry["centre"], f"{where}: centre"), units=units)


def _check_armies(scenario: Scenario, where: str) -> None:
    for side in get_args(Side):
        if not scenario.of_side(side):
            raise ScenarioError(f"{where}: groups: no unit on side {side!r}")
        if all(unit.weapon == "heal" for unit in scenario.of_side(side)):
            raise ScenarioError(f"{where}: groups: side {side!r} has only healers and cannot win")


def _check_placement(scenario: Scenario, where: str) -> None:
    group_of = [i for i, group in enumerate(scenario.groups) for _ in group.units]
    units, positions = scenario.units, place(scenario)
    for i, (unit, (x, y)) in enumerate(zip(units, positions, strict=True)):
        on_field = 0 <= x < FIELD_SIZE and 0 <= y < FIELD_SIZE
        if not on_field or (unit.plane == "ground" and not scenario.ground[int(y), int(x)]):
            place_name = "an obstacle" if on_field else "no part of the field"
            raise ScenarioError(
                f"{where}: groups[{group_of[i]}]: a {unit.name} would start at ({x:.2f}, {y:.2f}), {place_name}"
            )
    for i, j in combinations(range(len(units)), 2):
        distance = math.dist(positions[i], positions[j])
        if units[i].plane == units[j].plane and distance < units[i].radius + units[j].radius - 1e-9:
            raise ScenarioError(
                f"{where}: groups[{group_of[i]}] and groups[{group_of[j]}]: a {units[i].name} and a {units[j].name} "
                f"would overlap at ({positions[i][0]:.2f}, {positions[i][1]:.2f})"
            )


def _check_keys(entry: Any, where: str, required: list[str], known: list[str] | None) -> None:
    if not isinstance(entry, Mapping):
        raise ScenarioError(f"{where}: expected a mapping, got {entry!r}")
    for key in required:
        if key not in entry:
            raise ScenarioError(f"{where}: missing key {key!r}")
    for key in entry:
        if known is not None and key not in known:
            raise ScenarioError(f"{where}: unknown key {key!r}{nearest(key, known)}; known: {', '.join(known)}")


def _word(value: Any, where: str, known: Iterable[str] | None) -> Any:
    if not isinstance(value, str) or (known is not None and value not in known):
        allowed = f"{nearest(value, known)}; known: {', '.join(known)}" if known is not None else "; expected a word"
        raise ScenarioError(f"{where}: unknown value {value!r}{allowed}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ScenarioError(f"{where}: expected a number of at least 0, got {value!r}")
    return float(value)


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ScenarioError(f"{where}: expected a whole number of at least 1, got {value!r}")
    return value


def _point(value: Any, where: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ScenarioError(f"{where}: expected [x, y], got {value!r}")
    return _number(value[0], where), _number(value[1], where)
