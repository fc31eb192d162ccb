"""Scenarios: loads units.yaml, scenarios.yaml, terrain.yaml and files of the user's own, and validates them."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import numpy as np
import yaml

from amal.battle import families
from amal.battle.battlefield import (
    FIELD_SIZE,
    FULL_TURN,
    LONGEST_EPISODE,
    MOST_DELAY,
    RANDOM_DELAY,
    SIGHT,
    Family,
    Group,
    Plane,
    Scenario,
    Side,
    UnitType,
    Weapon,
    place,
)
from amal.battle.entries import ScenarioError, bounds, check_keys, count, nearest, number, point, word
from amal.runtime.argument_checks import check_whole
from amal.runtime.yaml_files import BadYaml, decode, parse_yaml

OWN_FILE = (".yaml", ".yml")  # what a name ends with that is a path
MOST_UNITS = FIELD_SIZE**2  # of a type in a group, and attacks of a shot
FAMILY_FORM = "allies, enemies, weights and surrounded below 'family': docs/extending.md"
MAP_FORM = "with terrain, episode_limit, attack_point and groups below 'scenario': docs/extending.md"
OTHER_FORMS = {  # by a key that tells them
    "groups": f"a map of SMAClite; here it is written {MAP_FORM}",
    "capability_config": f"SMACv2's settings; here they are written with {FAMILY_FORM}",
}
HARMLESS = ("heal", "kamikaze")  # weapons of units that are never drawn as a whole team


def scenario_names() -> list[str]:
    """Those that ship."""
    return list(_read("scenarios.yaml"))


def is_file(reference: str) -> bool:
    """Whether a scenario is given by the path of its file, and not by its name."""
    return reference.endswith(OWN_FILE)


def name_of(reference: str) -> str:
    """The name of the scenario of that name or path."""
    return Path(reference).stem if is_file(reference) else reference


def load_scenario(
    reference: str, episode_limit: int | None = None, random_delay: bool | Sequence[int] = False
) -> Scenario:
    """The scenario of that name, or in the YAML file of that path, with its own or another episode limit.

    Args:
        reference: the name or path.
        episode_limit: steps until truncation; by default the scenario's.
        random_delay: see ``with_random_delay``.

    Raises ScenarioError naming file and key for anything that cannot be fought."""
    if not isinstance(reference, str):
        raise ScenarioError(f"scenario must be a name or the path of a YAML file, as a string, got {reference!r}")
    if episode_limit is not None:
        check_whole(1, LONGEST_EPISODE, episode_limit=episode_limit)
    scenario = _load_file(Path(reference)) if is_file(reference) else _load_shipped(reference)
    scenario = scenario if episode_limit is None else replace(scenario, episode_limit=episode_limit)
    return with_random_delay(scenario, random_delay)


def with_random_delay(scenario: Scenario, random_delay: bool | Sequence[int]) -> Scenario:
    """The scenario with random delays of shots.

    Args:
        scenario: any.
        random_delay: True for the scenario's own bounds or, if it has none, RANDOM_DELAY; [least, most] in ticks for
            these; False for what the scenario says, which is no delay in all that ship.

    Raises ValueError for anything else."""
    if random_delay is False:
        return scenario
    if random_delay is True:
        return replace(scenario, random_delay=scenario.random_delay or RANDOM_DELAY)
    if not isinstance(random_delay, list | tuple):
        raise ValueError(
            f"random_delay must be true, false or [least, most], whole numbers of ticks from -{MOST_DELAY} to "
            f"{MOST_DELAY}, got {random_delay!r}"
        )
    return replace(scenario, random_delay=bounds(random_delay, "random_delay", MOST_DELAY))


def check_is_no_other_form(name: str) -> None:
    """Raises ScenarioError that points to the form here of what other projects call a scenario so."""
    generated = re.fullmatch(r"\d+gen_(terran|protoss|zerg)\w*", name)
    if generated:
        shipped = " and ".join(known for known in scenario_names() if known.startswith(generated[1]))
        raise ScenarioError(
            f"unknown scenario {name!r}: what SMACv2 calls so are the families {shipped} here; others are "
            f"written as YAML files with {FAMILY_FORM}"
        )
    if name.endswith(".json"):
        raise ScenarioError(f"unknown scenario {name!r}: SMAClite's JSON maps are YAML files here, {MAP_FORM}")


def in_this_form(option: str) -> str:
    """Where that option of SMACv2 has gone to, to be added to its refusal; nothing for any other option."""
    return f"; it is a scenario file here, with {FAMILY_FORM}" if option == "capability_config" else ""


@cache
def _load_shipped(name: str) -> Scenario:
    entries = _read("scenarios.yaml")
    if name not in entries:
        check_is_no_other_form(name)
        known = ", ".join(entries)
        raise ScenarioError(
            f"unknown scenario {name!r}{nearest(name, entries)}; known: {known}, and paths of YAML files"
        )
    return parse_scenario(name, entries[name], unit_types(), terrains(), f"scenarios.yaml: {name}")


def _load_file(path: Path) -> Scenario:
    """A scenario of the user's own, with unit types and terrains of its own. Read anew whenever it is asked for."""
    try:
        data = path.read_bytes()
        content = parse_yaml(decode(data))
    except FileNotFoundError:
        known = [str(other) for other in path.parent.glob("*") if is_file(other.name)]
        raise ScenarioError(f"scenario {path}: no such file{nearest(str(path), known)}") from None
    except OSError as error:
        raise ScenarioError(f"scenario {path}: {error.strerror}") from None
    except BadYaml as error:
        raise ScenarioError(f"{path}: {error}") from None
    for key, other in OTHER_FORMS.items():
        if isinstance(content, Mapping) and "scenario" not in content and key in content:
            raise ScenarioError(f"{path}: key {key!r} without 'scenario' looks like {other}")
    check_keys(content, str(path), ["scenario"], ["scenario", "units", "terrain"])
    if not re.fullmatch(r"\w[\w.-]*", path.stem):
        raise ScenarioError(f"{path}: the file's name names the scenario; use letters, digits, '_', '-' and '.' only")
    if path.stem in scenario_names():
        raise ScenarioError(f"{path}: a scenario {path.stem!r} ships already; give the file another name")
    own_types = _own(content, "units", unit_types(), path)
    types = {name: parse_unit(name, entry, f"{path}: units") for name, entry in own_types.items()}
    own_terrains = _own(content, "terrain", terrains(), path)
    grounds = {name: parse_terrain(name, rows, f"{path}: terrain") for name, rows in own_terrains.items()}
    scenario = parse_scenario(
        path.stem, content["scenario"], {**unit_types(), **types}, {**terrains(), **grounds}, f"{path}: scenario"
    )
    return replace(scenario, source=path.resolve(), digest=hashlib.sha256(data).hexdigest())


def check_same_content(scenario: Scenario, earlier: Mapping[str, Any]) -> None:
    """Raises ScenarioError if the scenario's own file has changed since ``earlier``, its name and digest then."""
    if earlier.get("name") == scenario.name and earlier.get("digest") != scenario.digest:
        raise ScenarioError(
            f"{scenario.source} has changed since the checkpoint was made; put it back as it was, or give what it is "
            "now another name"
        )


def _own(content: Mapping[str, Any], key: str, shipped: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """A file's entries beside those that ship, none of which they may replace."""
    entries = content.get(key, {})
    check_keys(entries, f"{path}: {key}", [], None)
    for name in entries:
        if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
            raise ScenarioError(f"{path}: {key}: {name!r} is no name; use letters, digits and '_' only")
        if name in shipped:
            raise ScenarioError(f"{path}: {key}: {name!r} ships already; choose another name")
    return dict(entries)


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
    check_keys(entry, where, required, [f.name for f in declared])
    words = {"attributes": None, "targets": get_args(Plane), "plane": get_args(Plane), "weapon": get_args(Weapon)}
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if key == "bonuses":
            check_keys(value, f"{where}: bonuses", [], None)
            values[key] = {name: number(bonus, f"{where}: bonuses: {name}") for name, bonus in value.items()}
        elif key in ("attributes", "targets"):
            if not isinstance(value, list):
                raise ScenarioError(f"{where}: {key}: expected a list, got {value!r}")
            values[key] = tuple(word(item, f"{where}: {key}", words[key]) for item in value)
        elif key in words:
            values[key] = word(value, f"{where}: {key}", words[key])
        else:
            values[key] = number(value, f"{where}: {key}")
    for key in ("hp", "size"):
        if values[key] <= 0:
            raise ScenarioError(f"{where}: {key}: must be above 0, got {values[key]:g}")
    values["attacks"] = count(entry.get("attacks", 1), f"{where}: attacks", MOST_UNITS)
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
    name: str, entry: Any, types: Mapping[str, UnitType], fields_of_battle: Mapping[str, np.ndarray], where: str
) -> Scenario:
    """A scenario from its YAML entry; raises ScenarioError that begins with ``where``."""
    army = ["family"] if isinstance(entry, Mapping) and "family" in entry else ["attack_point", "groups"]
    required = ["terrain", "episode_limit", *army]
    optional = ["sight", "view_angle", "random_delay", *(["family"] * ("family" not in army))]
    check_keys(entry, where, required, [*required, *optional])
    terrain = word(entry["terrain"], f"{where}: terrain", fields_of_battle)
    scenario = Scenario(
        name=name,
        groups=(),
        attack_point=(FIELD_SIZE / 2, FIELD_SIZE / 2),
        episode_limit=count(entry["episode_limit"], f"{where}: episode_limit", LONGEST_EPISODE),
        ground=fields_of_battle[terrain],
        sight=number(entry.get("sight", SIGHT), f"{where}: sight"),
        view_angle=number(entry.get("view_angle", FULL_TURN), f"{where}: view_angle", FULL_TURN),
    )
    if "random_delay" in entry:
        given = bounds(entry["random_delay"], f"{where}: random_delay", MOST_DELAY)
        scenario = replace(scenario, random_delay=given)
    for key in ("sight", "view_angle"):
        if getattr(scenario, key) == 0:
            raise ScenarioError(f"{where}: {key}: must be above 0, got 0")
    if "family" in entry:
        return replace(scenario, family=_parse_family(entry["family"], f"{where}: family", types, scenario.ground))
    if not isinstance(entry["groups"], list):
        raise ScenarioError(f"{where}: groups: expected a list")
    groups = tuple(_parse_group(g, f"{where}: groups[{i}]", types) for i, g in enumerate(entry["groups"]))
    attack_point = point(entry["attack_point"], f"{where}: attack_point")
    if max(attack_point) > FIELD_SIZE:
        raise ScenarioError(f"{where}: attack_point: {attack_point} is no part of the field")
    scenario = replace(scenario, groups=groups, attack_point=attack_point)
    _check_armies(scenario, where)
    _check_placement(scenario, where)
    return scenario


def _parse_family(entry: Any, where: str, types: Mapping[str, UnitType], ground: np.ndarray) -> Family:
    keys = ["allies", "enemies", "weights", "surrounded"]
    check_keys(entry, where, keys, keys)
    check_keys(entry["weights"], f"{where}: weights", [], list(types))
    weights = {unit: number(value, f"{where}: weights: {unit}") for unit, value in sorted(entry["weights"].items())}
    for unit, weight in weights.items():
        if weight == 0:
            raise ScenarioError(f"{where}: weights: {unit}: must be above 0, got 0")
    if all(types[unit].weapon in HARMLESS for unit in weights):
        raise ScenarioError(f"{where}: weights: expected a unit whose weapon is not {' or '.join(HARMLESS)}")
    family = Family(
        allies=count(entry["allies"], f"{where}: allies", MOST_UNITS),
        enemies=count(entry["enemies"], f"{where}: enemies", MOST_UNITS),
        types=tuple(types[unit] for unit in weights),
        weights=tuple(weight / sum(weights.values()) for weight in weights.values()),
        surrounded=number(entry["surrounded"], f"{where}: surrounded", 1),
    )
    found, needed = len(families.reflected_cells(family, ground)), families.cells_needed(family)
    if family.surrounded < 1 and found < needed:
        raise ScenarioError(
            f"{where}: too little room for reflected starts: {found} cells of the left half are open wide enough, "
            f"there and mirrored; {needed} are needed"
        )
    if family.surrounded > 0 and families.surrounding_offsets(family, ground) is None:
        raise ScenarioError(f"{where}: no room for surrounded starts in the middle and on all four diagonals")
    return family


def _parse_group(entry: Any, where: str, types: Mapping[str, UnitType]) -> Group:
    keys = ["side", "centre", "units"]
    check_keys(entry, where, keys, keys)
    side = word(entry["side"], f"{where}: side", get_args(Side))
    check_keys(entry["units"], f"{where}: units", [], list(types))
    if not entry["units"]:
        raise ScenarioError(f"{where}: units: expected at least one unit")
    counts = {unit: count(value, f"{where}: units: {unit}", MOST_UNITS) for unit, value in entry["units"].items()}
    units = tuple(types[unit] for unit, number_of in counts.items() for _ in range(number_of))
    return Group(side=side, centre=point(entry["centre"], f"{where}: centre"), units=units)


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
